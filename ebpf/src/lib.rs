//! The kernel side of Inspector: one probe is one C file (`x.bpf.c`), one object, one ring, one
//! event struct, and its Rust mirror beside it (`x.rs`).
//!
//! - The list below: every probe, and a module for each.
//! - [`catalog`]: what is known of a probe: schema, fields, hooks and (feature `objects`) its object.
//! - [`hook`]: what its programs are attached to, since which kernel, and what they cost.
//! - [`record`]: the head common to all records, and typed views into packed batches.
//! - [`kernel`]: numbers of the kernel's user ABI in that head.
//! - [`sum`]: what programs add up instead of delivering it one by one.
//! - [`drop_reason`]: what the kernel's reasons for dropping a packet mean to programs.
//!
//! Guests use the mirrors and hosts the objects too, so everything here is free of I/O. A test in
//! `tests/` compares every mirror with the BTF of its object, offset by offset and constant by
//! constant.

pub mod catalog;
pub mod drop_reason;
pub mod hook;
pub mod kernel;
pub mod record;
pub mod sum;

pub use catalog::{Class, Probe};
pub use hook::{Attach, Direction, Hook, Kernel, Point, Variant};
pub use record::{Constants, Field, Head, Record, view};

// A new probe is its two files and a line at the end of this list.
catalog::probes! {
    skb_drop::SkbDrop,
    tcp_reset::TcpReset,
    tcp_retransmit::TcpRetransmit,
    tcp_state::TcpState,
    socket_error::SocketError,
    neighbour::Neighbour,
    icmp::Icmp,
    dns::Dns,
    socket_latency::SocketLatency,
    softirq::Softirq,
    tx_latency::TxLatency,
    rx_latency::RxLatency,
    qdisc::Qdisc,
    virtio_command::VirtioCommand,
    route::Route,
}
