//! Tells when something in a directory changed, so that nobody polls (inotify, by `notify`).
//!
//! It says that something changed and what has come; whoever is told looks for itself.

use std::path::{Path, PathBuf};

use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};

/// A directory could not be watched.
#[derive(Debug, thiserror::Error)]
#[error("cannot watch {}: {}", .path.display(), reason(.source))]
pub struct Error {
    path: PathBuf,
    source: notify::Error,
}

/// In our words: the library's name paths once more, and in another form.
fn reason(error: &notify::Error) -> String {
    match &error.kind {
        notify::ErrorKind::PathNotFound => "there is no such directory".to_owned(),
        notify::ErrorKind::MaxFilesWatch => {
            "all inotify watches are in use (raise fs.inotify.max_user_watches)".to_owned()
        }
        notify::ErrorKind::Io(error) => error.to_string(),
        notify::ErrorKind::Generic(text) => text.clone(),
        kind => format!("{kind:?}"),
    }
}

/// Calls back while it lives.
#[derive(Debug)]
pub struct Watcher {
    _inner: RecommendedWatcher,
}

/// Calls `changed` on a thread of its own whenever an entry of `directory` is created, written to
/// the end, renamed or removed, with the paths that were created. Not recursive. Where `directory` is a
/// symbolic link, a change of that is one too: the files of a ConfigMap are replaced by turning `..data`
/// to another folder.
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
    if directory.is_symlink()
        && let Some(parent) = directory.parent()
    {
        inner.watch(parent, RecursiveMode::NonRecursive).map_err(error)?;
    }
    Ok(Watcher { _inner: inner })
}

fn is_close_write(access: notify::event::AccessKind) -> bool {
    use notify::event::{AccessKind, AccessMode};
    access == AccessKind::Close(AccessMode::Write)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_that_is_not_there_is_told_in_plain_words() {
        let error = directory(Path::new("/nonexistent/x"), |_| {}).expect_err("not there").to_string();
        assert_eq!(error, "cannot watch /nonexistent/x: there is no such directory");
    }

    /// As the kubelet replaces the files of a ConfigMap, again and again.
    #[test]
    fn a_link_that_is_turned_to_another_folder_is_a_change_each_time() {
        let home = tempfile::tempdir().expect("a folder");
        let at = |name: &str| home.path().join(name);
        let turn = |to: &str| {
            std::fs::create_dir(at(to)).expect("created");
            std::os::unix::fs::symlink(to, at("..data_tmp")).expect("linked");
            std::fs::rename(at("..data_tmp"), at("..data")).expect("renamed");
        };
        turn("..1");
        let (sender, changes) = std::sync::mpsc::channel();
        let watcher = directory(&at("..data"), move |_| sender.send(()).unwrap_or_default());
        for (before, to) in [("..1", "..2"), ("..2", "..3"), ("..3", "..4")] {
            while changes.recv_timeout(std::time::Duration::from_millis(200)).is_ok() {}
            turn(to);
            changes.recv_timeout(std::time::Duration::from_secs(20)).expect("told");
            std::fs::remove_dir(at(before)).expect("removed");
        }
        drop(watcher.expect("watched"));
    }
}
