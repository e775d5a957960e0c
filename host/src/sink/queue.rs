//! Batches that wait to be delivered, the oldest first: in memory while all goes well, on disk while it does not.

use std::collections::VecDeque;
use std::io;

use super::account::Account;
use super::spool::{Place, Spool};
use crate::events::event::EventLine;

/// Batches in memory: where none may wait on disk, the oldest is given up for a new one.
const IN_MEMORY: usize = 4;

/// What waits. All of the spool is older than all of the memory.
#[derive(Debug)]
pub struct Queue {
    spool: Option<Spool>,
    memory: VecDeque<Vec<EventLine>>,
    is_failing: bool,
    /// Why the disk takes no more; empty if it does.
    obstacle: String,
    account: Account,
}

impl Queue {
    /// With what an earlier run left on disk. One that cannot be used is said so, and memory has to do.
    pub fn new(place: Option<Place>, account: Account) -> Self {
        let opened = place.map(|place| (place.directory.clone(), Spool::open(place)));
        let spool = opened.and_then(|(directory, opened)| {
            let why = |error: &io::Error| {
                tracing::warn!(directory = %directory.display(), %error, "events cannot wait on disk");
            };
            opened.inspect_err(why).ok()
        });
        if let Some(spool) = &spool {
            account.took(spool.events() as usize, 0);
            account.spooled(spool.bytes());
        }
        Self { spool, memory: VecDeque::new(), is_failing: false, obstacle: String::new(), account }
    }

    /// Adds a batch.
    pub fn push(&mut self, events: Vec<EventLine>) {
        self.memory.push_back(events);
        let is_behind = self.is_failing || self.memory.len() > IN_MEMORY;
        if is_behind || self.spool.as_ref().is_some_and(|spool| !spool.is_empty()) {
            self.spill();
        }
        while self.memory.len() > IN_MEMORY {
            // The first may be on its way.
            let given_up = self.memory.remove(1).map_or(0, |batch| batch.len());
            self.account.lost(given_up as u64, "full");
        }
    }

    /// Says whether deliveries fail: then what waits goes to disk, where it outlives this process.
    pub fn set_failing(&mut self, is_failing: bool) {
        self.is_failing = is_failing;
        if is_failing {
            self.spill();
        }
    }

    /// Whether deliveries fail.
    pub fn is_failing(&self) -> bool {
        self.is_failing
    }

    /// The oldest batch.
    pub fn first(&mut self) -> Option<Vec<EventLine>> {
        while let Some(spool) = &mut self.spool {
            match spool.first() {
                Ok(Some(batch)) => return Some(batch),
                Ok(None) => break,
                Err(events) => self.account.lost(events, "corrupt"),
            }
        }
        self.memory.front().cloned()
    }

    /// Forgets the oldest batch.
    pub fn pop(&mut self) {
        match &mut self.spool {
            Some(spool) if !spool.is_empty() => {
                spool.pop();
                self.account.spooled(spool.bytes());
            }
            _ => drop(self.memory.pop_front()),
        }
    }

    /// Nothing waits.
    pub fn is_empty(&self) -> bool {
        self.memory.is_empty() && self.spool.as_ref().is_none_or(Spool::is_empty)
    }

    /// Moves what the disk takes.
    pub fn spill(&mut self) {
        let Some(spool) = &mut self.spool else { return };
        let mut obstacle = String::new();
        while let Some(batch) = self.memory.front() {
            match spool.push(batch) {
                Ok(given_up) => {
                    self.account.lost(given_up, "full");
                    self.memory.pop_front();
                }
                Err(error) => {
                    obstacle = error.to_string();
                    break;
                }
            }
        }
        self.account.spooled(spool.bytes());
        // One line for one cause.
        if obstacle != self.obstacle && !obstacle.is_empty() {
            tracing::warn!(error = obstacle, "events cannot wait on disk: the oldest are given up");
        }
        self.obstacle = obstacle;
    }
}
