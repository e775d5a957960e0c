//! Healthy situations that look like trouble: resets, refusals, drops and retransmissions that
//! belong to the plan of whoever made them. None of them may give a warning.
//!
//! - [`services`]: clients and servers that start, check, cancel and replace each other;
//! - [`datagrams`]: names, pings and announcements;
//! - [`networks`]: links, bridges, tunnels and routers that do their work.

pub mod datagrams;
pub mod networks;
pub mod services;
