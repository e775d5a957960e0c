//! Mirror of `neighbour.bpf.c`.

use crate::record::record;

/// A neighbour did not answer. `old_state` is
/// [`NUD_INCOMPLETE`] if it never was known, [`NUD_PROBE`] if it was and went away.
pub const KIND_FAILED: u16 = 1;
/// A known neighbour gets another link-layer address.
pub const KIND_CHANGED: u16 = 2;
/// Somebody claims a known neighbour's address for another link-layer address, and the kernel
/// goes on with the one it has: within a second of an answer, a sign of two hosts with one address.
pub const KIND_CLAIMED: u16 = 3;
/// No entry could be made: the table is full (`gc_thresh3`), or memory is.
pub const KIND_TABLE_FULL: u16 = 4;
/// A packet was sent to an entry that is being removed, and dropped.
pub const KIND_DEAD: u16 = 5;
/// A request had no answer for as long as the kernel waits for one (a second), and it asks again:
/// `old_state` is [`NUD_INCOMPLETE`] or [`NUD_PROBE`]. The last one in vain is [`KIND_FAILED`].
pub const KIND_UNANSWERED: u16 = 6;

/// Being looked for, and not known before (`linux/neighbour.h`, user ABI).
pub const NUD_INCOMPLETE: u8 = 0x01;
/// Known, and being asked whether it is still there.
pub const NUD_PROBE: u8 = 0x10;
/// Does not answer.
pub const NUD_FAILED: u8 = 0x20;

record! {
    /// Trouble with a host on the link; `daddr` is its address, `saddr` is not set.
    Neighbour, probe "neighbour", schema 1, c "neighbour_event",
    {
        /// Interface index in its own namespace.
        ifindex: u32,
        /// The kernel's count of requests without an answer; for a host that never was known it
        /// begins at `ucast_solicit`.
        probes: u32,
        /// Link-layer address as known so far, zeros if it is not; longer ones are cut.
        old_lladdr: [u8; 8],
        /// Link-layer address from now on, or as claimed.
        new_lladdr: [u8; 8],
        /// Bytes of the interface's link-layer addresses (Ethernet: 6), also where that is over 8.
        lladdr_length: u8,
        /// `NUD_*` before.
        old_state: u8,
        /// `NUD_*` after.
        new_state: u8,
    } pad { pad: [u8; 5], }
}
