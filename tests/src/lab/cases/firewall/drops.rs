//! Netfilter drops what it has a rule for.

use std::thread::sleep;
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::lab::background::Background;
use crate::lab::cases::{
    BLIND, Case, KNOWN, NOISE, ONGOING, Ongoing, UNSEEN, VARIATION, client, know_each_other, router, server,
    unanswered,
};
use crate::lab::counters::counted;
use crate::lab::service::{Service, answer};
use crate::lab::sockets::keep_alive;
use crate::lab::{Connection, Held, Scene, faults};

pub const CASES: &[Case] = &[
    Case {
        name: "nft_drop_in",
        made: "the server's nft drops what comes in for the port",
        expect: &[server("firewall-drop")],
        run: |scene| {
            faults::drop_incoming(scene.server(), "tcp", 80)?;
            unanswered(scene, scene.server_at(80))
        },
        ..KNOWN
    },
    Case {
        name: "ipt_legacy_drop_in",
        made: "the same by iptables-legacy or ip6tables-legacy",
        expect: &[server("firewall-drop")],
        run: |scene| {
            scene.iptables(scene.server(), "legacy", "-A INPUT -p tcp --dport 80 -j DROP")?;
            unanswered(scene, scene.server_at(80))
        },
        ..KNOWN
    },
    Case {
        name: "ipt_nft_drop_out",
        made: "the client's iptables-nft drops what goes out for the port",
        expect: &[client("firewall-drop")],
        run: |scene| {
            scene.iptables(scene.client(), "nft", "-A OUTPUT -p tcp --dport 80 -j DROP")?;
            let connecting = scene.connect(scene.client(), scene.server_at(80))?;
            scene.in_vain(scene.client(), 1)?;
            Ok(connecting)
        },
        ..KNOWN
    },
    Case {
        name: "keepalive_timeout",
        made: "the server's nft drops everything while the client's keepalive asks twice",
        expect: &[server("firewall-drop"), client("reset-keepalive-timeout")],
        also: &[server("firewall-drop"), client("reset-keepalive-timeout")],
        ongoing: Ongoing::Never("a connection is given up once"),
        run: keepalive,
        ..KNOWN
    },
    Case {
        name: "var_forward_chain",
        made: "the router's nft drops in its forward chain, port 5432",
        expect: &[router("firewall-drop")],
        run: |scene| {
            scene.router()?.filter("forward", "tcp dport 5432 counter drop")?;
            unanswered(scene, scene.server_at(5432))
        },
        ..VARIATION.routed()
    },
    Case {
        name: "var_answers_dropped",
        made: "the server's nft drops its own answers in the output hook",
        expect: &[server("firewall-drop")],
        run: |scene| {
            know_each_other(scene)?;
            scene.server().filter("output", "tcp flags & syn == syn drop")?;
            let listener = scene.listener()?;
            Ok(Box::new((unanswered(scene, listener.local_addr()?)?, listener)))
        },
        ..VARIATION
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
        ..VARIATION
    },
    Case {
        name: "var_beside_load",
        made: "a firewall drops at one port, beside 10 000 healthy connections per minute",
        expect: &[server("firewall-drop")],
        run: beside_load,
        ..VARIATION
    },
    Case {
        name: "var_wall_amid_scan",
        made: "the server's firewall (an nft map) drops one port, while a third host scans closed ones",
        expect: &[server("firewall-drop")],
        run: wall_amid_scan,
        ..NOISE.bridged()
    },
    Case {
        name: "var_inspection_crashed",
        made: "the server's firewall hands packets to a program (NFQUEUE) that does not run",
        expect: &[server("firewall-drop")],
        run: |scene| {
            let rule = "-A INPUT -p tcp --dport 443 -j NFQUEUE --queue-num 7";
            scene.iptables(scene.server(), "legacy", rule)?;
            unanswered(scene, scene.server_at(443))
        },
        ..UNSEEN
    },
    Case {
        name: "var_loopback_forgotten",
        made: "the client's firewall lets in what comes from its link, and forgets what it says to itself",
        expect: &[client("firewall-drop")],
        run: |scene| {
            scene.client().nft(
                "add table inet lab; \
                 add chain inet lab in { type filter hook input priority 0; policy drop; }; \
                 add rule inet lab in iifname \"eth0\" accept",
            )?;
            let listener = scene.client().listen((scene.loopback(), 0))?;
            Ok(Box::new((unanswered(scene, listener.local_addr()?)?, listener)))
        },
        ..BLIND
    },
    Case {
        name: "ongoing_impatient_checks",
        made: "health checks that wait for 0.3 s, before a rule of the server that drops them",
        expect: &[server("firewall-drop")],
        run: |scene| {
            faults::drop_incoming(scene.server(), "tcp", 8080)?;
            let (patience, pause) = (Duration::from_millis(300), Duration::from_millis(700));
            let checks = scene.connect_in_vain(scene.client(), scene.server_at(8080), patience, pause)?;
            scene.seen(4)?;
            Ok(checks)
        },
        ..ONGOING
    },
    Case {
        name: "ongoing_wall_before_answers",
        made: "the client's own firewall drops what the server answers, and clients wait for half a second",
        expect: &[client("firewall-drop")],
        run: |scene| {
            let service = Service::start(scene, answer)?;
            scene.client().filter("input", &format!("tcp sport {} drop", service.at.port()))?;
            let (patience, pause) = (Duration::from_millis(500), Duration::from_millis(200));
            let clients = scene.connect_in_vain(scene.client(), service.at, patience, pause)?;
            scene.seen(5)?;
            Ok(Box::new((clients, service)))
        },
        ..ONGOING
    },
    Case {
        name: "ongoing_log_walled",
        made: "the server's firewall drops log lines (datagrams), which come twenty times a second",
        expect: &[server("firewall-drop")],
        run: |scene| {
            let log = scene.server().udp(scene.server_at(514))?;
            faults::drop_incoming(scene.server(), "udp", 514)?;
            let to = log.local_addr()?;
            let sender = scene.go_on(scene.client(), Duration::from_millis(50), move || {
                faults::send_datagrams(to, 1, 200).map(drop)
            })?;
            scene.seen(40)?;
            log.set_nonblocking(true)?;
            ensure!(log.recv(&mut [0; 200]).is_err(), "a line arrived");
            Ok(Box::new((sender, log)))
        },
        ..ONGOING
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
        ..VARIATION
    },
    Case {
        name: "var_wall_and_closed_port",
        made: "the server's firewall (iptables) drops what the client sends, and a third host finds nobody at the client",
        expect: &[server("firewall-drop"), client("port-not-listening")],
        also: &[server("firewall-drop"), client("port-not-listening")],
        run: wall_and_closed_port,
        ..NOISE.bridged()
    },
];

