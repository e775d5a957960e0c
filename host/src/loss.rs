//! Everything that did not reach its destination, counted where it was lost.
//!
//! The one family `inspector_lost_total{stage,name}`: produced = delivered + lost, exactly, at
//! every stage. A cell is created once and then only added to, so a count costs one atomic add.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Where on its path something was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Suppressed by the kernel's per-namespace token bucket; `name` is the probe.
    Limit,
    /// The probe's ring buffer had no room; `name` is the probe.
    Ring,
    /// A plugin's queue was full, or the plugin failed on it; `name` is the plugin.
    Queue,
    /// A plugin exceeded its budget of events or series; `name` is the plugin.
    Quota,
    /// An event client fell behind the backlog; `name` is `events`.
    Stream,
}

impl Stage {
    /// The value of the `stage` label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Limit => "limit",
            Self::Ring => "ring",
            Self::Queue => "queue",
            Self::Quota => "quota",
            Self::Stream => "stream",
        }
    }
}

/// A counter of one `(stage, name)`; cheap to clone and to add to.
#[derive(Debug, Clone, Default)]
pub struct Lost(Arc<AtomicU64>);

impl Lost {
    /// Counts `n` more lost items.
    pub fn add(&self, n: u64) {
        if n > 0 {
            self.0.fetch_add(n, Ordering::Relaxed);
        }
    }

    /// Lost so far.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// All loss counters of this agent.
#[derive(Debug, Default)]
pub struct Loss {
    cells: Mutex<BTreeMap<(Stage, String), Lost>>,
}

impl Loss {
    /// The counter for `name` at `stage`, created at zero on first use.
    pub fn cell(&self, stage: Stage, name: &str) -> Lost {
        let mut cells = self.cells.lock().unwrap_or_else(PoisonError::into_inner);
        cells.entry((stage, name.to_owned())).or_default().clone()
    }

    /// Every counter, ordered by stage and name.
    pub fn all(&self) -> Vec<(Stage, String, u64)> {
        let cells = self.cells.lock().unwrap_or_else(PoisonError::into_inner);
        cells.iter().map(|((stage, name), lost)| (*stage, name.clone(), lost.get())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_name_at_one_stage_is_one_counter() {
        let loss = Loss::default();
        loss.cell(Stage::Ring, "skb-drop").add(2);
        loss.cell(Stage::Ring, "skb-drop").add(3);
        loss.cell(Stage::Limit, "skb-drop");
        assert_eq!(
            loss.all(),
            [(Stage::Limit, "skb-drop".to_owned(), 0), (Stage::Ring, "skb-drop".to_owned(), 5)]
        );
    }
}
