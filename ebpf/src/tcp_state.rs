//! Mirror of `tcp_state.bpf.c`.

use crate::catalog::{Class, Description};
use crate::hook::{args, tp_btf};
use crate::record::{constants, record};

constants! {
    enum transition_kind: u16 {
        /// This node opened a connection: SYN_SENT to ESTABLISHED; `duration_ns` is the connect latency.
        KIND_CONNECTED = 1,
        /// This node accepted a connection: SYN_RECV to ESTABLISHED.
        KIND_ACCEPTED = 2,
        /// A connect failed: SYN_SENT to CLOSE; `error` says why, `duration_ns` how long it took.
        KIND_FAILED = 3,
        /// An established connection ended; `duration_ns` is its lifetime.
        KIND_CLOSED = 4,
    }
}

/// What it hooks, what that costs, and which questions rest on it.
pub const DESCRIPTION: Description = Description {
    class: Class::Low,
    answers: &["connect", "gateway"],
    hooks: &[
        tp_btf("inet_sock_set_state", &[args(3, "inet_sock_set_state")])
            .gives("connections opened, accepted, failed and closed")
            .delivers(
                "connections opened, accepted, failed and closed: 5-tuple, duration, bytes, round-trip time, \
                 retransmissions, errno",
            )
            .since(5, 9), // The tracepoint is of 4.16; bpf_skc_to_tcp_sock came with 5.9.
    ],
    append_sum: None,
};

record! {
    /// A transition of a TCP connection from one state to another; `saddr` is the local side.
    TcpState, probe "tcp-state", schema 1, c "tcp_state",
    {
        /// Nanoseconds; of what, is said at each kind; 0 if the start was not seen.
        duration_ns: u64,
        /// Bytes acknowledged by the peer (`tp->bytes_acked`).
        bytes_sent: u64,
        /// Bytes received (`tp->bytes_received`).
        bytes_received: u64,
        /// Smoothed round-trip time in microseconds, 0 = none yet.
        srtt_us: u32,
        /// Segments retransmitted in its life (`tp->total_retrans`).
        retransmits: u32,
        /// `sk->sk_err`, an errno, 0 = none.
        error: u32,
        /// State it left (`TCP_*`).
        old_state: u8,
        /// State it went to (`TCP_*`).
        new_state: u8,
    } pad { pad: u16, }
}
