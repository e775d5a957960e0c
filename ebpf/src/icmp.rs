//! Mirror of `icmp.bpf.c`.

use crate::catalog::{Class, Description};
use crate::hook::{Direction, args, cgroup_skb, tp_btf};
use crate::record::{constants, record};

constants! {
    enum icmp_kind: u16 {
        /// An ICMP (IPv4) error is sent.
        KIND_ICMP = 1,
        /// An ICMPv6 error is sent.
        KIND_ICMPV6 = 2,
    }
}

/// What it hooks, what that costs, and which questions rest on it.
pub const DESCRIPTION: Description = Description {
    class: Class::Low,
    answers: &[],
    hooks: &[
        tp_btf("icmp_send", &[args(3, "icmp_send")])
            .gives("ICMP errors sent over IPv4")
            .delivers("ICMP errors sent over IPv4: type, code, the 5-tuple of the packet they are about")
            .since(6, 11)
            .versions("later releases of 6.1 have it too")
            .cost(7758, 16)
            .detail(),
        cgroup_skb(Direction::Egress, "icmpv6_send")
            .gives("ICMP errors sent over IPv6")
            .delivers(
                "the same over IPv6, for which there is no tracepoint; runs for every packet that a socket sends",
            )
            .cost(50, 111_000),
    ],
    append_sum: None,
};

record! {
    /// An ICMP error that this node sends; the head's addresses, ports and protocol are those of
    /// the packet that it is about, so `saddr` is who will get it.
    Icmp, probe "icmp", schema 1, c "icmp",
    {
        /// Interface that the packet came by (IPv4), or that the error leaves by (IPv6), 0 = none.
        ifindex: u32,
        /// Bytes in the packet that it is about: from the current header on (IPv4), or whole (IPv6).
        length: u32,
        /// ICMP or ICMPv6 type; their numbers differ.
        icmp_type: u8,
        /// ICMP or ICMPv6 code.
        code: u8,
    } pad { pad: [u8; 6], }
}
