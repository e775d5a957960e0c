//! A second exam that was written without a look at the rules: what wakes up those who run the nodes
//! of a cluster.
//!
//! - [`translated`]: addresses that somebody translates, and connections that somebody tracks;
//! - [`rules`]: what is told to drop, by whom nobody thinks of first;
//! - [`paths`]: routes, bridges and tunnels;
//! - [`processes`]: applications and their sockets;
//! - [`datagrams`]: what is damaged, cut or asked in vain.

pub mod datagrams;
pub mod paths;
pub mod processes;
pub mod rules;
pub mod translated;

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::lab::pair::{join, set_up};
use crate::lab::{Namespace, Scene, run};
use crate::wait;

/// Nothing here takes longer, unless it did not happen.
const PATIENCE: Duration = Duration::from_secs(10);

/// The address of a machine behind the server, on the client's link.
const MACHINE: u8 = 77;

/// A socket for datagrams.
fn sink(at: &Namespace, address: SocketAddr) -> Result<UdpSocket> {
    at.run(|| Ok(UdpSocket::bind(address)?))
}

/// Waits until the one rule of a host's nft that counts has matched so many packets.
fn matched(host: &Namespace, at_least: u64) -> Result<()> {
    reaches(at_least, "counter packets ", || host.run(|| run("nft", "list ruleset")))
}

/// Waits until the first queue of a link has dropped so many packets.
fn queue_dropped(host: &Namespace, link: &str, at_least: u64) -> Result<()> {
    reaches(at_least, "dropped ", || run("tc", &format!("-s -n {} qdisc show dev {link}", host.name())))
}

/// Waits until the number behind a word in what a tool shows is large enough.
fn reaches(at_least: u64, word: &str, show: impl Fn() -> Result<String>) -> Result<()> {
    let mut last: Option<u64> = None;
    let reached = wait::within(PATIENCE, word, || {
        let shown = show().ok()?;
        let (_, rest) = shown.split_once(word)?;
        last = rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok();
        (last? >= at_least).then_some(())
    });
    reached.with_context(|| format!("{last:?} instead of {at_least}"))
}

/// Waits until a host has given up a neighbour.
fn gives_up_neighbour(host: &Namespace) -> Result<()> {
    wait::within(PATIENCE, "the neighbour to fail", || {
        host.ip("neigh show").ok()?.contains("FAILED").then_some(())
    })
}

/// A virtual machine of the server, at whose bridge are both now: the server's address, and the
/// machine by way of `veth0`.
fn behind_bridge(scene: &Scene) -> Result<Namespace> {
    let (server, machine) = (scene.server(), Namespace::new("machine")?);
    server.ip("link add br0 type bridge")?;
    server.ip("addr flush dev eth0")?;
    server.ip("link set eth0 master br0")?;
    join(&machine, "eth0", server, "veth0")?;
    server.ip("link set veth0 addrgenmode none master br0 up")?;
    set_up(server, "br0", 0, 2)?;
    set_up(&machine, "eth0", 0, MACHINE)?;
    takes_part_in_ipv6(server)?;
    takes_part_in_ipv6(&machine)?;
    Ok(machine)
}

/// Waits for the route that a host's address has once its link takes part in IPv6.
fn takes_part_in_ipv6(host: &Namespace) -> Result<()> {
    wait::within(PATIENCE, "IPv6", || {
        host.ip("-6 route show proto kernel").ok()?.contains("fd00:").then_some(())
    })
}
