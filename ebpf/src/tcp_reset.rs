//! Mirror of `tcp_reset.bpf.c`.

use crate::catalog::{Class, Description};
use crate::hook::{args, tp_btf};
use crate::record::{constants, record};

constants! {
    enum reset_kind: u16 {
        /// This node sent a RST: `saddr` is its sender, `daddr` the peer.
        KIND_SENT = 1,
        /// This node received a RST: `saddr` is the local side, `daddr` the peer that sent it.
        KIND_RECEIVED = 2,
    }
}

/// What it hooks, what that costs, and which questions rest on it.
pub const DESCRIPTION: Description = Description {
    class: Class::Low,
    answers: &["reset", "gateway"],
    hooks: &[
        tp_btf("tcp_send_reset", &[args(3, "tcp_send_reset_3"), args(2, "tcp_send_reset_2")])
            .gives("resets sent")
            .delivers("resets sent: 5-tuple, state, flags of the segment that provoked it, reason")
            .since(5, 9) // The tracepoint is of 4.15; bpf_skc_to_tcp_sock came with 5.9.
            .versions("reasons, and resets without a socket, since 6.10"),
        tp_btf("tcp_receive_reset", &[args(1, "tcp_receive_reset")])
            .gives("resets received")
            .delivers("resets that a socket accepted: 5-tuple and state")
            .since(5, 9), // As above.
    ],
    append_sum: None,
};

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
