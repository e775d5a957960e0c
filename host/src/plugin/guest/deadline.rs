//! How long a call into a guest may take.
//!
//! Deadlines are of CPU time: a healthy guest on an overloaded node waits for its turn and is not
//! to blame. wasmtime interrupts a guest after a number of epochs; an epoch that ends only makes the
//! host look at the clock of the thread.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::thread::{self, Thread};
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use wasmtime::{Engine, UpdateDeadline};

/// How often a running guest is looked at; deadlines are multiples of it.
const EPOCH: Duration = Duration::from_millis(25);

/// Epochs without a call after which their clock goes to sleep.
const IDLE_EPOCHS: u32 = 20;

/// A time limit in epochs, rounded up; the current epoch may be nearly over.
pub(super) fn epochs(limit: Duration) -> u64 {
    limit.as_nanos().div_ceil(EPOCH.as_nanos()) as u64 + 1
}

/// A call under way, on the CPU clock of its thread.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Call {
    start: Duration,
    limit: Duration,
}

impl Call {
    pub(super) fn begin(limit: Duration) -> Self {
        Self { start: thread_cpu(), limit }
    }

    /// CPU time that it has taken so far.
    pub(super) fn taken(self) -> Duration {
        thread_cpu().saturating_sub(self.start)
    }

    /// What becomes of it when its epochs are over: it has waited for its turn, or took its time.
    pub(super) fn at_deadline(self) -> UpdateDeadline {
        let left = self.limit.saturating_sub(self.taken());
        match left.is_zero() {
            true => UpdateDeadline::Interrupt,
            false => UpdateDeadline::Continue(epochs(left)),
        }
    }
}

/// CPU time of the calling thread: what a guest costs, also on a busy machine.
fn thread_cpu() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}

/// The clock of deadlines: counts an epoch each [`EPOCH`] while guests run, and sleeps when none
/// has run for a while, so that an idle agent does not wake up.
#[derive(Debug)]
pub(super) struct Epochs {
    /// Guest calls under way.
    running: AtomicUsize,
    asleep: AtomicBool,
    thread: Thread,
}

impl Epochs {
    pub(super) fn start(engine: &Engine) -> Arc<Self> {
        let engine = engine.weak();
        let (send, receive) = std::sync::mpsc::sync_channel::<Weak<Self>>(1);
        let handle = thread::Builder::new()
            .name("epochs".into())
            .spawn(move || {
                let Ok(epochs) = receive.recv() else { return };
                let mut idle = 0;
                while let (Some(engine), Some(epochs)) = (engine.upgrade(), epochs.upgrade()) {
                    engine.increment_epoch();
                    idle = if epochs.running.load(Ordering::SeqCst) == 0 { idle + 1 } else { 0 };
                    drop(engine);
                    if idle < IDLE_EPOCHS {
                        drop(epochs);
                        thread::sleep(EPOCH);
                    } else {
                        epochs.sleep();
                        idle = 0;
                    }
                }
            })
            .expect("a thread can be started while the agent starts");
        let thread = handle.thread().clone();
        let epochs = Arc::new(Self { running: AtomicUsize::new(0), asleep: AtomicBool::new(false), thread });
        send.send(Arc::downgrade(&epochs)).expect("the epoch thread waits for this");
        epochs
    }

    fn sleep(&self) {
        self.asleep.store(true, Ordering::SeqCst);
        // A call that began before it could see the flag is seen here instead.
        if self.running.load(Ordering::SeqCst) == 0 {
            thread::park_timeout(Duration::from_secs(60));
        }
        self.asleep.store(false, Ordering::SeqCst);
    }

    /// Says that a guest call begins; the clock runs until the guard is dropped, and a while on.
    pub(super) fn call(&self) -> InCall<'_> {
        self.running.fetch_add(1, Ordering::SeqCst);
        if self.asleep.load(Ordering::SeqCst) {
            self.thread.unpark();
        }
        InCall(self)
    }
}

/// A guest call under way.
pub(super) struct InCall<'a>(&'a Epochs);

impl Drop for InCall<'_> {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::SeqCst);
    }
}
