//! Healthy situations that look like trouble: resets, refusals, drops and retransmissions that
//! belong to the plan of whoever made them. None of them may give a warning.
//!
//! - [`clients`]: they check, race and change their minds;
//! - [`services`]: they start, wait and replace each other;
//! - [`datagrams`]: names, pings and announcements;
//! - [`networks`]: links, bridges, tunnels and routers that do their work;
//! - [`pods`]: they come and go under clients that keep connections;
//! - [`transfers`]: small mishaps that TCP is made for;
//! - [`exchanges`]: datagrams that change their way, come in pieces, or race;
//! - [`watchers`]: checks, scans, and what a firewall keeps out;
//! - [`operators`]: changes under load, and what switches and routers say.

pub mod clients;
pub mod datagrams;
pub mod exchanges;
pub mod networks;
pub mod operators;
pub mod pods;
pub mod services;
pub mod transfers;
pub mod watchers;
