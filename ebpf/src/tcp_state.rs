//! Mirror of `tcp_state.bpf.c`.

use crate::record::record;

/// This node opened a connection: SYN_SENT to ESTABLISHED; `duration_ns` is the connect latency.
pub const KIND_CONNECTED: u16 = 1;
/// This node accepted a connection: SYN_RECV to ESTABLISHED.
pub const KIND_ACCEPTED: u16 = 2;
/// A connect failed: SYN_SENT to CLOSE; `error` says why, `duration_ns` how long it took.
pub const KIND_FAILED: u16 = 3;
/// An established connection ended; `duration_ns` is its lifetime.
pub const KIND_CLOSED: u16 = 4;

record! {
    /// A turn in the life of a TCP connection; `saddr` is the local side.
    TcpState, probe "tcp-state", schema 1, c "tcp_state",
    {
        /// As said at each kind; 0 if the start was not seen.
        duration_ns: u64,
        /// Bytes acknowledged by the peer (`tp->bytes_acked`).
        bytes_sent: u64,
        /// Bytes received (`tp->bytes_received`).
        bytes_received: u64,
        /// Smoothed round-trip time in microseconds, 0 = none yet.
        srtt_us: u32,
        /// Segments sent again in its life (`tp->total_retrans`).
        retransmits: u32,
        /// `sk->sk_err`, an errno, 0 = none.
        error: u32,
        /// State it left (`TCP_*`).
        old_state: u8,
        /// State it went to (`TCP_*`).
        new_state: u8,
    } pad { pad: u16, }
}
