//! Packets that are too big for the way.

use std::io::Write as _;
use std::net::UdpSocket;
use std::time::Duration;

use anyhow::Result;

use super::{Case, FAULT, Ongoing, client, router, server};
use crate::lab::counters::counted;
use crate::lab::sockets::{one_packet_per_segment, send_and_read};
use crate::lab::{Connection, Held, Scene, Topology};

/// Of the narrow link; IPv6 asks for 1280 at least.
const NARROW: &str = "1300";

const ROUTED: Case = Case { topology: Topology::Routed, ..FAULT };

pub const CASES: &[Case] = &[
    Case {
        name: "mtu_pmtud_ok",
        made: "an upload over a router whose second link is narrower, which it says",
        expect: &[router("packet-too-big").info()],
        ongoing: Ongoing::Never("a sender learns of the smaller MTU once, and then all is well"),
        run: |scene| {
            scene.router()?.ip(&format!("link set eth1 mtu {NARROW}"))?;
            let connection = Connection::open(&scene.pair, scene.family)?;
            send_and_read(&connection, 10, Duration::ZERO)?;
            counted(scene.router()?, too_big(scene), 1)?;
            Ok(Box::new(connection))
        },
        ..ROUTED
    },
    Case {
        name: "pmtu_blackhole_client",
        made: "the same, but the client's firewall drops the ICMP errors",
        expect: &[router("pmtu-blackhole"), client("pmtu-blackhole")],
        ongoing: Ongoing::Again,
        run: |scene| {
            let error = scene.by_family("icmp type destination-unreachable", "icmpv6 type packet-too-big");
            scene.client().nft(&format!(
                "add table inet lab; add chain inet lab in {{ type filter hook input priority 0; }}; \
                 add rule inet lab in {error} drop"
            ))?;
            black_hole(scene)
        },
        ..ROUTED
    },
    Case {
        name: "pmtu_blackhole_router",
        made: "the same, but the router's firewall drops the ICMP errors",
        expect: &[router("pmtu-blackhole")],
        ongoing: Ongoing::Again,
        run: |scene| {
            let error = scene.by_family("icmp type destination-unreachable", "icmpv6 type packet-too-big");
            scene.router()?.nft(&format!(
                "add table inet lab; add chain inet lab out {{ type filter hook output priority 0; }}; \
                 add rule inet lab out {error} drop"
            ))?;
            black_hole(scene)
        },
        ..ROUTED
    },
    Case {
        name: "mtu_veth_mismatch",
        made: "one end of the link takes 1300 bytes, the other sends 1500",
        expect: &[client("link-mtu-mismatch"), server("link-mtu-mismatch")],
        ongoing: Ongoing::Again,
        run: mismatch,
        ..FAULT
    },
];

/// Where the router counts them.
fn too_big(scene: &Scene) -> &'static str {
    scene.by_family("IpFragFails", "Ip6InTooBigErrors")
}

fn black_hole(scene: &Scene) -> Result<Held> {
    scene.router()?.ip(&format!("link set eth1 mtu {NARROW}"))?;
    let mut connection = Connection::open(&scene.pair, scene.family)?;
    connection.exchange(1, 1)?;
    connection.client.set_nonblocking(true)?;
    // Some of it fits into the buffers; none of it arrives.
    let _ = connection.client.write(&[0; 100_000])?;
    counted(scene.router()?, too_big(scene), 3)?;
    counted(scene.client(), "TcpRetransSegs", 2)?;
    Ok(Box::new(connection))
}

fn mismatch(scene: &Scene) -> Result<Held> {
    scene.server().ip(&format!("link set eth0 mtu {NARROW}"))?;
    // The server would ask for segments that fit; here it does not know.
    let route = scene.by_family("10.9.0.0/24 advmss 1460", "fd00:9::/64 metric 256 advmss 1440");
    scene.ip(scene.server(), &format!("route replace {route} dev eth0"))?;
    one_packet_per_segment(scene.client())?;
    let mut connection = Connection::open(&scene.pair, scene.family)?;
    connection.exchange(1, 1)?;
    connection.client.set_nonblocking(true)?;
    let _ = connection.client.write(&[0; 100_000])?;
    // The device refuses them at once, so they are tried again without being retransmissions.
    let large = scene.client().run(|| Ok(UdpSocket::bind((scene.client_ip(), 0))?))?;
    for _ in 0..5 {
        let _ = large.send_to(&[0; 1400], connection.server_at);
    }
    counted(scene.client(), "eth0 tx drop", 10)?;
    Ok(Box::new((connection, large)))
}
