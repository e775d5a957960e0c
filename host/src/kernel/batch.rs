//! One drained run of records from one probe: the unit that crosses every queue and the sandbox.
//!
//! Records stay packed as the kernel wrote them, in `u64` words, so that a batch reaches a guest
//! with one `memcpy`. Nothing here does I/O and nothing here interprets a record beyond the
//! common head of [`inspector_ebpf::Head`].

use inspector_ebpf::Probe;

/// Records of one probe, in the order in which the ring delivered them.
#[derive(Debug)]
pub struct Batch {
    /// The probe's catalog entry: its name, schema and stride.
    pub probe: &'static Probe,
    /// How many records `words` holds.
    pub count: u32,
    /// Sequence number of the first record: records of this probe drained before it.
    pub first_seq: u64,
    /// Records of this probe that the kernel lost since the previous batch: full ring and limit,
    /// but for skb-drop without the limit, since its summaries deliver that number.
    pub lost: u64,
    /// Wall clock at drain, nanoseconds since the Unix epoch.
    pub now_ns: u64,
    /// `count * probe.stride / 8` words, little-endian records.
    pub words: Vec<u64>,
}

impl Batch {
    /// Words in one record.
    pub fn stride_words(&self) -> usize {
        usize::from(self.probe.stride) / 8
    }

    /// The records, one slice of words each.
    pub fn records(&self) -> impl Iterator<Item = &[u64]> {
        self.words.chunks_exact(self.stride_words())
    }
}
