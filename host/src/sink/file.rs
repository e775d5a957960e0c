//! A file of lines of JSON, one an event. A file that has grown large becomes `FILE.1`, what was that `FILE.2`, and
//! so on; the oldest is removed.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use super::deliver::{Deliver, Outcome};
use crate::events::event::EventLine;

/// A file and its predecessors.
#[derive(Debug)]
pub struct File {
    path: PathBuf,
    max_bytes: u64,
    keep: u32,
    open: Option<fs::File>,
}

impl File {
    /// Of at most so many bytes, with at most so many predecessors.
    pub fn new(path: PathBuf, max_bytes: u64, keep: u32) -> Self {
        Self { path, max_bytes, keep, open: None }
    }

    /// Appends a text to the file; where it does not take all of it, none of it is there.
    fn append(&mut self, text: &str) -> io::Result<()> {
        let mut file = self.current()?;
        let now = file.metadata()?;
        if now.is_file() && now.len() > 0 && now.len() + text.len() as u64 > self.max_bytes {
            self.rotate()?;
            file = open(&self.path)?;
        }
        let bytes = file.metadata()?.len();
        if let Err(error) = file.write_all(text.as_bytes()) {
            // A part of a line, or of a batch that comes again, is of no use. A pipe keeps what it got.
            if now.is_file() {
                file.set_len(bytes)?;
            }
            return Err(error);
        }
        self.open = Some(file);
        Ok(())
    }

    /// The file of that name: somebody else may rotate or remove it, too.
    fn current(&mut self) -> io::Result<fs::File> {
        let is_there = |file: &fs::File| {
            let (own, named) = (file.metadata().ok()?, fs::metadata(&self.path).ok()?);
            Some((own.dev(), own.ino()) == (named.dev(), named.ino()))
        };
        match self.open.take() {
            Some(file) if is_there(&file) == Some(true) => Ok(file),
            _ => open(&self.path),
        }
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

/// To append to. A line that was begun by who was killed in it is ended.
fn open(path: &Path) -> io::Result<fs::File> {
    let mut file = OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
    let now = file.metadata()?;
    if now.is_file() && now.len() > 0 {
        let mut last = [0];
        fs::File::open(path)?.read_exact_at(&mut last, now.len() - 1)?;
        if last != *b"\n" {
            file.write_all(b"\n")?;
        }
    }
    Ok(file)
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
            Err(error) => {
                let why = format!("{}: {error}", self.path.display());
                Outcome::Later { why, after: None, answered: false }
            }
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
    fn what_others_do_to_the_file_is_noticed() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("events.jsonl");
        fs::write(&path, "{half").expect("written");
        let mut file = File::new(path.clone(), 1 << 20, 2);
        file.append("1\n").expect("room");
        assert_eq!(fs::read_to_string(&path).expect("a file"), "{half\n1\n");
        fs::rename(&path, directory.path().join("moved")).expect("moved");
        file.append("2\n").expect("room");
        assert_eq!(fs::read_to_string(&path).expect("a file"), "2\n");
        fs::remove_file(&path).expect("removed");
        file.append("3\n").expect("room");
        assert_eq!(fs::read_to_string(&path).expect("a file"), "3\n");
        // What is no file is never renamed.
        let mut null = File::new("/dev/null".into(), 1, 2);
        null.append("more than a byte\n").expect("room");
        null.append("more than a byte\n").expect("room");
        assert!(!Path::new("/dev/null.1").exists());
    }

    #[test]
    fn of_what_does_not_fit_on_the_disk_nothing_stays() {
        let mut full = File::new("/dev/full".into(), 1 << 20, 2);
        let error = full.append("x\n").expect_err("no room");
        assert!(error.to_string().contains("os error"), "{error}");
    }
}
