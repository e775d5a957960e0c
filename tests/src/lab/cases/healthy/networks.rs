//! Bridges, tunnels and routers that do their work.

use std::net::Shutdown;
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::lab::cases::{Case, KNOWN, NOISE, know_each_other};
use crate::lab::counters::{counted, counter};
use crate::lab::pair::{address, join};
use crate::lab::sockets::{PATIENCE, allow_hops, send_and_read};
use crate::lab::{Connection, Family, Held, Namespace, Scene, faults, run};
use crate::wait;

pub const CASES: &[Case] = &[
    Case {
        name: "baseline_discovery",
        made: "a link that comes up with IPv6's own addresses, duplicate detection and solicitations",
        families: &[Family::V6],
        run: discovery,
        ..KNOWN
    },
    Case {
        name: "baseline_traceroute",
        made: "somebody asks for the way with datagrams of few hops, to ports where nobody listens",
        run: traceroute,
        ..NOISE.routed()
    },
    Case {
        name: "baseline_flooding",
        made: "a bridge sends datagrams for a host that never says anything to everybody",
        run: flooding,
        ..NOISE.bridged()
    },
    Case {
        name: "baseline_container",
        made: "a container at the server starts, with IPv6's detections and solicitations, and ends",
        run: container,
        ..NOISE
    },
    Case {
        name: "baseline_tunnel",
        made: "a VXLAN between client and server, whose links leave room for its headers",
        run: tunnel,
        ..NOISE
    },
    Case {
        name: "baseline_service_address",
        made: "a router that translates a service's address and hides its clients behind its own",
        run: service_address,
        ..NOISE.routed()
    },
    Case {
        name: "baseline_redirected",
        made: "a router on the same link (the third host) tells the client of the shorter way",
        run: redirected,
        ..NOISE.bridged()
    },
];

fn discovery(scene: &Scene) -> Result<Held> {
    for (host, at) in [(1, scene.client()), (2, scene.server())] {
        at.sysctl("net/ipv6/conf/eth0/dad_transmits", "1")?;
        at.ip("link set eth0 down")?;
        at.ip("link set eth0 addrgenmode eui64")?;
        at.ip("link set eth0 up")?;
        // IPv6 addresses go with the link.
        at.ip(&format!("addr replace fd00:9::{host}/64 dev eth0"))?;
    }
    wait::until("duplicate detection to be over", || {
        let addresses = [scene.client(), scene.server()].map(|at| at.ip("-6 addr show dev eth0").ok());
        let settled = |shown: &str| shown.contains("fe80::") && !shown.contains("tentative");
        addresses.iter().flatten().filter(|shown| settled(shown)).nth(1).map(drop)
    })?;
    let mut connection = Connection::open(&scene.pair, scene.family)?;
    connection.exchange(1000, 1000)?;
    connection.close()?;
    Ok(Box::new(()))
}

/// As traceroute(8) does: three datagrams for each number of hops, each to the next port.
fn traceroute(scene: &Scene) -> Result<Held> {
    const FIRST_PORT: u16 = 33_434;
    let socket = scene.sender()?;
    for probe in 0..6_u16 {
        let hops = i32::from(probe / 3 + 1);
        allow_hops(&socket, hops)?;
        socket.send_to(&[0; 32], scene.server_at(FIRST_PORT + probe))?;
        std::thread::sleep(Duration::from_millis(50));
    }
    let (expired, reached) = scene.by_family(
        ("IcmpOutTimeExcds", "IcmpOutDestUnreachs"),
        ("Icmp6OutTimeExcds", "Icmp6OutDestUnreachs"),
    );
    counted(scene.router()?, expired, 1)?;
    counted(scene.server(), reached, 1)?;
    Ok(Box::new(socket))
}

/// The third host has taken an Ethernet address that the bridge does not know, and only listens.
fn flooding(scene: &Scene) -> Result<Held> {
    const SILENT: &str = "02:00:00:00:00:33";
    const SENT: u64 = 100;
    let ip = scene.neighbour(3);
    let third = scene.third()?;
    let reader = third.udp((ip, 0))?;
    third.ip("link set eth0 address 02:00:00:00:00:33")?;
    scene.client().knows(ip, SILENT)?;
    know_each_other(scene)?;
    let before = counter(scene.server(), "eth0 rx bytes")?;
    faults::send_udp_evenly(scene.client(), reader.local_addr()?, 500, 1, |sent| sent < SENT)?;
    for _ in 0..SENT {
        reader.recv(&mut [0; 100])?;
    }
    let flooded = counter(scene.server(), "eth0 rx bytes")? - before;
    ensure!(flooded > SENT * 40, "only {flooded} bytes came to the server as well");
    Ok(Box::new(reader))
}

