//! Bridges at the server, as hosts of virtual machines and containers have them.

use std::net::IpAddr;

use anyhow::Result;

use super::pair::{join, set_up};
use super::{Namespace, Scene};
use crate::wait;

/// Number of that address.
const MACHINE: u8 = 77;

impl Scene {
    /// The address of a machine or a container at the server, on the client's link.
    pub fn machine_ip(&self) -> IpAddr {
        self.neighbour(MACHINE)
    }
}

/// Moves the addresses of the server to a bridge of its own with `eth0` as its port.
///
/// # Errors
/// If `ip` fails.
pub fn put_on_bridge(server: &Namespace, settings: &str) -> Result<()> {
    server.ip(&format!("link add br0 type bridge {settings}"))?;
    server.ip("addr flush dev eth0")?;
    server.ip("link set eth0 master br0")?;
    set_up(server, "br0", 0, 2)
}

/// A virtual machine of the server, at whose bridge are both now: the server's address, and the
/// machine by way of `veth0`.
///
/// # Errors
/// If `ip` fails.
pub fn machine_behind(scene: &Scene) -> Result<Namespace> {
    let (server, machine) = (scene.server(), Namespace::new("machine")?);
    put_on_bridge(server, "")?;
    join(&machine, "eth0", server, "veth0")?;
    server.ip("link set veth0 addrgenmode none master br0 up")?;
    give_address(&machine, "eth0")?;
    takes_part_in_ipv6(server)?;
    Ok(machine)
}

/// Gives a link of a machine or a container at the server its address, and waits until it works.
///
/// # Errors
/// If there is no such link.
pub fn give_address(machine: &Namespace, link: &str) -> Result<()> {
    set_up(machine, link, 0, MACHINE)?;
    takes_part_in_ipv6(machine)
}

/// Waits for the route that a host's address has once its link takes part in IPv6.
fn takes_part_in_ipv6(host: &Namespace) -> Result<()> {
    wait::until("IPv6", || host.ip("-6 route show proto kernel").ok()?.contains("fd00:").then_some(()))
}
