//! What became of the events of one sink: produced = delivered + lost + waiting, at every moment.

use std::sync::Arc;

use crate::loss::{Loss, Lost, Stage};
use crate::status::{SinkState, SinkStatus, Status};

/// Writes the state of one sink.
#[derive(Debug, Clone)]
pub struct Account {
    stage: Stage,
    loss: Arc<Loss>,
    status: Arc<Status>,
}

impl Account {
    /// Of a sink that delivers to `target`, an address or a path.
    pub fn new(stage: Stage, target: String, loss: Arc<Loss>, status: Arc<Status>) -> Self {
        let name = stage.as_str().to_owned();
        let state = SinkStatus { name: name.clone(), target, ..SinkStatus::default() };
        status.update().sinks.insert(name, state);
        Self { stage, loss, status }
    }

    /// Counts what the log had already dropped when the sink came for it.
    pub fn missed(&self) -> Lost {
        self.loss.cell(self.stage, "missed")
    }

    /// Events came, of which so many had been dropped by the log.
    pub(super) fn took(&self, events: usize, missed: u64) {
        self.update(|state| {
            state.produced += events as u64 + missed;
            state.waiting += events as u64;
            state.lost += missed;
        });
    }

    pub(super) fn delivered(&self, events: usize) {
        self.update(|state| {
            state.delivered += events as u64;
            state.waiting = state.waiting.saturating_sub(events as u64);
        });
    }

    /// Waiting ones are given up.
    pub(super) fn lost(&self, events: u64, what: &str) {
        self.loss.cell(self.stage, what).add(events);
        self.update(|state| {
            state.lost += events;
            state.waiting = state.waiting.saturating_sub(events);
        });
    }

    pub(super) fn spooled(&self, bytes: u64) {
        self.update(|state| state.spool_bytes = bytes);
    }

    pub(super) fn said(&self, by_server: String) {
        self.update(|state| state.server = by_server);
    }

    /// One line for one cause.
    pub(super) fn failing(&self, why: String) {
        let (name, mut is_news) = (self.stage.as_str(), false);
        self.update(|state| {
            is_news = state.reason != why;
            state.state = SinkState::Failing;
            state.reason.clone_from(&why);
        });
        if is_news {
            tracing::warn!(sink = name, why, "events are not delivered");
        }
    }

    /// Returns whether that is news.
    pub(super) fn works(&self) -> bool {
        let (name, mut before) = (self.stage.as_str(), SinkState::Up);
        self.update(|state| {
            before = std::mem::replace(&mut state.state, SinkState::Up);
            state.reason.clear();
        });
        if before == SinkState::Failing {
            tracing::info!(sink = name, "events are delivered again");
        }
        before != SinkState::Up
    }

    fn update(&self, change: impl FnOnce(&mut SinkStatus)) {
        if let Some(state) = self.status.update().sinks.get_mut(self.stage.as_str()) {
            change(state);
        }
    }
}
