//! A limit on detailed events per entity.
//!
//! An event with addresses and text costs about a thousand times a count. Without a limit of the
//! analyzer's own, one storming pod would use up the host's quota, and the events of all others
//! would be refused with its own. So each entity has a [`Budget`] of details per second, and an
//! [`EventLimit`] lets the first events of each cause through beyond it, so that a storm of one cause
//! hides no other. The rest is a number, and is reported by one event per cause on the next tick.

use std::collections::hash_map::Entry;

use crate::map::Map;
use crate::{EntityId, Event, Timestamp};

const SECOND_NS: u64 = 1_000_000_000;

/// Events of one cause that are emitted in any second, however many others the entity has.
pub const FIRST_OF_A_CAUSE: u32 = 5;

/// Causes with events within a second. Beyond it, an event over budget is in the metrics only.
const CAUSES: usize = 4_096;

/// How much of a limit per second is used up.
#[derive(Debug, Clone, Copy, Default)]
pub struct Second {
    since: Timestamp,
    used: u32,
}

impl Second {
    /// Whether one more fits into `limit`. `now` is the batch's time, so once it does not fit, nothing
    /// more fits in that batch.
    #[inline]
    pub fn take(&mut self, limit: u32, now: Timestamp) -> bool {
        if self.is_over(now) {
            *self = Self { since: now, used: 0 };
        }
        let fits = self.used < limit;
        self.used += u32::from(fits);
        fits
    }

    #[inline]
    fn is_over(&self, now: Timestamp) -> bool {
        now.saturating_sub(self.since) >= SECOND_NS
    }
}

/// So many details per entity and second.
#[derive(Debug)]
pub struct Budget {
    per_second: u32,
    spent: Map<EntityId, Second>,
}

impl Budget {
    /// So many details per entity and second.
    pub fn per_second(events: u32) -> Self {
        Self { per_second: events, spent: Map::default() }
    }

    /// Whether one more detail of this entity fits.
    pub fn take(&mut self, entity: EntityId, now: Timestamp) -> bool {
        let begun = Second { since: now, used: 0 };
        self.spent.entry(entity).or_insert(begun).take(self.per_second, now)
    }

    /// Forgets entities that vanished.
    pub fn forget(&mut self, entities: &[EntityId]) {
        for entity in entities {
            self.spent.remove(entity);
        }
    }
}

/// Emits events within a [`Budget`], and the first ones of each cause beyond it. A cause is a kind of
/// event at an entity.
#[derive(Debug)]
pub struct EventLimit {
    budget: Budget,
    causes: Map<(EntityId, &'static str), Cause>,
}

/// Events of one cause.
#[derive(Debug, Clone, Copy)]
struct Cause {
    /// Emitted as the first ones.
    first: Second,
    /// Not emitted since the last tick.
    held_back: u64,
}

impl EventLimit {
    /// So many events per entity and second.
    pub fn per_second(events: u32) -> Self {
        Self { budget: Budget::per_second(events), causes: Map::default() }
    }

    /// Emits an event of a kind if it fits, else counts it for the next tick; it is made only then.
    pub fn emit(
        &mut self,
        entity: EntityId,
        kind: &'static str,
        now: Timestamp,
        event: impl FnOnce() -> Event,
    ) {
        let is_full = self.causes.len() >= CAUSES;
        let mut cause = match self.causes.entry((entity, kind)) {
            Entry::Occupied(cause) => Some(cause.into_mut()),
            Entry::Vacant(_) if is_full => None,
            Entry::Vacant(place) => {
                let first = Second { since: now, used: 0 };
                Some(place.insert(Cause { first, held_back: 0 }))
            }
        };
        let is_first = cause.as_mut().is_some_and(|cause| cause.first.take(FIRST_OF_A_CAUSE, now));
        if self.budget.take(entity, now) || is_first {
            event().emit();
        } else if let Some(cause) = cause {
            cause.held_back += 1;
        }
    }

    /// Reports what was held back since the last tick, by one event per cause with a `count`.
    pub fn tick(&mut self, now: Timestamp) {
        for ((entity, kind), cause) in self.causes.iter_mut().filter(|(_, cause)| cause.held_back > 0) {
            let n = std::mem::take(&mut cause.held_back);
            let mut event = Event::new(kind, now).entity(*entity).attr("count", n);
            event.message = format!("{n} more whose details are not shown");
            event.emit();
        }
        self.causes.retain(|_, cause| !cause.first.is_over(now));
    }

    /// Forgets entities that vanished.
    pub fn forget(&mut self, entities: &[EntityId]) {
        self.budget.forget(entities);
        self.causes.retain(|(entity, _), _| !entities.contains(entity));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::host;

    #[test]
    fn a_storm_in_one_entity_takes_nothing_from_another() {
        let mut budget = Budget::per_second(3);
        let emitted = (0..1_000_000).filter(|_| budget.take(1, 5)).count();
        assert_eq!(emitted, 3);
        assert!(budget.take(2, 5));
    }

    #[test]
    fn the_next_second_has_a_new_budget() {
        let mut budget = Budget::per_second(1);
        assert!(budget.take(1, 0));
        assert!(!budget.take(1, SECOND_NS - 1));
        assert!(budget.take(1, SECOND_NS));
    }

    /// Kinds of the events that left, with the count of those that stand for several.
    fn emitted() -> Vec<(String, Option<String>)> {
        crate::event::flush();
        let count =
            |event: &Event| event.attrs.iter().find(|attr| attr.name == "count").map(|a| a.value.clone());
        host::take_events().iter().map(|event| (event.kind.clone(), count(event))).collect()
    }

    #[test]
    fn a_storm_of_one_cause_hides_no_other_one() {
        host::enter(host::World::default(), &crate::Description::default());
        let mut limit = EventLimit::per_second(20);
        for _ in 0..1_000 {
            limit.emit(1, "STORM", 7, || Event::new("STORM", 7));
        }
        for _ in 0..9 {
            limit.emit(1, "RARE", 7, || Event::new("RARE", 7));
        }
        let events = emitted();
        let of = |kind: &str| events.iter().filter(|(k, _)| k == kind).count();
        assert_eq!((of("STORM"), of("RARE")), (20, 5));
        limit.tick(8);
        let mut rest = emitted();
        rest.sort();
        let held_back = |kind: &str, n: &str| (kind.to_owned(), Some(n.to_owned()));
        assert_eq!(rest, [held_back("RARE", "4"), held_back("STORM", "980")]);
        limit.tick(9);
        assert_eq!(emitted(), [], "reported once");
    }

    #[test]
    fn causes_do_not_pile_up() {
        host::enter(host::World::default(), &crate::Description::default());
        let mut limit = EventLimit::per_second(1);
        (0..10_000).for_each(|entity| limit.emit(entity, "X", 0, || Event::new("X", 0)));
        assert_eq!(limit.causes.len(), CAUSES);
        limit.tick(SECOND_NS);
        assert!(limit.causes.is_empty());
    }
}
