//! What analyzers say has happened.
//!
//! In reading order: [`event`] is one event, in memory and as a line, of a [`severity`]; [`log`] keeps the
//! recent ones for all readers; [`throttle`] bounds what one plugin may emit; [`filter`] chooses what somebody wants to
//! see, and [`fold`] joins what several analyzers say of one packet.

pub mod event;
pub mod filter;
pub mod fold;
pub mod log;
pub mod severity;
pub mod throttle;
