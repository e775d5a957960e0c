//! Tells when something in a directory changed, so that nobody polls (inotify, by `notify`).
//!
//! It says that something changed and what has come; whoever is told looks for itself.

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
/// the end, renamed or removed, with the paths that were created. Not recursive.
///
/// # Errors
/// The directory does not exist or inotify watches are used up.
pub fn directory(directory: &Path, changed: impl Fn(&[PathBuf]) + Send + 'static) -> Result<Watcher, Error> {
    let error = |source| Error { path: directory.to_owned(), source };
    let handler = move |event: notify::Result<notify::Event>| {
        match event {
            Ok(event) if event.kind.is_create() => changed(&event.paths),
            // Reading a file is no change, and the reader's own reads would wake it for ever.
            Ok(event) if !matches!(event.kind, EventKind::Access(access) if !is_close_write(access)) => {
                changed(&[]);
            }
            Ok(_) => {}
            Err(_) => changed(&[]),
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
