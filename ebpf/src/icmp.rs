//! Mirror of `icmp.bpf.c`.

use crate::record::record;

/// An ICMP (IPv4) error is sent.
pub const KIND_ICMP: u16 = 1;
/// An ICMPv6 error is sent.
pub const KIND_ICMPV6: u16 = 2;

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
