//! Mirror of `tcp_reset.bpf.c`.

use crate::record::record;

/// This node sent a RST: `saddr` is its sender, `daddr` the peer.
pub const KIND_SENT: u16 = 1;
/// This node received a RST: `saddr` is the local side, `daddr` the peer that sent it.
pub const KIND_RECEIVED: u16 = 2;

record! {
    /// A TCP reset that a local stack sent or received. `head.tcp_state` is the socket's state at
    /// that moment, 0 if the stack had no socket for the segment.
    TcpReset, probe "tcp-reset", schema 1, c "tcp_reset",
    {
        /// `enum sk_rst_reason` of this kernel (6.10 and later), only if `has_reason`.
        reason: u32,
        /// 1 if the kernel gives a reason.
        has_reason: u8,
        /// 1 if a socket was involved.
        has_socket: u8,
        /// 1 if a received segment provoked the reset.
        has_segment: u8,
        /// TCP flags of the segment that provoked it, 0 if there was none.
        tcp_flags: u8,
    } pad {}
}
