//! Mirror of `socket_error.bpf.c`.

use crate::catalog::{Class, Description};
use crate::hook::{args, tp_btf};
use crate::record::{constants, record};

constants! {
    enum error_kind: u16 {
        /// The kernel reported an error to a socket: a refused or timed-out connection, a reset, an ICMP error.
        KIND_REPORTED = 1,
        /// The protocol's memory limit (`tcp_mem`, `udp_mem`, or the cgroup's) left no room for a socket.
        KIND_MEMORY = 2,
        /// The receive queue of a socket that is neither TCP nor UDP (raw, ping) was full: a packet was dropped.
        KIND_QUEUE_FULL = 3,
        /// A UDP socket had no room for a datagram, which was dropped.
        KIND_UDP_REFUSED = 4,
    }
}

/// What it hooks, what that costs, and which questions rest on it.
pub const DESCRIPTION: Description = Description {
    class: Class::Low,
    answers: &[],
    hooks: &[
        tp_btf("inet_sk_error_report", &[args(1, "inet_sk_error_report")])
            .gives("errors that sockets are told")
            .delivers("errors that sockets are told: errno, protocol, 5-tuple, queue sizes and limits")
            .since(5, 14)
            .cost(3050, 8)
            .detail(),
        // The tracepoints below are older than 5.8; bpf_skc_to_tcp_sock came with 5.9.
        tp_btf("sock_exceed_buf_limit", &[args(4, "sock_exceed_buf_limit")])
            .gives("sockets that their protocol's memory limit stops")
            .delivers("sockets that tcp_mem, udp_mem or a cgroup's limit stops")
            .since(5, 9),
        tp_btf("sock_rcvqueue_full", &[args(2, "sock_rcvqueue_full")])
            .gives("full raw and ping sockets")
            .delivers("packets without room in a ping socket, and in a raw one where the kernel says so (6.18 does not)")
            .since(5, 9)
            .cost(579, 92),
        tp_btf(
            "udp_fail_queue_rcv_skb",
            &[args(3, "udp_fail_queue_rcv_skb_3"), args(2, "udp_fail_queue_rcv_skb_2")],
        )
        .gives("full UDP sockets")
        .delivers("datagrams without room in their socket")
        .since(5, 9)
        .versions("with the packet since 6.10")
        .cost(703, 94),
    ],
    append_sum: None,
};

record! {
    /// What went wrong at an internet socket. Addresses are those of the packet if there was one
    /// (`FLAG_PACKET`: `saddr` is the sender), else the socket's (`FLAG_SOCKET`: `saddr` is local).
    SocketError, probe "socket-error", schema 1, c "socket_error",
    {
        /// Pages that the protocol has allocated, with [`KIND_MEMORY`].
        memory_pages: u64,
        /// errno, e.g. 111; with [`KIND_UDP_REFUSED`] 12 is a full socket and 105 the protocol's limit.
        error: u32,
        /// Bytes of memory that its receive queue holds (`sk_rmem_alloc`).
        receive_queued: u32,
        /// Its limit (`sk_rcvbuf`).
        receive_limit: u32,
        /// Bytes of memory that wait to be sent: TCP's write queue, else `sk_wmem_alloc`.
        send_queued: u32,
        /// Their limit (`sk_sndbuf`).
        send_limit: u32,
        /// Bytes in the packet from its current header on, 0 = no packet.
        length: u32,
        /// 1: memory was wanted for sending, with [`KIND_MEMORY`].
        sending: u8,
    } pad { pad: [u8; 7], }
}
