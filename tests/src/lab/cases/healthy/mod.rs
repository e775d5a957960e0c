//! Healthy situations that look like trouble: resets, refusals, drops and retransmissions that
//! belong to the plan of whoever made them. None of them may give a warning.
//!
//! - [`connections`]: connections that are opened, used, kept and closed;
//! - [`clients`]: clients that check, race and change their minds;
//! - [`services`]: services that start, wait and replace each other;
//! - [`names`]: names that are looked for;
//! - [`datagrams`]: pings, announcements, and datagrams in large numbers or pieces;
//! - [`networks`]: bridges, tunnels and routers that do their work;
//! - [`transfers`]: transfers with small mishaps that TCP is made for;
//! - [`operators`]: what operators and switches do while everything is well;
//! - [`pods`]: pods that come and go, and clients that keep connections to them;
//! - [`watchers`]: who looks whether somebody is there, and what a firewall keeps out for good reasons.

pub mod clients;
pub mod connections;
pub mod datagrams;
pub mod names;
pub mod networks;
pub mod operators;
pub mod pods;
pub mod services;
pub mod transfers;
pub mod watchers;
