//! Turns the kernel's `CLOCK_BOOTTIME` into wall time.

use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};

/// How long an offset between the clocks is believed; a step of the wall clock shows by then.
const BELIEVED: Duration = Duration::from_secs(1);

/// The distance between boot time and the Unix epoch, as last looked up.
pub struct Clock {
    offset_ns: i64,
    looked_up: Instant,
}

impl Clock {
    /// Looks the offset up.
    pub fn new() -> Clock {
        Clock { offset_ns: offset_ns(), looked_up: Instant::now() }
    }

    /// Looks it up again if the last time is long ago.
    pub fn refresh(&mut self, now: Instant) {
        if now.duration_since(self.looked_up) >= BELIEVED {
            self.offset_ns = offset_ns();
            self.looked_up = now;
        }
    }

    /// What to add, wrapping, to a kernel timestamp.
    pub fn offset_ns(&self) -> u64 {
        self.offset_ns.cast_unsigned()
    }

    /// Wall clock, nanoseconds since the Unix epoch.
    pub fn wall_ns(&self) -> u64 {
        boot_ns().wrapping_add(self.offset_ns())
    }
}

/// `CLOCK_BOOTTIME` now.
pub fn boot_ns() -> u64 {
    read(ClockId::CLOCK_BOOTTIME).cast_unsigned()
}

fn offset_ns() -> i64 {
    read(ClockId::CLOCK_REALTIME) - read(ClockId::CLOCK_BOOTTIME)
}

fn read(clock: ClockId) -> i64 {
    let time = clock_gettime(clock).expect("Linux has both clocks since 2.6.39");
    time.tv_sec() * 1_000_000_000 + time.tv_nsec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boot_time_and_the_offset_make_wall_time() {
        let clock = Clock::new();
        let system = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
        let difference = clock.wall_ns().abs_diff(system.as_nanos() as u64);
        assert!(difference < 1_000_000_000, "{difference} ns");
    }
}
