//! Addresses that somebody translates, as for the services of a cluster.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

use crate::lab::cases::{
    BLIND, Case, ONGOING, Ongoing, UNSEEN, V4, VARIATION, client, know_each_other, router, server, unanswered,
};
use crate::lab::counters::counted;
use crate::lab::service::{Service, answer, ask_on};
use crate::lab::sockets::{PATIENCE, expect_refusal};
use crate::lab::{Family, Held, Namespace, Scene};

pub const CASES: &[Case] = &[
    Case {
        name: "var_redirected",
        made: "the server's nft redirects a port to one where nobody listens",
        expect: &[server("port-not-listening")],
        ongoing: Ongoing::Again,
        run: |scene| {
            scene.translate(scene.server(), "prerouting", "tcp dport 80 redirect to :9999")?;
            let to = scene.server_at(80);
            for _ in 0..3 {
                let refused = scene.client().run(|| Ok(TcpStream::connect(to)));
                ensure!(refused?.is_err(), "somebody listened");
            }
            Ok(Box::new(()))
        },
        ..VARIATION
    },
    Case {
        name: "var_dead_backend",
        made: "the router translates a service's address to a port of the server where nobody listens",
        expect: &[server("port-not-listening")],
        run: |scene| {
            serve_at(scene, scene.router()?, service(scene.family, 80), scene.server_at(8080))?;
            scene.refused(scene.client(), service(scene.family, 80))
        },
        ..UNSEEN.routed()
    },
    Case {
        name: "var_balancer_without_masquerade",
        made: "a third host sends a service's connections on to the server, which answers past it",
        // The client resets answers from an address that it never asked.
        expect: &[client("stale-connection"), client("tcp-invalid-segment"), client("peer-unresponsive")],
        run: answered_past_the_balancer,
        ..UNSEEN.bridged()
    },
    Case {
        name: "var_dead_sidecar",
        made: "the client's nft redirects what it sends to a local proxy that does not run",
        expect: &[client("port-not-listening")],
        run: |scene| {
            let listener = scene.listener()?;
            scene.translate(scene.client(), "output", "meta l4proto tcp redirect to :15001")?;
            let refused = scene.refused(scene.client(), listener.local_addr()?)?;
            Ok(Box::new((refused, listener)))
        },
        ..UNSEEN
    },
    Case {
        name: "var_hairpin",
        made: "a client comes back to itself through a service's address, and the router masquerades nothing",
        families: V4,
        expect: &[client("martian-source")],
        run: hairpin,
        ..BLIND.routed()
    },
    Case {
        name: "var_replaced_endpoint",
        made: "a service's endpoint moved to another port, and tracked datagrams still go to the old one",
        expect: &[server("port-not-listening"), router("stale-connection")],
        run: replaced,
        ..BLIND.routed()
    },
    Case {
        name: "var_loopback_host_port",
        made: "a port of the server is translated to its loopback address, which is closed to others",
        families: V4,
        expect: &[server("martian-source")],
        run: |scene| {
            let inside = scene.server().listen((Ipv4Addr::LOCALHOST, 0))?;
            let to = inside.local_addr()?;
            scene.translate(scene.server(), "prerouting", &format!("tcp dport 80 dnat to {to}"))?;
            Ok(Box::new((unanswered(scene, scene.server_at(80))?, inside)))
        },
        ..BLIND
    },
    Case {
        name: "ongoing_half_dead_service",
        made: "a router sends the connections of a service to two ports in turn; nobody listens at one",
        expect: &[server("port-not-listening")],
        run: half_dead,
        ..ONGOING.routed()
    },
    Case {
        name: "ongoing_dead_pod",
        made: "a router sends a service's connections to the address of a pod that is gone; clients wait 0.8 s",
        expect: &[router("neighbour-unresolved"), router("stale-translation")],
        run: dead_pod,
        ..ONGOING.routed()
    },
];

/// The address of a service: no host has it, and somebody on the way translates it.
pub fn service(family: Family, port: u16) -> SocketAddr {
    let ip: IpAddr = match family {
        Family::V4 => Ipv4Addr::new(10, 96, 0, 10).into(),
        Family::V6 => Ipv6Addr::new(0xfd00, 0x96, 0, 0, 0, 0, 0, 10).into(),
    };
    (ip, port).into()
}

