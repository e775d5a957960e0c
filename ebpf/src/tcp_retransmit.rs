//! Mirror of `tcp_retransmit.bpf.c`.

use crate::record::record;

/// A segment was sent again (`tcp_retransmit_skb`: counts calls, not segments).
pub const KIND_SEGMENT: u16 = 1;
/// A listener sent a SYN-ACK again.
pub const KIND_SYNACK: u16 = 2;
/// The congestion state changed (`ca_state` is the new one).
pub const KIND_CONG_STATE: u16 = 3;

/// A SYN: the connection is not open yet.
pub const WHY_SYN: u8 = 1;
/// The retransmission timer fired.
pub const WHY_RTO: u8 = 2;
/// Duplicate or selective acknowledgements showed a hole.
pub const WHY_FAST: u8 = 3;
/// A tail-loss probe.
pub const WHY_TLP: u8 = 4;
/// Further segments in the loss state, after a timeout.
pub const WHY_LOSS: u8 = 5;

record! {
    /// A TCP retransmission; `saddr` is the sender.
    TcpRetransmit, probe "tcp-retransmit", schema 1, c "tcp_retransmit",
    {
        /// First sequence number of the segment.
        seq: u32,
        /// Bytes between the oldest unacknowledged byte and this segment.
        seq_distance: u32,
        /// Payload bytes of the segment.
        length: u32,
        /// Retransmissions of this connection so far (`tp->total_retrans`).
        total: u32,
        /// `TCP_CA_*`: 0 Open, 1 Disorder, 2 CWR, 3 Recovery, 4 Loss.
        ca_state: u8,
        /// `WHY_*`, 0 = not told.
        why: u8,
        /// Consecutive timeouts (`icsk_retransmits`).
        timeouts: u8,
        /// TCP flags of the segment.
        tcp_flags: u8,
    } pad { pad: u32, }
}
