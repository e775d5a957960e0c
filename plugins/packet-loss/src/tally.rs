//! Counts the drops of a batch by entity and site, without a name, a host call or an allocation
//! per drop.

use inspector_sdk::EntityId;
use inspector_sdk::map::Map;

use crate::place::Site;

type Key = (EntityId, Site);

/// Drops of one entity at one site.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Count {
    /// All of them.
    pub drops: u64,
    /// Those shown one by one.
    pub shown: u64,
}

/// The counts of one batch.
#[derive(Debug, Default)]
pub struct Tally {
    counts: Map<Key, Count>,
    /// Drops come in runs of one key; a run costs the map one lookup.
    run: Option<(Key, Count)>,
}

impl Tally {
    /// Counts drops of one entity at one site.
    pub fn add(&mut self, entity: EntityId, site: Site, drops: u64, shown: u64) {
        let key = (entity, site);
        match &mut self.run {
            Some((current, count)) if *current == key => {
                count.drops += drops;
                count.shown += shown;
            }
            _ => {
                self.end_run();
                self.run = Some((key, Count { drops, shown }));
            }
        }
    }

    /// Takes the counts; the tally is empty then and keeps its memory.
    pub fn drain(&mut self) -> impl Iterator<Item = (Key, Count)> {
        self.end_run();
        self.counts.drain()
    }

    fn end_run(&mut self) {
        if let Some((key, count)) = self.run.take() {
            let total = self.counts.entry(key).or_default();
            total.drops += count.drops;
            total.shown += count.shown;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interleaved_runs_add_up_and_are_given_out_once() {
        let site = |reason| Site { reason, location: 9, with_socket: false };
        let mut tally = Tally::default();
        for (entity, reason, drops, shown) in [(1, 3, 1, 1), (1, 3, 1, 0), (2, 3, 1, 0), (1, 3, 40, 0)] {
            tally.add(entity, site(reason), drops, shown);
        }
        let mut counts: Vec<_> = tally.drain().collect();
        counts.sort_by_key(|((entity, _), _)| *entity);
        let expected =
            [((1, site(3)), Count { drops: 42, shown: 1 }), ((2, site(3)), Count { drops: 1, shown: 0 })];
        assert_eq!(counts, expected);
        assert_eq!(tally.drain().count(), 0);
    }
}
