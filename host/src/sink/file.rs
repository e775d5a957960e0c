//! A file of lines of JSON, one an event. A file that has grown large becomes `FILE.1`, what was that `FILE.2`, and
//! so on; the oldest is removed.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use super::deliver::{Deliver, Outcome};
use crate::events::event::EventLine;

/// A file and its predecessors.
#[derive(Debug)]
pub struct File {
    path: PathBuf,
    max_bytes: u64,
    keep: u32,
    open: Option<(fs::File, u64)>,
}

impl File {
    /// Of at most so many bytes, with at most so many predecessors.
    pub fn new(path: PathBuf, max_bytes: u64, keep: u32) -> Self {
        Self { path, max_bytes, keep, open: None }
    }

    /// Appends a text to the file; where it does not take all of it, none of it is there.
    fn append(&mut self, text: &str) -> io::Result<()> {
        let is_full = |bytes: u64| bytes > 0 && bytes + text.len() as u64 > self.max_bytes;
        if self.open.as_ref().is_some_and(|(_, bytes)| is_full(*bytes)) {
            self.open = None;
            self.rotate()?;
        }
        let (mut file, bytes) = match self.open.take() {
            Some(open) => open,
            None => open(&self.path)?,
        };
        if let Err(error) = file.write_all(text.as_bytes()) {
            // A part of a line, or of a batch that comes again, is of no use.
            file.set_len(bytes)?;
            return Err(error);
        }
        self.open = Some((file, bytes + text.len() as u64));
        Ok(())
    }

    fn rotate(&self) -> io::Result<()> {
        if self.keep == 0 {
            return fs::remove_file(&self.path);
        }
        for number in (1..self.keep).rev() {
            move_over(&self.numbered(number), &self.numbered(number + 1))?;
        }
        move_over(&self.path, &self.numbered(1))
    }

    fn numbered(&self, number: u32) -> PathBuf {
        let mut path = self.path.clone().into_os_string();
        path.push(format!(".{number}"));
        path.into()
    }
}

/// Somebody else may rotate or remove a file, too: it is opened by name for each file, and appended to.
fn open(path: &Path) -> io::Result<(fs::File, u64)> {
    let file = OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
    let bytes = file.metadata()?.len();
    Ok((file, bytes))
}

fn move_over(from: &Path, to: &Path) -> io::Result<()> {
    match fs::rename(from, to) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

impl Deliver for File {
    async fn deliver(&mut self, events: &[EventLine]) -> Outcome {
        let text: String = events.iter().map(EventLine::to_json).collect();
        match self.append(&text) {
            Ok(()) => Outcome::Taken,
            Err(error) => Outcome::Later { why: format!("{}: {error}", self.path.display()), after: None },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_full_becomes_the_first_of_those_before_it() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("events.jsonl");
        fs::write(&path, "old\n").expect("written");
        let mut file = File::new(path.clone(), 10, 2);
        for text in ["1234\n", "abcdefgh\n", "A\n", "a text that is longer than a file may be\n", "z\n"] {
            file.append(text).expect("room");
        }
        let read = |name: &str| fs::read_to_string(directory.path().join(name)).expect(name);
        assert_eq!(read("events.jsonl"), "z\n");
        assert_eq!(read("events.jsonl.1"), "a text that is longer than a file may be\n");
        assert_eq!(read("events.jsonl.2"), "A\n", "a file may be exactly full, or begun by another run");
        assert_eq!(fs::read_dir(directory.path()).expect("a directory").count(), 3);
    }

    #[test]
    fn of_what_does_not_fit_on_the_disk_nothing_stays() {
        let mut full = File::new("/dev/full".into(), 1 << 20, 2);
        let error = full.append("x\n").expect_err("no room");
        assert!(error.to_string().contains("os error"), "{error}");
    }
}
