//! Firewalls and programs in other places.

use std::io::Write as _;
use std::net::TcpStream;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::lab::background::Background;
use crate::lab::bpf::{Xdp, drop_at_link};
use crate::lab::cases::{Case, FAULT, Ongoing, V4, client, know_each_other, router, server, unanswered};
use crate::lab::counters::counted;
use crate::lab::sockets::listener;
use crate::lab::{Connection, Held, Scene, Topology, faults};
use crate::wait;

pub const CASES: &[Case] = &[
    Case {
        name: "var_forward_chain",
        made: "the router's nft drops in its forward chain, port 5432",
        topology: Topology::Routed,
        expect: &[router("firewall-drop")],
        run: |scene| {
            scene.router()?.nft(
                "add table inet lab; add chain inet lab through { type filter hook forward priority 0; }; \
                 add rule inet lab through tcp dport 5432 counter drop",
            )?;
            unanswered(scene, scene.server_at(5432))
        },
        ..FAULT
    },
    Case {
        name: "var_reject_icmpx",
        made: "the server's nft rejects with icmpx admin-prohibited",
        expect: &[server("firewall-reject")],
        run: |scene| {
            scene.server().nft(
                "add table inet lab; add chain inet lab in { type filter hook input priority 0; }; \
                 add rule inet lab in tcp dport 6379 reject with icmpx type admin-prohibited",
            )?;
            let connecting = scene.connect(scene.client(), scene.server_at(6379))?;
            let sent = scene.by_family("IcmpOutDestUnreachs", "Icmp6OutDestUnreachs");
            counted(scene.server(), sent, 1)?;
            Ok(connecting)
        },
        ..FAULT
    },
    Case {
        name: "var_answers_dropped",
        made: "the server's nft drops its own answers in the output hook",
        expect: &[server("firewall-drop")],
        run: |scene| {
            know_each_other(scene)?;
            scene.server().nft(
                "add table inet lab; add chain inet lab out { type filter hook output priority 0; }; \
                 add rule inet lab out tcp flags & syn == syn drop",
            )?;
            let listener = listener(scene.server(), scene.server_ip())?;
            Ok(Box::new((unanswered(scene, listener.local_addr()?)?, listener)))
        },
        ..FAULT
    },
    Case {
        name: "var_policy_drop",
        made: "the server's nft chain has the policy drop and lets ARP, ICMPv6 and one port in",
        expect: &[server("firewall-drop")],
        run: |scene| {
            scene.server().nft(
                "add table inet lab; \
                 add chain inet lab in { type filter hook input priority 0; policy drop; }; \
                 add rule inet lab in meta l4proto ipv6-icmp accept; \
                 add rule inet lab in tcp dport 22 accept",
            )?;
            unanswered(scene, scene.server_at(8443))
        },
        ..FAULT
    },
    Case {
        name: "var_early_drop",
        made: "the server's nft drops on ingress of the device, before anybody else sees it",
        expect: &[server("firewall-drop")],
        run: |scene| {
            know_each_other(scene)?;
            scene.server().nft(
                "add table netdev lab; \
                 add chain netdev lab in { type filter hook ingress device \"eth0\" priority 0; }; \
                 add rule netdev lab in meta l4proto tcp drop",
            )?;
            unanswered(scene, scene.server_at(80))
        },
        ..FAULT
    },
    Case {
        name: "var_strict_tracking",
        made: "the server's firewall begins to track strictly and drops what it saw no beginning of",
        expect: &[server("firewall-drop")],
        ongoing: Ongoing::ByItself,
        run: |scene| {
            let mut connection = Connection::open(&scene.pair, scene.family)?;
            connection.exchange(100, 100)?;
            scene.server().nft(
                "add table inet lab; add chain inet lab in { type filter hook input priority 0; }; \
                 add rule inet lab in ct state invalid drop",
            )?;
            scene.server().sysctl("net/netfilter/nf_conntrack_tcp_loose", "0")?;
            connection.client.write_all(b"still there?")?;
            counted(scene.client(), "TcpExtTCPTimeouts", 2)?;
            Ok(Box::new(connection))
        },
        ..FAULT
    },
    Case {
        name: "var_arp_filter",
        made: "the server's nft drops ARP requests",
        families: V4,
        expect: &[server("firewall-drop")],
        run: |scene| {
            scene.server().nft(
                "add table arp lab; add chain arp lab in { type filter hook input priority 0; }; \
                 add rule arp lab in arp operation request drop",
            )?;
            let connecting = scene.connect(scene.client(), scene.server_at(80))?;
            wait::until("the neighbour to fail", || {
                scene.client().ip("neigh show").ok()?.contains("FAILED").then_some(())
            })?;
            Ok(connecting)
        },
        ..FAULT
    },
    Case {
        name: "var_tc_egress",
        made: "a BPF filter of the client's clsact drops what goes out",
        expect: &[client("tc-drop")],
        run: |scene| {
            know_each_other(scene)?;
            scene.client().tc("qdisc add dev eth0 clsact")?;
            scene.client().tc("filter add dev eth0 egress bpf da bytecode '1,6 0 0 2,'")?;
            let connecting = scene.connect(scene.client(), scene.server_at(80))?;
            scene.in_vain(scene.client(), 1)?;
            Ok(connecting)
        },
        ..FAULT
    },
    Case {
        name: "var_xdp_generic",
        made: "an XDP program run by the stack, not by the driver, drops everything",
        expect: &[server("xdp-drop")],
        run: |scene| {
            know_each_other(scene)?;
            let program = drop_at_link(scene.server(), "eth0", Xdp::Generic)?;
            Ok(Box::new((unanswered(scene, scene.server_at(80))?, program)))
        },
        ..FAULT
    },
    Case {
        name: "var_two_faults",
        made: "a firewall drops at one port while nobody listens at another",
        expect: &[server("firewall-drop"), server("port-not-listening")],
        also: &[server("firewall-drop"), server("port-not-listening")],
        run: |scene| {
            faults::drop_incoming(scene.server(), "tcp", 8080)?;
            let refused = scene.refused(scene.client(), scene.server_at(8081))?;
            Ok(Box::new((refused, unanswered(scene, scene.server_at(8080))?)))
        },
        ..FAULT
    },
    Case {
        name: "var_beside_load",
        made: "a firewall drops at one port, beside 10 000 healthy connections per minute",
        expect: &[server("firewall-drop")],
        run: beside_load,
        ..FAULT
    },
    Case {
        name: "var_redirected",
        made: "the server's nft redirects a port to one where nobody listens",
        expect: &[server("port-not-listening")],
        ongoing: Ongoing::Again,
        run: |scene| {
            scene.server().nft(
                "add table inet lab; add chain inet lab pre { type nat hook prerouting priority -100; }; \
                 add rule inet lab pre tcp dport 80 redirect to :9999",
            )?;
            let to = scene.server_at(80);
            for _ in 0..3 {
                let refused = scene.client().run(|| Ok(TcpStream::connect(to)));
                ensure!(refused?.is_err(), "somebody listened");
            }
            Ok(Box::new(()))
        },
        ..FAULT
    },
];

fn beside_load(scene: &Scene) -> Result<Held> {
    let load = Background::start(scene, 10_000)?;
    sleep(Duration::from_secs(1));
    faults::drop_incoming(scene.server(), "tcp", 9443)?;
    let connecting = unanswered(scene, scene.server_at(9443))?;
    sleep(Duration::from_secs(1));
    ensure!(load.done() > 300, "only {} connections", load.done());
    Ok(Box::new((connecting, load)))
}
