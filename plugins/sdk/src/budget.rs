//! A limit on detailed events per entity.
//!
//! An event with addresses and text costs about a thousand times a count. Without a limit of the
//! analyzer's own, one storming pod would use up the host's quota, and the events of all others
//! would be refused with its own. So each entity may have so many details per second; what is
//! beyond is held back as a number per topic, and shown in one event per topic on the next tick.

use std::hash::Hash;

use crate::map::Map;
use crate::{EntityId, Timestamp};

const SECOND_NS: u64 = 1_000_000_000;

/// Topics that may wait for the next tick. What is held back beyond that is still in the metrics.
const TOPICS: usize = 1_024;

/// The limit, and what it held back. `T` is what the held-back events have in common.
#[derive(Debug)]
pub struct Budget<T> {
    per_second: u32,
    spent: Map<EntityId, Spent>,
    held_back: Map<(EntityId, T), u64>,
}

#[derive(Debug)]
struct Spent {
    since: Timestamp,
    events: u32,
}

impl<T: Eq + Hash> Budget<T> {
    /// So many details per entity and second.
    pub fn per_second(events: u32) -> Self {
        Self { per_second: events, spent: Map::default(), held_back: Map::default() }
    }

    /// Whether one more detail of this entity fits. `now` is the batch's time, so
    /// once it does not fit, nothing more fits in that batch.
    pub fn take(&mut self, entity: EntityId, now: Timestamp) -> bool {
        let spent = self.spent.entry(entity).or_insert(Spent { since: now, events: 0 });
        if now.saturating_sub(spent.since) >= SECOND_NS {
            *spent = Spent { since: now, events: 0 };
        }
        let fits = spent.events < self.per_second;
        spent.events += u32::from(fits);
        fits
    }

    /// Counts `n` events of which no detail is shown.
    pub fn hold_back(&mut self, entity: EntityId, topic: T, n: u64) {
        let full = self.held_back.len() >= TOPICS;
        let key = (entity, topic);
        if !full || self.held_back.contains_key(&key) {
            *self.held_back.entry(key).or_insert(0) += n;
        }
    }

    /// Takes what was held back since the last time.
    pub fn held_back(&mut self) -> impl Iterator<Item = (EntityId, T, u64)> {
        self.held_back.drain().map(|((entity, topic), n)| (entity, topic, n))
    }

    /// Forgets entities that vanished; what was held back for them is still shown.
    pub fn forget(&mut self, entities: &[EntityId]) {
        for entity in entities {
            self.spent.remove(entity);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_storm_in_one_entity_takes_nothing_from_another() {
        let mut budget = Budget::<()>::per_second(3);
        let shown = (0..1_000_000).filter(|_| budget.take(1, 5)).count();
        assert_eq!(shown, 3);
        assert!(budget.take(2, 5));
    }

    #[test]
    fn the_next_second_has_a_new_budget() {
        let mut budget = Budget::<()>::per_second(1);
        assert!(budget.take(1, 0));
        assert!(!budget.take(1, SECOND_NS - 1));
        assert!(budget.take(1, SECOND_NS));
    }

    #[test]
    fn what_is_held_back_is_given_out_once() {
        let mut budget = Budget::per_second(0);
        budget.hold_back(1, "reason", 2);
        budget.hold_back(1, "reason", 3);
        assert_eq!(budget.held_back().collect::<Vec<_>>(), [(1, "reason", 5)]);
        assert_eq!(budget.held_back().count(), 0);
    }
}
