//! Connections that somebody tracks.

use std::io::Write as _;
use std::net::IpAddr;
use std::thread::sleep;
use std::time::Duration;

use anyhow::Result;

use crate::lab::cases::translation::serve_at;
use crate::lab::cases::{
    BLIND, Case, KNOWN, Ongoing, Place, UNSEEN, VARIATION, at, know_each_other, router, server,
};
use crate::lab::counters::{counted, matched, reaches};
use crate::lab::sockets::expect_reset;
use crate::lab::{Connection, Global, Held, Scene, faults, run};

pub const CASES: &[Case] = &[
    Case {
        name: "conntrack_full",
        made: "the connection-tracking table holds four entries (global), and ten more connect",
        expect: &[server("conntrack-full")],
        run: full_table,
        ..KNOWN
    },
    Case {
        name: "var_strict_tracking",
        made: "the server's firewall begins to track strictly and drops what it saw no beginning of",
        expect: &[server("firewall-drop")],
        ongoing: Ongoing::ByItself,
        run: |scene| {
            let mut connection = Connection::open(&scene.pair, scene.family)?;
            connection.exchange(100, 100)?;
            scene.server().filter("input", "ct state invalid drop")?;
            scene.server().sysctl("net/netfilter/nf_conntrack_tcp_loose", "0")?;
            connection.client.write_all(b"still there?")?;
            counted(scene.client(), "TcpExtTCPTimeouts", 2)?;
            Ok(Box::new(connection))
        },
        ..VARIATION
    },
    Case {
        name: "var_one_way_tracking",
        made: "a third host forwards one direction only, and its firewall drops what it takes for invalid",
        expect: &[at(Place::Third, "firewall-drop")],
        ongoing: Ongoing::ByItself,
        run: one_way,
        ..BLIND.bridged()
    },
    Case {
        name: "var_translation_forgotten",
        made: "the router forgets the translation of a connection in use and resets it",
        expect: &[router("stale-connection")],
        ongoing: Ongoing::Never("the translation of a connection is forgotten once"),
        run: forgotten,
        ..UNSEEN.routed()
    },
    Case {
        name: "var_nat_ports_used_up",
        made: "the router may hide its clients behind two ports, both in use, and five more connect",
        expect: &[router("local-port-exhaustion"), router("conntrack-full"), router("firewall-drop")],
        run: used_up,
        ..UNSEEN.routed()
    },
    Case {
        name: "var_idle_translation",
        made: "the router's translation of an idle connection expires, and the next one has another port",
        expect: &[router("stale-connection"), server("stale-connection")],
        ongoing: Ongoing::Again,
        run: idle,
        ..BLIND.routed()
    },
];

/// Confirmed connections give way to nobody; the maximum is that of the machine.
fn full_table(scene: &Scene) -> Result<Held> {
    faults::track_connections(scene.server())?;
    let open = (0..5).map(|_| Connection::open(&scene.pair, scene.family)).collect::<Result<Vec<_>>>()?;
    let maximum = Global::set("/proc/sys/net/netfilter/nf_conntrack_max", "4")?;
    let to = open[0].server_at;
    let late = (0..10).map(|_| scene.connect(scene.client(), to)).collect::<Result<Vec<_>>>()?;
    scene.in_vain(scene.client(), 3)?;
    Ok(Box::new((late, open, maximum)))
}

/// The server answers the client past the third host, which so sees an acknowledgement of nothing.
fn one_way(scene: &Scene) -> Result<Held> {
    let third = scene.third()?;
    third.forward()?;
    third.send_no_redirects()?;
    // A router that forwards asks for its neighbours from this address.
    third.ip("addr add fe80::3/64 dev eth0 nodad")?;
    third.filter("forward", "ct state invalid counter drop")?;
    // That of IPv6 cannot be silenced, so the client does not listen.
    scene.client().sysctl("net/ipv6/conf/eth0/accept_redirects", "0")?;
    know_each_other(scene)?;
    let only = format!("{}/{}", scene.server_ip(), scene.by_family(32, 128));
    scene.client().ip(&format!("route add {only} via {}", scene.neighbour(3)))?;
    let listener = scene.listener()?;
    let to = listener.local_addr()?;
    let mut client = scene.client().connect(to)?;
    client.write_all(b"is this the way?")?;
    counted(scene.client(), "TcpExtTCPTimeouts", 2)?;
    reaches(3, || matched(third))?;
    Ok(Box::new((client, listener)))
}

/// What has no translation any more is for the router itself, which knows no such connection.
fn forgotten(scene: &Scene) -> Result<Held> {
    let listener = scene.listener()?;
    let front: IpAddr = scene.neighbour(254);
    serve_at(scene, scene.router()?, (front, 80).into(), listener.local_addr()?)?;
    scene.router()?.sysctl("net/netfilter/nf_conntrack_tcp_loose", "0")?;
    let client = scene.client().connect((front, 80))?;
    let (server, client_at) = listener.accept()?;
    let mut connection = Connection { client, server, client_at, server_at: (front, 80).into() };
    connection.exchange(1, 0)?;
    scene.router()?.run(|| run("conntrack", "-F"))?;
    connection.client.write_all(b"!")?;
    expect_reset(&connection.client)?;
    Ok(Box::new(connection))
}

fn used_up(scene: &Scene) -> Result<Held> {
    let rule = "oifname \"eth1\" meta l4proto tcp masquerade to :40000-40001";
    scene.translate(scene.router()?, "postrouting", rule)?;
    let listener = scene.listener()?;
    let to = listener.local_addr()?;
    let open = (0..2).map(|_| scene.client().connect(to));
    let open = open.collect::<Result<Vec<_>>>()?;
    let late = (0..5).map(|_| scene.connect(scene.client(), to)).collect::<Result<Vec<_>>>()?;
    scene.in_vain(scene.client(), 5)?;
    Ok(Box::new((late, open, listener)))
}

fn idle(scene: &Scene) -> Result<Held> {
    let router = scene.router()?;
    router.sysctl("net/netfilter/nf_conntrack_tcp_timeout_established", "1")?;
    scene.translate(router, "postrouting", "oifname \"eth1\" masquerade random")?;
    let mut connection = Connection::open(&scene.pair, scene.family)?;
    connection.exchange(1, 0)?;
    sleep(Duration::from_millis(2200));
    connection.client.write_all(b"!")?;
    expect_reset(&connection.client)?;
    Ok(Box::new(connection))
}
