//! Takes frames for the analyzers.

use std::sync::{Arc, Mutex, PoisonError};

use crate::entities::Changes;
use crate::frame::{Frame, Take};
use crate::kernel::batch::Batch;
use crate::kernel::table::Snapshot;
use crate::plugin::{Player, Plugins};
use crate::series::metrics::Metrics;

/// Runs analyzers: on threads of their own, or one after the other on the calling one.
pub(super) trait Run: Send + Sync {
    /// Hands a batch to each that subscribes to its probe.
    fn batch(&self, batch: &Arc<Batch>);
    /// Tells each that new tables are there.
    fn tick(&self, tables: &Arc<Snapshot>);
    /// Tells each which entities came and went.
    fn entities_changed(&self, changes: &Changes);
}

impl Run for Plugins {
    fn batch(&self, batch: &Arc<Batch>) {
        self.deliver(batch);
    }

    fn tick(&self, tables: &Arc<Snapshot>) {
        Self::tick(self, tables);
    }

    fn entities_changed(&self, changes: &Changes) {
        Self::entities_changed(self, changes);
    }
}

impl Run for Mutex<Player> {
    fn batch(&self, batch: &Arc<Batch>) {
        self.lock().unwrap_or_else(PoisonError::into_inner).batch(batch);
    }

    fn tick(&self, tables: &Arc<Snapshot>) {
        self.lock().unwrap_or_else(PoisonError::into_inner).tick(tables);
    }

    fn entities_changed(&self, changes: &Changes) {
        self.lock().unwrap_or_else(PoisonError::into_inner).entities_changed(changes);
    }
}

/// Analyzers, and the series that go with the entities they are of.
pub(super) struct Analysis<R> {
    pub(super) analyzers: Arc<R>,
    pub(super) metrics: Arc<Metrics>,
}

impl<R: Run> Take for Analysis<R> {
    fn take(&self, frame: Frame) {
        match frame {
            Frame::Entities(changes) => {
                if !changes.added.is_empty() || !changes.removed.is_empty() {
                    self.analyzers.entities_changed(&changes);
                }
                self.metrics.remove_entities(&changes.forgotten);
            }
            Frame::Batch(batch) => self.analyzers.batch(&batch),
            Frame::Tables(tables) => self.analyzers.tick(&tables),
        }
    }
}
