//! Neighbours that do not answer, or answer for somebody else.

use std::net::UdpSocket;

use anyhow::{Result, ensure};

use super::{Case, FAULT, Ongoing, client, server, unanswered};
use crate::lab::counters::counter;
use crate::lab::{Family, Global, Held, Scene, faults};
use crate::wait;

pub const CASES: &[Case] = &[
    Case {
        name: "arp_fail",
        made: "connects to an address on the link that nobody has",
        expect: &[client("neighbour-unresolved")],
        run: |scene| {
            let nobody = scene.neighbour(99);
            let connecting = scene.connect(scene.client(), (nobody, 80).into())?;
            failed(scene)?;
            Ok(connecting)
        },
        ..FAULT
    },
    Case {
        name: "arp_queue_full",
        made: "fifty datagrams to such an address, and room for three while it is asked for",
        expect: &[client("neighbour-queue-full"), client("neighbour-unresolved")],
        ongoing: Ongoing::Again,
        run: |scene| {
            let ip = scene.by_family("ipv4", "ipv6");
            scene.client().sysctl(&format!("net/{ip}/neigh/eth0/unres_qlen"), "3")?;
            faults::send_udp(scene.client(), (scene.neighbour(98), 4242).into(), 50, 100)?;
            failed(scene)?;
            Ok(Box::new(()))
        },
        ..FAULT
    },
    Case {
        name: "arp_wrong_mac",
        made: "the client believes a wrong Ethernet address of the server",
        expect: &[server("wrong-destination-mac")],
        run: |scene| {
            let to = scene.server_ip();
            scene
                .client()
                .ip(&format!("neigh replace {to} lladdr 02:00:00:00:00:99 dev eth0 nud permanent"))?;
            unanswered(scene, scene.server_at(80))
        },
        ..FAULT
    },
    Case {
        name: "neighbour_table_full",
        made: "the table of neighbours holds two (global), and twenty are asked for",
        expect: &[client("neighbour-table-full")],
        ongoing: Ongoing::Again,
        run: full_table,
        ..FAULT
    },
];

/// Waits until three requests were in vain: three seconds, on any kernel.
fn failed(scene: &Scene) -> Result<()> {
    wait::until("the neighbour to fail", || {
        scene.client().ip("neigh show").ok()?.contains("FAILED").then_some(())
    })
}

/// The limit is one for all namespaces.
fn full_table(scene: &Scene) -> Result<Held> {
    let path = match scene.family {
        Family::V4 => "/proc/sys/net/ipv4/neigh/default/gc_thresh3",
        Family::V6 => "/proc/sys/net/ipv6/neigh/default/gc_thresh3",
    };
    let _limit = Global::set(path, "2")?;
    let refused = scene.client().run(|| {
        let socket = UdpSocket::bind((scene.client_ip(), 0))?;
        Ok((100..120).filter(|host| socket.send_to(b"x", (scene.neighbour(*host), 4242)).is_err()).count())
    })?;
    // Of a packet without a neighbour, IPv4 tells its sender nothing.
    let unsaid = counter(scene.client(), "UdpSndbufErrors")?;
    ensure!(refused > 0 || unsaid > 0, "there was room for all neighbours");
    Ok(Box::new(()))
}
