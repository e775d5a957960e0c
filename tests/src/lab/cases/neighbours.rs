//! Neighbours that do not answer, or answer for somebody else.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Result, ensure};
use nix::sys::socket::{setsockopt, sockopt};

use crate::lab::bridges::give_address;
use crate::lab::cases::{
    BLIND, Case, KNOWN, NOISE, ONGOING, Ongoing, Place, UNSEEN, V4, VARIATION, at, client, router, server,
    unanswered,
};
use crate::lab::counters::{counted, counter, neighbour_failed};
use crate::lab::{Held, Namespace, Scene, faults};

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
        ..KNOWN
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
        ..KNOWN
    },
    Case {
        name: "arp_wrong_mac",
        made: "the client believes a wrong Ethernet address of the server",
        expect: &[server("wrong-destination-mac")],
        run: |scene| {
            let to = scene.server_ip();
            scene.client().knows(to, "02:00:00:00:00:99")?;
            unanswered(scene, scene.server_at(80))
        },
        ..KNOWN
    },
    Case {
        name: "neighbour_table_full",
        made: "the table of neighbours holds two (global), and twenty are asked for",
        expect: &[client("neighbour-table-full")],
        ongoing: Ongoing::Again,
        run: full_table,
        ..KNOWN
    },
    Case {
        name: "var_switched_off",
        made: "a host of another net behind the router that is switched off",
        expect: &[router("neighbour-unresolved")],
        run: |scene| {
            let off = scene.by_family("10.9.1.77", "fd00:9:0:1::77");
            let connecting = scene.connect(scene.client(), (off.parse::<IpAddr>()?, 80).into())?;
            let said = scene.by_family("IcmpOutDestUnreachs", "Icmp6OutDestUnreachs");
            counted(scene.router()?, said, 1)?;
            Ok(connecting)
        },
        ..VARIATION.routed()
    },
    Case {
        name: "var_wide_netmask",
        made: "the client takes the server's net for its own link and asks for a neighbour",
        expect: &[client("neighbour-unresolved")],
        run: |scene| {
            let (own, narrow, wide) = (scene.client_ip(), scene.by_family(24, 64), scene.by_family(16, 48));
            scene.client().ip(&format!("addr del {own}/{narrow} dev eth0"))?;
            scene.client().ip(&format!("addr add {own}/{wide} dev eth0 nodad"))?;
            let connecting = scene.connect(scene.client(), scene.server_at(80))?;
            neighbour_failed(scene.client())?;
            Ok(connecting)
        },
        ..UNSEEN.routed()
    },
    Case {
        name: "var_dead_next_hop",
        made: "one of the client's two gateways is gone, and half of its connections with it",
        expect: &[client("neighbour-unresolved")],
        run: dead_next_hop,
        ..UNSEEN.routed()
    },
    Case {
        name: "var_replaced_machine",
        made: "the router has a static entry with the Ethernet address of the server's predecessor",
        expect: &[server("wrong-destination-mac"), router("wrong-destination-mac")],
        run: |scene| {
            let (of, mac) = (scene.server_ip(), "02:00:00:00:00:63");
            scene.router()?.ip(&format!("neigh replace {of} lladdr {mac} dev eth1 nud permanent"))?;
            unanswered(scene, scene.server_at(80))
        },
        ..UNSEEN.routed()
    },
    Case {
        name: "var_macvlan_host",
        made: "the server connects to its own container, which has a macvlan of the server's link",
        expect: &[server("neighbour-unresolved")],
        run: macvlan,
        ..BLIND
    },
    Case {
        name: "var_nobody_and_slow_reader",
        made: "a third host asks for a neighbour that is not there, while the client's datagrams find no room at the server",
        expect: &[at(Place::Third, "neighbour-unresolved"), server("socket-receive-buffer-full")],
        also: &[at(Place::Third, "neighbour-unresolved"), server("socket-receive-buffer-full")],
        run: nobody_and_slow_reader,
        ..NOISE.bridged()
    },
    Case {
        name: "var_address_of_two",
        made: "a third host on the bridge has the server's address and no server",
        families: V4,
        expect: &[at(Place::Third, "port-not-listening"), at(Place::Third, "stale-connection")],
        run: |scene| {
            let listener = scene.listener()?;
            // The client asks for the way while the server cannot answer yet.
            scene.server().ip("link set eth0 arp off")?;
            scene.third()?.ip(&format!("addr add {}/24 dev eth0", scene.server_ip()))?;
            let refused = scene.refused(scene.client(), listener.local_addr()?)?;
            Ok(Box::new((refused, listener)))
        },
        ..VARIATION.bridged()
    },
    Case {
        name: "ongoing_gone_neighbour",
        made: "clients that wait for 1.2 s for an address on the link that nobody has",
        expect: &[client("neighbour-unresolved")],
        run: |scene| {
            let (patience, pause) = (Duration::from_millis(1200), Duration::from_millis(300));
            let gone = (scene.neighbour(99), 5432).into();
            let clients = scene.connect_in_vain(scene.client(), gone, patience, pause)?;
            scene.seen(3)?;
            Ok(clients)
        },
        ..ONGOING
    },
    Case {
        name: "ongoing_gone_neighbour_checked",
        made: "the same with checks that wait for 0.3 s, every two seconds",
        expect: &[client("neighbour-unresolved")],
        run: |scene| {
            let (patience, pause) = (Duration::from_millis(300), Duration::from_millis(1700));
            let gone = (scene.neighbour(98), 8080).into();
            let clients = scene.connect_in_vain(scene.client(), gone, patience, pause)?;
            scene.seen(3)?;
            Ok(clients)
        },
        ..ONGOING
    },
];

