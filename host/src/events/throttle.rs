//! How many events a plugin may emit: a token bucket, and folding of events that say the same.
//!
//! The first event of a key goes out at once; those of the same key that follow within the window
//! become one event with a count, so a storm of one fault neither floods readers nor uses up the
//! quota that other faults need.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::events::event::NewEvent;

/// How long events of one key are folded together.
pub const WINDOW: Duration = Duration::from_secs(1);
/// Maximum number of keys of one plugin that are known at a time; events of further keys are not folded.
const MAX_KEYS: usize = 1024;

/// State of one plugin's emissions.
#[derive(Debug)]
pub(crate) struct Throttle {
    tokens: f64,
    per_second: f64,
    burst: f64,
    refilled: Instant,
    folds: HashMap<String, Fold>,
}

/// Events of one key since its window began.
#[derive(Debug)]
struct Fold {
    since: Instant,
    latest: Option<NewEvent>,
    count: u64,
}

/// What becomes of an event.
pub(crate) enum Admission {
    /// It goes out now.
    Pass(NewEvent),
    /// It goes out with others of its key, counted.
    Folded,
    /// The plugin is over its quota.
    Refused,
}

impl Throttle {
    pub(crate) fn new(per_second: u32, burst: u32, now: Instant) -> Self {
        let burst = f64::from(burst);
        let (per_second, folds) = (f64::from(per_second), HashMap::new());
        Self { tokens: burst, per_second, burst, refilled: now, folds }
    }

    pub(crate) fn take(&mut self, event: NewEvent, now: Instant) -> Admission {
        let fold = event.dedup_key.as_ref().and_then(|key| self.folds.get_mut(key));
        if let Some(fold) = fold {
            fold.latest = Some(event);
            fold.count += 1;
            return Admission::Folded;
        }
        if !self.take_token(now) {
            return Admission::Refused;
        }
        if let (Some(key), true) = (&event.dedup_key, self.folds.len() < MAX_KEYS) {
            self.folds.insert(key.clone(), Fold { since: now, latest: None, count: 0 });
        }
        Admission::Pass(event)
    }

    /// The folded events of windows that have ended, by time. A key that had some starts a new
    /// window, so that a fault that lasts is one event per window; one that had none is free.
    pub(crate) fn due(&mut self, now: Instant) -> Vec<(NewEvent, u64)> {
        let mut due = Vec::new();
        self.folds.retain(|_, fold| {
            if now.saturating_duration_since(fold.since) < WINDOW {
                return true;
            }
            let Some(event) = fold.latest.take() else { return false };
            due.push((event, std::mem::take(&mut fold.count)));
            fold.since = now;
            true
        });
        // By more than time, since the order of a map is another one in every run.
        due.sort_by(|(a, _), (b, _)| (a.time_ns, &a.dedup_key).cmp(&(b.time_ns, &b.dedup_key)));
        due
    }

    fn take_token(&mut self, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.refilled).as_secs_f64();
        self.tokens = (self.tokens + passed * self.per_second).min(self.burst);
        self.refilled = now;
        let enough = self.tokens >= 1.0;
        if enough {
            self.tokens -= 1.0;
        }
        enough
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(key: Option<&str>, time_ns: u64) -> NewEvent {
        NewEvent { time_ns, dedup_key: key.map(str::to_owned), ..NewEvent::default() }
    }

    #[test]
    fn events_of_one_key_become_the_first_and_one_more_per_window() {
        let start = Instant::now();
        let mut throttle = Throttle::new(1, 5, start);
        assert!(matches!(throttle.take(event(Some("k"), 1), start), Admission::Pass(_)));
        for at in 2..100 {
            assert!(matches!(throttle.take(event(Some("k"), at), start), Admission::Folded));
        }
        assert!(matches!(throttle.take(event(Some("other"), 1), start), Admission::Pass(_)));
        assert!(throttle.due(start + WINDOW / 2).is_empty());
        let due = throttle.due(start + WINDOW);
        assert_eq!(due.iter().map(|(e, n)| (e.time_ns, *n)).collect::<Vec<_>>(), [(99, 98)]);
        // The fault goes on: still one event per window. It ends: the key is free again.
        assert!(matches!(throttle.take(event(Some("k"), 100), start + WINDOW), Admission::Folded));
        assert_eq!(throttle.due(start + 2 * WINDOW).len(), 1);
        assert!(throttle.due(start + 3 * WINDOW).is_empty());
        assert!(matches!(throttle.take(event(Some("k"), 101), start + 3 * WINDOW), Admission::Pass(_)));
    }

    #[test]
    fn a_burst_is_let_through_and_then_the_rate() {
        let start = Instant::now();
        let mut throttle = Throttle::new(10, 5, start);
        let mut passed = |now| {
            let passes =
                (0..100).filter(|_| matches!(throttle.take(event(None, 1), now), Admission::Pass(_)));
            passes.count()
        };
        assert_eq!(passed(start), 5);
        assert_eq!(passed(start + Duration::from_millis(300)), 3);
        assert_eq!(passed(start + Duration::from_secs(60)), 5);
    }

    #[test]
    fn the_number_of_known_keys_is_bounded() {
        let start = Instant::now();
        let mut throttle = Throttle::new(0, 100_000, start);
        for key in 0..10_000 {
            throttle.take(event(Some(&key.to_string()), 1), start);
        }
        assert_eq!(throttle.folds.len(), MAX_KEYS);
    }
}
