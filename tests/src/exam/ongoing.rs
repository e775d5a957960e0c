//! How a case lasts while somebody asks about it: its clients go on, or it is made again and again.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, sleep};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::Exam;
use crate::lab::cases::Ongoing;
use crate::lab::{Held, Scene};
use crate::wait;

/// Who asks what is wrong has seen it for so long.
const AMID: Duration = Duration::from_secs(3);

/// What is made again is held for so long before.
const HELD: Duration = Duration::from_millis(300);

/// Far beyond what any case takes.
const LONGEST: Duration = Duration::from_secs(120);

impl Exam {
    /// Makes the case, asks once its traces have had the time to `settle`, and ends it.
    ///
    /// # Errors
    /// If the case did not happen, or did not go on in its ongoing form, and those of `ask`.
    pub(super) fn amid<T>(
        &self,
        scene: &Scene,
        settle: Duration,
        ask: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        let make = || (self.case.run)(scene).context("the case did not happen");
        let after = |settle| {
            sleep(settle);
            ask()
        };
        match (self.ongoing, self.case.ongoing) {
            (None, _) => {
                let _held = make()?;
                after(settle)
            }
            (Some(_), Ongoing::Clients) => while_clients_go_on(scene, make, || after(settle.max(AMID))),
            (Some(_), Ongoing::Again) => while_made_again(make, || after(settle.max(AMID))),
            (Some(_), Ongoing::ByItself | Ongoing::Never(_)) => {
                let _held = make()?;
                after(settle.max(AMID))
            }
        }
    }
}

fn while_clients_go_on<T>(
    scene: &Scene,
    make: impl Fn() -> Result<Held>,
    ask: impl FnOnce() -> Result<T>,
) -> Result<T> {
    let _held = make()?;
    let outcome = scene.attempts.go_on(1).and_then(|()| ask()).and_then(|answer| {
        scene.attempts.go_on(1)?;
        Ok(answer)
    });
    // Before the first of them is waited for.
    scene.attempts.end();
    outcome.context("its clients")
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
