//! The plugins directory: which component files there are, opened so that nobody can trick the
//! agent into reading something else.
//!
//! A file is opened once without following a symlink, checked through that descriptor, read whole
//! and never opened again: what was checked is what is compiled.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::libc::{O_NOFOLLOW, O_NONBLOCK};
use sha2::{Digest as _, Sha256};

use super::catalog::Stamp;

/// A larger file is refused before it is read.
const MAX_BYTES: u64 = 32 << 20;

/// Why a file in the plugins directory is not even looked into.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The directory cannot be listed.
    #[error("cannot read plugins directory {path}: {source}")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Others could put analyzers there.
    #[error("plugins directory {path} is writable by others (mode {mode:o}): chmod go-w it")]
    Writable {
        /// The directory or file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// The file cannot be opened or read.
    #[error("cannot read it: {0}")]
    Open(#[from] io::Error),
    /// A symlink, FIFO, device or directory.
    #[error("not a regular file (symlinks are not followed)")]
    NotAFile,
    /// It belongs to a user other than root and the agent's.
    #[error("owned by user {0}: only root's files and the agent's own are loaded")]
    Owner(u32),
    /// Others could change it.
    #[error("writable by others (mode {0:o}): chmod go-w it")]
    Mode(u32),
    /// It is too large.
    #[error("{0} bytes: larger than the limit of {MAX_BYTES}")]
    TooLarge(u64),
}

/// A component file, read whole.
#[derive(Debug, Clone)]
pub(super) struct Component {
    pub(super) path: PathBuf,
    pub(super) bytes: Vec<u8>,
    /// Hex sha256 of `bytes`.
    pub(super) sha256: String,
}

/// Every `*.wasm` in a directory with its stamp, by name.
pub(super) fn list(directory: &Path) -> Result<Vec<(PathBuf, Stamp)>, Error> {
    let error = |source| Error::Directory { path: directory.to_owned(), source };
    let meta = fs::metadata(directory).map_err(error)?;
    // A sticky directory such as /tmp is no exception: anyone may add files there.
    if meta.mode() & 0o022 != 0 {
        return Err(Error::Writable { path: directory.to_owned(), mode: meta.mode() & 0o7777 });
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).map_err(error)? {
        let path = entry.map_err(error)?.path();
        if path.extension().is_some_and(|extension| extension == "wasm")
            && let Ok(meta) = fs::symlink_metadata(&path)
        {
            files.push((path, stamp(&meta)));
        }
    }
    files.sort_by(|(a, _), (b, _)| a.cmp(b));
    Ok(files)
}

/// Opens, checks and reads one component file.
pub(super) fn read(path: &Path) -> Result<Component, Error> {
    // O_NONBLOCK: a FIFO would block the open for ever.
    let opened = OpenOptions::new().read(true).custom_flags(O_NOFOLLOW | O_NONBLOCK).open(path);
    let file = opened.map_err(|e| match e.raw_os_error() {
        Some(nix::libc::ELOOP) => Error::NotAFile,
        _ => Error::Open(e),
    })?;
    check(&file.metadata()?)?;
    let mut bytes = Vec::new();
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(Error::TooLarge(bytes.len() as u64));
    }
    let sha256 = hex(&Sha256::digest(&bytes));
    Ok(Component { path: path.to_owned(), bytes, sha256 })
}

fn check(meta: &fs::Metadata) -> Result<(), Error> {
    if !meta.is_file() {
        return Err(Error::NotAFile);
    }
    if meta.uid() != 0 && meta.uid() != nix::unistd::geteuid().as_raw() {
        return Err(Error::Owner(meta.uid()));
    }
    if meta.mode() & 0o022 != 0 {
        return Err(Error::Mode(meta.mode() & 0o7777));
    }
    if meta.len() > MAX_BYTES {
        return Err(Error::TooLarge(meta.len()));
    }
    Ok(())
}

pub(super) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn stamp(meta: &fs::Metadata) -> Stamp {
    Stamp {
        inode: meta.ino(),
        size: meta.len(),
        modified: (meta.mtime(), meta.mtime_nsec()),
        changed: (meta.ctime(), meta.ctime_nsec()),
    }
}

/// Opens a file that this program made for itself: no symlink, regular, own, not writable by others.
pub(super) fn open_own(path: &Path) -> Result<File, Error> {
    let file = OpenOptions::new().read(true).custom_flags(O_NOFOLLOW | O_NONBLOCK).open(path)?;
    check(&file.metadata()?)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn directory() -> tempfile::TempDir {
        tempfile::tempdir().expect("a temporary directory")
    }

    #[test]
    fn a_regular_file_is_read_with_its_digest() {
        let dir = directory();
        let path = dir.path().join("a.wasm");
        fs::write(&path, b"abc").expect("written");
        let component = read(&path).expect("fine");
        assert_eq!(component.path, path);
        assert!(component.sha256.starts_with("ba7816bf"));
    }

    #[test]
    fn a_symlink_a_fifo_and_a_directory_are_refused_without_blocking() {
        let dir = directory();
        fs::write(dir.path().join("real"), b"abc").expect("written");
        symlink(dir.path().join("real"), dir.path().join("link.wasm")).expect("linked");
        nix::unistd::mkfifo(&dir.path().join("fifo.wasm"), nix::sys::stat::Mode::S_IRWXU).expect("made");
        fs::create_dir(dir.path().join("dir.wasm")).expect("made");
        for name in ["link.wasm", "fifo.wasm", "dir.wasm"] {
            assert!(matches!(read(&dir.path().join(name)), Err(Error::NotAFile)), "{name}");
        }
    }

    #[test]
    fn what_others_may_write_is_refused() {
        let dir = directory();
        let path = dir.path().join("a.wasm");
        fs::write(&path, b"abc").expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).expect("changed");
        assert!(matches!(read(&path), Err(Error::Mode(0o666))));
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).expect("changed");
        assert!(matches!(list(dir.path()), Err(Error::Writable { .. })));
    }

    #[test]
    fn a_file_larger_than_the_limit_is_not_read() {
        let dir = directory();
        let path = dir.path().join("huge.wasm");
        File::create(&path).expect("made").set_len(1 << 40).expect("sparse");
        assert!(matches!(read(&path), Err(Error::TooLarge(_))));
    }
}
