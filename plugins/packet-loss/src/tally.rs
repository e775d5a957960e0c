//! Counts the drops of one batch by entity and site, without a name, a host call or an allocation
//! per drop.
//!
//! Drops come in runs of one key. The loop over a batch holds the count of its run by value, so
//! that it stays in registers, and comes here only when the key changes.

use inspector_sdk::EntityId;
use inspector_sdk::map::Map;
use inspector_sdk::probes::SkbDrop;

use crate::place::{Cause, Place, Places, Site};

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

/// Drops of one key in this batch.
#[derive(Debug, Clone, Copy)]
pub struct Count {
    /// What they have in common.
    pub key: Key,
    /// What their site means.
    pub place: Place,
    /// All of them.
    pub drops: u64,
    /// Those shown one by one.
    pub shown: u64,
    /// The entity's budget has details left in this batch, as far as is known.
    pub details_left: bool,
    at: usize,
}

impl Count {
    /// The labels of these drops.
    pub fn cause(&self) -> Cause {
        self.key.site.cause(self.place)
    }
}

/// The counts of one batch.
#[derive(Debug, Default)]
pub struct Tally {
    counts: Vec<Count>,
    /// Position of each count.
    index: Map<Key, usize>,
}

impl Tally {
    /// The count of a key so far; to be given back by [`Tally::put`].
    pub fn take(&mut self, key: Key, places: &mut Places) -> Count {
        let at = *self.index.entry(key).or_insert_with(|| {
            let (place, at) = (places.of(key.site), self.counts.len());
            self.counts.push(Count { key, place, drops: 0, shown: 0, details_left: true, at });
            at
        });
        self.counts[at]
    }

    /// Gives a count back.
    pub fn put(&mut self, count: Count) {
        self.counts[count.at] = count;
    }

    /// Ends the batch: the tally is empty then and keeps its memory.
    pub fn drain(&mut self) -> impl Iterator<Item = Count> {
        self.index.clear();
        self.counts.drain(..)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interleaved_runs_add_up_and_are_given_out_once() {
        let (mut tally, mut places) = (Tally::default(), Places::default());
        let key = |entity, reason| Key { entity, site: Site { reason, location: 9, with_socket: false } };
        for (entity, reason, drops) in [(1, 3, 1), (1, 3, 1), (2, 3, 1), (1, 4, 7), (1, 3, 40)] {
            let mut run = tally.take(key(entity, reason), &mut places);
            run.drops += drops;
            tally.put(run);
        }
        let counts: Vec<_> = tally.drain().map(|c| (c.key.entity, c.cause().reason, c.drops)).collect();
        assert_eq!(counts, [(1, 3, 42), (2, 3, 1), (1, 4, 7)]);
        assert_eq!(tally.drain().count(), 0);
        assert_eq!(tally.take(key(1, 3), &mut places).drops, 0, "the next batch starts at zero");
    }
}
