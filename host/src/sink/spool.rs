//! Batches that wait on disk: one file each, lines of JSON, compressed, whose name says how many events it has.
//!
//! A file is written under another name, synced and renamed, so that it is whole or not there, whatever happens to
//! this process; compression checks what is read. What was delivered is removed. A file that is damaged all the
//! same is given up, and its events are counted.

use std::collections::VecDeque;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::PathBuf;

use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use nix::fcntl::{Flock, FlockArg};

use crate::events::event::EventLine;

const ENDING: &str = ".jsonl.gz";
/// A name that a file has while it is written.
const UNFINISHED: &str = "unfinished";
/// A file takes a block of the disk at least.
const BLOCK: u64 = 4096;
/// Bytes of one file as text: many times what a batch has.
const MAX_TEXT: u64 = 64 << 20;

/// Where batches wait, and how much of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// A folder of one sink's own.
    pub directory: PathBuf,
    /// Bytes on disk.
    pub quota: u64,
}

/// Batches on disk, the oldest first.
#[derive(Debug)]
pub struct Spool {
    place: Place,
    files: VecDeque<Waiting>,
    bytes: u64,
    next: u64,
    /// Held as long as this lives: two agents would send each other's batches.
    _lock: Flock<File>,
}

/// One file.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Waiting {
    number: u64,
    events: u64,
    bytes: u64,
}

impl Waiting {
    fn name(&self) -> String {
        format!("{:020}-{}{ENDING}", self.number, self.events)
    }

    fn parse(name: &str, bytes: u64) -> Option<Self> {
        let (number, events) = name.strip_suffix(ENDING)?.split_once('-')?;
        Some(Self { number: number.parse().ok()?, events: events.parse().ok()?, bytes: on_disk(bytes) })
    }
}

fn on_disk(bytes: u64) -> u64 {
    bytes.div_ceil(BLOCK).max(1) * BLOCK
}

impl Spool {
    /// Opens a folder with what an earlier run left there.
    ///
    /// # Errors
    /// It cannot be made, read or locked.
    pub fn open(place: Place) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(&place.directory)?;
        let lock = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(place.directory.join("lock"))?;
        let lock = Flock::lock(lock, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
            nix::Error::EAGAIN => io::Error::other("another agent uses it"),
            errno => errno.into(),
        })?;
        let mut files = Vec::new();
        for entry in fs::read_dir(&place.directory)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            files.extend(Waiting::parse(&name, entry.metadata()?.len()));
        }
        files.sort_by_key(|file| file.number);
        let bytes = files.iter().map(|file| file.bytes).sum();
        let next = files.last().map_or(1, |last| last.number + 1);
        Ok(Self { place, files: files.into(), bytes, next, _lock: lock })
    }

    /// Events that wait.
    pub fn events(&self) -> u64 {
        self.files.iter().map(|file| file.events).sum()
    }

    /// Bytes on disk.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Nothing waits.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// Appends a batch. To make room, old ones are given up, but for the first, which may be on its way;
    /// returns the number of their events.
    ///
    /// # Errors
    /// The disk takes no more. Then the batch is not in it.
    pub fn push(&mut self, events: &[EventLine]) -> io::Result<u64> {
        let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
        for event in events {
            packed.write_all(event.to_json().as_bytes())?;
        }
        let packed = packed.finish()?;
        let new =
            Waiting { number: self.next, events: events.len() as u64, bytes: on_disk(packed.len() as u64) };
        let mut given_up = 0;
        while self.bytes + new.bytes > self.place.quota && self.files.len() > 1 {
            given_up += self.remove(1)?;
        }
        self.write(&packed, &new)?;
        self.next += 1;
        self.bytes += new.bytes;
        self.files.push_back(new);
        Ok(given_up)
    }

    fn write(&self, packed: &[u8], new: &Waiting) -> io::Result<()> {
        let unfinished = self.place.directory.join(UNFINISHED);
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&unfinished)?;
        let written = file.write_all(packed).and_then(|()| file.sync_data());
        if let Err(error) = written {
            // Its room is wanted.
            let _ = fs::remove_file(&unfinished);
            return Err(error);
        }
        fs::rename(&unfinished, self.place.directory.join(new.name()))?;
        File::open(&self.place.directory)?.sync_data()
    }

    /// The oldest batch; `None` if nothing waits.
    ///
    /// # Errors
    /// The number of events of one that cannot be read, which is not there any more.
    pub fn first(&mut self) -> Result<Option<Vec<EventLine>>, u64> {
        let Some(first) = self.files.front() else { return Ok(None) };
        let (path, events) = (self.place.directory.join(first.name()), first.events);
        match read(&path) {
            Some(read) if read.len() as u64 == events => Ok(Some(read)),
            _ => {
                self.pop();
                Err(events)
            }
        }
    }

    /// Forgets the oldest batch.
    pub fn pop(&mut self) {
        // One that cannot be removed comes again after a restart: at least once.
        let _ = self.remove(0);
    }

    fn remove(&mut self, at: usize) -> io::Result<u64> {
        let Some(file) = self.files.remove(at) else { return Ok(0) };
        self.bytes -= file.bytes;
        match fs::remove_file(self.place.directory.join(file.name())) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(file.events),
        }
    }
}

