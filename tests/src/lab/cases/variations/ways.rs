//! Links and routes that fail in other ways.

use std::net::{IpAddr, UdpSocket};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Error, Result, ensure};
use etherparse::EtherType;
use nix::libc;
use nix::sys::socket::{setsockopt, sockopt};

use crate::lab::cable::tcp;
use crate::lab::cases::routes::{beyond, fails_at_once, net};
use crate::lab::cases::{
    Case, FAULT, Ongoing, Place, V4, at, client, know_each_other, router, server, unanswered,
};
use crate::lab::counters::{counted, counter};
use crate::lab::injector::Injector;
use crate::lab::sockets::send_and_read;
use crate::lab::{Connection, Held, Scene, Topology};
use crate::wait;

const ROUTED: Case = Case { topology: Topology::Routed, ..FAULT };

pub const CASES: &[Case] = &[
    Case {
        name: "var_rule_prohibits",
        made: "a routing rule of the client, not a route, prohibits a net",
        expect: &[client("route-blocked")],
        run: |scene| {
            scene.ip(scene.client(), &format!("rule add to {} prohibit", net(scene.family)))?;
            fails_at_once(scene, libc::EACCES)
        },
        ..FAULT
    },
    Case {
        name: "var_routing_loop",
        made: "router and server each send packets for a net to the other",
        expect: &[router("ttl-exceeded"), server("ttl-exceeded")],
        run: |scene| {
            scene.router()?.ip(&format!("route add {} via {}", net(scene.family), scene.server_ip()))?;
            let forwards = scene.by_family("net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding");
            scene.server().sysctl(forwards, "1")?;
            // A router that forwards asks for its neighbours from this address.
            scene.server().ip("addr add fe80::2/64 dev eth0 nodad")?;
            let sender = scene.datagrams(beyond(scene.family), 5, 100)?;
            let said = scene.by_family("IcmpOutTimeExcds", "Icmp6OutTimeExcds");
            let either = || Ok::<_, Error>(counter(scene.router()?, said)? + counter(scene.server(), said)?);
            wait::until("the last hop", || (either().ok()? > 0).then_some(()))?;
            Ok(sender)
        },
        ..ROUTED
    },
    Case {
        name: "var_router_link_down",
        made: "the router's link to the server goes down while a connection is in use",
        expect: &[router("link-down"), router("route-missing"), server("link-down")],
        ongoing: Ongoing::ByItself,
        run: |scene| {
            let mut connection = Connection::open(&scene.pair, scene.family)?;
            connection.exchange(100, 100)?;
            scene.router()?.ip("link set eth1 down")?;
            std::io::Write::write_all(&mut connection.client, b"hello?")?;
            counted(scene.client(), "TcpExtTCPTimeouts", 2)?;
            Ok(Box::new(connection))
        },
        ..ROUTED
    },
    Case {
        name: "var_lossy_way_back",
        made: "a cable that loses every second acknowledgement and every tenth segment of a download",
        topology: Topology::Cabled,
        expect: &[server("tcp-loss"), client("tcp-loss")],
        ongoing: Ongoing::Again,
        run: lossy_download,
        ..FAULT
    },
    Case {
        name: "var_htb_full",
        made: "the client's htb class has room for two packets at 1 Mbit/s",
        expect: &[client("qdisc-drop")],
        run: full_class,
        ..FAULT
    },
    Case {
        name: "var_wrong_vlan",
        made: "frames of a VLAN that the server does not have",
        families: V4,
        expect: &[server("wrong-destination-mac"), server("malformed-packet")],
        ongoing: Ongoing::Again,
        run: |scene| {
            know_each_other(scene)?;
            let through = Injector::new(&scene.pair)?;
            let before = counter(scene.server(), "eth0 rx bytes")?;
            // Tag 42, then an IPv4 header for the server.
            let mut tagged = vec![0, 42, 0x08, 0x00];
            tagged.extend([0x45, 0, 0, 20, 0, 0, 0, 0, 64, 17, 0x66, 0xb5, 10, 9, 0, 1, 10, 9, 0, 2]);
            (0..5).try_for_each(|_| through.frame(through.server, EtherType(0x8100), &tagged))?;
            ensure!(counter(scene.server(), "eth0 rx bytes")? > before, "nothing arrived");
            Ok(Box::new(()))
        },
        ..FAULT
    },
    Case {
        name: "var_narrow_server",
        made: "the server's own link is narrow, and large datagrams that may not be cut come for it",
        topology: Topology::Routed,
        expect: &[
            client("link-mtu-mismatch"),
            router("link-mtu-mismatch"),
            server("link-mtu-mismatch"),
            router("packet-too-big").info(),
        ],
        run: |scene| {
            scene.server().ip("link set eth0 mtu 1300")?;
            let sink = scene.server().run(|| Ok(UdpSocket::bind((scene.server_ip(), 0))?))?;
            let sender = scene.datagrams(sink.local_addr()?, 20, 1400)?;
            counted(scene.router()?, "eth1 tx drop", 10)?;
            Ok(Box::new((sender, sink)))
        },
        ..FAULT
    },
    Case {
        name: "var_address_of_two",
        made: "a third host on the bridge has the server's address and no server",
        topology: Topology::Bridged,
        families: V4,
        expect: &[at(Place::Third, "port-not-listening"), at(Place::Third, "stale-connection")],
        run: |scene| {
            let listener = crate::lab::sockets::listener(scene.server(), scene.server_ip())?;
            // The client asks for the way while the server cannot answer yet.
            scene.server().ip("link set eth0 arp off")?;
            scene.third()?.ip(&format!("addr add {}/24 dev eth0", scene.server_ip()))?;
            let refused = scene.refused(scene.client(), listener.local_addr()?)?;
            Ok(Box::new((refused, listener)))
        },
        ..FAULT
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
        ..ROUTED
    },
    Case {
        name: "var_default_blackhole",
        made: "the client's default route is a blackhole",
        expect: &[client("route-blocked")],
        run: |scene| {
            let default = scene.by_family("0.0.0.0/0", "::/0");
            scene.client().ip(&format!("route add blackhole {default}"))?;
            fails_at_once(scene, libc::EINVAL)
        },
        ..FAULT
    },
    Case {
        name: "var_no_way_back",
        made: "the server has no way back to the client",
        expect: &[server("route-missing")],
        run: |scene| {
            let listener = crate::lab::sockets::listener(scene.server(), scene.server_ip())?;
            know_each_other(scene)?;
            scene.ip(scene.server(), "route del default")?;
            Ok(Box::new((unanswered(scene, listener.local_addr()?)?, listener)))
        },
        ..ROUTED
    },
];

