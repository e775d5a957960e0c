//! Mirror of `qdisc.bpf.c`.

use zerocopy::FromZeros;

use crate::record::{Head, record};
use crate::sum::{Key, Sum, Summed};

/// All packets of one device, operation and bucket in a second; there are no other records.
pub const KIND_SUM: u16 = 2;

/// Taken in, without a duration.
pub const OP_ENQUEUE: u8 = 0;
/// Given to the device, after `duration_ns` in all.
pub const OP_DEQUEUE: u8 = 1;
/// Given to the device, but when it was taken in is not known: one of several in one call.
pub const OP_UNTIMED: u8 = 2;

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
