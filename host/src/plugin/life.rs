//! The life of a plugin: it runs; after a failure it waits a moment, and after several a long time.
//!
//! A plugin is restarted after a pause that doubles with each failure, and is quarantined after
//! [`MAX_FAILURES`] within [`FAILURE_WINDOW`], for a time that doubles with each quarantine.
//!
//! Nothing here calls a guest: `I` is whatever runs, and time is an argument.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::status::PluginState;

/// Failures within [`FAILURE_WINDOW`] that are too many.
pub(super) const MAX_FAILURES: usize = 5;
const FAILURE_WINDOW: Duration = Duration::from_secs(600);
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const FIRST_QUARANTINE: Duration = Duration::from_secs(600);
const LONGEST_QUARANTINE: Duration = Duration::from_secs(2 * 3600);

/// What a plugin does at the moment.
pub(super) enum Life<I> {
    /// It takes in what comes.
    Running(Box<I>),
    /// It failed, and is restarted soon.
    Backoff {
        /// When it is restarted.
        until: Instant,
        /// How it failed.
        why: String,
    },
    /// It failed too often.
    Quarantined {
        /// When it is tried again.
        until: Instant,
        /// How it failed, and when it is tried again.
        why: String,
    },
    /// It has ended.
    Stopped,
}

impl<I> Life<I> {
    /// What runs, if anything does.
    pub(super) fn instance(&mut self) -> Option<&mut I> {
        match self {
            Self::Running(instance) => Some(instance),
            _ => None,
        }
    }

    /// When it is to be tried again.
    pub(super) fn until(&self) -> Option<Instant> {
        match self {
            Self::Backoff { until, .. } | Self::Quarantined { until, .. } => Some(*until),
            Self::Running(_) | Self::Stopped => None,
        }
    }

    /// As it is shown.
    pub(super) fn state(&self) -> PluginState {
        match self {
            Self::Running(_) => PluginState::Running,
            Self::Backoff { .. } => PluginState::Backoff,
            Self::Quarantined { .. } => PluginState::Quarantined,
            Self::Stopped => PluginState::Stopped,
        }
    }

    /// Why it does not run; empty if it does.
    pub(super) fn why(&self) -> &str {
        match self {
            Self::Backoff { why, .. } | Self::Quarantined { why, .. } => why,
            Self::Running(_) | Self::Stopped => "",
        }
    }
}

/// What follows a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pause {
    /// A restart after so long.
    Backoff(Duration),
    /// Another try after so long.
    Quarantine(Duration),
}

/// What a plugin has failed at lately.
pub(super) struct Failures {
    /// Those since the last quarantine, none older than [`FAILURE_WINDOW`].
    recent: VecDeque<Instant>,
    /// Quarantines since it last ran well.
    quarantines: u32,
    /// When the instance was made, or the last one there was.
    started: Instant,
}

impl Failures {
    /// Of a plugin that has just started.
    pub(super) fn none(now: Instant) -> Self {
        Self { recent: VecDeque::new(), quarantines: 0, started: now }
    }

    /// It runs again.
    pub(super) fn restarted(&mut self, now: Instant) {
        self.started = now;
    }

    /// It failed, or could not be restarted.
    pub(super) fn failed(&mut self, now: Instant) -> Pause {
        self.recent.push_back(now);
        self.recent.retain(|failed| now.duration_since(*failed) <= FAILURE_WINDOW);
        if now.duration_since(self.started) > FAILURE_WINDOW {
            self.quarantines = 0;
        }
        if self.recent.len() < MAX_FAILURES {
            return Pause::Backoff(FIRST_PAUSE * 2u32.pow(self.recent.len() as u32 - 1));
        }
        self.recent.clear();
        self.quarantines += 1;
        Pause::Quarantine(quarantine(self.quarantines - 1))
    }
}

/// How long a plugin is left alone that was quarantined so often before.
fn quarantine(before: u32) -> Duration {
    FIRST_QUARANTINE.saturating_mul(2u32.saturating_pow(before)).min(LONGEST_QUARANTINE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_quarantine_is_twice_as_long_as_the_one_before_up_to_two_hours() {
        let minutes = |before| quarantine(before).as_secs() / 60;
        assert_eq!([0, 1, 2, 3, 4, u32::MAX].map(minutes), [10, 20, 40, 80, 120, 120]);
    }

    #[test]
    fn pauses_double_until_the_fifth_failure_in_ten_minutes_is_a_quarantine() {
        let start = Instant::now();
        let mut failures = Failures::none(start);
        let mut at = |seconds| failures.failed(start + Duration::from_secs(seconds));
        let pause = |ms| Pause::Backoff(Duration::from_millis(ms));
        assert_eq!([at(1), at(2), at(3), at(4)], [pause(100), pause(200), pause(400), pause(800)]);
        assert_eq!(at(600), Pause::Quarantine(FIRST_QUARANTINE));
        assert_eq!(at(601), pause(100), "what led to a quarantine is settled by it");
    }

    #[test]
    fn failures_that_are_far_apart_are_no_reason_for_a_quarantine() {
        let start = Instant::now();
        let mut failures = Failures::none(start);
        for n in 1..20 {
            let pause = failures.failed(start + n * (FAILURE_WINDOW + Duration::from_secs(1)));
            assert_eq!(pause, Pause::Backoff(FIRST_PAUSE), "{n}");
        }
    }

    #[test]
    fn a_plugin_that_ran_well_for_long_is_quarantined_as_if_for_the_first_time() {
        let start = Instant::now();
        let quarantines = |ran: Duration| {
            let mut failures = Failures::none(start);
            let mut last = Pause::Backoff(FIRST_PAUSE);
            for round in 0..2 {
                failures.restarted(start + round * (FAILURE_WINDOW * 10));
                for n in 0..MAX_FAILURES as u32 {
                    let failed = start + round * (FAILURE_WINDOW * 10) + ran + n * FIRST_PAUSE;
                    last = failures.failed(failed);
                }
            }
            last
        };
        assert_eq!(quarantines(Duration::ZERO), Pause::Quarantine(2 * FIRST_QUARANTINE));
        assert_eq!(quarantines(2 * FAILURE_WINDOW), Pause::Quarantine(FIRST_QUARANTINE));
    }
}
