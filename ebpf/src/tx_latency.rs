//! Mirror of `tx_latency.bpf.c`.

use zerocopy::FromZeros;

use crate::record::{Head, record};
use crate::sum::{Key, Sum, Summed};

/// One packet that took more than 10 ms in a stage.
pub const KIND_SLOW: u16 = 1;
/// All packets of one namespace, stage and bucket in a second, the slow ones among them: only
/// `head.netns`, `count`, `duration_ns`, `ifindex` (errors), `bucket` and `stage` are set.
pub const KIND_SUM: u16 = 2;
/// A packet that the driver did not take; `code` says why.
pub const KIND_ERROR: u16 = 3;

/// From the device's queue to its driver.
pub const STAGE_QDISC: u8 = 0;
/// In the driver; of a veth device, up to the peer's backlog.
pub const STAGE_DRIVER: u8 = 1;
/// From TCP's sending (5.18 and later; other packets: from the queue) until the driver is called.
pub const STAGE_KERNEL: u8 = 2;
/// Sums only: given to a driver without having been seen in its queue, so without a duration.
pub const STAGE_UNSEEN: u8 = 3;
/// Sums only: not taken by the driver, without a duration.
pub const STAGE_ERROR: u8 = 4;

record! {
    /// Packets on their way out of a device.
    TxLatency, probe "tx-latency", schema 1, c "tx_latency",
    {
        /// Packets this record stands for: 1, or more in a sum.
        count: u64,
        /// Time of all of them, in nanoseconds.
        duration_ns: u64,
        /// Name of the device, padded with zeros.
        device: [u8; 16],
        /// Interface index in its own namespace.
        ifindex: u32,
        /// Bytes in the packet, with its link-layer header.
        length: u32,
        /// What the driver returned: 1 dropped, 2 congestion (`NET_XMIT_*`), negative an errno.
        code: i32,
        /// Bucket of each of them, see `sum::BOUNDS_NS`.
        bucket: u16,
        /// `STAGE_*`.
        stage: u8,
    } pad { pad: u8, }
}

impl Summed for TxLatency {
    fn of_sum(head: Head, key: &Key, sum: &Sum) -> TxLatency {
        TxLatency {
            head: Head { kind: KIND_SUM, ..head },
            count: sum.count,
            duration_ns: sum.total,
            ifindex: key.which,
            bucket: key.detail & 0xff,
            stage: (key.detail >> 8) as u8,
            ..TxLatency::new_zeroed()
        }
    }
}
