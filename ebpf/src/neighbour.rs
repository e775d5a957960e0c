//! Mirror of `neighbour.bpf.c`.

use crate::catalog::{Class, Description};
use crate::hook::{args, tp_btf};
use crate::record::{constants, record};

constants! {
    enum neighbour_kind: u16 {
        /// A neighbour did not answer. `old_state` is
        /// [`NUD_INCOMPLETE`] if it never was known, [`NUD_PROBE`] if it was and went away.
        KIND_FAILED = 1,
        /// A known neighbour gets another link-layer address.
        KIND_CHANGED = 2,
        /// Somebody claims a known neighbour's address for another link-layer address, and the kernel
        /// goes on with the one it has: within a second of an answer, a sign of two hosts with one address.
        KIND_CLAIMED = 3,
        /// No entry could be made: the table is full (`gc_thresh3`), or memory is.
        KIND_TABLE_FULL = 4,
        /// A packet was sent to an entry that is being removed, and dropped.
        KIND_DEAD = 5,
        /// A request had no answer for as long as the kernel waits for one (a second), and it asks again:
        /// `old_state` is [`NUD_INCOMPLETE`] or [`NUD_PROBE`]. The last one in vain is [`KIND_FAILED`].
        KIND_UNANSWERED = 6,
    }
    enum neighbour_state: u8 {
        /// Being looked for, and not known before (`linux/neighbour.h`, user ABI).
        NUD_INCOMPLETE = 0x01,
        /// Known, and being asked whether it is still there.
        NUD_PROBE = 0x10,
        /// Does not answer.
        NUD_FAILED = 0x20,
    }
}

/// What it hooks, what that costs, and which questions rest on it.
pub const DESCRIPTION: Description = Description {
    class: Class::Low,
    answers: &[],
    hooks: &[
        tp_btf("neigh_timer_handler", &[args(2, "neigh_timer_handler")])
            .gives("neighbours that do not answer")
            .delivers(
                "hosts that do not answer ARP or neighbour discovery, each request in vain (one a second) and \
                 the end: address, device, states, probes, link-layer address",
            )
            .cost(1754, 22),
        tp_btf("neigh_update", &[args(5, "neigh_update")])
            .gives("changed link-layer addresses")
            .delivers("changes of a known host's link-layer address, and claims that are refused")
            .cost(201, 75),
        tp_btf("neigh_create", &[args(5, "neigh_create")])
            .gives("full neighbour tables")
            .delivers("a table without room")
            .cost(249, 134),
        tp_btf("neigh_event_send_dead", &[args(2, "neigh_event_send_dead")])
            .gives("packets to neighbours that are being removed")
            .delivers("packets to an entry that is being removed"),
    ],
    append_sum: None,
};

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
