//! Wakes a thread that waits. A notification while nobody waits is kept, and many are one.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

/// Why a wait ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wake {
    /// Somebody called [`Notify::notify`].
    Notified,
    /// The time was up.
    Timeout,
    /// Somebody called [`Notify::close`]; it stays so.
    Closed,
}

#[derive(Debug, Default)]
struct State {
    notified: bool,
    closed: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Notify {
    state: Mutex<State>,
    wake: Condvar,
}

impl Notify {
    /// Wakes the waiting thread, or lets its next wait end at once.
    pub fn notify(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).notified = true;
        self.wake.notify_all();
    }

    /// Ends every wait from now on.
    pub fn close(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).closed = true;
        self.wake.notify_all();
    }

    /// Waits to be notified, at most `limit`.
    pub fn wait(&self, limit: Duration) -> Wake {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let quiet = |state: &mut State| !state.notified && !state.closed;
        let waited = self.wake.wait_timeout_while(state, limit, quiet);
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        match (state.closed, std::mem::take(&mut state.notified)) {
            (true, _) => Wake::Closed,
            (false, true) => Wake::Notified,
            (false, false) => Wake::Timeout,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_notification_before_the_wait_is_not_missed_and_many_are_one() {
        let notify = Notify::default();
        notify.notify();
        notify.notify();
        assert_eq!(notify.wait(Duration::from_secs(60)), Wake::Notified);
        assert_eq!(notify.wait(Duration::ZERO), Wake::Timeout);
        notify.close();
        assert_eq!(notify.wait(Duration::from_secs(60)), Wake::Closed);
    }
}