fn container(scene: &Scene) -> Result<Held> {
    const NET: u8 = 9;
    let container = Namespace::new("container")?;
    join(&container, "eth0", scene.server(), "veth0")?;
    for (at, link, host) in [(scene.server(), "veth0", 1), (&container, "eth0", 2)] {
        at.sysctl(&format!("net/ipv6/conf/{link}/dad_transmits"), "1")?;
        at.ip(&format!("addr add {}/24 dev {link}", address(Family::V4, NET, host)))?;
        at.ip(&format!("link set {link} up"))?;
        at.ip(&format!("addr add {}/64 dev {link}", address(Family::V6, NET, host)))?;
    }
    wait::within(PATIENCE, "duplicate detection to be over", || {
        let shown = [scene.server(), &container].map(|at| at.ip("-6 addr show").unwrap_or_default());
        let settled = |shown: &String| shown.contains("fe80::") && !shown.contains("tentative");
        shown.iter().all(settled).then_some(())
    })?;
    counted(&container, "Icmp6OutRouterSolicits", 1)?;
    let accepting = container.listen((address(scene.family, NET, 2), 0))?;
    for _ in 0..20 {
        let mut connection = Connection::to(scene.server(), &accepting)?;
        connection.exchange(200, 2000)?;
        connection.close()?;
    }
    // What holds it open goes first, and its link goes with it.
    drop(accepting);
    drop(container);
    wait::within(PATIENCE, "the end of the link", || scene.server().ip("link show veth0").err())?;
    Ok(Box::new(()))
}

fn tunnel(scene: &Scene) -> Result<Held> {
    const NET: u8 = 77;
    // The room that the headers take: Ethernet, VXLAN and UDP, and IP.
    let mtu = 1500 - 14 - 8 - 8 - scene.family.header_bytes();
    let (client, server) = (scene.client_ip(), scene.server_ip());
    for (at, local) in [(scene.client(), client), (scene.server(), server)] {
        at.ip(&format!("link add vx0 type vxlan id 77 local {local} dstport 4789"))?;
        at.ip(&format!("link set vx0 addrgenmode none mtu {mtu} up"))?;
    }
    // A link that comes up says which groups its host is in, to which the other end must be there.
    for (at, remote, host) in [(scene.client(), server, 1), (scene.server(), client, 2)] {
        run("bridge", &format!("-n {} fdb append 00:00:00:00:00:00 dev vx0 dst {remote}", at.name()))?;
        at.ip(&format!("addr add {}/24 dev vx0", address(Family::V4, NET, host)))?;
        at.ip(&format!("addr add {}/64 dev vx0 nodad", address(Family::V6, NET, host)))?;
    }
    for inside in Family::BOTH {
        let accepting = scene.server().listen((address(inside, NET, 2), 0))?;
        let connection = Connection::to(scene.client(), &accepting)?;
        send_and_read(&connection, 100, Duration::ZERO)?;
        connection.close()?;
    }
    let refused = scene.by_family("IcmpOutDestUnreachs", "Icmp6OutDestUnreachs");
    for at in [scene.client(), scene.server()] {
        ensure!(counter(at, refused)? == 0, "{} refused what came for the tunnel", at.name());
    }
    let carried = counter(scene.server(), "vx0 rx bytes")?;
    ensure!(carried > 4_000_000, "the tunnel carried {carried} bytes");
    Ok(Box::new(()))
}

fn service_address(scene: &Scene) -> Result<Held> {
    let accepting = scene.listener()?;
    let (service, behind) = (scene.neighbour(254), address(scene.family, 1, 254));
    let rule = format!("tcp dport 80 dnat to {}", accepting.local_addr()?);
    scene.translate(scene.router()?, "prerouting", &rule)?;
    scene.translate(scene.router()?, "postrouting", "oifname \"eth1\" masquerade")?;
    for n in 0..50 {
        let client = scene.client().connect((service, 80))?;
        let (server, from) = accepting.accept()?;
        ensure!(from.ip() == behind, "{from} is not the router");
        let server_at = server.local_addr()?;
        let mut connection = Connection { client_at: client.local_addr()?, client, server, server_at };
        connection.exchange(300, 3000)?;
        if n % 2 == 0 {
            connection.server.shutdown(Shutdown::Write)?;
        }
        connection.close()?;
    }
    Ok(Box::new(accepting))
}

fn redirected(scene: &Scene) -> Result<Held> {
    let (router, net, ip) = (scene.third()?, scene.beyond_net(), scene.beyond().ip());
    router.forward()?;
    // The address from which a router speaks of ways, and by which its clients must know it.
    router.ip("addr add fe80::3/64 dev eth0 nodad")?;
    router.ip(&format!("route add {net} dev eth0"))?;
    scene.server().ip(&format!("addr add {ip}/{} dev eth0 nodad", scene.by_family(32, 128)))?;
    let via = scene.by_family("10.9.0.3", "fe80::3");
    scene.ip(scene.client(), &format!("route add {net} via {via} dev eth0"))?;
    let accepting = scene.server().listen((ip, 0))?;
    for _ in 0..30 {
        let mut connection = Connection::to(scene.client(), &accepting)?;
        connection.exchange(300, 2000)?;
        connection.close()?;
    }
    counted(router, scene.by_family("IcmpOutRedirects", "Icmp6OutRedirects"), 1)?;
    Ok(Box::new(accepting))
}
