//! Netfilter drops or refuses.

use std::time::Duration;

use anyhow::Result;
use nix::sys::socket::{setsockopt, sockopt};

use super::{Case, FAULT, Ongoing, client, server, unanswered};
use crate::lab::counters::counted;
use crate::lab::sockets::{one_packet_per_segment, send_and_read};
use crate::lab::{Connection, Global, Held, Namespace, Scene, faults, run};

const PORT: u16 = 80;

pub const CASES: &[Case] = &[
    Case {
        name: "nft_drop_in",
        made: "the server's nft drops what comes in for the port",
        expect: &[server("firewall-drop")],
        run: |scene| {
            faults::drop_incoming(scene.server(), "tcp", PORT)?;
            unanswered(scene, scene.server_at(PORT))
        },
        ..FAULT
    },
    Case {
        name: "ipt_legacy_drop_in",
        made: "the same by iptables-legacy or ip6tables-legacy",
        expect: &[server("firewall-drop")],
        run: |scene| {
            iptables(scene, scene.server(), "legacy", "-A INPUT -p tcp --dport 80 -j DROP")?;
            unanswered(scene, scene.server_at(PORT))
        },
        ..FAULT
    },
    Case {
        name: "ipt_nft_drop_out",
        made: "the client's iptables-nft drops what goes out for the port",
        expect: &[client("firewall-drop")],
        run: |scene| {
            iptables(scene, scene.client(), "nft", "-A OUTPUT -p tcp --dport 80 -j DROP")?;
            let connecting = scene.connect(scene.client(), scene.server_at(PORT))?;
            scene.in_vain(scene.client(), 1)?;
            Ok(connecting)
        },
        ..FAULT
    },
    Case {
        name: "ipt_reject_rst",
        made: "the server's iptables-nft refuses with a reset",
        expect: &[server("firewall-reject")],
        run: |scene| {
            let rule = "-A INPUT -p tcp --dport 80 -j REJECT --reject-with tcp-reset";
            iptables(scene, scene.server(), "nft", rule)?;
            scene.refused(scene.client(), scene.server_at(PORT))
        },
        ..FAULT
    },
    Case {
        name: "ipt_reject_icmp",
        made: "the server's iptables-nft refuses with an ICMP error",
        expect: &[server("firewall-reject")],
        run: |scene| {
            iptables(scene, scene.server(), "nft", "-A INPUT -p tcp --dport 80 -j REJECT")?;
            let connecting = scene.connect(scene.client(), scene.server_at(PORT))?;
            let sent = scene.by_family("IcmpOutDestUnreachs", "Icmp6OutDestUnreachs");
            counted(scene.server(), sent, 1)?;
            Ok(connecting)
        },
        ..FAULT
    },
    Case {
        name: "nft_random_loss",
        made: "the server's nft drops 5 % of an upload",
        expect: &[server("firewall-drop")],
        ongoing: Ongoing::Again,
        run: lossy_upload,
        ..FAULT
    },
    Case {
        name: "keepalive_timeout",
        made: "the server's nft drops everything while the client's keepalive asks twice",
        expect: &[server("firewall-drop"), client("reset-keepalive-timeout")],
        also: &[server("firewall-drop"), client("reset-keepalive-timeout")],
        ongoing: Ongoing::Never("a connection is given up once"),
        run: keepalive,
        ..FAULT
    },
    Case {
        name: "conntrack_full",
        made: "the connection-tracking table holds four entries (global), and ten more connect",
        expect: &[server("conntrack-full")],
        run: full_table,
        ..FAULT
    },
];

/// Runs `iptables` or `ip6tables` of a kind, `nft` or `legacy`.
fn iptables(scene: &Scene, at: &Namespace, kind: &str, rule: &str) -> Result<()> {
    let program = format!("{}-{kind}", scene.by_family("iptables", "ip6tables"));
    at.run(|| run(&program, &format!("-w 5 {rule}")).map(drop))
}

fn lossy_upload(scene: &Scene) -> Result<Held> {
    let connection = Connection::open(&scene.pair, scene.family)?;
    one_packet_per_segment(scene.client())?;
    // Not only those with PSH, which few segments of a long transfer have.
    scene.server().nft(
        "add table inet lab; add chain inet lab in { type filter hook input priority 0; }; \
         add rule inet lab in meta l4proto tcp meta length > 1000 numgen random mod 20 0 drop",
    )?;
    send_and_read(&connection, 100, Duration::ZERO)?;
    counted(scene.client(), "TcpRetransSegs", 5)?;
    Ok(Box::new(connection))
}

fn keepalive(scene: &Scene) -> Result<Held> {
    let connection = Connection::open(&scene.pair, scene.family)?;
    setsockopt(&connection.client, sockopt::KeepAlive, &true)?;
    setsockopt(&connection.client, sockopt::TcpKeepIdle, &1)?;
    setsockopt(&connection.client, sockopt::TcpKeepInterval, &1)?;
    setsockopt(&connection.client, sockopt::TcpKeepCount, &2)?;
    faults::drop_incoming(scene.server(), "tcp", connection.server_at.port())?;
    counted(scene.client(), "TcpExtTCPAbortOnTimeout", 1)?;
    Ok(Box::new(connection))
}

/// Confirmed connections give way to nobody; the maximum is that of the machine.
fn full_table(scene: &Scene) -> Result<Held> {
    scene.server().nft(
        "add table inet track; add chain inet track in { type filter hook input priority 0; }; \
         add rule inet track in ct state established counter accept",
    )?;
    let open = (0..5).map(|_| Connection::open(&scene.pair, scene.family)).collect::<Result<Vec<_>>>()?;
    let maximum = Global::set("/proc/sys/net/netfilter/nf_conntrack_max", "4")?;
    let to = open[0].server_at;
    let late = (0..10).map(|_| scene.connect(scene.client(), to)).collect::<Result<Vec<_>>>()?;
    scene.in_vain(scene.client(), 3)?;
    Ok(Box::new((late, open, maximum)))
}
