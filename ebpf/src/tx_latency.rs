//! Mirror of `tx_latency.bpf.c`.

use zerocopy::FromZeros;

use crate::catalog::{Class, Description};
use crate::hook::{ANY_KFREE_SKB, args, tp_btf};
use crate::record::{Head, constants, record};
use crate::sum::{self, Key, Sum, Summed};

constants! {
    enum tx_kind: u16 {
        /// One packet that took more than 10 ms in a stage.
        KIND_SLOW = 1,
        /// All packets of one namespace, stage and bucket in a second, the slow ones among them: only
        /// `head.netns`, `count`, `duration_ns`, `ifindex` (errors), `bucket` and `stage` are set.
        KIND_SUM = 2,
        /// A packet that the driver did not take; `code` says why.
        KIND_ERROR = 3,
    }
    enum tx_stage: u8 {
        /// From the device's queue to its driver.
        STAGE_QDISC = 0,
        /// In the driver; of a veth device, up to the peer's backlog.
        STAGE_DRIVER = 1,
        /// From TCP's sending (5.18 and later; other packets: from the queue) until the driver is called.
        STAGE_KERNEL = 2,
        /// Sums only: given to a driver without having been seen in its queue, so without a duration.
        STAGE_UNSEEN = 3,
        /// Sums only: not taken by the driver, without a duration.
        STAGE_ERROR = 4,
    }
}

/// What it hooks, what that costs, and which questions rest on it.
pub const DESCRIPTION: Description = Description {
    class: Class::High,
    answers: &[],
    hooks: &[
        tp_btf("net_dev_queue", &[args(1, "net_dev_queue")])
            .gives("time of packets on their way out")
            .delivers("the start of a packet's way through a device")
            .cost(256, 110_000),
        tp_btf("net_dev_start_xmit", &[args(2, "net_dev_start_xmit")])
            .gives("time of packets in queues and drivers")
            .delivers(
                "time in the queue and since TCP sent it, added up per namespace and bucket; details above \
                 10 ms with 5-tuple and device",
            )
            .versions("TCP's own start since 5.18")
            .cost(309, 110_000),
        tp_btf("net_dev_xmit", &[args(4, "net_dev_xmit")])
            .gives("time of packets in drivers, and what drivers refuse")
            .delivers("time in the driver, as above; packets that it did not take, with its code")
            .cost(321, 110_000),
        tp_btf("kfree_skb", ANY_KFREE_SKB)
            .gives("certainty that a time is not that of a dropped packet")
            .delivers("forgets dropped packets")
            .cost(103, 70_000),
    ],
    append_sum: Some(sum::append::<TxLatency>),
};

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
