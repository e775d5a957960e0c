//! Drops whose details the limit suppressed, made into records, so that counts stay exact.
//!
//! The programs count them per (namespace, reason, location, protocol) and epoch. Once a second
//! the reader takes the entries of the epoch that ended a second ago, to which no program adds
//! any more, and starts a new one: each count is delivered exactly once.

use aya::maps::{HashMap, MapData};
use inspector_ebpf::record::IntoBytes;
use inspector_ebpf::skb_drop::KIND_SUMMARY;
use inspector_ebpf::{Head, SkbDrop};

/// `struct summary` of `skb_drop.bpf.c`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct Key {
    netns: u64,
    location: u64,
    reason: u32,
    ethertype: u16,
    epoch: u16,
}

// SAFETY: integers without padding, so any bytes are a value of it.
unsafe impl aya::Pod for Key {}

/// The `suppressed` map of skb-drop.
pub struct Suppressed {
    counts: HashMap<MapData, Key, u64>,
}

impl Suppressed {
    /// Takes the map over.
    pub fn new(counts: HashMap<MapData, Key, u64>) -> Suppressed {
        Suppressed { counts }
    }

    /// Takes out every entry whose epoch has ended; with `current` = `None`, of all epochs.
    ///
    /// The records say when they were taken; their `ts_ns` is `boot_ns`, as a program's would be.
    pub fn take(&mut self, current: Option<u16>, boot_ns: u64) -> Vec<SkbDrop> {
        let ended = |key: &Key| current != Some(key.epoch);
        let keys: Vec<Key> = self.counts.keys().filter_map(Result::ok).filter(ended).collect();
        keys.iter().filter_map(|key| self.take_one(key, boot_ns)).collect()
    }

    fn take_one(&mut self, key: &Key, boot_ns: u64) -> Option<SkbDrop> {
        let count = self.counts.get(key, 0).ok()?;
        // If it cannot be removed it will be seen again, and is delivered then.
        self.counts.remove(key).ok()?;
        Some(record(key, count, boot_ns))
    }
}

fn record(key: &Key, count: u64, boot_ns: u64) -> SkbDrop {
    SkbDrop {
        head: Head {
            ts_ns: boot_ns,
            netns: key.netns,
            entity: 0,
            kind: KIND_SUMMARY,
            cpu: 0,
            saddr: [0; 16],
            daddr: [0; 16],
            sport: 0,
            dport: 0,
            proto: 0,
            tcp_state: 0,
            flags: 0,
        },
        location: key.location,
        count,
        reason: key.reason,
        ifindex: 0,
        length: 0,
        ethertype: key.ethertype,
        tcp_flags: 0,
        pkt_type: 0,
    }
}

/// The packed words of records, as a ring would have delivered them.
pub fn words(records: &[SkbDrop]) -> Vec<u64> {
    let word = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().expect("chunks are 8 bytes long"));
    records.as_bytes().chunks_exact(8).map(word).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_reads_as_a_record_of_the_probe() {
        let key = Key { netns: 5, location: 6, reason: 7, ethertype: 0x86dd, epoch: 1 };
        let words = words(&[record(&key, 1_000_000, 9)]);
        let stride = size_of::<SkbDrop>() as u16;
        let seen: Vec<&SkbDrop> = inspector_ebpf::view(&words, stride).collect();
        assert_eq!(seen.len(), 1);
        assert_eq!((seen[0].head.ts_ns, seen[0].head.netns, seen[0].head.kind), (9, 5, KIND_SUMMARY));
        assert_eq!((seen[0].count, seen[0].reason, seen[0].ethertype), (1_000_000, 7, 0x86dd));
    }
}