fn read(path: &std::path::Path) -> Option<Vec<EventLine>> {
    let mut text = String::new();
    GzDecoder::new(File::open(path).ok()?).take(MAX_TEXT).read_to_string(&mut text).ok()?;
    text.lines().map(|line| serde_json::from_str(line).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::event::EventLine;

    fn place(directory: &tempfile::TempDir, quota: u64) -> Place {
        Place { directory: directory.path().join("spool"), quota }
    }

    fn batch(kind: &str, events: u64) -> Vec<EventLine> {
        (1..=events).map(|seq| EventLine { seq, ..EventLine::test(kind) }).collect()
    }

    fn kinds(spool: &mut Spool) -> Vec<String> {
        let mut found = Vec::new();
        while let Ok(Some(batch)) = spool.first() {
            found.push(format!("{} {}", batch.len(), batch[0].kind));
            spool.pop();
        }
        found
    }

    #[test]
    fn batches_come_back_in_their_order_after_a_restart() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut spool = Spool::open(place(&directory, 1 << 20)).expect("a spool");
        for (kind, events) in [("A", 2), ("B", 3)] {
            spool.push(&batch(kind, events)).expect("room");
        }
        assert!(Spool::open(place(&directory, 1 << 20)).is_err(), "it is in use");
        drop(spool);
        // What a kill leaves behind.
        fs::write(directory.path().join("spool").join(UNFINISHED), "half").expect("written");
        let mut spool = Spool::open(place(&directory, 1 << 20)).expect("a spool");
        assert_eq!(spool.events(), 5);
        spool.push(&batch("C", 1)).expect("room");
        assert_eq!(kinds(&mut spool), ["2 A", "3 B", "1 C"]);
        assert_eq!((spool.events(), spool.bytes()), (0, 0));
    }

    #[test]
    fn a_full_one_gives_up_the_oldest_but_for_the_one_on_its_way() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut spool = Spool::open(place(&directory, 3 * BLOCK)).expect("a spool");
        let given_up: Vec<_> = (1..=5u64)
            .map(|events| spool.push(&batch(&format!("K{events}"), events)).expect("room"))
            .collect();
        assert_eq!(given_up, [0, 0, 0, 2, 3]);
        assert_eq!(kinds(&mut spool), ["1 K1", "4 K4", "5 K5"]);
    }

    #[test]
    fn a_damaged_one_is_given_up_with_the_number_of_its_events() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut spool = Spool::open(place(&directory, 1 << 20)).expect("a spool");
        for (kind, events) in [("A", 7), ("B", 8), ("C", 1)] {
            spool.push(&batch(kind, events)).expect("room");
        }
        let mut paths: Vec<_> = fs::read_dir(directory.path().join("spool"))
            .expect("a directory")
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.to_string_lossy().ends_with(ENDING))
            .collect();
        paths.sort();
        let mut bytes = fs::read(&paths[0]).expect("read");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&paths[0], bytes).expect("written");
        fs::write(&paths[1], &fs::read(&paths[1]).expect("read")[..20]).expect("written");
        assert_eq!((spool.first(), spool.first()), (Err(7), Err(8)));
        assert_eq!(kinds(&mut spool), ["1 C"]);
    }
}
