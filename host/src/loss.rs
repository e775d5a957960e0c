//! Everything that did not reach its destination, counted where it was lost.
//!
//! The one family `inspector_lost_total{stage,name}`: produced = delivered + lost, exactly, at
//! every stage; where the kernel folds several into one record, the folded ones are delivered too
//! (`inspector_probe_folded_total`). A cell is created once and then only added to, so a count costs one atomic add.

use std::collections::{BTreeMap, VecDeque};
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
    /// A sink could not deliver events; `name` is why: `missed` (it fell behind the backlog), `full` (nothing
    /// more could wait), `refused` (the other side never takes them), `time` (nor events of their time), `corrupt`
    /// (they could not be read from the disk).
    Loki,
    /// See [`Stage::Loki`].
    Otlp,
    /// See [`Stage::Loki`].
    File,
    /// See [`Stage::Loki`].
    Stderr,
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
            Self::Loki => "loki",
            Self::Otlp => "otlp",
            Self::File => "file",
            Self::Stderr => "stderr",
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

/// What was lost by when, so that a report can tell what was lost in its window.
#[derive(Debug, Default)]
pub struct History {
    marks: Mutex<VecDeque<Mark>>,
}

#[derive(Debug)]
struct Mark {
    at_ns: u64,
    lost: BTreeMap<(Stage, String), u64>,
}

impl History {
    /// Marks kept: half an hour of snapshots at the default interval.
    const MARKS: usize = 360;

    /// Remembers how much was lost by now.
    pub fn mark(&self, at_ns: u64, loss: &Loss) {
        let lost = totals(loss);
        let mut marks = self.marks.lock().unwrap_or_else(PoisonError::into_inner);
        // Marks without news take no room of those with some.
        if marks.back().is_some_and(|last| last.lost == lost) {
            return;
        }
        if marks.len() >= Self::MARKS {
            marks.pop_front();
        }
        marks.push_back(Mark { at_ns, lost });
    }

    /// What was lost since `from_ns`, at most one interval more; of a moment that no mark is left
    /// of, since the oldest one.
    pub fn since(&self, from_ns: u64, loss: &Loss) -> Vec<(Stage, String, u64)> {
        let marks = self.marks.lock().unwrap_or_else(PoisonError::into_inner);
        let before = marks.iter().rev().find(|mark| mark.at_ns <= from_ns);
        let before = before.or_else(|| marks.front().filter(|_| marks.len() >= Self::MARKS));
        let had = |key: &(Stage, String)| before.and_then(|mark| mark.lost.get(key)).copied().unwrap_or(0);
        let since = |(key, lost): ((Stage, String), u64)| {
            let count = lost.saturating_sub(had(&key));
            (key.0, key.1, count)
        };
        totals(loss).into_iter().map(since).filter(|(_, _, count)| *count > 0).collect()
    }
}

fn totals(loss: &Loss) -> BTreeMap<(Stage, String), u64> {
    loss.all().into_iter().map(|(stage, name, lost)| ((stage, name), lost)).collect()
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
    #[test]
    fn only_what_was_lost_in_the_window_is_told() {
        let (loss, history) = (Loss::default(), History::default());
        let cell = loss.cell(Stage::Ring, "skb-drop");
        history.mark(10, &loss);
        cell.add(5);
        history.mark(20, &loss);
        history.mark(30, &loss);
        cell.add(2);
        let since = |from_ns| history.since(from_ns, &loss).iter().map(|(_, _, n)| *n).sum::<u64>();
        assert_eq!((since(35), since(25), since(15), since(5)), (2, 2, 7, 7));
    }
}