fn lossy_download(scene: &Scene) -> Result<Held> {
    let (acknowledgements, segments) = (AtomicU32::new(0), AtomicU32::new(0));
    scene.carry(move |_, packet| {
        let Some(segment) = tcp(packet).filter(|segment| !segment.syn()) else { return true };
        if segment.payload().is_empty() {
            acknowledgements.fetch_add(1, Ordering::Relaxed) % 2 == 0
        } else {
            segments.fetch_add(1, Ordering::Relaxed) % 10 != 9
        }
    })?;
    let Connection { client, server, client_at, server_at } = Connection::open(&scene.pair, scene.family)?;
    // The server uploads to the client.
    let turned = Connection { client: server, server: client, client_at: server_at, server_at: client_at };
    send_and_read(&turned, 20, Duration::ZERO)?;
    counted(scene.server(), "TcpRetransSegs", 10)?;
    Ok(Box::new(turned))
}

fn full_class(scene: &Scene) -> Result<Held> {
    let sink = scene.server().run(|| Ok(UdpSocket::bind((scene.server_ip(), 0))?))?;
    let to = sink.local_addr()?;
    for command in [
        "qdisc add dev eth0 root handle 1: htb default 1",
        "class add dev eth0 parent 1: classid 1:1 htb rate 1mbit burst 2k cburst 2k",
        "qdisc add dev eth0 parent 1:1 handle 10: pfifo limit 2",
    ] {
        scene.client().tc(command)?;
    }
    let socket = scene.client().run(|| Ok(UdpSocket::bind((scene.client_ip(), 0))?))?;
    setsockopt(&socket, sockopt::SndBuf, &(1 << 20))?;
    let sender = scene.repeat(scene.client(), 1, move || {
        // What is dropped is told to the sender, which is no surprise here.
        (0..100).for_each(|_| drop(socket.send_to(&[0; 1000], to)));
        Ok(())
    })?;
    counted(scene.client(), scene.by_family("IpOutDiscards", "Ip6OutDiscards"), 50)?;
    Ok(Box::new((sender, sink)))
}
