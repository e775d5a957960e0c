//! Who was here: what questions about the past may still refer to, for a while.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// As long as the analyzers remember what they saw.
const REMEMBERED: Duration = Duration::from_secs(15 * 60);
/// At most so many, some 500 bytes each; those that came last stay.
const MOST: usize = 4096;

/// What was forgotten, by its id, and when.
#[derive(Debug)]
pub(super) struct Past<T>(BTreeMap<u32, (T, Instant)>);

impl<T> Default for Past<T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<T> Past<T> {
    pub(super) fn remember(&mut self, forgotten: impl Iterator<Item = (u32, T)>, now: Instant) {
        self.0.retain(|_, (_, when)| now.saturating_duration_since(*when) < REMEMBERED);
        self.0.extend(forgotten.map(|(id, what)| (id, (what, now))));
        while self.0.len() > MOST {
            self.0.pop_first();
        }
    }

    pub(super) fn get(&self, id: u32) -> Option<&T> {
        self.0.get(&id).map(|(what, _)| what)
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &T> {
        self.0.values().map(|(what, _)| what)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_forgotten_is_known_for_a_while_and_only_so_much_of_it() {
        let (mut past, start) = (Past::default(), Instant::now());
        past.remember([(1, "a")].into_iter(), start);
        past.remember([].into_iter(), start + REMEMBERED / 2);
        assert_eq!((past.get(1), past.get(2)), (Some(&"a"), None));
        past.remember([].into_iter(), start + REMEMBERED);
        assert_eq!(past.get(1), None);
        past.remember((0..MOST as u32 + 10).map(|id| (id, "b")), start);
        assert_eq!((past.all().count(), past.get(9), past.get(10)), (MOST, None, Some(&"b")));
    }
}
