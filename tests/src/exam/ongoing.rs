//! How a case lasts while somebody asks about it: its clients go on, or it is made again and again.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, sleep};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::Exam;
use crate::lab::cases::Ongoing;
use crate::lab::{Held, SEEN, Scene};
use crate::wait;

/// What is made again is held for so long before.
const HELD: Duration = Duration::from_millis(300);

/// Far beyond what any case takes.
const LONGEST: Duration = Duration::from_secs(120);

impl Exam {
    /// Makes the case, asks, and ends it; in its ongoing form it has been seen for a while before.
    ///
    /// # Errors
    /// If the case did not happen, or did not go on in its ongoing form, and those of `ask`.
    pub(super) fn amid<T>(&self, scene: &Scene, ask: impl FnOnce() -> Result<T>) -> Result<T> {
        let make = || self.case.make(scene);
        let form = self.ongoing.map(|_| self.case.ongoing);
        let ask = || {
            sleep(if form.is_some() { SEEN } else { Duration::ZERO });
            ask()
        };
        if self.is_made_again() {
            return while_made_again(make, ask);
        }
        let held = make()?;
        let outcome = if form == Some(Ongoing::Clients) { while_clients_go_on(scene, ask) } else { ask() };
        // At once, so that what is held does not wait for one after the other.
        scene.attempts.end();
        drop(held);
        outcome
    }
}

fn while_clients_go_on<T>(scene: &Scene, ask: impl FnOnce() -> Result<T>) -> Result<T> {
    scene.attempts.go_on(1).context("before the question")?;
    let answer = ask()?;
    scene.attempts.go_on(1).context("after the question")?;
    Ok(answer)
}

fn while_made_again<T>(make: impl Fn() -> Result<Held> + Sync, ask: impl FnOnce() -> Result<T>) -> Result<T> {
    let (over, made) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        let making = scope.spawn(|| -> Result<()> {
            while !over.load(Ordering::Relaxed) {
                let _held = make()?;
                made.fetch_add(1, Ordering::Relaxed);
                sleep(HELD);
            }
            Ok(())
        });
        let begun = || (made.load(Ordering::Relaxed) > 0 || making.is_finished()).then_some(());
        let outcome = wait::within(LONGEST, "the case to be made", begun).and_then(|()| ask());
        over.store(true, Ordering::Relaxed);
        making.join().expect("making does not panic")?;
        let answer = outcome?;
        ensure!(made.load(Ordering::Relaxed) > 1, "it was not made again");
        Ok(answer)
    })
}
