//! Settings of the whole machine: lowered for a moment, and restored whatever happens.

use std::fs;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result};
use nix::sys::signal::{SigSet, Signal};

use super::Namespace;

/// What is to be restored, in the order in which it was changed.
static CHANGED: Mutex<Vec<(&'static str, String)>> = Mutex::new(Vec::new());

/// A changed setting; it gets its value back with the end of this value.
#[derive(Debug)]
pub struct Global {
    path: &'static str,
}

impl Global {
    /// Writes `value` to a file below `/proc/sys`.
    ///
    /// # Errors
    /// If the kernel refuses it.
    pub fn set(path: &'static str, value: &str) -> Result<Self> {
        let was = fs::read_to_string(path).with_context(|| path.to_owned())?;
        CHANGED.lock().unwrap_or_else(PoisonError::into_inner).push((path, was));
        let global = Self { path };
        fs::write(path, value).with_context(|| format!("cannot write {value:?} to {path}"))?;
        Ok(global)
    }
}

impl Drop for Global {
    fn drop(&mut self) {
        let mut changed = CHANGED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = changed.iter().rposition(|(path, _)| *path == self.path) {
            restore(&changed.remove(at));
        }
    }
}

fn restore((path, was): &(&'static str, String)) {
    if let Err(error) = fs::write(path, was) {
        eprintln!("{path} is not restored to {}: {error}", was.trim());
    }
}

/// Lets SIGINT, SIGTERM and SIGHUP end the program in order: `more` runs, the machine's settings
/// are restored, and the namespaces of this process are deleted. To be called before any thread
/// is started, since threads inherit which signals they leave alone.
///
/// # Errors
/// If the signals cannot be taken over.
pub fn end_in_order(more: impl FnOnce() + Send + 'static) -> Result<()> {
    let mut signals = SigSet::empty();
    signals.extend([Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP]);
    signals.thread_block().context("cannot wait for signals")?;
    std::thread::spawn(move || {
        let Ok(signal) = signals.wait() else { return };
        eprintln!("\n{signal}: cleaning up");
        more();
        let changed = CHANGED.lock().unwrap_or_else(PoisonError::into_inner);
        changed.iter().rev().for_each(restore);
        Namespace::remove_own();
        std::process::exit(130);
    });
    Ok(())
}
