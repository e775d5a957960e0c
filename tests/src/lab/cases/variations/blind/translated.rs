//! Addresses that somebody translates, and connections that somebody tracks.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Result, bail, ensure};

use super::{PATIENCE, matched, sink};
use crate::lab::cases::{
    Case, FAULT, Ongoing, Place, V4, at, client, know_each_other, router, server, unanswered,
};
use crate::lab::counters::counted;
use crate::lab::sockets::listener;
use crate::lab::{Connection, Held, Namespace, Scene, Topology};

const ROUTED: Case = Case { topology: Topology::Routed, ..FAULT };

pub const CASES: &[Case] = &[
    Case {
        name: "var_hairpin",
        made: "a client comes back to itself through a service's address, and the router masquerades nothing",
        families: V4,
        expect: &[client("martian-source")],
        run: hairpin,
        ..ROUTED
    },
    Case {
        name: "var_idle_translation",
        made: "the router's translation of an idle connection expires, and the next one has another port",
        expect: &[router("stale-connection"), server("stale-connection")],
        ongoing: Ongoing::Again,
        run: idle,
        ..ROUTED
    },
    Case {
        name: "var_replaced_endpoint",
        made: "a service's endpoint moved to another port, and tracked datagrams still go to the old one",
        expect: &[server("port-not-listening"), router("stale-connection")],
        ongoing: Ongoing::Again,
        run: replaced,
        ..ROUTED
    },
    Case {
        name: "var_one_way_tracking",
        made: "a third host forwards one direction only, and its firewall drops what it takes for invalid",
        topology: Topology::Bridged,
        expect: &[at(Place::Third, "firewall-drop")],
        ongoing: Ongoing::ByItself,
        run: one_way,
        ..FAULT
    },
    Case {
        name: "var_loopback_host_port",
        made: "a port of the server is translated to its loopback address, which is closed to others",
        families: V4,
        expect: &[server("martian-source")],
        run: |scene| {
            let inside = listener(scene.server(), Ipv4Addr::LOCALHOST.into())?;
            scene.server().nft(&format!(
                "add table ip lab; add chain ip lab pre {{ type nat hook prerouting priority -100; }}; \
                 add rule ip lab pre tcp dport 80 dnat to {}",
                inside.local_addr()?
            ))?;
            Ok(Box::new((unanswered(scene, scene.server_at(80))?, inside)))
        },
        ..FAULT
    },
    Case {
        name: "var_sessions_cut",
        made: "the router's firewall gets a rule that resets a service's connections, which are in use",
        expect: &[router("firewall-reject")],
        ongoing: Ongoing::Never("connections that were open before the rule are cut once"),
        run: cut,
        ..ROUTED
    },
];

/// Lets the router send to `to` what comes in for a port of its own.
fn translate(scene: &Scene, protocol: &str, to: SocketAddr) -> Result<SocketAddr> {
    let (front, family) = ((scene.neighbour(254), 5300).into(), scene.by_family("ip", "ip6"));
    scene.router()?.nft(&format!(
        "add table {family} lab; \
         add chain {family} lab pre {{ type nat hook prerouting priority -100; }}; \
         flush chain {family} lab pre; \
         add rule {family} lab pre {protocol} dport 5300 dnat to {to}"
    ))?;
    Ok(front)
}

/// A router that sends no redirects.
fn tells_of_no_shorter_way(router: &Namespace) -> Result<()> {
    router.sysctl("net/ipv4/conf/all/send_redirects", "0")?;
    router.sysctl("net/ipv4/conf/eth0/send_redirects", "0")
}

/// What comes in then has the client's own address as its source.
fn hairpin(scene: &Scene) -> Result<Held> {
    tells_of_no_shorter_way(scene.router()?)?;
    let own = listener(scene.client(), scene.client_ip())?;
    let front = translate(scene, "tcp", own.local_addr()?)?;
    Ok(Box::new((unanswered(scene, front)?, own)))
}

fn is_reset(mut stream: &TcpStream) -> Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    match stream.read(&mut [0]) {
        Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(()),
        other => bail!("expected a reset, got {other:?}"),
    }
}

