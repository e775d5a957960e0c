//! Netfilter refuses.

use std::io::Write as _;
use std::time::Duration;

use anyhow::Result;

use crate::lab::cases::translation::service;
use crate::lab::cases::{BLIND, Case, KNOWN, ONGOING, Ongoing, UNSEEN, VARIATION, client, router, server};
use crate::lab::counters::{counted, matched, reaches};
use crate::lab::sockets::expect_reset;
use crate::lab::{Connection, Held, Scene, faults};

pub const CASES: &[Case] = &[
    Case {
        name: "ipt_reject_rst",
        made: "the server's iptables-nft refuses with a reset",
        expect: &[server("firewall-reject")],
        run: |scene| {
            let rule = "-A INPUT -p tcp --dport 80 -j REJECT --reject-with tcp-reset";
            scene.iptables(scene.server(), "nft", rule)?;
            scene.refused(scene.client(), scene.server_at(80))
        },
        ..KNOWN
    },
    Case {
        name: "ipt_reject_icmp",
        made: "the server's iptables-nft refuses with an ICMP error",
        expect: &[server("firewall-reject")],
        run: |scene| {
            scene.iptables(scene.server(), "nft", "-A INPUT -p tcp --dport 80 -j REJECT")?;
            let connecting = scene.connect(scene.client(), scene.server_at(80))?;
            let sent = scene.by_family("IcmpOutDestUnreachs", "Icmp6OutDestUnreachs");
            counted(scene.server(), sent, 1)?;
            Ok(connecting)
        },
        ..KNOWN
    },
    Case {
        name: "var_reject_icmpx",
        made: "the server's nft rejects with icmpx admin-prohibited",
        expect: &[server("firewall-reject")],
        run: |scene| {
            scene.server().filter("input", "tcp dport 6379 reject with icmpx type admin-prohibited")?;
            let connecting = scene.connect(scene.client(), scene.server_at(6379))?;
            let sent = scene.by_family("IcmpOutDestUnreachs", "Icmp6OutDestUnreachs");
            counted(scene.server(), sent, 1)?;
            Ok(connecting)
        },
        ..VARIATION
    },
    Case {
        name: "var_connection_limit",
        made: "the server's firewall allows two connections and refuses the others",
        expect: &[server("firewall-reject")],
        run: |scene| {
            let rule = "-A INPUT -p tcp --syn -m connlimit --connlimit-above 2 --connlimit-mask 0 \
                        -j REJECT --reject-with tcp-reset";
            scene.iptables(scene.server(), "legacy", rule)?;
            let listener = scene.listener()?;
            let to = listener.local_addr()?;
            let open = (0..2).map(|_| scene.client().connect(to));
            let open = open.collect::<Result<Vec<_>>>()?;
            let refused = scene.refused(scene.client(), to)?;
            Ok(Box::new((refused, open, listener)))
        },
        ..UNSEEN
    },
    Case {
        name: "var_no_endpoints",
        made: "the client's own node rejects what it sends to a service without endpoints",
        expect: &[client("firewall-reject")],
        run: |scene| {
            let to = service(scene.family, 443);
            let rule = format!("-A OUTPUT -d {} -p tcp --dport 443 -j REJECT", to.ip());
            scene.iptables(scene.client(), "nft", &rule)?;
            let connecting = scene.connect(scene.client(), to)?;
            scene.in_vain(scene.client(), 1)?;
            Ok(connecting)
        },
        ..UNSEEN.routed()
    },
    Case {
        name: "ongoing_refused",
        made: "the server's firewall refuses with a reset, and clients come back every 0.2 s",
        expect: &[server("firewall-reject")],
        run: |scene| {
            scene.server().filter("input", "tcp dport 6379 reject with tcp reset")?;
            let to = scene.server_at(6379);
            let clients = scene.go_on(scene.client(), Duration::from_millis(200), move || {
                faults::expect_refusal(to).map(drop)
            })?;
            scene.seen(10)?;
            Ok(clients)
        },
        ..ONGOING
    },
    Case {
        name: "ongoing_rejected_by_icmp",
        made: "the server's iptables rejects (ICMP, of which the kernel sends few), and twenty clients come each second",
        expect: &[server("firewall-reject")],
        run: |scene| {
            scene.iptables(scene.server(), "legacy", "-A INPUT -p tcp --dport 443 -j REJECT")?;
            let to = scene.server_at(443);
            let (patience, pause) = (Duration::from_millis(300), Duration::from_millis(50));
            let clients = (0..4).map(|_| scene.connect_in_vain(scene.client(), to, patience, pause));
            let clients = clients.collect::<Result<Vec<_>>>()?;
            scene.seen(30)?;
            Ok(Box::new(clients))
        },
        ..ONGOING
    },
    Case {
        name: "var_sessions_cut",
        made: "the router's firewall gets a rule that resets a service's connections, which are in use",
        expect: &[router("firewall-reject")],
        ongoing: Ongoing::Never("connections that were open before the rule are cut once"),
        run: cut,
        ..BLIND.routed()
    },
];

fn cut(scene: &Scene) -> Result<Held> {
    let mut open = (0..3).map(|_| Connection::open(&scene.pair, scene.family)).collect::<Result<Vec<_>>>()?;
    open.iter_mut().try_for_each(|connection| connection.exchange(500, 500))?;
    scene.router()?.filter("forward", "meta l4proto tcp counter reject with tcp reset")?;
    for connection in &mut open {
        connection.client.write_all(b"and on we go")?;
        expect_reset(&connection.client)?;
    }
    reaches(3, || matched(scene.router()?))?;
    Ok(Box::new(open))
}
