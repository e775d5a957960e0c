//! Numbers of the kernel's user ABI that records carry in their head (`kernel.h`). They are the same on
//! every kernel; what differs between kernels is never compiled in.

use crate::record::constants;

constants! {
    enum ip_protocol: u8 {
        /// TCP.
        IPPROTO_TCP = 6,
        /// UDP.
        IPPROTO_UDP = 17,
        /// DCCP.
        IPPROTO_DCCP = 33,
        /// ICMP of IPv6.
        IPPROTO_ICMPV6 = 58,
        /// SCTP.
        IPPROTO_SCTP = 132,
        /// UDP-Lite.
        IPPROTO_UDPLITE = 136,
    }
    enum socket_state: u8 {
        /// The connection is open.
        TCP_ESTABLISHED = 1,
        /// A connect waits for the peer's answer.
        TCP_SYN_SENT = 2,
        /// A handshake waits for its last acknowledgement.
        TCP_SYN_RECV = 3,
        /// Closed by this side, which is not acknowledged yet.
        TCP_FIN_WAIT1 = 4,
        /// Closed by this side, and the peer has not closed.
        TCP_FIN_WAIT2 = 5,
        /// Over; its addresses and ports are not used again for a minute.
        TCP_TIME_WAIT = 6,
        /// No connection.
        TCP_CLOSE = 7,
        /// Closed by the peer, and the program has not closed.
        TCP_CLOSE_WAIT = 8,
        /// Closed by both sides, the second not acknowledged yet.
        TCP_LAST_ACK = 9,
        /// Accepts connections.
        TCP_LISTEN = 10,
        /// Closed by both sides at once.
        TCP_CLOSING = 11,
        /// A handshake without a socket of its own yet (4.4 and later).
        TCP_NEW_SYN_RECV = 12,
    }
}