/// Lets a host send to `to` what comes in for a service.
pub fn serve_at(scene: &Scene, at: &Namespace, service: SocketAddr, to: SocketAddr) -> Result<()> {
    let (ip, port, family) = (service.ip(), service.port(), scene.by_family("ip", "ip6"));
    scene.translate(at, "prerouting", &format!("{family} daddr {ip} tcp dport {port} dnat to {to}"))
}

fn answered_past_the_balancer(scene: &Scene) -> Result<Held> {
    let third = scene.third()?;
    third.forward()?;
    third.send_no_redirects()?;
    // A router that forwards asks for its neighbours from this address.
    third.ip("addr add fe80::3/64 dev eth0 nodad")?;
    know_each_other(scene)?;
    let listener = scene.listener()?;
    let balanced = (scene.neighbour(3), 80).into();
    serve_at(scene, third, balanced, listener.local_addr()?)?;
    let connecting = unanswered(scene, balanced)?;
    counted(scene.client(), "TcpOutRsts", 1)?;
    Ok(Box::new((connecting, listener)))
}

/// What comes in then has the client's own address as its source.
fn hairpin(scene: &Scene) -> Result<Held> {
    scene.router()?.send_no_redirects()?;
    let own = scene.client().listen((scene.client_ip(), 0))?;
    let front = (scene.neighbour(254), 5300).into();
    send_on(scene, "tcp", own.local_addr()?)?;
    Ok(Box::new((unanswered(scene, front)?, own)))
}

/// Lets the router send to `to` what comes in for a port of its own.
fn send_on(scene: &Scene, protocol: &str, to: SocketAddr) -> Result<()> {
    scene.translate(scene.router()?, "prerouting", &format!("{protocol} dport 5300 dnat to {to}"))
}

/// An entry in use outlives the rule that made it.
fn replaced(scene: &Scene) -> Result<Held> {
    let old = scene.server().udp(scene.server_at(5301))?;
    let new = scene.server().udp(scene.server_at(5302))?;
    send_on(scene, "udp", old.local_addr()?)?;
    let client = scene.client().udp((scene.client_ip(), 0))?;
    client.connect((scene.neighbour(254), 5300))?;
    client.send(b"?")?;
    let (_, from) = old.recv_from(&mut [0])?;
    old.send_to(b"!", from)?;
    client.recv(&mut [0])?;
    drop(old);
    send_on(scene, "udp", new.local_addr()?)?;
    let asking = scene.repeat(scene.client(), 3, move || {
        client.send(b"?")?;
        expect_refusal(&client)
    })?;
    Ok(Box::new((asking, new)))
}

/// Half of the requests are answered.
fn half_dead(scene: &Scene) -> Result<Held> {
    let service = Service::serve(scene.server().listen(scene.server_at(8080))?, answer)?;
    let (front, backend) = (scene.neighbour(254), scene.server_ip());
    let rule = format!("tcp dport 80 dnat to {backend} : numgen inc mod 2 map {{ 0 : 8080, 1 : 8081 }}");
    scene.translate(scene.router()?, "prerouting", &rule)?;
    let clients =
        scene.go_on(scene.client(), Duration::from_millis(100), move || match TcpStream::connect_timeout(
            &(front, 80).into(),
            PATIENCE,
        ) {
            Ok(stream) => {
                ask_on(&stream, PATIENCE)?;
                bail!("this one is well")
            }
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => Ok(()),
            Err(error) => Err(error).context("refused otherwise"),
        })?;
    scene.seen(8)?;
    Ok(Box::new((clients, service)))
}

fn dead_pod(scene: &Scene) -> Result<Held> {
    let (front, pod) = (scene.neighbour(254), scene.by_family("10.9.1.77", "fd00:9:0:1::77"));
    scene.translate(scene.router()?, "prerouting", &format!("tcp dport 80 dnat to {pod}"))?;
    let (patience, pause) = (Duration::from_millis(800), Duration::from_millis(200));
    let clients = scene.connect_in_vain(scene.client(), (front, 80).into(), patience, pause)?;
    scene.seen(4)?;
    Ok(clients)
}
