//! A limit on detailed events per entity.
//!
//! An event with addresses and text costs about a thousand times a count. Without a limit of the
//! analyzer's own, one storming pod would use up the host's quota, and the events of all others
//! would be refused with its own. So each entity may have so many details per second; what is
//! beyond is held back as a number per topic, and shown in one event per topic on the next tick.

use std::hash::Hash;

use crate::map::Map;
use crate::{EntityId, Event, Timestamp};

const SECOND_NS: u64 = 1_000_000_000;

/// Topics that may wait for the next tick. What is held back beyond that is still in the metrics.
const TOPICS: usize = 1_024;

/// The limit.
#[derive(Debug)]
pub struct Budget {
    per_second: u32,
    spent: Map<EntityId, Spent>,
}

#[derive(Debug)]
struct Spent {
    since: Timestamp,
    events: u32,
}

impl Budget {
    /// So many details per entity and second.
    pub fn per_second(events: u32) -> Self {
        Self { per_second: events, spent: Map::default() }
    }

    /// Whether one more detail of this entity fits. `now` is the batch's time, so once it does not
    /// fit, nothing more fits in that batch.
    pub fn take(&mut self, entity: EntityId, now: Timestamp) -> bool {
        let spent = self.spent.entry(entity).or_insert(Spent { since: now, events: 0 });
        if now.saturating_sub(spent.since) >= SECOND_NS {
            *spent = Spent { since: now, events: 0 };
        }
        let fits = spent.events < self.per_second;
        spent.events += u32::from(fits);
        fits
    }

    /// Forgets entities that vanished.
    pub fn forget(&mut self, entities: &[EntityId]) {
        for entity in entities {
            self.spent.remove(entity);
        }
    }
}

/// Numbers of events of which no detail was shown. `T` is what they have in common.
#[derive(Debug)]
pub struct HeldBack<T>(Map<(EntityId, T), u64>);

impl<T> Default for HeldBack<T> {
    fn default() -> Self {
        Self(Map::default())
    }
}

impl<T: Eq + Hash> HeldBack<T> {
    /// Counts `n` more.
    pub fn add(&mut self, entity: EntityId, topic: T, n: u64) {
        let (full, key) = (self.0.len() >= TOPICS, (entity, topic));
        if !full || self.0.contains_key(&key) {
            *self.0.entry(key).or_insert(0) += n;
        }
    }

    /// Takes the numbers since the last time.
    pub fn take(&mut self) -> impl Iterator<Item = (EntityId, T, u64)> {
        self.0.drain().map(|((entity, topic), n)| (entity, topic, n))
    }
}

/// Events within a [`Budget`]. What is beyond is told on the next tick, by one event per entity and
/// kind with a `count`.
#[derive(Debug)]
pub struct Shown {
    budget: Budget,
    held_back: HeldBack<&'static str>,
}

impl Shown {
    /// So many events per entity and second.
    pub fn per_second(events: u32) -> Self {
        Self { budget: Budget::per_second(events), held_back: HeldBack::default() }
    }

    /// Sends an event if its entity has budget, else counts it for the next tick. It is not made
    /// in vain.
    pub fn emit(
        &mut self,
        entity: EntityId,
        kind: &'static str,
        now: Timestamp,
        event: impl FnOnce() -> Event,
    ) {
        if self.budget.take(entity, now) {
            event().emit();
        } else {
            self.held_back.add(entity, kind, 1);
        }
    }

    /// Tells what was held back since the last tick.
    pub fn tick(&mut self, now: Timestamp) {
        for (entity, kind, n) in self.held_back.take() {
            let mut event = Event::new(kind, now).entity(entity).attr("count", n);
            event.message = format!("{n} more whose details are not shown");
            event.emit();
        }
    }

    /// Forgets entities that vanished.
    pub fn forget(&mut self, entities: &[EntityId]) {
        self.budget.forget(entities);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_storm_in_one_entity_takes_nothing_from_another() {
        let mut budget = Budget::per_second(3);
        let shown = (0..1_000_000).filter(|_| budget.take(1, 5)).count();
        assert_eq!(shown, 3);
        assert!(budget.take(2, 5));
    }

    #[test]
    fn the_next_second_has_a_new_budget() {
        let mut budget = Budget::per_second(1);
        assert!(budget.take(1, 0));
        assert!(!budget.take(1, SECOND_NS - 1));
        assert!(budget.take(1, SECOND_NS));
    }

    #[test]
    fn what_is_held_back_is_given_out_once() {
        let mut held_back = HeldBack::default();
        held_back.add(1, "reason", 2);
        held_back.add(1, "reason", 3);
        assert_eq!(held_back.take().collect::<Vec<_>>(), [(1, "reason", 5)]);
        assert_eq!(held_back.take().count(), 0);
    }
}
