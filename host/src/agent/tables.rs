//! Reads the kernel's counter tables: once per interval for all plugins, and at once for a question.

use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use super::{Core, Error, now_ns};
use crate::bell::{Bell, Wake};
use crate::config::Config;
use crate::source;
use crate::table::Snapshot;

/// Where questions ask for tables as of now.
#[derive(Debug, Default)]
pub(super) struct Tables {
    bell: Arc<Bell>,
    waiting: Mutex<Vec<SyncSender<Arc<Snapshot>>>>,
}

impl Tables {
    /// Tables read after this call began; none if they are not there by the deadline.
    pub(super) fn fresh(&self, deadline: Instant) -> Option<Arc<Snapshot>> {
        let (sender, snapshot) = sync_channel(1);
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).push(sender);
        self.bell.ring();
        snapshot.recv_timeout(deadline.saturating_duration_since(Instant::now())).ok()
    }

    fn take(&self) -> Vec<SyncSender<Arc<Snapshot>>> {
        std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

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
            loop {
                let asking = tables.take();
                let regular = Instant::now() >= due;
                // A ring may be heard after what it was for was done.
                if regular || !asking.is_empty() {
                    // All of them also for a question: a lane keeps only what it read last.
                    let wanted = plugins.sources();
                    let snapshot = Arc::new(match wanted.is_empty() {
                        true => Snapshot::at(now_ns()),
                        false => reader.read(&wanted, &view.entities.live(), now_ns()),
                    });
                    if regular && !wanted.is_empty() {
                        plugins.tick(&snapshot);
                    }
                    // Whoever has stopped waiting takes nothing.
                    asking.iter().for_each(|asking| drop(asking.try_send(Arc::clone(&snapshot))));
                }
                desk.losses.mark(now_ns(), &view.loss);
                let now = Instant::now();
                if regular {
                    // A late interval is skipped, not caught up with.
                    due = (due + interval).max(now);
                }
                if tables.bell.wait(due.saturating_duration_since(now)) == Wake::Closed {
                    return;
                }
            }
        })
    }
}
