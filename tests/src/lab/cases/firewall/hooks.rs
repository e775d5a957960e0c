//! Netfilter drops at hooks, in families and by tables that nobody thinks of first.

use anyhow::{Result, ensure};

use crate::lab::bridges::{machine_behind, put_on_bridge};
use crate::lab::cases::packets::send_from_elsewhere;
use crate::lab::cases::{
    BLIND, Case, Ongoing, UNSEEN, V4, VARIATION, know_each_other, router, server, unanswered,
};
use crate::lab::counters::{counted, counter, neighbour_failed};
use crate::lab::sockets::got_nothing;
use crate::lab::{Family, Held, Scene, faults, run};

pub const CASES: &[Case] = &[
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
        ..VARIATION
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
            neighbour_failed(scene.client())?;
            Ok(connecting)
        },
        ..VARIATION
    },
    Case {
        name: "var_raw_table",
        made: "the server's raw table drops datagrams before connections are tracked",
        expect: &[server("firewall-drop")],
        ongoing: Ongoing::Again,
        run: |scene| {
            scene.iptables(scene.server(), "legacy", "-t raw -A PREROUTING -p udp --dport 514 -j DROP")?;
            let log = scene.server().udp(scene.server_at(514))?;
            faults::send_udp(scene.client(), log.local_addr()?, 5, 100)?;
            counted(scene.server(), scene.by_family("IpInReceives", "Ip6InReceives"), 5)?;
            got_nothing(&log)?;
            Ok(Box::new(log))
        },
        ..UNSEEN
    },
    Case {
        name: "var_mangled_away",
        made: "the router's mangle table drops the server's answers after they were routed",
        expect: &[router("firewall-drop")],
        run: |scene| {
            let listener = scene.listener()?;
            let at = listener.local_addr()?;
            let rule = format!("-t mangle -A POSTROUTING -p tcp --sport {} -j DROP", at.port());
            scene.iptables(scene.router()?, "nft", &rule)?;
            Ok(Box::new((unanswered(scene, at)?, listener)))
        },
        ..UNSEEN.routed()
    },
    Case {
        name: "var_bridge_filter",
        made: "nft drops in the bridge family, at the bridge on which the server has its address",
        expect: &[server("firewall-drop")],
        run: |scene| {
            put_on_bridge(scene.server(), "")?;
            scene.server().nft(
                "add table bridge lab; add chain bridge lab in { type filter hook input priority 0; }; \
                 add rule bridge lab in tcp dport 3306 drop",
            )?;
            unanswered(scene, scene.server_at(3306))
        },
        ..UNSEEN
    },
    Case {
        name: "var_icmp_blocked",
        made: "the server's firewall drops all ICMPv6, and neighbour discovery with it",
        families: &[Family::V6],
        expect: &[server("firewall-drop")],
        run: |scene| {
            scene.server().filter("input", "meta l4proto ipv6-icmp drop")?;
            let connecting = scene.connect(scene.client(), scene.server_at(80))?;
            neighbour_failed(scene.client())?;
            Ok(connecting)
        },
        ..UNSEEN
    },
    Case {
        name: "var_fragments_filtered",
        made: "the server's firewall drops fragments, and large datagrams come",
        expect: &[server("firewall-drop")],
        ongoing: Ongoing::Again,
        run: filtered_fragments,
        ..UNSEEN
    },
    Case {
        name: "var_source_filter",
        made: "the router's nft drops packets whose source it would reach over another link",
        families: &[Family::V6],
        expect: &[router("firewall-drop"), router("reverse-path-filter")],
        run: |scene| {
            scene.router()?.nft(
                "add table inet lab; add chain inet lab pre { type filter hook prerouting priority -300; }; \
                 add rule inet lab pre icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept; \
                 add rule inet lab pre fib saddr . iif oif missing drop",
            )?;
            send_from_elsewhere(scene)
        },
        ..UNSEEN.routed()
    },
    Case {
        name: "var_spoof_filter",
        made: "ebtables at the server's bridge drops what its virtual machine sends, whose card was replaced",
        expect: &[server("firewall-drop")],
        run: |scene| {
            let machine = machine_behind(scene)?;
            let rule = "-A FORWARD -i veth0 -s ! 02:00:00:00:00:aa -j DROP";
            scene.server().run(|| run("ebtables", rule))?;
            let to = (scene.machine_ip(), 22).into();
            let connecting = scene.connect(scene.client(), to)?;
            neighbour_failed(scene.client())?;
            Ok(Box::new((connecting, machine)))
        },
        ..BLIND
    },
];

/// The first fragment of IPv4 passes; in IPv6 each has the header that is looked for.
fn filtered_fragments(scene: &Scene) -> Result<Held> {
    let fragment = scene.by_family("ip frag-off & 0x1fff != 0", "exthdr frag exists");
    // Before anything puts them together.
    scene.server().nft(&format!(
        "add table inet lab; add chain inet lab pre {{ type filter hook prerouting priority -450; }}; \
         add rule inet lab pre {fragment} drop"
    ))?;
    let large = scene.server().udp(scene.server_at(2049))?;
    faults::send_udp(scene.client(), large.local_addr()?, 3, 4000)?;
    counted(scene.server(), scene.by_family("IpInReceives", "Ip6InReceives"), 9)?;
    let whole = scene.by_family("IpReasmOKs", "Ip6ReasmOKs");
    ensure!(counter(scene.server(), whole)? == 0, "a datagram was put together");
    got_nothing(&large)?;
    Ok(Box::new(large))
}
