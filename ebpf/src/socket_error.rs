//! Mirror of `socket_error.bpf.c`.

use crate::record::record;

/// A socket was told of an error: a refused or timed-out connection, a reset, an ICMP error.
pub const KIND_REPORTED: u16 = 1;
/// The protocol's memory limit (`tcp_mem`, `udp_mem`, or the cgroup's) left no room for a socket.
pub const KIND_MEMORY: u16 = 2;
/// The receive queue of a socket that is neither TCP nor UDP (raw, ping) was full: a packet was dropped.
pub const KIND_QUEUE_FULL: u16 = 3;
/// A UDP socket had no room for a datagram, which was dropped.
pub const KIND_UDP_REFUSED: u16 = 4;

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
