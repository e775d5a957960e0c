//! What the author of an analyzer imports. `README.md` beside it builds one from nothing.
//!
//! - [`analyzer`]: the trait to implement, and [`export!`], which turns the implementer into a component.
//! - [`describe`]: what an analyzer says about itself: probes, metrics, events, sources.
//! - [`batch`], [`source`]: what comes in: typed events without a copy, kernel counter tables.
//! - [`metrics`], [`labels`], [`event`], [`log`](mod@log): what goes out.
//! - [`flow`], [`kernel`], [`entities`]: names of addresses, drop reasons and pods.
//! - [`protocol`], [`tcp`], [`icmp`], [`errno`]: numbers of protocols, states and errors, with their names.
//! - [`probes::drop_reason`]: what a drop reason means, and which drops nobody misses.
//! - [`budget`], [`totals`], [`map`]: a limit on detailed events per entity; sums for metrics without a
//!   type; a fast map with a fixed order.
//! - [`instance`], [`export`](mod@export), [`bindings`]: the seam to the host; authors do not see it.
//! - [`testing`]: runs an analyzer natively, under `cargo test` and in benches.
//!
//! What must stay true: no host call per event and none per metric update. Series are interned
//! once, and updates and events leave in one call each when a hook returns.

pub mod analyzer;
pub mod batch;
#[doc(hidden)]
pub mod bindings;
pub mod budget;
pub mod describe;
pub mod entities;
pub mod errno;
pub mod event;
#[doc(hidden)]
pub mod export;
pub mod flow;
mod host;
pub mod icmp;
#[doc(hidden)]
pub mod instance;
pub mod kernel;
pub mod labels;
pub mod log;
pub mod map;
pub mod metrics;
pub mod protocol;
mod series;
pub mod source;
pub mod tcp;
#[cfg(not(target_arch = "wasm32"))]
pub mod testing;
pub mod totals;

pub use analyzer::Analyzer;
pub use batch::Batch;
pub use bindings::exports::inspector::analyzer::guest::{Description, InitArgs, ProbeInfo};
pub use bindings::inspector::analyzer::events::Event;
pub use bindings::inspector::analyzer::manifest::MetricDecl;
pub use bindings::inspector::analyzer::types::{EntityId, Error, Timestamp};
pub use event::{Severity, attr};
pub use inspector_ebpf as probes;

/// Compiles the analyzer in the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