/// Waits until three requests were in vain: three seconds, on any kernel.
fn failed(scene: &Scene) -> Result<()> {
    neighbour_failed(scene.client())
}

fn full_table(scene: &Scene) -> Result<Held> {
    let refused = faults::fill_neighbour_table(&scene.pair, scene.family)?;
    // Of a packet without a neighbour, IPv4 tells its sender nothing.
    let unsaid = counter(scene.client(), "UdpSndbufErrors")?;
    ensure!(refused > 0 || unsaid > 0, "there was room for all neighbours");
    Ok(Box::new(()))
}

/// Which gateway a connection takes depends on its port.
fn dead_next_hop(scene: &Scene) -> Result<Held> {
    let by_port = scene.by_family("net/ipv4/fib_multipath_hash_policy", "net/ipv6/fib_multipath_hash_policy");
    scene.client().sysctl(by_port, "1")?;
    let (alive, gone) = (scene.neighbour(254), scene.neighbour(250));
    scene.ip(scene.client(), "route del default")?;
    scene.ip(scene.client(), &format!("route add default nexthop via {alive} nexthop via {gone}"))?;
    let listener = scene.listener()?;
    let to = listener.local_addr()?;
    let serving = listener.try_clone()?;
    // Those that find the way are not kept waiting.
    std::thread::spawn(move || while serving.accept().is_ok() {});
    let all = (0..16).map(|_| scene.connect(scene.client(), to)).collect::<Result<Vec<_>>>()?;
    counted(scene.server(), "TcpPassiveOpens", 1)?;
    neighbour_failed(scene.client())?;
    Ok(Box::new((all, listener)))
}

/// Everybody on the link reaches the container, but not the host that it runs on.
fn macvlan(scene: &Scene) -> Result<Held> {
    let (server, container) = (scene.server(), Namespace::new("container")?);
    server.ip(&format!("link add mv0 link eth0 netns {} type macvlan mode bridge", container.name()))?;
    give_address(&container, "mv0")?;
    let listener = container.listen((scene.machine_ip(), 0))?;
    let to = listener.local_addr()?;
    let visitor = scene.client().connect(to)?;
    let connecting = scene.connect(server, to)?;
    neighbour_failed(server)?;
    Ok(Box::new((visitor, connecting, listener, container)))
}

fn nobody_and_slow_reader(scene: &Scene) -> Result<Held> {
    let third = scene.third()?;
    let connecting = scene.connect(third, (scene.neighbour(66), 5432).into())?;
    let reader = scene.receiver()?;
    setsockopt(&reader, sockopt::RcvBuf, &8192)?;
    faults::send_udp_evenly(scene.client(), reader.local_addr()?, 500, 2, |sent| sent < 500)?;
    counted(scene.server(), scene.by_family("UdpRcvbufErrors", "Udp6RcvbufErrors"), 300)?;
    neighbour_failed(third)?;
    Ok(Box::new((connecting, reader)))
}
