//! What is told to drop, by whom nobody thinks of first.

use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::Result;
use nix::libc;

use super::{MACHINE, behind_bridge, gives_up_neighbour, queue_dropped, sink};
use crate::lab::cases::{Case, FAULT, Ongoing, client, know_each_other, router, server, unanswered};
use crate::lab::counters::counted;
use crate::lab::sockets::{listener, set_option};
use crate::lab::{Connection, Held, Scene, Topology, run};

pub const CASES: &[Case] = &[
    Case {
        name: "var_spoof_filter",
        made: "ebtables at the server's bridge drops what its virtual machine sends, whose card was replaced",
        expect: &[server("firewall-drop")],
        run: |scene| {
            let machine = behind_bridge(scene)?;
            let rule = "-A FORWARD -i veth0 -s ! 02:00:00:00:00:aa -j DROP";
            scene.server().run(|| run("ebtables", rule))?;
            let to = (scene.neighbour(MACHINE), 22).into();
            let connecting = scene.connect(scene.client(), to)?;
            gives_up_neighbour(scene.client())?;
            Ok(Box::new((connecting, machine)))
        },
        ..FAULT
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
            let own: IpAddr = scene.by_family(Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into());
            let listener = listener(scene.client(), own)?;
            Ok(Box::new((unanswered(scene, listener.local_addr()?)?, listener)))
        },
        ..FAULT
    },
    Case {
        name: "var_small_burst",
        made: "the shaper of the router's link allows bursts that are smaller than a full packet",
        topology: Topology::Routed,
        expect: &[router("qdisc-drop")],
        ongoing: Ongoing::ByItself,
        run: small_burst,
        ..FAULT
    },
    Case {
        name: "var_ingress_shaper",
        made: "what comes in at the server is shaped by way of an IFB device, and a burst comes",
        expect: &[server("qdisc-drop")],
        run: ingress_shaper,
        ..FAULT
    },
    Case {
        name: "var_listener_filter",
        made: "a server that has a socket filter at its listener, which wants nobody's SYN",
        expect: &[server("socket-filter-drop")],
        run: |scene| {
            let listener = listener(scene.server(), scene.server_ip())?;
            // One instruction of classic BPF: return 0.
            let mut nothing = libc::sock_filter { code: 6, jt: 0, jf: 0, k: 0 };
            let program = libc::sock_fprog { len: 1, filter: &raw mut nothing };
            set_option(&listener, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &program)?;
            Ok(Box::new((unanswered(scene, listener.local_addr()?)?, listener)))
        },
        ..FAULT
    },
];

/// Small packets pass, so that a connection opens and an upload stands still.
fn small_burst(scene: &Scene) -> Result<Held> {
    scene.router()?.tc("qdisc add dev eth1 root tbf rate 10mbit burst 1200 limit 200k")?;
    let mut connection = Connection::open(&scene.pair, scene.family)?;
    connection.exchange(200, 200)?;
    connection.client.set_nonblocking(true)?;
    // Some of it fits into the buffers; none of it arrives.
    let _ = connection.client.write(&[0; 100_000])?;
    counted(scene.client(), "TcpExtTCPTimeouts", 2)?;
    queue_dropped(scene.router()?, "eth1", 3)?;
    Ok(Box::new(connection))
}

fn ingress_shaper(scene: &Scene) -> Result<Held> {
    let server = scene.server();
    server.ip("link add ifb0 type ifb")?;
    server.ip("link set ifb0 addrgenmode none up")?;
    for command in [
        "qdisc add dev ifb0 root tbf rate 1mbit burst 4kb limit 8kb",
        "qdisc add dev eth0 ingress",
        "filter add dev eth0 parent ffff: protocol all u32 match u32 0 0 \
         action mirred egress redirect dev ifb0",
    ] {
        server.tc(command)?;
    }
    know_each_other(scene)?;
    let sink = sink(server, scene.server_at(514))?;
    let sender = scene.datagrams(sink.local_addr()?, 200, 1000)?;
    queue_dropped(server, "ifb0", 100)?;
    Ok(Box::new((sender, sink)))
}
