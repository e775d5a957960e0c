//! Tunnels whose ends disagree.

use std::net::SocketAddr;

use anyhow::{Result, ensure};

use crate::lab::cases::{BLIND, Case, KNOWN, Place, UNSEEN, at, client, know_each_other, server, unanswered};
use crate::lab::counters::{behind, counted, counter, reaches};
use crate::lab::{Held, Scene, run};

/// The port of VXLAN.
const VXLAN: u16 = 4789;

/// The server inside the tunnel of client and server.
pub const INSIDE: &str = "192.168.7.2";

pub const CASES: &[Case] = &[
    Case {
        name: "vxlan_bad_vni",
        made: "tunnel packets of a network that the server does not have, and a bad header",
        expect: &[server("overlay-misconfigured")],
        run: foreign_tunnel,
        ..KNOWN
    },
    Case {
        name: "var_overlay_wrong_port",
        made: "client and server disagree about the port of their VXLAN",
        expect: &[server("overlay-misconfigured"), server("port-not-listening")],
        run: |scene| {
            tunnel(scene, 8472, 4789, 1430)?;
            let sender = scene.datagrams((INSIDE.parse::<std::net::IpAddr>()?, 4242).into(), 3, 100)?;
            counted(scene.server(), scene.by_family("UdpNoPorts", "Udp6NoPorts"), 3)?;
            Ok(sender)
        },
        ..UNSEEN
    },
    Case {
        name: "var_moved_in_overlay",
        made: "the client's overlay still sends to the node that a pod has left, which is in the overlay too",
        expect: &[
            at(Place::Third, "wrong-destination-mac"),
            at(Place::Third, "overlay-misconfigured"),
            client("overlay-misconfigured"),
        ],
        run: moved_in_overlay,
        ..BLIND.bridged()
    },
];

fn foreign_tunnel(scene: &Scene) -> Result<Held> {
    let own = scene.server_ip();
    scene.server().ip(&format!("link add vx0 type vxlan id 42 local {own} dstport {VXLAN}"))?;
    scene.server().ip("link set vx0 addrgenmode none up")?;
    let arrivals = scene.by_family("IpInDelivers", "Ip6InDelivers");
    let before = counter(scene.server(), arrivals)?;
    let socket = scene.sender()?;
    let sender = scene.repeat(scene.client(), 1, move || {
        for (flags, network) in [(0x08, 43), (0x08, 43), (0x00, 42)] {
            let mut packet = vec![flags, 0, 0, 0, 0, 0, network, 0];
            packet.extend([0xff; 6]);
            packet.extend([2, 0, 0, 0, 0, 1, 0x08, 0x06]);
            packet.extend([0; 28]);
            socket.send_to(&packet, (own, VXLAN))?;
        }
        Ok(())
    })?;
    counted(scene.server(), arrivals, before + 3)?;
    ensure!(counter(scene.server(), "vx0 rx bytes")? == 0, "the tunnel took a foreign packet");
    let nobody = scene.by_family("UdpNoPorts", "Udp6NoPorts");
    ensure!(counter(scene.server(), nobody)? == 0, "there is no tunnel");
    Ok(sender)
}

/// A VXLAN between client and server, each with its idea of the port.
pub fn tunnel(scene: &Scene, client_port: u16, server_port: u16, mtu: u16) -> Result<()> {
    let (client, server) = (scene.client_ip(), scene.server_ip());
    let whole = scene.by_family("df set", "");
    for (host, own, other, port, inside) in [
        (scene.client(), client, server, client_port, "192.168.7.1"),
        (scene.server(), server, client, server_port, INSIDE),
    ] {
        let ends = format!("local {own} remote {other} dstport {port} {whole}");
        host.ip(&format!("link add vx0 mtu {mtu} type vxlan id 7 {ends}"))?;
        host.ip(&format!("addr add {inside}/24 dev vx0"))?;
        host.ip("link set vx0 addrgenmode none")?;
    }
    // Not before both are there: an end that is up says so to the other.
    scene.server().ip("link set vx0 up")?;
    scene.client().ip("link set vx0 up").map(drop)
}

/// Each host has an end of one VXLAN; the pod's address is that of the server's.
fn moved_in_overlay(scene: &Scene) -> Result<Held> {
    const POD: &str = "192.168.7.2";
    const POD_MAC: &str = "02:00:00:00:07:02";
    let (client, left) = (scene.client(), scene.third()?);
    for (number, host, own) in [
        (1, client, scene.client_ip()),
        (2, scene.server(), scene.server_ip()),
        (3, left, scene.neighbour(3)),
    ] {
        let ends = format!("id 7 local {own} dstport 8472 nolearning");
        host.ip(&format!("link add vx0 address 02:00:00:00:07:0{number} type vxlan {ends}"))?;
        // An end that nobody has told of others could send its solicitations nowhere.
        host.sysctl("net/ipv6/conf/vx0/disable_ipv6", "1")?;
        host.ip(&format!("addr add 192.168.7.{number}/24 dev vx0"))?;
        host.ip("link set vx0 up")?;
    }
    know_each_other(scene)?;
    client.ip(&format!("neigh add {POD} lladdr {POD_MAC} dev vx0 nud permanent"))?;
    run("bridge", &format!("-n {} fdb add {POD_MAC} dev vx0 dst {}", client.name(), scene.neighbour(3)))?;
    let pod: SocketAddr = format!("{POD}:8080").parse()?;
    let listener = scene.server().listen(pod)?;
    let connecting = unanswered(scene, pod)?;
    reaches(1, || behind("\"otherhost\":", &left.ip("-s -s -j link show vx0")?))?;
    Ok(Box::new((connecting, listener)))
}
