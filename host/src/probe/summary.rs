//! What programs add up in the kernel (`sums.h`), made into records of their probe.
//!
//! Programs add under a key and an epoch. Once a second the reader takes the entries of the epoch
//! that ended a second ago, to which no program adds any more, and starts a new one: each sum is
//! delivered exactly once. No probe is known here: its catalog line says how a sum becomes a record.

use aya::maps::{HashMap, MapData};
use inspector_ebpf::catalog::AppendSum;
use inspector_ebpf::sum;

/// A key as aya takes it.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct Key(sum::Key);

/// A value as aya takes it.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct Value(sum::Sum);

// SAFETY: both are integers without padding, so any bytes are a value of them.
unsafe impl aya::Pod for Key {}
// SAFETY: as above.
unsafe impl aya::Pod for Value {}

/// Sums that were taken out.
#[derive(Debug, Default)]
pub struct Taken {
    /// A packed record of each.
    pub words: Vec<u64>,
    /// How many they stand for beyond one each.
    pub folded: u64,
}

/// The `sums` map of one object.
pub struct Sums {
    map: HashMap<MapData, Key, Value>,
    append: AppendSum,
}

impl Sums {
    /// Takes the map over.
    pub fn new(map: HashMap<MapData, Key, Value>, append: AppendSum) -> Sums {
        Sums { map, append }
    }

    /// Takes out every entry whose epoch has ended; with `current` = `None`, of all epochs.
    ///
    /// The records say when they were taken; their `ts_ns` is `boot_ns`, as a program's would be.
    pub fn take(&mut self, current: Option<u16>, boot_ns: u64) -> Taken {
        let ended = |key: &Key| current != Some(key.0.epoch);
        let keys: Vec<Key> = self.map.keys().filter_map(Result::ok).filter(ended).collect();
        let mut taken = Taken::default();
        for key in keys {
            let Ok(Value(sum)) = self.map.get(&key, 0) else { continue };
            // If it cannot be removed it will be seen again, and is delivered then.
            if self.map.remove(&key).is_ok() {
                (self.append)(&mut taken.words, boot_ns, &key.0, &sum);
                taken.folded += sum.count.saturating_sub(1);
            }
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use inspector_ebpf::skb_drop::KIND_SUMMARY;
    use inspector_ebpf::{PROBES, SkbDrop};

    use super::*;

    #[test]
    fn a_sum_reads_as_a_record_of_the_probe() {
        let append = PROBES[0].append_sum.expect("skb-drop adds up");
        let key = sum::Key { netns: 5, what: 6, which: 7, detail: 0x86dd, epoch: 1 };
        let mut words = Vec::new();
        append(&mut words, 9, &key, &sum::Sum { count: 1_000_000, total: 3 });
        let stride = size_of::<SkbDrop>() as u16;
        let seen: Vec<&SkbDrop> = inspector_ebpf::view(&words, stride).collect();
        assert_eq!(seen.len(), 1);
        assert_eq!((seen[0].head.ts_ns, seen[0].head.netns, seen[0].head.kind), (9, 5, KIND_SUMMARY));
        assert_eq!((seen[0].count, seen[0].reason, seen[0].ethertype), (1_000_000, 7, 0x86dd));
    }
}
