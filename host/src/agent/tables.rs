//! Reads the kernel's counter tables: once per interval for all who take them, and at once for a question.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::known::Known;
use super::on_demand::OnDemand;
use super::threads::Threads;
use crate::clock::unix_ns;
use crate::frame::{Frame, Take};
use crate::kernel::table::Snapshot;
use crate::loss::History;
use crate::notify::Wake;
use crate::source;

/// What reading them needs.
pub(super) struct Tables {
    pub(super) reader: source::Reader,
    pub(super) interval: Duration,
    pub(super) known: Known,
    pub(super) tables: Arc<OnDemand<Arc<Snapshot>>>,
    pub(super) losses: Arc<History>,
    pub(super) take: Arc<dyn Take>,
}

/// Starts the thread that reads the sources that are wanted.
pub(super) fn follow(
    threads: &mut Threads,
    mut of: Tables,
    sources: impl Fn() -> BTreeSet<String> + Send + 'static,
) -> io::Result<()> {
    threads.spawn("sources", Arc::clone(&of.tables.wake), move || {
        let mut due = Instant::now();
        let mut read = BTreeSet::new();
        loop {
            let asking = of.tables.take();
            let wanted = sources();
            // A plugin that has just started does not wait for the others' interval.
            let regular = Instant::now() >= due || !wanted.is_subset(&read);
            // A ring may be heard after what it was for was done.
            if regular || !asking.is_empty() {
                // All of them also for a question: a source thread keeps only what it read last.
                let snapshot = Arc::new(match wanted.is_empty() {
                    true => Snapshot::at(unix_ns()),
                    false => of.reader.read(&wanted, &of.known.entities.live(), unix_ns()),
                });
                if regular && !wanted.is_empty() {
                    of.take.take(Frame::Tables(Arc::clone(&snapshot)));
                }
                asking.give(&snapshot);
            }
            of.losses.mark(unix_ns(), &of.known.loss);
            let now = Instant::now();
            if regular {
                // A late interval is skipped, not caught up with.
                due = (due + of.interval).max(now);
                read = wanted;
            }
            if of.tables.wake.wait(due.saturating_duration_since(now)) == Wake::Closed {
                return;
            }
        }
    })
}
