//! Tells when something in a directory changed, so that nobody polls (inotify, by `notify`).
//!
//! It says only *that* something changed: whoever is told looks for itself.

use std::path::{Path, PathBuf};

use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};

/// A directory could not be watched.
#[derive(Debug, thiserror::Error)]
#[error("cannot watch {path}: {source}")]
pub struct Error {
    path: PathBuf,
    source: notify::Error,
}

/// Calls back while it lives.
#[derive(Debug)]
pub struct Watcher {
    _inner: RecommendedWatcher,
}

/// Calls `changed` on a thread of its own whenever an entry of `directory` is created, written to
/// the end, renamed or removed. Not recursive.
///
/// # Errors
/// The directory does not exist or inotify watches are used up.
pub fn directory(directory: &Path, changed: impl Fn() + Send + 'static) -> Result<Watcher, Error> {
    let error = |source| Error { path: directory.to_owned(), source };
    let handler = move |event: notify::Result<notify::Event>| {
        // Reading a file is no change, and the reader's own reads would wake it for ever.
        if !event
            .is_ok_and(|event| matches!(event.kind, EventKind::Access(access) if !is_close_write(access)))
        {
            changed();
        }
    };
    let mut inner = notify::recommended_watcher(handler).map_err(error)?;
    inner.watch(directory, RecursiveMode::NonRecursive).map_err(error)?;
    Ok(Watcher { _inner: inner })
}

fn is_close_write(access: notify::event::AccessKind) -> bool {
    use notify::event::{AccessKind, AccessMode};
    access == AccessKind::Close(AccessMode::Write)
}
