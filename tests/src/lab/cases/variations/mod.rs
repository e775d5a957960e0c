//! Faults that no rule was written for: known causes made in other ways, between more hosts, two
//! at once, or beside much healthy traffic.
//!
//! - [`walls`]: what is told to drop or refuse;
//! - [`hosts`]: applications and sockets;
//! - [`ways`]: links, routes and what travels on them;
//! - [`unseen`]: all of these, written without a look at the rules.

pub mod hosts;
pub mod unseen;
pub mod walls;
pub mod ways;
