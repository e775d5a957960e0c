//! Links and tunnels.

use std::io::Write as _;
use std::net::UdpSocket;

use anyhow::{Result, ensure};
use nix::libc;

use super::{Case, FAULT, Ongoing, client, server};
use crate::lab::counters::{counted, counter};
use crate::lab::sockets::set_option;
use crate::lab::wire::Wire;
use crate::lab::{Connection, Held, Scene, Topology};

/// The port of VXLAN.
const VXLAN: u16 = 4789;

pub const CASES: &[Case] = &[
    Case {
        name: "veth_down_peer",
        made: "the server's end of the link goes down while a connection is in use",
        expect: &[client("link-down"), server("link-down")],
        ongoing: Ongoing::ByItself,
        run: |scene| {
            let mut connection = Connection::open(&scene.pair, scene.family)?;
            connection.exchange(1, 1)?;
            let patience: u32 = 3000;
            set_option(&connection.client, libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT, &patience)?;
            scene.server().ip("link set eth0 down")?;
            connection.client.write_all(b"hello?")?;
            counted(scene.client(), "TcpExtTCPTimeouts", 2)?;
            Ok(Box::new(connection))
        },
        ..FAULT
    },
    Case {
        name: "vxlan_bad_vni",
        made: "tunnel packets of a network that the server does not have, and a bad header",
        expect: &[server("overlay-misconfigured")],
        run: foreign_tunnel,
        ..FAULT
    },
    Case {
        name: "device_queue_full",
        made: "a device that takes no packets from its queue",
        topology: Topology::Cabled,
        expect: &[client("device-queue-full")],
        run: stuck_device,
        ..FAULT
    },
];

fn foreign_tunnel(scene: &Scene) -> Result<Held> {
    let own = scene.server_ip();
    scene.server().ip(&format!("link add vx0 type vxlan id 42 local {own} dstport {VXLAN}"))?;
    scene.server().ip("link set vx0 addrgenmode none up")?;
    let arrivals = scene.by_family("IpInDelivers", "Ip6InDelivers");
    let before = counter(scene.server(), arrivals)?;
    let socket = scene.client().run(|| Ok(UdpSocket::bind((scene.client_ip(), 0))?))?;
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

/// Nobody reads the other end of this device, so its ring of two packets is soon full.
fn stuck_device(scene: &Scene) -> Result<Held> {
    let stuck = Wire::tap(scene.client(), "stuck0")?;
    scene.client().ip("link set stuck0 txqueuelen 2 addrgenmode none up")?;
    scene.client().ip("route add 10.8.0.0/24 dev stuck0")?;
    scene.client().ip("route add fd00:8::/64 dev stuck0")?;
    let to = scene.by_family("10.8.0.1", "fd00:8::1");
    scene.client().ip(&format!("neigh add {to} lladdr 02:00:00:00:00:01 dev stuck0 nud permanent"))?;
    let socket = scene.client().run(|| Ok(UdpSocket::bind((scene.client_ip(), 0))?))?;
    let sender = scene.repeat(scene.client(), 1, move || {
        // A full queue may be told to the sender.
        (0..100).for_each(|_| drop(socket.send_to(&[0; 100], (to, 4242))));
        Ok(())
    })?;
    counted(scene.client(), "stuck0 tx drop", 50)?;
    Ok(Box::new((sender, stuck)))
}
