//! Mirror of `skb_drop.bpf.c`.

use zerocopy::FromZeros;

use crate::catalog::{Class, Description};
use crate::hook::{args, tp_btf};
use crate::record::{Head, constants, record};
use crate::sum::{self, Key, Sum, Summed};

constants! {
    enum drop_kind: u16 {
        /// One dropped packet.
        KIND_DROP = 1,
        /// Drops whose details were suppressed by the per-namespace limit, counted per
        /// (netns, reason, location) and delivered on a timer: only `head.netns`, `reason`, `location`,
        /// `ethertype` and `count` are set.
        KIND_SUMMARY = 2,
    }
}

/// What it hooks, what that costs, and which questions rest on it.
pub const DESCRIPTION: Description = Description {
    class: Class::Medium,
    answers: &["connect", "reset", "loss", "gateway"],
    hooks: &[tp_btf("kfree_skb", &[args(4, "kfree_skb_4"), args(3, "kfree_skb_3"), args(2, "kfree_skb_2")])
        .gives("dropped packets")
        .delivers(
            "packets that are freed without being delivered: reason, place in the kernel, 5-tuple, \
                 device, length; beyond a limit per namespace, their number by reason and place",
        )
        .versions("reasons since 5.17, the receiving socket since 6.11")],
    append_sum: Some(sum::append::<SkbDrop>),
};

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
