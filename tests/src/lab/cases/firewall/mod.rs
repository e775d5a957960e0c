//! Netfilter drops or refuses.
//!
//! - [`drops`]: netfilter drops what it has a rule for;
//! - [`hooks`]: netfilter drops at hooks, in families and by tables that nobody thinks of first;
//! - [`partly`]: netfilter drops some of it, or for a while;
//! - [`rejects`]: netfilter refuses.

pub mod drops;
pub mod hooks;
pub mod partly;
pub mod rejects;
