//! Waiting for a condition with a deadline.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// What most conditions are given before the test fails; far beyond what any of them needs, so
/// that a busy machine does not fail a test.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// How often a condition is looked at.
const POLL: Duration = Duration::from_millis(10);

/// Polls `condition` until it yields a value.
///
/// # Errors
/// After `deadline`, an error that names `what` was waited for.
pub fn within<T>(deadline: Duration, what: &str, mut condition: impl FnMut() -> Option<T>) -> Result<T> {
    let start = Instant::now();
    loop {
        if let Some(value) = condition() {
            return Ok(value);
        }
        if start.elapsed() > deadline {
            bail!("waited {deadline:?} in vain for {what}");
        }
        std::thread::sleep(POLL);
    }
}

/// [`within`] the usual [`PATIENCE`].
///
/// # Errors
/// After that, an error that names `what` was waited for.
pub fn until<T>(what: &str, condition: impl FnMut() -> Option<T>) -> Result<T> {
    within(PATIENCE, what, condition)
}
