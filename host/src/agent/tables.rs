//! Reads the kernel's counter tables: once per interval for all plugins, and at once for a question.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use super::{Core, Error, now_ns};
use crate::config::Config;
use crate::kernel::table::Snapshot;
use crate::notify::Wake;
use crate::source;

impl Core {
    /// Reads the sources once per interval for all plugins, and between for those who ask.
    pub(super) fn follow_sources(
        &mut self,
        config: &Config,
        mut reader: source::Reader,
    ) -> Result<(), Error> {
        let interval = config.sources.interval;
        let (view, plugins, desk) =
            (Arc::clone(&self.view), Arc::clone(&self.plugins), Arc::clone(&self.desk));
        self.follow("sources", Arc::clone(&desk.tables.bell), move || {
            let tables = &desk.tables;
            let mut due = Instant::now();
            let mut read = BTreeSet::new();
            loop {
                let asking = tables.take();
                let wanted = plugins.sources();
                // A plugin that has just started does not wait for the others' interval.
                let regular = Instant::now() >= due || !wanted.is_subset(&read);
                // A ring may be heard after what it was for was done.
                if regular || !asking.is_empty() {
                    // All of them also for a question: a lane keeps only what it read last.
                    let snapshot = Arc::new(match wanted.is_empty() {
                        true => Snapshot::at(now_ns()),
                        false => reader.read(&wanted, &view.entities.live(), now_ns()),
                    });
                    if regular && !wanted.is_empty() {
                        plugins.tick(&snapshot);
                    }
                    asking.give(&snapshot);
                }
                desk.losses.mark(now_ns(), &view.loss);
                let now = Instant::now();
                if regular {
                    // A late interval is skipped, not caught up with.
                    due = (due + interval).max(now);
                    read = wanted;
                }
                if tables.bell.wait(due.saturating_duration_since(now)) == Wake::Closed {
                    return;
                }
            }
        })
    }
}
