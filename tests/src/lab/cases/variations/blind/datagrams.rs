//! Datagrams that are damaged, cut or asked in vain.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, ensure};
use etherparse::{NetSlice, SlicedPacket};

use super::{gives_up_neighbour, sink};
use crate::lab::cases::{Case, FAULT, Ongoing, client, know_each_other, router, server};
use crate::lab::counters::counted;
use crate::lab::dns::{A, Resolver, Transport};
use crate::lab::{Held, Scene, Topology, faults, run};

pub const CASES: &[Case] = &[
    Case {
        name: "var_damaging_router",
        made: "the router changes a word of each datagram and leaves the checksum alone",
        topology: Topology::Routed,
        expect: &[server("checksum-error"), router("checksum-error")],
        ongoing: Ongoing::Again,
        run: |scene| {
            // A link that leaves checksums to its device has none that could be wrong.
            scene.client().run(|| run("ethtool", "-K eth0 tx off"))?;
            scene.router()?.nft(
                "add table inet lab; \
                 add chain inet lab through { type filter hook forward priority 0; }; \
                 add rule inet lab through udp dport 4242 @th,64,16 set 0xdead",
            )?;
            let sink = sink(scene.server(), scene.server_at(4242))?;
            faults::send_udp(scene.client(), sink.local_addr()?, 5, 100)?;
            // Whoever reads a datagram finds out.
            sink.set_read_timeout(Some(Duration::from_millis(300)))?;
            ensure!(sink.recv(&mut [0; 100]).is_err(), "a datagram arrived whole");
            counted(scene.server(), scene.by_family("UdpInCsumErrors", "Udp6InCsumErrors"), 5)?;
            Ok(Box::new(sink))
        },
        ..FAULT
    },
    Case {
        name: "var_first_resolver_gone",
        made: "a client asks two name servers in turn, of which the first does not exist any more",
        expect: &[client("neighbour-unresolved"), client("dns-timeout")],
        ongoing: Ongoing::Again,
        run: first_resolver_gone,
        ..FAULT
    },
    Case {
        name: "var_last_fragment_lost",
        made: "large datagrams over a cable that loses the last fragment of each",
        topology: Topology::Cabled,
        expect: &[server("reassembly-failure")],
        ongoing: Ongoing::Again,
        run: last_fragment_lost,
        ..FAULT
    },
];

fn first_resolver_gone(scene: &Scene) -> Result<Held> {
    let gone = SocketAddr::new(scene.neighbour(66), 53);
    let resolver = Resolver::start(&scene.pair)?;
    for id in 0..5_u8 {
        let socket = sink(scene.client(), (scene.client_ip(), 0).into())?;
        let mut query = vec![0x12, id, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        query.extend(b"\x03www\x07example\x00\x00\x01\x00\x01");
        socket.set_read_timeout(Some(Duration::from_millis(600)))?;
        // Once the neighbour is given up, that is what the socket says.
        let answer = socket.send_to(&query, gone).and_then(|_| socket.recv(&mut [0; 512]));
        ensure!(answer.is_err(), "there was a name server");
        resolver.ask(scene.family, Transport::Udp, "www.example", A)?;
    }
    gives_up_neighbour(scene.client())?;
    Ok(Box::new(()))
}

fn last_fragment_lost(scene: &Scene) -> Result<Held> {
    let setting = scene.by_family("net/ipv4/ipfrag_time", "net/ipv6/ip6frag_time");
    scene.server().sysctl(setting, "1")?;
    scene.carry(|_, packet| !is_last_fragment(packet))?;
    know_each_other(scene)?;
    let large = sink(scene.server(), scene.server_at(2049))?;
    faults::send_udp(scene.client(), large.local_addr()?, 5, 4000)?;
    counted(scene.server(), scene.by_family("IpReasmFails", "Ip6ReasmFails"), 5)?;
    Ok(Box::new(large))
}

/// All others are as large as the link allows.
fn is_last_fragment(packet: &SlicedPacket<'_>) -> bool {
    const FULL: usize = 1400;
    let payload = packet.net.as_ref().and_then(NetSlice::ip_payload_ref);
    payload.is_some_and(|payload| payload.fragmented && payload.payload.len() < FULL)
}
