//! Counts the drops of each batch by entity and site, without a name, a host call or an allocation
//! per drop.
//!
//! Drops come in runs of one key. The loop over a batch holds the count of its run by value, so
//! that it stays in registers, and comes here only when the key changes. Keys stay known from one
//! batch to the next, since a node drops packets of few entities at few sites.

use inspector_sdk::budget::{FIRST_OF_A_CAUSE, Second};
use inspector_sdk::map::Map;
use inspector_sdk::probes::SkbDrop;
use inspector_sdk::{EntityId, Timestamp};

use crate::site::{Cause, Site, SiteClass, Sites};

/// Whose drops, and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key {
    /// Whose they are.
    pub entity: EntityId,
    /// Where they were dropped.
    pub site: Site,
}

impl Key {
    /// The key of a drop.
    pub fn of(drop: &SkbDrop) -> Self {
        Self { entity: drop.head.entity, site: Site::of(drop) }
    }
}

/// More keys than a node has in use. They are forgotten all at once, with what was held back.
const CROWD: usize = 4_096;

/// Drops of one key in this batch.
#[derive(Debug, Clone, Copy)]
pub struct Count {
    /// What they have in common.
    pub key: Key,
    /// What their site means.
    pub class: SiteClass,
    /// All of them.
    pub drops: u64,
    /// Those with an event of their own.
    pub detailed: u64,
    /// The entity's budget has details left in this batch, as far as is known.
    pub details_left: bool,
    /// Those of earlier batches without one, since the last [`Tally::held_back`].
    held_back: u64,
    /// The first ones have an event, however many other drops the entity has.
    first: Second,
    at: usize,
}

impl Count {
    /// The labels of these drops.
    pub fn cause(&self) -> Cause {
        self.key.site.cause(self.class)
    }

    /// Whether one more is among the first of its key in this second.
    pub fn is_among_first(&mut self, now: Timestamp) -> bool {
        self.first.take(FIRST_OF_A_CAUSE, now)
    }

    /// Starts the next batch.
    fn restart(&mut self) {
        self.held_back += self.drops - self.detailed;
        (self.drops, self.detailed, self.details_left) = (0, 0, true);
    }
}

/// The counts of all keys in use.
#[derive(Debug, Default)]
pub struct Tally {
    counts: Vec<Count>,
    /// Position of each count.
    index: Map<Key, usize>,
    /// Positions of those that this batch has; each at least once.
    touched: Vec<usize>,
}

impl Tally {
    /// The count of a key in this batch so far; to be given back by [`Tally::put`].
    pub fn take(&mut self, key: Key, sites: &mut Sites) -> Count {
        let at = match self.index.get(&key) {
            Some(at) => *at,
            None => self.insert(key, sites.class_of(key.site)),
        };
        let count = self.counts[at];
        if count.drops == 0 {
            self.touched.push(at);
        }
        count
    }

    /// Gives a count back.
    pub fn put(&mut self, count: Count) {
        self.counts[count.at] = count;
    }

    /// Ends the batch: gives out its counts, and starts the next at zero.
    pub fn end_batch(&mut self) -> impl Iterator<Item = Count> {
        self.touched.drain(..).map(|at| {
            let count = self.counts[at];
            self.counts[at].restart();
            count
        })
    }

    /// Takes the number of drops without an event since the last time.
    pub fn held_back(&mut self) -> impl Iterator<Item = (EntityId, Cause, u64)> {
        let silent = self.counts.iter_mut().filter(|count| count.held_back > 0);
        silent.map(|count| (count.key.entity, count.cause(), std::mem::take(&mut count.held_back)))
    }

    /// Forgets entities that vanished, between two batches.
    pub fn forget(&mut self, entities: &[EntityId]) {
        self.counts.retain(|count| !entities.contains(&count.key.entity));
        self.index.clear();
        for (at, count) in self.counts.iter_mut().enumerate() {
            count.at = at;
            self.index.insert(count.key, at);
        }
    }

    /// Forgets all keys if there are too many, between two batches.
    pub fn bound(&mut self) {
        if self.counts.len() > CROWD {
            self.counts.clear();
            self.index.clear();
        }
    }

    fn insert(&mut self, key: Key, class: SiteClass) -> usize {
        let at = self.counts.len();
        let first = Second::default();
        let count = Count { key, class, drops: 0, detailed: 0, details_left: true, held_back: 0, first, at };
        self.counts.push(count);
        self.index.insert(key, at);
        at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(entity: EntityId, reason: u32) -> Key {
        Key { entity, site: Site { reason, location: 9, with_socket: false, is_multicast: false } }
    }

    #[test]
    fn interleaved_runs_add_up_and_are_given_out_once() {
        let (mut tally, mut sites) = (Tally::default(), Sites::default());
        for (entity, reason, drops) in [(1, 3, 1), (1, 3, 1), (2, 3, 1), (1, 4, 7), (1, 3, 40)] {
            let mut run = tally.take(key(entity, reason), &mut sites);
            run.drops += drops;
            tally.put(run);
        }
        let counts: Vec<_> = tally.end_batch().map(|c| (c.key.entity, c.cause().reason, c.drops)).collect();
        assert_eq!(counts, [(1, 3, 42), (2, 3, 1), (1, 4, 7)]);
        assert_eq!(tally.end_batch().count(), 0);
        assert_eq!(tally.take(key(1, 3), &mut sites).drops, 0, "the next batch starts at zero");
    }

    #[test]
    fn what_has_no_event_adds_up_over_batches_and_is_given_out_once() {
        let (mut tally, mut sites) = (Tally::default(), Sites::default());
        for _ in 0..3 {
            let mut run = tally.take(key(1, 3), &mut sites);
            (run.drops, run.detailed, run.details_left) = (10, 2, false);
            tally.put(run);
            assert_eq!(tally.end_batch().count(), 1);
        }
        assert!(tally.take(key(1, 3), &mut sites).details_left);
        assert_eq!(tally.held_back().map(|(_, _, n)| n).collect::<Vec<_>>(), [24]);
        assert_eq!(tally.held_back().count(), 0);
    }

    #[test]
    fn a_vanished_entity_leaves_the_counts_of_the_others_where_they_are_found() {
        let (mut tally, mut sites) = (Tally::default(), Sites::default());
        for entity in [1, 2, 3] {
            let mut run = tally.take(key(entity, 3), &mut sites);
            (run.drops, run.detailed) = (u64::from(entity), 0);
            tally.put(run);
        }
        assert_eq!(tally.end_batch().count(), 3);
        tally.forget(&[1]);
        let mut run = tally.take(key(3, 3), &mut sites);
        run.drops += 5;
        tally.put(run);
        assert_eq!(tally.end_batch().map(|c| (c.key.entity, c.drops)).collect::<Vec<_>>(), [(3, 5)]);
        assert_eq!(tally.held_back().map(|(e, _, n)| (e, n)).collect::<Vec<_>>(), [(2, 2), (3, 8)]);
    }

    #[test]
    fn keys_do_not_pile_up() {
        let (mut tally, mut sites) = (Tally::default(), Sites::default());
        for entity in 0..=4_096 {
            let mut run = tally.take(key(entity, 3), &mut sites);
            run.drops = 1;
            tally.put(run);
        }
        assert_eq!(tally.end_batch().count(), 4_097);
        tally.bound();
        assert_eq!(tally.held_back().count(), 0);
        assert_eq!(tally.take(key(7, 3), &mut sites).drops, 0, "and are found again");
    }
}
