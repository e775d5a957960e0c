//! A bell that one thread waits for and others ring: rings while nobody waits are kept, many rings
//! are one.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

/// Why a wait ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wake {
    /// Somebody rang.
    Rung,
    /// The time was up.
    Timeout,
    /// The bell was closed; it stays so.
    Closed,
}

#[derive(Debug, Default)]
struct State {
    rung: bool,
    closed: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Bell {
    state: Mutex<State>,
    wake: Condvar,
}

impl Bell {
    /// Wakes the waiting thread, or lets its next wait end at once.
    pub fn ring(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).rung = true;
        self.wake.notify_all();
    }

    /// Ends every wait from now on.
    pub fn close(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).closed = true;
        self.wake.notify_all();
    }

    /// Waits for a ring, at most `limit`.
    pub fn wait(&self, limit: Duration) -> Wake {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let quiet = |state: &mut State| !state.rung && !state.closed;
        let waited = self.wake.wait_timeout_while(state, limit, quiet);
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        match (state.closed, std::mem::take(&mut state.rung)) {
            (true, _) => Wake::Closed,
            (false, true) => Wake::Rung,
            (false, false) => Wake::Timeout,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_before_the_wait_is_not_missed_and_many_are_one() {
        let bell = Bell::default();
        bell.ring();
        bell.ring();
        assert_eq!(bell.wait(Duration::from_secs(60)), Wake::Rung);
        assert_eq!(bell.wait(Duration::ZERO), Wake::Timeout);
        bell.close();
        assert_eq!(bell.wait(Duration::from_secs(60)), Wake::Closed);
    }
}
