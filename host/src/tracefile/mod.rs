//! The adapter for trace files: writes what [`crate::trace`] encodes, reads what it decodes.
//!
//! A trace is as private as a packet capture (addresses, names of pods, kernel addresses), so only
//! its owner can read a new one.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use crate::trace::{Encoder, Entry};

/// A replay holds the whole file in memory.
const LARGEST: u64 = 1 << 30;

/// A trace file could not be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot {doing} the trace {path}: {source}")]
pub struct Error {
    doing: &'static str,
    path: PathBuf,
    source: io::Error,
}

/// A trace that is being written. What was written stays readable, whatever happens then.
#[derive(Debug)]
pub struct Writer {
    path: PathBuf,
    file: File,
    encoder: Encoder,
    bytes: u64,
}

impl Writer {
    /// Begins a trace, in place of what was there.
    ///
    /// # Errors
    /// The file cannot be made.
    pub fn create(path: &Path) -> Result<Self, Error> {
        let error = |source| Error { doing: "make", path: path.to_owned(), source };
        let mut file = OpenOptions::new();
        let file = file.write(true).create(true).truncate(true).mode(0o600).open(path).map_err(error)?;
        let mut writer = Self { path: path.to_owned(), file, encoder: Encoder::default(), bytes: 0 };
        writer.write(Some(Encoder::preamble()))?;
        Ok(writer)
    }

    /// Takes an entry; it reaches the file with its frame.
    ///
    /// # Errors
    /// The file takes no more.
    pub fn push(&mut self, entry: &Entry) -> Result<(), Error> {
        let frame = self.encoder.push(entry);
        self.write(frame)
    }

    /// Ends the frame.
    ///
    /// # Errors
    /// The file takes no more.
    pub fn flush(&mut self) -> Result<(), Error> {
        let frame = self.encoder.flush();
        self.write(frame)
    }

    /// Bytes in the file.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    fn write(&mut self, bytes: Option<Vec<u8>>) -> Result<(), Error> {
        let Some(bytes) = bytes else { return Ok(()) };
        self.bytes += bytes.len() as u64;
        let error = |source| Error { doing: "write", path: self.path.clone(), source };
        self.file.write_all(&bytes).map_err(error)
    }
}

/// A whole file.
///
/// # Errors
/// It cannot be read, or is larger than a gigabyte.
pub fn read(path: &Path) -> Result<Vec<u8>, Error> {
    let error = |source| Error { doing: "read", path: path.to_owned(), source };
    let mut bytes = Vec::new();
    // A pipe would be waited for, a device read for ever.
    if !std::fs::metadata(path).map_err(error)?.is_file() {
        return Err(error(io::Error::other("not a regular file")));
    }
    let file = File::open(path).map_err(error)?;
    file.take(LARGEST + 1).read_to_end(&mut bytes).map_err(error)?;
    if bytes.len() as u64 > LARGEST {
        return Err(error(io::Error::other("larger than 1 GiB")));
    }
    Ok(bytes)
}