fn idle(scene: &Scene) -> Result<Held> {
    let (router, family) = (scene.router()?, scene.by_family("ip", "ip6"));
    router.sysctl("net/netfilter/nf_conntrack_tcp_timeout_established", "1")?;
    router.nft(&format!(
        "add table {family} lab; \
         add chain {family} lab post {{ type nat hook postrouting priority 100; }}; \
         add rule {family} lab post oifname \"eth1\" masquerade random"
    ))?;
    let listener = listener(scene.server(), scene.server_ip())?;
    let to = listener.local_addr()?;
    let mut client = scene.client().run(|| Ok(TcpStream::connect(to)?))?;
    let (mut server, _) = listener.accept()?;
    client.write_all(b"?")?;
    server.read_exact(&mut [0])?;
    sleep(Duration::from_millis(2200));
    client.write_all(b"!")?;
    is_reset(&client)?;
    Ok(Box::new((client, server, listener)))
}

/// An entry in use outlives the rule that made it.
fn replaced(scene: &Scene) -> Result<Held> {
    let old = sink(scene.server(), scene.server_at(5301))?;
    let new = sink(scene.server(), scene.server_at(5302))?;
    let front = translate(scene, "udp", old.local_addr()?)?;
    let client = sink(scene.client(), (scene.client_ip(), 0).into())?;
    client.connect(front)?;
    for socket in [&client, &old] {
        socket.set_read_timeout(Some(PATIENCE))?;
    }
    client.send(b"?")?;
    let (_, from) = old.recv_from(&mut [0])?;
    old.send_to(b"!", from)?;
    client.recv(&mut [0])?;
    drop(old);
    translate(scene, "udp", new.local_addr()?)?;
    for _ in 0..3 {
        client.send(b"?")?;
        let answer = client.recv(&mut [0]);
        let refused = answer.as_ref().is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused);
        ensure!(refused, "expected to be refused, got {answer:?}");
    }
    Ok(Box::new((client, new)))
}

/// The server answers the client past the third host, which so sees an acknowledgement of nothing.
fn one_way(scene: &Scene) -> Result<Held> {
    let third = scene.third()?;
    third.sysctl("net/ipv4/ip_forward", "1")?;
    third.sysctl("net/ipv6/conf/all/forwarding", "1")?;
    tells_of_no_shorter_way(third)?;
    // A router that forwards asks for its neighbours from this address.
    third.ip("addr add fe80::3/64 dev eth0 nodad")?;
    third.nft(
        "add table inet lab; add chain inet lab through { type filter hook forward priority 0; }; \
         add rule inet lab through ct state invalid counter drop",
    )?;
    // That of IPv6 cannot be silenced, so the client does not listen.
    scene.client().sysctl("net/ipv6/conf/eth0/accept_redirects", "0")?;
    know_each_other(scene)?;
    let only = format!("{}/{}", scene.server_ip(), scene.by_family(32, 128));
    scene.client().ip(&format!("route add {only} via {}", scene.neighbour(3)))?;
    let listener = listener(scene.server(), scene.server_ip())?;
    let to = listener.local_addr()?;
    let mut client = scene.client().run(|| Ok(TcpStream::connect(to)?))?;
    client.write_all(b"is this the way?")?;
    counted(scene.client(), "TcpExtTCPTimeouts", 2)?;
    matched(third, 3)?;
    Ok(Box::new((client, listener)))
}

fn cut(scene: &Scene) -> Result<Held> {
    let mut open = (0..3).map(|_| Connection::open(&scene.pair, scene.family)).collect::<Result<Vec<_>>>()?;
    open.iter_mut().try_for_each(|connection| connection.exchange(500, 500))?;
    scene.router()?.nft(
        "add table inet lab; add chain inet lab through { type filter hook forward priority 0; }; \
         add rule inet lab through meta l4proto tcp counter reject with tcp reset",
    )?;
    for connection in &mut open {
        connection.client.write_all(b"and on we go")?;
        is_reset(&connection.client)?;
    }
    matched(scene.router()?, 3)?;
    Ok(Box::new(open))
}
