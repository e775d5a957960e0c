//! The format of a recorded trace: what a replay needs in place of the kernel.
//!
//! A file is [`MAGIC`], the number of the format, and frames. A frame is a header of
//! [`HEADER`] bytes (marker, number, packed and raw length, CRC-32 of all that and of the payload;
//! little-endian), then deflated `postcard` text of one or more [`Entry`]s. Frames depend on each
//! other by the entities and symbols they name only, so a damaged one costs its own entries: the
//! next one is found by its marker.
//!
//! Times are nanoseconds since the Unix epoch. Words of a batch are as the agent delivered them:
//! wall-clock times and entity ids are in. Nothing here does I/O; numbers in a file are bounded
//! before anything is allocated for them.
//!
//! Longer than other files, because it is the reference of the format, with both of its ends.

use std::io::{Read as _, Write as _};

use flate2::Compression;
use flate2::read::DeflateDecoder;
use flate2::write::DeflateEncoder;
use serde::{Deserialize, Serialize};

use crate::entities::{EntityId, Kind};
use crate::kernel::names::Reasons;
use crate::kernel::symbols::Symbol;

/// What every trace begins with; the first byte and the line end betray a transfer as text.
pub const MAGIC: [u8; 8] = *b"\x89ITRACE\n";
/// Number of the format; another one is refused.
pub const VERSION: u32 = 1;

/// Bytes of a frame's header.
pub const HEADER: usize = 20;
const MARKER: [u8; 4] = *b"ITfr";
/// Bytes that wait in a frame before it is closed.
const FRAME: usize = 256 << 10;
/// A frame that claims to be larger is damaged.
const LARGEST_FRAME: u32 = 64 << 20;

/// One thing that a recording agent took down, in its order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Entry {
    /// Always the first.
    Start(Box<Start>),
    /// Names of code addresses that the following records hold.
    Symbols(Vec<(u64, Symbol)>),
    /// Rows of the entity table that are new or changed.
    Entities(Entities),
    /// Records of one probe.
    Batch(Batch),
    /// Counter tables of one interval.
    Tables(Tables),
    /// Always the last, unless the recording was cut short.
    End(End),
}

/// Who recorded, and what there was to be recorded.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Start {
    /// Version of the agent.
    pub agent: String,
    /// Name of the node.
    pub node: String,
    /// Release of its kernel.
    pub kernel: String,
    /// When it began.
    pub at_ns: u64,
    /// Probes that were recorded, with their state.
    pub probes: Vec<Probe>,
    /// Columns of each source.
    pub columns: Vec<(String, Vec<String>)>,
    /// What the kernel calls its numbers.
    pub reasons: Reasons,
}

/// State of a probe when the recording began.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Probe {
    /// Its name.
    pub name: String,
    /// `up`, `partial` or `down`.
    pub state: String,
    /// Why it is not up.
    pub reason: String,
}

/// A change of the entity table.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Entities {
    /// When.
    pub at_ns: u64,
    /// New and changed rows.
    pub rows: Vec<Entity>,
    /// Ids that plugins were told of as new or renamed.
    pub added: Vec<EntityId>,
    /// Ids that plugins were told of as gone.
    pub removed: Vec<EntityId>,
    /// Ids that went from the table.
    pub forgotten: Vec<EntityId>,
}

/// One row of the entity table; see [`crate::entities::Entity`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "documented where the agent keeps them")]
pub struct Entity {
    pub id: EntityId,
    pub kind: Kind,
    pub namespace: String,
    pub name: String,
    pub cookie: u64,
    pub inode: u64,
    pub ips: Vec<std::net::IpAddr>,
    pub since_ns: u64,
    /// It was there, by the last scan.
    pub live: bool,
}

/// Records of one probe; see [`crate::kernel::batch::Batch`].
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "documented where the agent keeps them")]
pub struct Batch {
    pub probe: String,
    /// Bytes per record, as recorded.
    pub stride: u16,
    pub first_seq: u64,
    pub lost: u64,
    pub now_ns: u64,
    pub words: Vec<u64>,
}

/// Counter tables of one interval.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Tables {
    /// When reading began.
    pub at_ns: u64,
    /// By source and entity.
    pub tables: Vec<Table>,
}

/// One counter table; see [`crate::kernel::table::Table`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "documented where the agent keeps them")]
pub struct Table {
    pub source: String,
    pub entity: EntityId,
    pub numbers: Vec<u64>,
    pub strings: Vec<String>,
}

/// The end of a recording.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct End {
    /// When.
    pub at_ns: u64,
    /// Records in all batches.
    pub records: u64,
    /// What got lost meanwhile: stage, name, number.
    pub lost: Vec<(String, String, u64)>,
}

/// Writes entries as frames.
#[derive(Debug, Default)]
pub struct Encoder {
    waiting: Vec<u8>,
    frames: u32,
}

