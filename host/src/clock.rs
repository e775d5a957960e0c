//! What time it is: by the machine, or by a trace that is replayed.
//!
//! Everything whose outcome depends on time (quotas, folding, tombstones, restarts of plugins)
//! asks here, so that a replay gives the same result at any speed.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// What time it is by the machine: nanoseconds since the Unix epoch.
pub fn unix_ns() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64)
}

/// See the module.
#[derive(Debug, Default)]
pub struct Clock {
    replayed: Option<Replayed>,
}

#[derive(Debug)]
struct Replayed {
    /// Stands for the Unix epoch; only distances from it matter.
    epoch: Instant,
    now_ns: AtomicU64,
}

impl Clock {
    /// The clock of a replay; it stands still but for [`Clock::advance`].
    pub fn of_replay() -> Self {
        Self { replayed: Some(Replayed { epoch: Instant::now(), now_ns: AtomicU64::new(0) }) }
    }

    /// Nanoseconds since the Unix epoch.
    pub fn now_ns(&self) -> u64 {
        match &self.replayed {
            Some(replayed) => replayed.now_ns.load(Ordering::Relaxed),
            None => unix_ns(),
        }
    }

    /// The same moment for measuring distances.
    pub fn now(&self) -> Instant {
        match &self.replayed {
            Some(replayed) => {
                let since = Duration::from_nanos(replayed.now_ns.load(Ordering::Relaxed));
                // Damaged times may lie beyond what an `Instant` can hold.
                replayed.epoch.checked_add(since).unwrap_or(replayed.epoch)
            }
            None => Instant::now(),
        }
    }

    /// Moves the clock of a replay on; it never goes back. The machine's clock is left alone.
    pub fn advance(&self, to_ns: u64) {
        if let Some(replayed) = &self.replayed {
            replayed.now_ns.fetch_max(to_ns, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replayed_clock_moves_by_what_is_replayed_only_and_never_back() {
        let clock = Clock::of_replay();
        clock.advance(1_000);
        let then = clock.now();
        clock.advance(3_000);
        clock.advance(2_000);
        assert_eq!((clock.now_ns(), clock.now() - then), (3_000, Duration::from_nanos(2_000)));
        clock.advance(u64::MAX);
        let _ = clock.now();
    }

    #[test]
    fn the_machines_clock_is_not_set() {
        let clock = Clock::default();
        clock.advance(u64::MAX);
        assert!(clock.now_ns() < u64::MAX / 2);
    }
}
