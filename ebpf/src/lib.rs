//! The kernel side of Inspector: one probe is one C file (`x.bpf.c`), one object, one ring, one
//! event struct, and its Rust mirror beside it (`x.rs`).
//!
//! - [`record`]: the head common to all records, and typed views into packed batches.
//! - [`sum`]: what programs add up instead of delivering it one by one.
//! - [`skb_drop`], [`tcp_reset`], [`tcp_retransmit`], [`tcp_state`]: one mirror each.
//! - [`softirq`], [`tx_latency`], [`rx_latency`], [`qdisc`], [`virtio_command`]: the same.
//! - [`catalog`]: every probe with its schema, fields, hooks and (feature `objects`) its object.
//! - [`hook`]: what its programs are attached to.
//!
//! Guests use the mirrors and hosts the objects too, so everything here is free of I/O. A test in
//! `tests/` compares every mirror with the BTF of its object, offset by offset.

pub mod catalog;
pub mod hook;
pub mod qdisc;
pub mod record;
pub mod rx_latency;
pub mod skb_drop;
pub mod softirq;
pub mod sum;
pub mod tcp_reset;
pub mod tcp_retransmit;
pub mod tcp_state;
pub mod tx_latency;
pub mod virtio_command;

pub use catalog::{PROBES, Probe};
pub use hook::{Attach, Direction, Hook, Point, Variant};
pub use qdisc::Qdisc;
pub use record::{Field, Head, Record, view};
pub use rx_latency::RxLatency;
pub use skb_drop::SkbDrop;
pub use softirq::Softirq;
pub use tcp_reset::TcpReset;
pub use tcp_retransmit::TcpRetransmit;
pub use tcp_state::TcpState;
pub use tx_latency::TxLatency;
pub use virtio_command::VirtioCommand;
