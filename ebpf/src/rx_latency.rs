//! Mirror of `rx_latency.bpf.c`.

use zerocopy::FromZeros;

use crate::record::{Head, record};
use crate::sum::{Key, Sum, Summed};

/// One segment that took more than 10 ms to its socket.
pub const KIND_SLOW: u16 = 1;
/// All segments of one namespace and bucket in a second, the slow ones among them: only
/// `head.netns`, `count`, `duration_ns` and `bucket` are set.
pub const KIND_SUM: u16 = 2;

record! {
    /// Segments from the last device until TCP processes them for their established connection; the
    /// source is the peer.
    RxLatency, probe "rx-latency", schema 1, c "rx_latency",
    {
        /// Segments this record stands for: 1, or more in a sum.
        count: u64,
        /// Time of all of them, in nanoseconds.
        duration_ns: u64,
        /// Bytes in the segment, with its TCP header.
        length: u32,
        /// Bucket of each of them, see `sum::BOUNDS_NS`.
        bucket: u16,
    } pad { pad: u16, }
}

impl Summed for RxLatency {
    fn of_sum(head: Head, key: &Key, sum: &Sum) -> RxLatency {
        RxLatency {
            head: Head { kind: KIND_SUM, ..head },
            count: sum.count,
            duration_ns: sum.total,
            bucket: key.detail,
            ..RxLatency::new_zeroed()
        }
    }
}
