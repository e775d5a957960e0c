//! Mirror of `skb_drop.bpf.c`.

use zerocopy::FromZeros;

use crate::record::{Head, record};
use crate::sum::{Key, Sum, Summed};

/// One dropped packet.
pub const KIND_DROP: u16 = 1;
/// Drops whose details were suppressed by the per-namespace limit, counted per
/// (netns, reason, location) and delivered on a timer: only `head.netns`, `reason`, `location`,
/// `ethertype` and `count` are set.
pub const KIND_SUMMARY: u16 = 2;

record! {
    /// A packet that the kernel freed without delivering it.
    SkbDrop, probe "skb-drop", schema 1, c "skb_drop",
    {
        /// Address of the call to `kfree_skb`; a symbol by `kernel.symbol-at`.
        location: u64,
        /// Packets this record stands for: 1, or more in a summary.
        count: u64,
        /// `enum skb_drop_reason` of this kernel; a name by `kernel.drop-reason`.
        reason: u32,
        /// Interface index in its own namespace, 0 = none.
        ifindex: u32,
        /// Bytes in the packet from the current header on (`skb->len`).
        length: u32,
        /// Ethernet protocol, host byte order, e.g. 0x0800, 0x86dd, 0x0806.
        ethertype: u16,
        /// TCP flags byte of the segment (FIN 1, SYN 2, RST 4, PSH 8, ACK 16), 0 if not TCP.
        tcp_flags: u8,
        /// `skb->pkt_type`: 0 to this host, 1 broadcast, 2 multicast, 3 other host, 4 outgoing.
        pkt_type: u8,
    } pad {}
}

impl Summed for SkbDrop {
    fn of_sum(head: Head, key: &Key, sum: &Sum) -> SkbDrop {
        SkbDrop {
            head: Head { kind: KIND_SUMMARY, ..head },
            location: key.what,
            count: sum.count,
            reason: key.which,
            ethertype: key.detail,
            ..SkbDrop::new_zeroed()
        }
    }
}
