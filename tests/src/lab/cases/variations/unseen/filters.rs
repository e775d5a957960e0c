//! What is told to drop or refuse, off the beaten track.

use anyhow::{Result, ensure};

use super::{gives_up_neighbour, got_nothing, iptables, put_on_bridge, sink};
use crate::lab::bpf::{Direction, drop_at_cgroup};
use crate::lab::cases::{Case, FAULT, Ongoing, client, know_each_other, router, server, unanswered};
use crate::lab::counters::{counted, counter};
use crate::lab::sockets::listener;
use crate::lab::{Actor, Cgroup, Family, Held, Scene, Topology, faults};

pub const CASES: &[Case] = &[
    Case {
        name: "var_raw_table",
        made: "the server's raw table drops datagrams before connections are tracked",
        expect: &[server("firewall-drop")],
        ongoing: Ongoing::Again,
        run: |scene| {
            iptables(scene, scene.server(), "legacy", "-t raw -A PREROUTING -p udp --dport 514 -j DROP")?;
            let log = sink(scene, 514)?;
            faults::send_udp(scene.client(), log.local_addr()?, 5, 100)?;
            counted(scene.server(), scene.by_family("IpInReceives", "Ip6InReceives"), 5)?;
            got_nothing(&log)?;
            Ok(Box::new(log))
        },
        ..FAULT
    },
    Case {
        name: "var_mangled_away",
        made: "the router's mangle table drops the server's answers after they were routed",
        topology: Topology::Routed,
        expect: &[router("firewall-drop")],
        run: |scene| {
            let listener = listener(scene.server(), scene.server_ip())?;
            let at = listener.local_addr()?;
            let rule = format!("-t mangle -A POSTROUTING -p tcp --sport {} -j DROP", at.port());
            iptables(scene, scene.router()?, "nft", &rule)?;
            Ok(Box::new((unanswered(scene, at)?, listener)))
        },
        ..FAULT
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
        ..FAULT
    },
    Case {
        name: "var_icmp_blocked",
        made: "the server's firewall drops all ICMPv6, and neighbour discovery with it",
        families: &[Family::V6],
        expect: &[server("firewall-drop")],
        run: |scene| {
            scene.server().nft(
                "add table inet lab; add chain inet lab in { type filter hook input priority 0; }; \
                 add rule inet lab in meta l4proto ipv6-icmp drop",
            )?;
            let connecting = scene.connect(scene.client(), scene.server_at(80))?;
            gives_up_neighbour(scene.client())?;
            Ok(connecting)
        },
        ..FAULT
    },
    Case {
        name: "var_fragments_filtered",
        made: "the server's firewall drops fragments, and large datagrams come",
        expect: &[server("firewall-drop")],
        ongoing: Ongoing::Again,
        run: filtered_fragments,
        ..FAULT
    },
    Case {
        name: "var_inspection_crashed",
        made: "the server's firewall hands packets to a program (NFQUEUE) that does not run",
        expect: &[server("firewall-drop")],
        run: |scene| {
            let rule = "-A INPUT -p tcp --dport 443 -j NFQUEUE --queue-num 7";
            iptables(scene, scene.server(), "legacy", rule)?;
            unanswered(scene, scene.server_at(443))
        },
        ..FAULT
    },
    Case {
        name: "var_connection_limit",
        made: "the server's firewall allows two connections and refuses the others",
        expect: &[server("firewall-reject")],
        run: |scene| {
            let rule = "-A INPUT -p tcp --syn -m connlimit --connlimit-above 2 --connlimit-mask 0 \
                        -j REJECT --reject-with tcp-reset";
            iptables(scene, scene.server(), "legacy", rule)?;
            let listener = listener(scene.server(), scene.server_ip())?;
            let to = listener.local_addr()?;
            let open = (0..2).map(|_| scene.client().run(|| Ok(std::net::TcpStream::connect(to)?)));
            let open = open.collect::<Result<Vec<_>>>()?;
            let refused = scene.refused(scene.client(), to)?;
            Ok(Box::new((refused, open, listener)))
        },
        ..FAULT
    },
    Case {
        name: "var_source_filter",
        made: "the router's nft drops packets whose source it would reach over another link",
        topology: Topology::Routed,
        families: &[Family::V6],
        expect: &[router("firewall-drop"), router("reverse-path-filter")],
        run: |scene| {
            scene.router()?.nft(
                "add table inet lab; add chain inet lab pre { type filter hook prerouting priority -300; }; \
                 add rule inet lab pre icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept; \
                 add rule inet lab pre fib saddr . iif oif missing drop",
            )?;
            super::paths::send_from_elsewhere(scene)
        },
        ..FAULT
    },
    Case {
        name: "var_redirect_to_nowhere",
        made: "a filter of the client's clsact redirects what goes out to a device that is down",
        expect: &[client("tc-drop"), client("link-down")],
        run: |scene| {
            know_each_other(scene)?;
            scene.client().ip("link add side0 type bridge")?;
            scene.client().tc("qdisc add dev eth0 clsact")?;
            scene.client().tc("filter add dev eth0 egress protocol all u32 match u32 0 0 \
                 action mirred egress redirect dev side0")?;
            let connecting = scene.connect(scene.client(), scene.server_at(80))?;
            scene.in_vain(scene.client(), 1)?;
            Ok(connecting)
        },
        ..FAULT
    },
    Case {
        name: "var_pod_may_not_answer",
        made: "an eBPF program of the server's cgroup drops what it answers",
        expect: &[server("cgroup-bpf-drop")],
        run: |scene| {
            let at = listener(scene.server(), scene.server_ip())?.local_addr()?;
            let cgroup = Cgroup::unified()?;
            let program = drop_at_cgroup(&cgroup, Direction::Egress)?;
            let actor = Actor::start(scene.server(), &[&cgroup], &format!("echo {at}"))?;
            Ok(Box::new((unanswered(scene, at)?, program, actor, cgroup)))
        },
        ..FAULT
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
    let large = sink(scene, 2049)?;
    faults::send_udp(scene.client(), large.local_addr()?, 3, 4000)?;
    counted(scene.server(), scene.by_family("IpInReceives", "Ip6InReceives"), 9)?;
    let whole = scene.by_family("IpReasmOKs", "Ip6ReasmOKs");
    ensure!(counter(scene.server(), whole)? == 0, "a datagram was put together");
    got_nothing(&large)?;
    Ok(Box::new(large))
}
