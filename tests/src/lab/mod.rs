//! A kernel lab: real packets between network namespaces of our own.
//!
//! - [`Namespace`]: one named namespace, and code run inside of it.
//! - [`Pair`]: a client and a server with a veth link, IPv4 and IPv6.
//! - [`faults`]: what goes wrong in the tests, one function per fault.
//! - [`Global`]: settings of the whole machine, for a moment.
//! - [`dns`]: a small DNS server and its client.
//! - [`delays`]: what takes its time in the tests.
//! - [`wire`], [`puppet`]: frames, and a TCP peer, that we write ourselves.
//! - [`pods`]: real pods, from a containerd of our own.
//! - [`record()`]: a fault, recorded by the product.
//! - [`Connection`]: an established TCP connection between two namespaces.
//!
//! Nothing touches the host's own namespace. Names carry the process id, so that parallel runs do
//! not meet, and what a killed run left behind is removed by the next one.

mod connection;
pub mod delays;
pub mod dns;
pub mod faults;
mod global;
mod namespace;
mod pair;
pub mod pods;
pub mod puppet;
mod record;
mod tool;
pub mod wire;

pub use connection::Connection;
pub use global::{Global, end_in_order};
pub use namespace::{Namespace, cookie_here};
pub use pair::{Family, Pair};
pub use record::record;
pub use tool::{feed, run};
