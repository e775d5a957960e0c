//! Inspector tells why the network failed. This library is the whole agent; `main.rs` only
//! starts its command line.
//!
//! The **core** is plain memory without I/O, in the order in which data comes through it:
//!
//! - [`kernel`]: event records and counter tables as the kernel delivers them, and its names.
//! - [`entities`]: whose network it is: pods, namespaces, the host. [`pods`]: what is known of a pod.
//!   [`peers`]: who is at the other end.
//! - [`series`]: what analyzers count. [`events`]: what they say has happened.
//! - [`answers`]: questions, reports, and what could not be seen.
//! - [`loss`], [`status`]: what did not get through, and the state of every part.
//! - [`view`]: all of it as it is shown from outside.
//! - [`frame`]: what adapters give and take; [`trace`]: the same as a recording keeps it.
//! - [`config`]: the one configuration file (toml), and where servers are.
//! - [`notify`], [`clock`], [`text`]: waking a thread, what time it is, words for people.
//!
//! Each **adapter** is a folder that talks to one outside party:
//!
//! - [`probe`]: loads the eBPF programs and reads their rings (aya).
//! - [`source`]: reads counter tables in each namespace (/proc, netlink).
//! - [`discover`]: finds namespaces and their names.
//! - [`check`]: looks closer where a finding asks for it (netlink, nft, packet sockets).
//! - [`netns`], [`privilege`], [`watch`]: enters a namespace, says what this process may do, notices
//!   that a directory changed.
//! - [`plugin`]: runs analyzers in their sandbox (wasmtime).
//! - [`tracefile`]: reads and writes the file of a recording.
//! - [`http`]: serves metrics, events and state, and asks such servers (hyper).
//! - [`sink`]: sends events elsewhere: to Loki, a file, standard error (reqwest, prost, snap).
//! - [`kubernetes`]: follows this node's pods and writes Events on them, and finds the agents of a cluster and
//!   connects to them, through the API server (kube).
//!
//! [`agent`] joins them, and [`cli`] is the command line (clap).

pub mod agent;
pub mod answers;
pub mod check;
pub mod cli;
pub mod clock;
pub mod config;
pub mod discover;
pub mod entities;
pub mod events;
pub mod frame;
pub mod http;
pub mod kernel;
pub mod kubernetes;
pub mod loss;
pub mod netns;
pub mod notify;
pub mod peers;
pub mod plugin;
pub mod pods;
pub mod privilege;
pub mod probe;
pub mod series;
pub mod sink;
pub mod source;
pub mod status;
pub mod text;
pub mod trace;
pub mod tracefile;
pub mod view;
pub mod watch;

/// Revision of the source that this was built from; `unknown` outside of a repository.
pub const REVISION: &str = env!("INSPECTOR_REVISION");
