//! Every probe there is. Adding one: its two files, one line here, its kernel test.

use crate::hook::{Hook, args};
use crate::record::{Field, Record};
use crate::{SkbDrop, TcpReset, TcpRetransmit, TcpState};

/// All probes, by id.
pub const PROBES: &[Probe] = &[
    probe!(0, SkbDrop, "skb_drop", &[KFREE_SKB]),
    probe!(1, TcpReset, "tcp_reset", &[TCP_SEND_RESET, TCP_RECEIVE_RESET]),
    probe!(
        2,
        TcpRetransmit,
        "tcp_retransmit",
        &[TCP_RETRANSMIT_SKB, TCP_RETRANSMIT_SYNACK, TCP_CONG_STATE_SET]
    ),
    probe!(3, TcpState, "tcp_state", &[INET_SOCK_SET_STATE]),
];

/// Reasons since 5.17, the receiving socket since 6.11.
const KFREE_SKB: Hook = Hook::tp_btf(
    "kfree_skb",
    &[args(4, "kfree_skb_4"), args(3, "kfree_skb_3"), args(2, "kfree_skb_2")],
    "dropped packets",
);

/// Since 4.15; a reason, and resets without a socket, since 6.10.
const TCP_SEND_RESET: Hook = Hook::tp_btf(
    "tcp_send_reset",
    &[args(3, "tcp_send_reset_3"), args(2, "tcp_send_reset_2")],
    "resets sent",
);

/// Since 4.15.
const TCP_RECEIVE_RESET: Hook =
    Hook::tp_btf("tcp_receive_reset", &[args(1, "tcp_receive_reset")], "resets received");

/// Since 4.15; with failed attempts and their error since 6.16.
const TCP_RETRANSMIT_SKB: Hook = Hook::tp_btf(
    "tcp_retransmit_skb",
    &[args(3, "tcp_retransmit_skb_3"), args(2, "tcp_retransmit_skb_2")],
    "segments sent again",
);

/// Since 4.15.
const TCP_RETRANSMIT_SYNACK: Hook = Hook::tp_btf(
    "tcp_retransmit_synack",
    &[args(2, "tcp_retransmit_synack")],
    "SYN-ACKs sent again by listeners",
);

/// Since 5.19.
const TCP_CONG_STATE_SET: Hook =
    Hook::tp_btf("tcp_cong_state_set", &[args(2, "tcp_cong_state_set")], "changes of the congestion state");

/// Since 4.16.
const INET_SOCK_SET_STATE: Hook = Hook::tp_btf(
    "inet_sock_set_state",
    &[args(3, "inet_sock_set_state")],
    "connections opened, accepted, failed and closed",
);

/// A catalog line: everything that the mirror knows is taken from it.
macro_rules! probe {
    ($id:literal, $record:ty, $object:literal, $hooks:expr) => {
        Probe {
            id: $id,
            name: <$record>::PROBE,
            schema: <$record>::SCHEMA,
            stride: size_of::<$record>() as u16,
            fields: <$record>::FIELDS,
            hooks: $hooks,
            #[cfg(feature = "objects")]
            object: &Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/", $object, ".bpf.o"))).0,
        }
    };
}
use probe;

/// ELF headers are read in place, so the bytes must lie as an ELF file would in memory.
#[cfg(feature = "objects")]
#[repr(C, align(8))]
struct Aligned<const N: usize>([u8; N]);

/// A fixed eBPF program set that delivers one kind of record.
#[derive(Debug)]
pub struct Probe {
    /// Number by which batches refer to it: its index in [`PROBES`].
    pub id: u16,
    /// Name in plugins, metrics and on the command line, e.g. `skb-drop`.
    pub name: &'static str,
    /// Schema number of its records.
    pub schema: u16,
    /// Bytes per record.
    pub stride: u16,
    /// Its fields, by offset; predicates may name those of at most 8 bytes.
    pub fields: &'static [Field],
    /// Its hooks; each is optional.
    pub hooks: &'static [Hook],
    /// The CO-RE object.
    #[cfg(feature = "objects")]
    pub object: &'static [u8],
}