impl Encoder {
    /// What comes before the first frame.
    pub fn preamble() -> Vec<u8> {
        [MAGIC.as_slice(), &VERSION.to_le_bytes()].concat()
    }

    /// Takes an entry; gives a frame when enough waits for one.
    pub fn push(&mut self, entry: &Entry) -> Option<Vec<u8>> {
        let waiting = std::mem::take(&mut self.waiting);
        self.waiting = postcard::to_extend(entry, waiting).expect("a Vec takes everything");
        (self.waiting.len() >= FRAME).then(|| self.flush()).flatten()
    }

    /// What waits, as a frame; nothing if nothing does.
    pub fn flush(&mut self) -> Option<Vec<u8>> {
        if self.waiting.is_empty() {
            return None;
        }
        let raw = std::mem::take(&mut self.waiting);
        let mut packed = DeflateEncoder::new(Vec::new(), Compression::best());
        packed.write_all(&raw).expect("a Vec takes everything");
        let packed = packed.finish().expect("a Vec takes everything");
        let frame = frame(self.frames, raw.len() as u32, &packed);
        self.frames += 1;
        Some(frame)
    }
}

fn frame(index: u32, raw: u32, packed: &[u8]) -> Vec<u8> {
    let numbers = [index, packed.len() as u32, raw].map(u32::to_le_bytes).concat();
    let checksum = checksum(&numbers, packed);
    [MARKER.as_slice(), &numbers, &checksum.to_le_bytes(), packed].concat()
}

fn checksum(numbers: &[u8], packed: &[u8]) -> u32 {
    let mut hash = crc32fast::Hasher::new();
    hash.update(numbers);
    hash.update(packed);
    hash.finalize()
}

/// Why a file is no trace at all.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoTrace {
    /// It begins otherwise.
    #[error("not a trace of `inspector record`: it begins otherwise")]
    Magic,
    /// A format of another time.
    #[error("a trace of format {0}; this version reads format {VERSION}")]
    Version(u32),
}

/// A part of a file that cannot be replayed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("frame {frame} at byte {offset}: {reason}; {bytes} bytes are left out")]
pub struct Damage {
    /// Number of the frame that should have been there.
    pub frame: u32,
    /// Where.
    pub offset: usize,
    /// What is wrong with it.
    pub reason: &'static str,
    /// How much is left out before the next whole frame, or the end.
    pub bytes: usize,
}

/// Reads the frames of a trace, whole ones and what lies between them.
#[derive(Debug)]
pub struct Frames<'a> {
    bytes: &'a [u8],
    at: usize,
    expected: u32,
}

impl<'a> Frames<'a> {
    /// A file's bytes.
    ///
    /// # Errors
    /// It is no trace, or one of another format.
    pub fn of(bytes: &'a [u8]) -> Result<Self, NoTrace> {
        let version = bytes.strip_prefix(&MAGIC).and_then(|rest| rest.first_chunk()).ok_or(NoTrace::Magic)?;
        match u32::from_le_bytes(*version) {
            VERSION => Ok(Self { bytes, at: MAGIC.len() + size_of_val(version), expected: 0 }),
            other => Err(NoTrace::Version(other)),
        }
    }

    /// Leaves out what cannot be read, up to the next whole frame.
    fn damage(&mut self, reason: &'static str) -> Damage {
        let (start, frame) = (self.at, self.expected);
        let mut next = start + 1;
        while next < self.bytes.len() && entries(&self.bytes[next..]).is_err() {
            let marker = self.bytes[next + 1..].windows(MARKER.len()).position(|window| window == MARKER);
            next = marker.map_or(self.bytes.len(), |ahead| next + 1 + ahead);
        }
        self.at = next;
        Damage { frame, offset: start, reason, bytes: next - start }
    }
}

impl Iterator for Frames<'_> {
    type Item = Result<Vec<Entry>, Damage>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.at >= self.bytes.len() {
            return None;
        }
        match entries(&self.bytes[self.at..]) {
            Ok((index, _, _)) if index > self.expected => {
                let (frame, offset) = (self.expected, self.at);
                self.expected = index;
                Some(Err(Damage { frame, offset, reason: "frames are missing before this one", bytes: 0 }))
            }
            Ok((index, length, entries)) => {
                self.at += length;
                self.expected = index.saturating_add(1);
                Some(Ok(entries))
            }
            Err(reason) => {
                let damage = self.damage(reason);
                // The frame behind it has its own number, which tells how many were damaged.
                self.expected = match entries(self.bytes.get(self.at..).unwrap_or_default()) {
                    Ok((index, ..)) => index,
                    Err(_) => self.expected + 1,
                };
                Some(Err(damage))
            }
        }
    }
}

