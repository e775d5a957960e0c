//! Mirror of `rx_latency.bpf.c`.

use zerocopy::FromZeros;

use crate::catalog::{Class, Description};
use crate::hook::{args, tp_btf};
use crate::record::{Head, constants, record};
use crate::sum::{self, Key, Sum, Summed};

constants! {
    enum rx_kind: u16 {
        /// One segment that took more than 10 ms to its socket.
        KIND_SLOW = 1,
        /// All segments of one namespace and bucket in a second, the slow ones among them: only
        /// `head.netns`, `count`, `duration_ns` and `bucket` are set.
        KIND_SUM = 2,
    }
}

/// What it hooks, what that costs, and which questions rest on it.
pub const DESCRIPTION: Description = Description {
    class: Class::High,
    answers: &[],
    hooks: &[
        tp_btf("netif_receive_skb", &[args(1, "netif_receive_skb")])
            .gives("time of packets on their way in")
            .delivers("the start of a segment's way to its socket")
            .cost(169, 110_000),
        tp_btf("tcp_probe", &[args(2, "tcp_probe")])
            .gives("time of segments to their socket")
            .delivers(
                "time to the established connection, added up per namespace and bucket; details above 10 ms \
                 with 5-tuple",
            )
            .cost(319, 40_000),
    ],
    append_sum: Some(sum::append::<RxLatency>),
};

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