fn keepalive(scene: &Scene) -> Result<Held> {
    let connection = Connection::open(&scene.pair, scene.family)?;
    keep_alive(&connection.client, 2)?;
    faults::drop_incoming(scene.server(), "tcp", connection.server_at.port())?;
    counted(scene.client(), "TcpExtTCPAbortOnTimeout", 1)?;
    Ok(Box::new(connection))
}

fn beside_load(scene: &Scene) -> Result<Held> {
    let load = Background::start(scene, 10_000)?;
    sleep(Duration::from_secs(1));
    faults::drop_incoming(scene.server(), "tcp", 9443)?;
    let connecting = unanswered(scene, scene.server_at(9443))?;
    sleep(Duration::from_secs(1));
    ensure!(load.done() > 300, "only {} connections", load.done());
    Ok(Box::new((connecting, load)))
}

fn wall_amid_scan(scene: &Scene) -> Result<Held> {
    let load = Background::start(scene, 6000)?;
    scene.server().nft(
        "table inet lab {\n\
           chain in {\n\
             type filter hook input priority 0;\n\
             tcp dport vmap { 5432 : drop, 5433 : drop }\n\
           }\n\
         }\n",
    )?;
    let connecting = scene.connect(scene.client(), scene.server_at(5432))?;
    for port in [21, 22, 23, 25, 110, 139, 445, 1433, 3306, 3389] {
        faults::connect_to_closed_port(scene.third()?, scene.server_at(port))?;
        sleep(Duration::from_millis(80));
    }
    scene.in_vain(scene.client(), 1)?;
    ensure!(load.done() > 40, "only {} connections", load.done());
    Ok(Box::new((connecting, load)))
}

fn wall_and_closed_port(scene: &Scene) -> Result<Held> {
    scene.iptables(scene.server(), "legacy", "-A INPUT -p tcp --dport 8443 -j DROP")?;
    let refused = scene.refused(scene.third()?, (scene.client_ip(), 9100).into())?;
    Ok(Box::new((refused, unanswered(scene, scene.server_at(8443))?)))
}
