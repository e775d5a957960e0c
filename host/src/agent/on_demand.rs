//! What one thread does at intervals, and at once for whoever waits for it.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use crate::notify::Notify;

/// Where it is asked for; `T` is what it brings.
#[derive(Debug)]
pub(super) struct OnDemand<T> {
    /// Rung when somebody asks: what the thread waits for.
    pub(super) wake: Arc<Notify>,
    waiting: Mutex<Vec<SyncSender<T>>>,
}

impl<T: Clone> OnDemand<T> {
    pub(super) fn new(wake: Arc<Notify>) -> Self {
        Self { wake, waiting: Mutex::default() }
    }

    /// Asks for what is begun after this call.
    pub(super) fn ask(&self) -> Asked<T> {
        let (sender, result) = sync_channel(1);
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).push(sender);
        self.wake.notify();
        Asked(result)
    }

    /// Who asked until now; for the thread, before it begins.
    pub(super) fn take(&self) -> Askers<T> {
        Askers(std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner)))
    }
}

/// Something asked for.
pub(super) struct Asked<T>(Receiver<T>);

impl<T> Asked<T> {
    /// None if the thread ended.
    pub(super) fn wait(self) -> Option<T> {
        self.0.recv().ok()
    }

    /// None if it is not there by the deadline.
    pub(super) fn until(self, deadline: Instant) -> Option<T> {
        self.0.recv_timeout(deadline.saturating_duration_since(Instant::now())).ok()
    }
}

/// Those who wait.
pub(super) struct Askers<T>(Vec<SyncSender<T>>);

impl<T: Clone> Askers<T> {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whoever has stopped waiting takes nothing.
    pub(super) fn give(self, result: &T) {
        self.0.iter().for_each(|asker| drop(asker.try_send(result.clone())));
    }
}
