//! Faults that no rule was written for: known causes made in other ways, between more hosts, two
//! at once, or beside much healthy traffic.
//!
//! - [`walls`]: what is told to drop or refuse;
//! - [`hosts`]: applications and sockets;
//! - [`ways`]: links, routes and what travels on them;
//! - [`together`]: two at once, what heals, and what hits one of two;
//! - [`mixed`]: amid healthy traffic that looks like trouble, and of two hosts;
//! - [`unseen`], [`blind`]: all of these, written without a look at the rules.

pub mod blind;
pub mod hosts;
pub mod mixed;
pub mod together;
pub mod unseen;
pub mod walls;
pub mod ways;
