//! An exam that was written without a look at the rules: what happens to people in production,
//! made with tools and at places that no other case uses.
//!
//! - [`services`]: addresses that somebody translates, as for services of a cluster;
//! - [`filters`]: what is told to drop or refuse, off the beaten track;
//! - [`paths`]: routes, neighbours and tunnels;
//! - [`programs`]: applications and their sockets;
//! - [`names`]: name servers.

pub mod filters;
pub mod names;
pub mod paths;
pub mod programs;
pub mod services;

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use anyhow::{Result, bail};

use crate::lab::{Family, Namespace, Scene, run};
use crate::wait;

/// The address of a service: no host has it, and somebody on the way translates it.
fn service(family: Family, port: u16) -> SocketAddr {
    let ip: IpAddr = match family {
        Family::V4 => Ipv4Addr::new(10, 96, 0, 10).into(),
        Family::V6 => Ipv6Addr::new(0xfd00, 0x96, 0, 0, 0, 0, 0, 10).into(),
    };
    (ip, port).into()
}

/// Runs `iptables` or `ip6tables` of a kind, `nft` or `legacy`.
fn iptables(scene: &Scene, at: &Namespace, kind: &str, rule: &str) -> Result<()> {
    let program = format!("{}-{kind}", scene.by_family("iptables", "ip6tables"));
    at.run(|| run(&program, &format!("-w 5 {rule}")).map(drop))
}

/// A socket for datagrams at the server.
fn sink(scene: &Scene, port: u16) -> Result<UdpSocket> {
    scene.server().run(|| Ok(UdpSocket::bind(scene.server_at(port))?))
}

/// The proof that datagrams were lost: what was sent could have arrived by now.
fn got_nothing(socket: &UdpSocket) -> Result<()> {
    socket.set_nonblocking(true)?;
    match socket.recv(&mut [0]) {
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(()),
        other => bail!("something arrived: {other:?}"),
    }
}

/// Waits until a host has given up a neighbour.
fn gives_up_neighbour(host: &Namespace) -> Result<()> {
    wait::until("the neighbour to fail", || host.ip("neigh show").ok()?.contains("FAILED").then_some(()))
}

/// Moves the addresses of the server to a bridge of its own with `eth0` as its port, as hosts of
/// virtual machines and containers have it.
fn put_on_bridge(server: &Namespace, settings: &str) -> Result<()> {
    server.ip(&format!("link add br0 type bridge {settings}"))?;
    server.ip("addr flush dev eth0")?;
    server.ip("link set eth0 master br0")?;
    crate::lab::pair::set_up(server, "br0", 0, 2)
}
