//! The kernel side of Inspector: one probe is one C file (`x.bpf.c`), one object, one ring, one
//! event struct, and its Rust mirror beside it (`x.rs`).
//!
//! - [`record`]: the head common to all records, and typed views into packed batches.
//! - [`skb_drop`], [`tcp_reset`], [`tcp_retransmit`], [`tcp_state`], [`socket_error`], [`neighbour`],
//!   [`icmp`], [`dns`], [`socket_latency`], [`softirq`], [`tx_latency`], [`rx_latency`], [`qdisc`],
//!   [`virtio_command`], [`route`]: one mirror each.
//! - [`sum`]: what programs add up instead of delivering it one by one.
//! - [`drop_reason`]: what the kernel's reasons for dropping a packet mean to programs.
//! - [`catalog`]: every probe with its schema, fields, hooks and (feature `objects`) its object.
//! - [`hook`]: what its programs are attached to.
//!
//! Guests use the mirrors and hosts the objects too, so everything here is free of I/O. A test in
//! `tests/` compares every mirror with the BTF of its object, offset by offset.

pub mod catalog;
pub mod dns;
pub mod drop_reason;
pub mod hook;
pub mod icmp;
pub mod neighbour;
pub mod qdisc;
pub mod record;
pub mod route;
pub mod rx_latency;
pub mod skb_drop;
pub mod socket_error;
pub mod socket_latency;
pub mod softirq;
pub mod sum;
pub mod tcp_reset;
pub mod tcp_retransmit;
pub mod tcp_state;
pub mod tx_latency;
pub mod virtio_command;

pub use catalog::{PROBES, Probe};
pub use dns::Dns;
pub use hook::{Attach, Direction, Hook, Point, Variant};
pub use icmp::Icmp;
pub use neighbour::Neighbour;
pub use qdisc::Qdisc;
pub use record::{Field, Head, Record, view};
pub use route::Route;
pub use rx_latency::RxLatency;
pub use skb_drop::SkbDrop;
pub use socket_error::SocketError;
pub use socket_latency::SocketLatency;
pub use softirq::Softirq;
pub use tcp_reset::TcpReset;
pub use tcp_retransmit::TcpRetransmit;
pub use tcp_state::TcpState;
pub use tx_latency::TxLatency;
pub use virtio_command::VirtioCommand;