/// Number, length and entries of the frame at the begin of `bytes`, or what is wrong with it.
fn entries(bytes: &[u8]) -> Result<(u32, usize, Vec<Entry>), &'static str> {
    let word =
        |at: usize| bytes.get(at..at + 4).and_then(|four| four.try_into().ok()).map(u32::from_le_bytes);
    if !bytes.starts_with(&MARKER) {
        return Err(if MARKER.starts_with(bytes) { CUT } else { "no frame begins here" });
    }
    let (Some(index), Some(length), Some(raw), Some(sum)) = (word(4), word(8), word(12), word(16)) else {
        return Err(CUT);
    };
    if length > LARGEST_FRAME || raw > LARGEST_FRAME {
        return Err("an impossible length");
    }
    let end = HEADER + length as usize;
    let packed = bytes.get(HEADER..end).ok_or(CUT)?;
    if checksum(&bytes[4..16], packed) != sum {
        return Err("its checksum does not match");
    }
    let mut text = Vec::new();
    let unpacked = DeflateDecoder::new(packed).take(u64::from(raw) + 1).read_to_end(&mut text);
    if unpacked.is_err() || text.len() != raw as usize {
        return Err("it does not unpack");
    }
    let mut found = Vec::new();
    let mut rest = text.as_slice();
    while !rest.is_empty() {
        let (entry, behind) = postcard::take_from_bytes(rest).map_err(|_| "an entry that makes no sense")?;
        found.push(entry);
        rest = behind;
    }
    Ok((index, end, found))
}

const CUT: &str = "the file ends within it";

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(at: u64) -> Entry {
        let words = (0..16).map(|word| word * at).collect();
        Entry::Batch(Batch { probe: "skb-drop".into(), stride: 96, now_ns: at, words, ..Batch::default() })
    }

    /// Three frames of two entries each, and where each frame begins.
    fn sample() -> (Vec<u8>, Vec<usize>) {
        let (mut bytes, mut starts, mut encoder) = (Encoder::preamble(), Vec::new(), Encoder::default());
        for frame in 0..3 {
            starts.push(bytes.len());
            assert!(
                encoder.push(&batch(frame * 2)).is_none() && encoder.push(&batch(frame * 2 + 1)).is_none()
            );
            bytes.extend(encoder.flush().expect("something waits"));
        }
        (bytes, starts)
    }

    fn times(bytes: &[u8]) -> (Vec<u64>, Vec<Damage>) {
        let (mut times, mut damages) = (Vec::new(), Vec::new());
        for frame in Frames::of(bytes).expect("a trace") {
            match frame {
                Ok(entries) => times.extend(entries.iter().map(|entry| match entry {
                    Entry::Batch(batch) => batch.now_ns,
                    other => panic!("{other:?}"),
                })),
                Err(damage) => damages.push(damage),
            }
        }
        (times, damages)
    }

    #[test]
    fn what_was_written_is_read() {
        assert_eq!(times(&sample().0), (vec![0, 1, 2, 3, 4, 5], vec![]));
    }

    #[test]
    fn a_damaged_frame_costs_itself_only_and_is_named() {
        let (bytes, starts) = sample();
        for at in starts[1]..starts[2] {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x40;
            let (times, damages) = times(&damaged);
            assert_eq!(times, [0, 1, 4, 5], "byte {at}");
            let [damage] = damages.as_slice() else { panic!("byte {at}: {damages:?}") };
            assert_eq!((damage.frame, damage.offset), (1, starts[1]), "byte {at}");
            assert_eq!(damage.bytes, starts[2] - starts[1], "byte {at}");
        }
    }

    #[test]
    fn a_cut_file_is_read_up_to_the_cut() {
        let (bytes, starts) = sample();
        for end in starts[2] + 1..bytes.len() {
            let (times, damages) = times(&bytes[..end]);
            assert_eq!(times, [0, 1, 2, 3], "{end} bytes");
            let [damage] = damages.as_slice() else { panic!("{end} bytes: {damages:?}") };
            assert_eq!((damage.frame, damage.offset, damage.reason), (2, starts[2], CUT), "{end} bytes");
        }
    }

    #[test]
    fn a_frame_that_was_taken_out_is_missed() {
        let (bytes, starts) = sample();
        let (times, damages) = times(&[&bytes[..starts[1]], &bytes[starts[2]..]].concat());
        assert_eq!((times, damages.len(), damages[0].frame), (vec![0, 1, 4, 5], 1, 1));
    }

    #[test]
    fn another_file_and_another_format_are_refused() {
        assert_eq!(Frames::of(b"\x7fELF").err(), Some(NoTrace::Magic));
        let mut newer = sample().0;
        newer[8] = 2;
        assert_eq!(Frames::of(&newer).err(), Some(NoTrace::Version(2)));
    }

    #[test]
    fn a_frame_that_claims_to_unpack_to_more_than_it_says_is_refused() {
        let mut packed = DeflateEncoder::new(Vec::new(), Compression::best());
        packed.write_all(&[0; 4096]).expect("written");
        let bytes = frame(0, 16, &packed.finish().expect("finished"));
        assert_eq!(entries(&bytes).err(), Some("it does not unpack"));
    }
}
