//! A kernel lab: real packets between network namespaces of our own.
//!
//! - [`Namespace`]: one named namespace, and code run inside of it.
//! - [`Pair`]: a client and a server with a veth link, IPv4 and IPv6.
//! - [`Scene`]: a pair, also with a router, a bridge or a [`userspace_link`] between its hosts.
//! - [`Pace`]: whether the clients of a scene try once, or go on while somebody asks.
//! - [`cases`]: faults with the conclusion that they call for, and healthy traffic that calls for none.
//! - [`faults`]: what goes wrong in the tests, one function per fault.
//! - [`Global`]: settings of the whole machine, for a moment.
//! - [`dns`]: a small DNS server and its client.
//! - [`gateway`]: a small HTTP gateway and its upstream.
//! - [`delays`]: what takes its time in the tests.
//! - [`raw_socket`], [`injector`], [`scripted_peer`]: frames, and a TCP peer, that we write ourselves.
//! - [`background`]: healthy traffic beside a fault.
//! - [`sockets`]: what tests do with sockets again and again.
//! - [`kube_proxy`]: the rules by which a Kubernetes node routes to a Service.
//! - [`pods`]: real pods, from a containerd of our own.
//! - [`Actor`], [`Cgroup`], [`bpf`]: processes to be stopped or limited, and programs that drop.
//! - [`counters`]: what the kernel counted, as the proof that a fault happened.
//! - [`record()`]: a fault, recorded by the product.
//! - [`Connection`]: an established TCP connection between two namespaces.
//!
//! Nothing touches the host's own namespace. Names carry the process id, so that parallel runs do
//! not meet, and what a killed run left behind is removed by the next one.

mod actor;
pub mod background;
pub mod bpf;
pub mod bridges;
pub mod cases;
mod cgroup;
mod clients;
mod connection;
pub mod counters;
pub mod delays;
pub mod dns;
pub mod faults;
pub mod gateway;
mod global;
pub mod injector;
pub mod kube_proxy;
mod namespace;
pub mod network_plugin;
mod pair;
pub mod pods;
pub mod raw_socket;
mod record;
mod scene;
pub mod scripted_peer;
pub mod service;
pub mod sockets;
mod tool;
pub mod userspace_link;

pub use actor::Actor;
pub use cgroup::Cgroup;
pub use clients::{Pace, SEEN};
pub use connection::Connection;
pub use global::{Global, end_in_order};
pub use namespace::{Namespace, cookie_here, stream_socket};
pub use pair::{Family, Pair};
pub use record::record;
pub use scene::{Held, Scene, Topology};
pub use tool::{feed, run};
