//! TCP's numbers: states of sockets and flags of segments. Both are user ABI or on the wire, so they
//! are the same on every kernel.

/// State of an open connection.
pub const ESTABLISHED: u8 = 1;
/// State of a connection that is being opened from here.
pub const SYN_SENT: u8 = 2;
/// First of the states after the local or the remote close; the last one is [`LAST_ACK`].
pub const FIN_WAIT1: u8 = 4;
/// State of a socket without a connection.
pub const CLOSE: u8 = 7;
/// See [`FIN_WAIT1`].
pub const LAST_ACK: u8 = 9;
/// State of a listener.
pub const LISTEN: u8 = 10;

/// Flag of a segment that opens a connection.
pub const SYN: u8 = 0x02;
/// Flag of a segment that resets a connection.
pub const RST: u8 = 0x04;
/// Flag of a segment that acknowledges.
pub const ACK: u8 = 0x10;

/// Name of a state, as the kernel spells it; `TCP_OTHER` where there was no socket.
pub fn state(number: u8) -> &'static str {
    match number {
        ESTABLISHED => "TCP_ESTABLISHED",
        SYN_SENT => "TCP_SYN_SENT",
        3 => "TCP_SYN_RECV",
        FIN_WAIT1 => "TCP_FIN_WAIT1",
        5 => "TCP_FIN_WAIT2",
        6 => "TCP_TIME_WAIT",
        CLOSE => "TCP_CLOSE",
        8 => "TCP_CLOSE_WAIT",
        LAST_ACK => "TCP_LAST_ACK",
        LISTEN => "TCP_LISTEN",
        11 => "TCP_CLOSING",
        12 => "TCP_NEW_SYN_RECV",
        13 => "TCP_BOUND_INACTIVE",
        _ => "TCP_OTHER",
    }
}
