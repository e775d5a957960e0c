//! Healthy situations that look like trouble: resets, refusals, drops and retransmissions that
//! belong to the plan of whoever made them. None of them may give a warning.
//!
//! - [`clients`]: they check, race and change their minds;
//! - [`services`]: they start, wait and replace each other;
//! - [`datagrams`]: names, pings and announcements;
//! - [`networks`]: links, bridges, tunnels and routers that do their work.

pub mod clients;
pub mod datagrams;
pub mod networks;
pub mod services;
