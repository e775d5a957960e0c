//! Batches that wait on disk: one file each, lines of JSON, compressed, whose name says how many events it has.
//!
//! A file is written under another name, synced and renamed, so that it is whole or not there, whatever happens to
//! this process; compression checks what is read. What was delivered is removed. A file that is damaged all the
//! same is given up, and its events are counted; one that cannot be read now stays.

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

    /// Only what was written here: of another name a file would not be found again.
    fn parse(name: &str, bytes: u64) -> Option<Self> {
        let (number, events) = name.strip_suffix(ENDING)?.split_once('-')?;
        let file = Self { number: number.parse().ok()?, events: events.parse().ok()?, bytes: on_disk(bytes) };
        let is_ours = file.name() == name && file.number < u64::MAX / 2 && file.events <= u64::from(u32::MAX);
        is_ours.then_some(file)
    }
}

/// Why the oldest batch is not to be had.
#[derive(Debug)]
pub enum Unreadable {
    /// It is damaged, and is not there any more; so many events it had.
    Damaged(u64),
    /// It cannot be read now.
    Now(io::Error),
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

    /// Appends a batch, and says its number. Beyond the quota old ones are given up, but for the one that is on its
    /// way; returns the number of their events, too.
    ///
    /// # Errors
    /// The disk takes no more. Then the batch is not in it.
    pub fn push(&mut self, events: &[EventLine], on_its_way: Option<u64>) -> io::Result<(u64, u64)> {
        let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
        for event in events {
            packed.write_all(event.to_json().as_bytes())?;
        }
        let packed = packed.finish()?;
        let new =
            Waiting { number: self.next, events: events.len() as u64, bytes: on_disk(packed.len() as u64) };
        self.write(&packed, &new)?;
        let (number, mut given_up) = (new.number, 0);
        self.next += 1;
        self.bytes += new.bytes;
        self.files.push_back(new);
        while self.bytes > self.place.quota {
            let may_go = |file: &Waiting| file.number != number && Some(file.number) != on_its_way;
            let Some(at) = self.files.iter().position(may_go) else { break };
            // One that cannot be removed still takes its room, and is tried again with the next.
            match self.remove(at) {
                Ok(events) => given_up += events,
                Err(_) => break,
            }
        }
        Ok((number, given_up))
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
        // It is there; what this adds is that it still is when the machine stops in this moment.
        let _ = File::open(&self.place.directory).and_then(|directory| directory.sync_data());
        Ok(())
    }

    /// The oldest batch and its number; `None` if nothing waits.
    ///
    /// # Errors
    /// See [`Unreadable`].
    pub fn first(&mut self) -> Result<Option<(u64, Vec<EventLine>)>, Unreadable> {
        let Some(first) = self.files.front() else { return Ok(None) };
        let (path, number, events) = (self.place.directory.join(first.name()), first.number, first.events);
        match read(&path).map_err(Unreadable::Now)? {
            Some(read) if read.len() as u64 == events => Ok(Some((number, read))),
            _ => {
                tracing::warn!(file = %path.display(), events, "events that waited are damaged");
                self.forget(number);
                Err(Unreadable::Damaged(events))
            }
        }
    }

    /// Forgets a batch.
    pub fn forget(&mut self, number: u64) {
        let Some(at) = self.files.iter().position(|file| file.number == number) else { return };
        // One that cannot be removed comes again after a restart: at least once.
        if self.remove(at).is_err()
            && let Some(file) = self.files.remove(at)
        {
            self.bytes -= file.bytes;
        }
    }

    fn remove(&mut self, at: usize) -> io::Result<u64> {
        let Some(file) = self.files.get(at) else { return Ok(0) };
        let (events, bytes) = (file.events, file.bytes);
        match fs::remove_file(self.place.directory.join(file.name())) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => {
                self.files.remove(at);
                self.bytes -= bytes;
                Ok(events)
            }
        }
    }
}

/// `None` if it is damaged; an error is the system's.
fn read(path: &std::path::Path) -> io::Result<Option<Vec<EventLine>>> {
    let mut text = String::new();
    let read =
        File::open(path).and_then(|file| GzDecoder::new(file).take(MAX_TEXT).read_to_string(&mut text));
    match read {
        Ok(_) => Ok(text.lines().map(|line| serde_json::from_str(line).ok()).collect()),
        Err(error) if error.raw_os_error().is_none() || error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
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
        while let Ok(Some((number, batch))) = spool.first() {
            found.push(format!("{} {}", batch.len(), batch[0].kind));
            spool.forget(number);
        }
        found
    }

    #[test]
    fn batches_come_back_in_their_order_after_a_restart() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut spool = Spool::open(place(&directory, 1 << 20)).expect("a spool");
        for (kind, events) in [("A", 2), ("B", 3)] {
            spool.push(&batch(kind, events), None).expect("room");
        }
        assert!(Spool::open(place(&directory, 1 << 20)).is_err(), "it is in use");
        drop(spool);
        // What a kill leaves behind.
        fs::write(directory.path().join("spool").join(UNFINISHED), "half").expect("written");
        let mut spool = Spool::open(place(&directory, 1 << 20)).expect("a spool");
        assert_eq!(spool.events(), 5);
        spool.push(&batch("C", 1), None).expect("room");
        assert_eq!(kinds(&mut spool), ["2 A", "3 B", "1 C"]);
        assert_eq!((spool.events(), spool.bytes()), (0, 0));
    }

    #[test]
    fn a_full_one_gives_up_the_oldest_but_for_the_one_on_its_way() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut spool = Spool::open(place(&directory, 3 * BLOCK)).expect("a spool");
        let given_up: Vec<_> = (1..=5u64)
            .map(|events| spool.push(&batch(&format!("K{events}"), events), Some(1)).expect("room").1)
            .collect();
        assert_eq!(given_up, [0, 0, 0, 2, 3]);
        assert_eq!(kinds(&mut spool), ["1 K1", "4 K4", "5 K5"]);
    }

    #[test]
    fn a_damaged_one_is_given_up_with_the_number_of_its_events() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut spool = Spool::open(place(&directory, 1 << 20)).expect("a spool");
        for (kind, events) in [("A", 7), ("B", 8), ("C", 1)] {
            spool.push(&batch(kind, events), None).expect("room");
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
        for events in [7, 8] {
            let damaged = spool.first().expect_err("damaged");
            assert!(matches!(damaged, Unreadable::Damaged(number) if number == events), "{damaged:?}");
        }
        assert_eq!(kinds(&mut spool), ["1 C"]);
    }

    #[test]
    fn one_that_cannot_be_read_now_stays() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut spool = Spool::open(place(&directory, 1 << 20)).expect("a spool");
        spool.push(&batch("A", 7), None).expect("room");
        let path = directory.path().join("spool").join(spool.files[0].name());
        // A folder in its place is an error of the system's.
        fs::rename(&path, directory.path().join("aside")).expect("renamed");
        fs::create_dir(&path).expect("a folder");
        assert!(matches!(spool.first(), Err(Unreadable::Now(_))));
        fs::remove_dir(&path).expect("removed");
        fs::rename(directory.path().join("aside"), &path).expect("renamed");
        assert_eq!(kinds(&mut spool), ["7 A"]);
    }

    #[test]
    fn files_of_other_names_are_nobodys() {
        for name in ["1-5.jsonl.gz", "18446744073709551615-1.jsonl.gz", "x", "00000000000000000001-1.gz"] {
            assert_eq!(Waiting::parse(name, 1), None, "{name}");
        }
        assert!(Waiting::parse("00000000000000000001-5.jsonl.gz", 1).is_some());
    }
}
