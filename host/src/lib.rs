//! Inspector tells why the network failed. This library is the whole agent; `main.rs` only
//! starts its command line.
//!
//! Files are nouns, plain memory without I/O; folders are doors, each to one outside party:
//!
//! - [`batch`], [`table`]: what comes in: packed event records, kernel counter tables.
//! - [`entities`], [`names`], [`symbols`]: who is it, and what the running kernel calls things.
//! - [`advice`]: what the kernel's reasons mean to people.
//! - [`metrics`], [`declaration`], [`series`], [`family`]: what plugins count.
//! - [`events`], [`throttle`], [`event_line`]: what plugins say has happened.
//! - [`event_filter`], [`event_fold`], [`similar`]: what of it somebody wants to see, what of it is
//!   one fault, and which name is meant.
//! - [`question`], [`report`], [`needs`], [`blind_spots`], [`cluster`]: what users ask, what plugins
//!   conclude, what has to be seen for that, what could not be, and one answer of several nodes.
//! - [`selfmetrics`], [`exposition`], [`identity`], [`view`], [`escape`]: how all of it is shown.
//! - [`bell`], [`clock`], [`cause`]: how one thread waits for another, what time it is, why it failed.
//! - [`loss`], [`status`]: what did not get through, and the state of every part.
//! - [`probe`]: loads the eBPF programs and drains their rings (aya).
//! - [`privilege`]: what this process may do, for doors that are refused.
//! - [`netns`], [`watch`]: stands in a namespace, tells when a directory changed.
//! - [`source`]: reads counter tables in each namespace (/proc).
//! - [`discover`]: finds namespaces and their names.
//! - [`check`]: looks closer where a finding asks for it (netlink, nft, packet sockets).
//! - [`plugin`]: runs analyzers in their sandbox (wasmtime).
//! - [`trace`], [`tracefile`]: what `record` keeps and `replay` reads, and the file it is in.
//! - [`http`]: serves metrics, events and state (hyper).
//! - [`config`], [`address`]: the one configuration file (toml), and where servers are.
//! - [`agent`]: joins all of them in one loop.
//! - [`cli`]: the command line (clap).

pub mod address;
pub mod advice;
pub mod agent;
pub mod batch;
pub mod bell;
pub mod blind_spots;
pub mod cause;
pub mod check;
pub mod cli;
pub mod clock;
pub mod cluster;
pub mod config;
pub mod declaration;
pub mod discover;
pub mod entities;
pub mod escape;
pub mod event_filter;
pub mod event_fold;
pub mod event_line;
pub mod events;
pub mod exposition;
pub mod family;
pub mod http;
pub mod identity;
pub mod loss;
pub mod metrics;
pub mod names;
pub mod needs;
pub mod netns;
pub mod plugin;
pub mod privilege;
pub mod probe;
pub mod question;
pub mod report;
pub mod selfmetrics;
pub mod series;
pub mod similar;
pub mod source;
pub mod status;
pub mod symbols;
pub mod table;
pub mod throttle;
pub mod trace;
pub mod tracefile;
pub mod view;
pub mod watch;

/// Revision of the source that this was built from; `unknown` outside of a repository.
pub const REVISION: &str = env!("INSPECTOR_REVISION");
