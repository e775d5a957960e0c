//! Joins all adapters: the only place that knows which part feeds which.
//!
//! Data flows one way, in frames ([`crate::frame`]). What gives them is `node`, the kernel of this machine
//! with its probes, namespaces and counter tables, or the file of a recording. What takes them is
//! `analysis`, the analyzers with their series and events, or a recording. So [`serve`] is a node and an
//! analysis, [`record`] a node and a file, [`replay`] a file and an analysis; [`once`] is an agent without
//! servers that answers one question. `diagnoser` answers questions, `confirm` looks closer for them, and
//! `pod_events` asks them by itself, for Kubernetes.
//!
//! Each part that waits for something has a thread in `threads`; nothing here runs per event but
//! handing a batch on.

mod analysis;
mod api_server;
mod confirm;
mod diagnoser;
mod findings;
mod gaps;
mod host_ports;
mod known;
pub mod memory;
mod minute;
mod namespaces;
mod node;
mod on_demand;
pub mod once;
mod options;
mod pod_events;
pub mod record;
pub mod replay;
mod running;
pub mod serve;
mod sinks;
mod tables;
mod threads;
