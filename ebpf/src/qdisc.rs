//! Mirror of `qdisc.bpf.c`.

use zerocopy::FromZeros;

use crate::catalog::{Class, Description};
use crate::hook::{ANY_KFREE_SKB, args, tp_btf};
use crate::record::{Head, constants, record};
use crate::sum::{self, Key, Sum, Summed};

constants! {
    enum qdisc_kind: u16 {
        /// All packets of one device, operation and bucket in a second; there are no other records.
        KIND_SUM = 2,
    }
    enum qdisc_operation: u8 {
        /// Taken in, without a duration.
        OP_ENQUEUE = 0,
        /// Given to the device, after `duration_ns` in all.
        OP_DEQUEUE = 1,
        /// Given to the device, but when it was taken in is not known: one of several in one call.
        OP_UNTIMED = 2,
    }
}

/// What it hooks, what that costs, and which questions rest on it.
pub const DESCRIPTION: Description = Description {
    class: Class::High,
    answers: &[],
    hooks: &[
        tp_btf("qdisc_enqueue", &[args(3, "qdisc_enqueue")])
            .gives("packets that are queued")
            .delivers("packets taken in, added up per namespace and device")
            .since(5, 14)
            .cost(227, 50_000)
            .detail(),
        tp_btf("qdisc_dequeue", &[args(4, "qdisc_dequeue")])
            .gives("packets that leave a queue")
            .delivers(
                "packets given to the device, with their time in the queue; half of the runs are in vain",
            )
            .cost(144, 100_000),
        tp_btf("kfree_skb", ANY_KFREE_SKB)
            .gives("certainty that a time is not that of a dropped packet")
            .delivers("forgets dropped packets")
            .cost(92, 70_000),
    ],
    append_sum: Some(sum::append::<Qdisc>),
};

record! {
    /// Packets through the root queueing discipline of a device.
    Qdisc, probe "qdisc", schema 1, c "qdisc",
    {
        /// Packets this record stands for.
        count: u64,
        /// Time of all of them in the discipline, in nanoseconds.
        duration_ns: u64,
        /// Interface index in its own namespace.
        ifindex: u32,
        /// Bucket of each of them, see `sum::BOUNDS_NS`.
        bucket: u16,
        /// `OP_*`.
        op: u8,
    } pad { pad: u8, }
}

impl Summed for Qdisc {
    fn of_sum(head: Head, key: &Key, sum: &Sum) -> Qdisc {
        Qdisc {
            head: Head { kind: KIND_SUM, ..head },
            count: sum.count,
            duration_ns: sum.total,
            ifindex: key.which,
            bucket: key.detail & 0xff,
            op: (key.detail >> 8) as u8,
            ..Qdisc::new_zeroed()
        }
    }
}
