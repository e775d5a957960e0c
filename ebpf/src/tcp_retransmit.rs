//! Mirror of `tcp_retransmit.bpf.c`.

use crate::catalog::{Class, Description};
use crate::hook::{args, tp_btf};
use crate::record::{constants, record};

constants! {
    enum retransmit_kind: u16 {
        /// TCP retransmitted: one call of `tcp_retransmit_skb`, which may carry several segments.
        KIND_SEGMENT = 1,
        /// A listener retransmitted a SYN-ACK.
        KIND_SYNACK = 2,
        /// The congestion state changed (`ca_state` is the new one).
        KIND_CONG_STATE = 3,
    }
    enum retransmit_why: u8 {
        /// A SYN: the connection is not open yet.
        WHY_SYN = 1,
        /// The retransmission timer fired.
        WHY_RTO = 2,
        /// Duplicate or selective acknowledgements showed a hole.
        WHY_FAST = 3,
        /// A tail-loss probe.
        WHY_TLP = 4,
        /// Further segments in the loss state, after a timeout.
        WHY_LOSS = 5,
    }
}

/// What it hooks, what that costs, and which questions rest on it.
pub const DESCRIPTION: Description = Description {
    class: Class::Low,
    answers: &["connect", "loss", "latency", "gateway"],
    hooks: &[
        tp_btf("tcp_retransmit_skb", &[args(3, "tcp_retransmit_skb_3"), args(2, "tcp_retransmit_skb_2")])
            .gives("segments sent again")
            .delivers(
                "retransmissions: 5-tuple, cause (SYN, timeout, fast, tail-loss probe), sequence numbers",
            )
            .since(5, 9) // The tracepoint is of 4.15; bpf_skc_to_tcp_sock came with 5.9.
            .versions("with the error of a failed attempt since 6.16"),
        tp_btf("tcp_retransmit_synack", &[args(2, "tcp_retransmit_synack")])
            .gives("SYN-ACKs sent again by listeners")
            .delivers("retransmissions of SYN-ACKs by listeners"),
        tp_btf("tcp_cong_state_set", &[args(2, "tcp_cong_state_set")])
            .gives("changes of the congestion state")
            .delivers("changes of the congestion state")
            .since(5, 19)
            .detail(),
    ],
    append_sum: None,
};

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
        /// `WHY_*`, 0 = unknown.
        why: u8,
        /// Consecutive timeouts (`icsk_retransmits`).
        timeouts: u8,
        /// TCP flags of the segment.
        tcp_flags: u8,
    } pad { pad: u32, }
}
