//! Addresses that somebody translates.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};

use anyhow::{Result, bail};

use super::{iptables, service};
use crate::lab::cases::{Case, FAULT, Ongoing, client, know_each_other, router, server, unanswered};
use crate::lab::counters::counted;
use crate::lab::sockets::listener;
use crate::lab::{Held, Namespace, Scene, Topology, run};

const ROUTED: Case = Case { topology: Topology::Routed, ..FAULT };

pub const CASES: &[Case] = &[
    Case {
        name: "var_dead_backend",
        made: "the router translates a service's address to a port of the server where nobody listens",
        expect: &[server("port-not-listening")],
        run: |scene| {
            translate(scene, scene.router()?, service(scene.family, 80), scene.server_at(8080))?;
            scene.refused(scene.client(), service(scene.family, 80))
        },
        ..ROUTED
    },
    Case {
        name: "var_no_endpoints",
        made: "the client's own node rejects what it sends to a service without endpoints",
        expect: &[client("firewall-reject")],
        run: |scene| {
            let to = service(scene.family, 443);
            let rule = format!("-A OUTPUT -d {} -p tcp --dport 443 -j REJECT", to.ip());
            iptables(scene, scene.client(), "nft", &rule)?;
            let connecting = scene.connect(scene.client(), to)?;
            counted(scene.client(), "TcpAttemptFails", 1)?;
            Ok(connecting)
        },
        ..ROUTED
    },
    Case {
        name: "var_balancer_without_masquerade",
        made: "a third host sends a service's connections on to the server, which answers past it",
        topology: Topology::Bridged,
        // The client resets answers from an address that it never asked.
        expect: &[client("stale-connection"), client("tcp-invalid-segment"), client("peer-unresponsive")],
        run: answered_past_the_balancer,
        ..FAULT
    },
    Case {
        name: "var_translation_forgotten",
        made: "the router forgets the translation of a connection in use and resets it",
        expect: &[router("stale-connection")],
        ongoing: Ongoing::Never("the translation of a connection is forgotten once"),
        run: forgotten,
        ..ROUTED
    },
    Case {
        name: "var_nat_ports_used_up",
        made: "the router may hide its clients behind two ports, both in use, and five more connect",
        expect: &[router("local-port-exhaustion"), router("conntrack-full"), router("firewall-drop")],
        run: used_up,
        ..ROUTED
    },
    Case {
        name: "var_dead_sidecar",
        made: "the client's nft redirects what it sends to a local proxy that does not run",
        expect: &[client("port-not-listening")],
        run: |scene| {
            let listener = listener(scene.server(), scene.server_ip())?;
            scene.client().nft(
                "add table inet lab; add chain inet lab out { type nat hook output priority -100; }; \
                 add rule inet lab out meta l4proto tcp redirect to :15001",
            )?;
            let refused = scene.refused(scene.client(), listener.local_addr()?)?;
            Ok(Box::new((refused, listener)))
        },
        ..FAULT
    },
];

/// Lets a host send to `to` what comes in for `from`.
fn translate(scene: &Scene, at: &Namespace, from: SocketAddr, to: SocketAddr) -> Result<()> {
    let (ip, port, family) = (from.ip(), from.port(), scene.by_family("ip", "ip6"));
    at.nft(&format!(
        "add table inet lab; add chain inet lab pre {{ type nat hook prerouting priority -100; }}; \
         add rule inet lab pre {family} daddr {ip} tcp dport {port} dnat {family} to {to}"
    ))
}

fn answered_past_the_balancer(scene: &Scene) -> Result<Held> {
    let third = scene.third()?;
    third.sysctl("net/ipv4/ip_forward", "1")?;
    third.sysctl("net/ipv6/conf/all/forwarding", "1")?;
    // It tells nobody of the shorter way.
    third.sysctl("net/ipv4/conf/all/send_redirects", "0")?;
    third.sysctl("net/ipv4/conf/eth0/send_redirects", "0")?;
    // A router that forwards asks for its neighbours from this address.
    third.ip("addr add fe80::3/64 dev eth0 nodad")?;
    know_each_other(scene)?;
    let listener = listener(scene.server(), scene.server_ip())?;
    let balanced = (scene.neighbour(3), 80).into();
    translate(scene, third, balanced, listener.local_addr()?)?;
    let connecting = unanswered(scene, balanced)?;
    counted(scene.client(), "TcpOutRsts", 1)?;
    Ok(Box::new((connecting, listener)))
}

/// What has no translation any more is for the router itself, which knows no such connection.
fn forgotten(scene: &Scene) -> Result<Held> {
    let listener = listener(scene.server(), scene.server_ip())?;
    let front: IpAddr = scene.neighbour(254);
    translate(scene, scene.router()?, (front, 80).into(), listener.local_addr()?)?;
    scene.router()?.sysctl("net/netfilter/nf_conntrack_tcp_loose", "0")?;
    let mut client = scene.client().run(|| Ok(TcpStream::connect((front, 80))?))?;
    let (mut server, _) = listener.accept()?;
    client.write_all(b"?")?;
    server.read_exact(&mut [0])?;
    scene.router()?.run(|| run("conntrack", "-F"))?;
    client.write_all(b"!")?;
    match client.read(&mut [0]) {
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => Ok(Box::new((client, server))),
        other => bail!("expected a reset, got {other:?}"),
    }
}

fn used_up(scene: &Scene) -> Result<Held> {
    scene.router()?.nft(
        "add table inet lab; add chain inet lab post { type nat hook postrouting priority 100; }; \
         add rule inet lab post oifname \"eth1\" meta l4proto tcp masquerade to :40000-40001",
    )?;
    let listener = listener(scene.server(), scene.server_ip())?;
    let to = listener.local_addr()?;
    let open = (0..2).map(|_| scene.client().run(|| Ok(TcpStream::connect(to)?)));
    let open = open.collect::<Result<Vec<_>>>()?;
    let late = (0..5).map(|_| scene.connect(scene.client(), to)).collect::<Result<Vec<_>>>()?;
    scene.in_vain(scene.client(), 5)?;
    Ok(Box::new((late, open, listener)))
}
