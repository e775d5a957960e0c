//! Batches that wait to be delivered, the oldest first: in memory while all goes well, on disk while it does not.

use std::collections::VecDeque;

use super::account::Account;
use super::spool::{Place, Spool, Unreadable};
use crate::events::event::EventLine;

/// Batches in memory behind which further events stay in the log.
const ENOUGH: usize = 4;
/// Batches in memory at most, since one reading of the log may be several: where the disk takes none, the oldest is
/// given up for a new one.
const IN_MEMORY: usize = 8;

/// Which batch is being delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum OnItsWay {
    /// The first in memory.
    Memory,
    /// That of this number on disk.
    Disk(u64),
}

/// What waits. All of the spool is older than all of the memory, but for the batch that is on its way.
#[derive(Debug)]
pub struct Queue {
    /// Where the spool is to be, while it cannot be opened.
    place: Option<Place>,
    spool: Option<Spool>,
    memory: VecDeque<Vec<EventLine>>,
    on_its_way: Option<OnItsWay>,
    is_failing: bool,
    /// Why the disk takes no more; empty if it does.
    obstacle: String,
    account: Account,
}

impl Queue {
    /// With what an earlier run left on disk. One that cannot be used is said so, and memory has to do.
    pub fn new(place: Option<Place>, account: Account) -> Self {
        let (memory, obstacle) = (VecDeque::new(), String::new());
        let mut queue =
            Self { place, spool: None, memory, on_its_way: None, is_failing: false, obstacle, account };
        queue.open();
        queue
    }

    /// Another agent may have used it, or its disk was not there yet.
    fn open(&mut self) {
        let Some(place) = self.place.take() else { return };
        match Spool::open(place.clone()) {
            Ok(spool) => {
                self.account.took(spool.events() as usize, 0);
                self.account.spooled(spool.bytes());
                self.spool = Some(spool);
            }
            Err(error) => {
                self.obstructed(format!("{}: {error}", place.directory.display()));
                self.place = Some(place);
            }
        }
    }

    /// One line for one cause.
    fn obstructed(&mut self, obstacle: String) {
        if obstacle != self.obstacle && !obstacle.is_empty() {
            tracing::warn!(error = obstacle, "events cannot wait on disk: the oldest are given up");
        }
        self.obstacle = obstacle;
    }

    /// Whether another batch is to come: while deliveries go on, what they are behind stays in the log.
    pub fn has_room(&self) -> bool {
        self.memory.len() < ENOUGH || (self.is_failing && self.spool.is_some())
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

    /// The oldest batch, which is on its way now; none if there is none, or it cannot be read now.
    pub fn first(&mut self) -> Option<Vec<EventLine>> {
        self.on_its_way = None;
        while let Some(spool) = &mut self.spool {
            match spool.first() {
                Ok(Some((number, batch))) => {
                    self.on_its_way = Some(OnItsWay::Disk(number));
                    return Some(batch);
                }
                Ok(None) => break,
                Err(Unreadable::Damaged(events)) => {
                    self.account.lost(events, "corrupt");
                    self.account.spooled(spool.bytes());
                }
                Err(Unreadable::Now(error)) => {
                    self.account.failing(format!("cannot read what waits: {error}"));
                    return None;
                }
            }
        }
        let first = self.memory.front().cloned();
        self.on_its_way = first.is_some().then_some(OnItsWay::Memory);
        first
    }

    /// Forgets the batch that was on its way.
    pub fn pop(&mut self) {
        match (self.on_its_way.take(), &mut self.spool) {
            (Some(OnItsWay::Disk(number)), Some(spool)) => {
                spool.forget(number);
                self.account.spooled(spool.bytes());
            }
            (Some(OnItsWay::Memory), _) => drop(self.memory.pop_front()),
            _ => {}
        }
    }

    /// Nothing waits.
    pub fn is_empty(&self) -> bool {
        self.memory.is_empty() && self.spool.as_ref().is_none_or(Spool::is_empty)
    }

    /// Moves what the disk takes.
    pub fn spill(&mut self) {
        self.open();
        let Some(spool) = &mut self.spool else { return };
        let mut obstacle = String::new();
        while let Some(batch) = self.memory.front() {
            let on_disk = match self.on_its_way {
                Some(OnItsWay::Disk(number)) => Some(number),
                _ => None,
            };
            match spool.push(batch, on_disk) {
                Ok((number, given_up)) => {
                    self.account.lost(given_up, "full");
                    self.memory.pop_front();
                    if self.on_its_way == Some(OnItsWay::Memory) {
                        self.on_its_way = Some(OnItsWay::Disk(number));
                    }
                }
                Err(error) => {
                    obstacle = error.to_string();
                    break;
                }
            }
        }
        self.account.spooled(spool.bytes());
        self.obstructed(obstacle);
    }
}
