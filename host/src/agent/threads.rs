//! The agent's own threads: each waits for its [`Notify`]; one that panics costs its own task only.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::notify::{Notify, Wake};
use crate::status::{self, Status};
use crate::watch::{self, Watcher};

/// Threads, and directories that are watched for them.
pub(super) struct Threads {
    status: Arc<Status>,
    running: Vec<Running>,
    watchers: Vec<Watcher>,
}

/// A thread, and what wakes and ends it.
struct Running {
    wake: Arc<Notify>,
    thread: JoinHandle<()>,
}

impl Threads {
    /// None yet; one that panics is shown in the status.
    pub(super) fn new(status: Arc<Status>) -> Self {
        Self { status, running: Vec::new(), watchers: Vec::new() }
    }

    /// Starts one; `body` ends when `wake` is closed.
    ///
    /// # Errors
    /// The system has no room for another thread.
    pub(super) fn spawn(
        &mut self,
        name: &str,
        wake: Arc<Notify>,
        body: impl FnOnce() + Send + 'static,
    ) -> io::Result<()> {
        let (name, status) = (name.to_owned(), Arc::clone(&self.status));
        let thread = thread::Builder::new().name(name.clone()).spawn(move || {
            // The rest of the agent goes on without it, and says so.
            if let Err(panic) = catch_unwind(AssertUnwindSafe(body)) {
                let why = status::panic_words(&*panic);
                tracing::error!(
                    thread = name,
                    why,
                    "a thread of the agent panicked and is missing from now on"
                );
                status.update().ended.push(format!("thread {name} panicked: {why}"));
            }
        })?;
        self.running.push(Running { wake, thread });
        Ok(())
    }

    /// Calls `changed` when something changes in a directory. One that cannot be watched is looked at less
    /// often, and said so.
    pub(super) fn watch(&mut self, directory: &Path, changed: impl Fn(&[PathBuf]) + Send + 'static) {
        match watch::directory(directory, changed) {
            Ok(watcher) => self.watchers.push(watcher),
            Err(e) => tracing::warn!(error = %e, "changes there are not noticed at once"),
        }
    }

    /// Ends them all, and waits until they have.
    pub(super) fn stop(self) {
        for running in &self.running {
            running.wake.close();
        }
        for running in self.running {
            let _ = running.thread.join();
        }
    }
}

/// Waits a moment, gathering further notifications; true if `wake` was closed.
pub(super) fn pause(wake: &Notify, moment: Duration) -> bool {
    let end = Instant::now() + moment;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        match wake.wait(left) {
            Wake::Closed => return true,
            Wake::Notified if !left.is_zero() => {}
            _ => return false,
        }
    }
}
