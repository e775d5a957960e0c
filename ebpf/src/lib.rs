//! The kernel side of Inspector: one probe is one C file (`x.bpf.c`), one object, one ring, one
//! event struct, and its Rust mirror beside it (`x.rs`).
//!
//! - [`record`]: the head common to all records, and typed views into packed batches.
//! - [`skb_drop`], [`tcp_reset`], [`tcp_retransmit`], [`tcp_state`]: one mirror each.
//! - [`catalog`]: every probe with its schema, fields, hooks and (feature `objects`) its object.
//! - [`hook`]: what its programs are attached to.
//!
//! Guests use the mirrors and hosts the objects too, so everything here is free of I/O. A test in
//! `tests/` compares every mirror with the BTF of its object, offset by offset.

pub mod catalog;
pub mod hook;
pub mod record;
pub mod skb_drop;
pub mod tcp_reset;
pub mod tcp_retransmit;
pub mod tcp_state;

pub use catalog::{PROBES, Probe};
pub use hook::{Attach, Direction, Hook, Variant};
pub use record::{Field, Head, Record, view};
pub use skb_drop::SkbDrop;
pub use tcp_reset::TcpReset;
pub use tcp_retransmit::TcpRetransmit;
pub use tcp_state::TcpState;
