//! Programs that drop: tc, XDP, cgroups and socket filters.

use std::net::TcpStream;

use anyhow::{Result, bail, ensure};
use nix::libc;

use crate::lab::bpf::{Direction, Xdp, drop_at_cgroup, drop_at_link};
use crate::lab::cases::{
    BLIND, Case, KNOWN, NOISE, Ongoing, Place, UNSEEN, VARIATION, at, client, know_each_other, server,
    unanswered,
};
use crate::lab::counters::counted;
use crate::lab::sockets::want_nothing;
use crate::lab::{Actor, Cgroup, Connection, Held, Scene};

pub const CASES: &[Case] = &[
    Case {
        name: "tc_bpf_ingress_drop",
        made: "a BPF filter of the server's clsact drops what comes in",
        expect: &[server("tc-drop")],
        run: |scene| {
            know_each_other(scene)?;
            scene.server().tc("qdisc add dev eth0 clsact")?;
            // One instruction of classic BPF: return TC_ACT_SHOT.
            scene.server().tc("filter add dev eth0 ingress bpf da bytecode '1,6 0 0 2,'")?;
            unanswered(scene, scene.server_at(80))
        },
        ..KNOWN
    },
    Case {
        name: "xdp_drop_native",
        made: "an XDP program in the server's driver drops everything",
        expect: &[server("xdp-drop")],
        run: |scene| {
            // The link knows the way already, so that what is dropped is the connection and not ARP.
            know_each_other(scene)?;
            let program = drop_at_link(scene.server(), "eth0", Xdp::Native)?;
            Ok(Box::new((unanswered(scene, scene.server_at(80))?, program)))
        },
        ..KNOWN
    },
    Case {
        name: "cgroup_egress_drop",
        made: "an eBPF program of the client's cgroup drops what it sends",
        expect: &[client("cgroup-bpf-drop")],
        ongoing: Ongoing::ByItself,
        run: |scene| refused_by_cgroup(scene, Direction::Egress),
        ..KNOWN
    },
    Case {
        name: "cgroup_ingress_drop",
        made: "an eBPF program of the client's cgroup drops what it receives",
        expect: &[client("cgroup-bpf-drop")],
        ongoing: Ongoing::ByItself,
        run: |scene| refused_by_cgroup(scene, Direction::Ingress),
        ..KNOWN
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
        ..VARIATION
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
        ..VARIATION
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
        ..UNSEEN
    },
    Case {
        name: "var_pod_may_not_answer",
        made: "an eBPF program of the server's cgroup drops what it answers",
        expect: &[server("cgroup-bpf-drop")],
        run: |scene| {
            let at = scene.listener()?.local_addr()?;
            let cgroup = Cgroup::unified()?;
            let program = drop_at_cgroup(&cgroup, Direction::Egress)?;
            let actor = Actor::start(scene.server(), &[&cgroup], &format!("echo {at}"))?;
            Ok(Box::new((unanswered(scene, at)?, program, actor, cgroup)))
        },
        ..UNSEEN
    },
    Case {
        name: "sock_filter_drop",
        made: "datagrams to a socket whose own filter wants none",
        expect: &[server("socket-filter-drop")],
        run: |scene| {
            let socket = scene.receiver()?;
            want_nothing(&socket)?;
            let sender = scene.datagrams(socket.local_addr()?, 5, 100)?;
            counted(scene.server(), scene.by_family("UdpInErrors", "Udp6InErrors"), 5)?;
            Ok(Box::new((sender, socket)))
        },
        ..KNOWN
    },
    Case {
        name: "var_listener_filter",
        made: "a server that has a socket filter at its listener, which wants nobody's SYN",
        expect: &[server("socket-filter-drop")],
        run: |scene| {
            let listener = scene.listener()?;
            want_nothing(&listener)?;
            Ok(Box::new((unanswered(scene, listener.local_addr()?)?, listener)))
        },
        ..BLIND
    },
    Case {
        name: "var_program_and_no_way",
        made: "an XDP program drops what a third host receives, and the server has no way to a net",
        expect: &[at(Place::Third, "xdp-drop"), server("route-missing")],
        also: &[at(Place::Third, "xdp-drop"), server("route-missing")],
        run: program_and_no_way,
        ..NOISE.bridged()
    },
];

fn refused_by_cgroup(scene: &Scene, direction: Direction) -> Result<Held> {
    let listener = scene.listener()?;
    let cgroup = Cgroup::unified()?;
    let program = drop_at_cgroup(&cgroup, direction)?;
    let connecting =
        Actor::start(scene.client(), &[&cgroup], &format!("connect {}", listener.local_addr()?))?;
    scene.in_vain(scene.client(), 1)?;
    // The process ends before its cgroup does.
    Ok(Box::new((connecting, program, cgroup, listener)))
}

fn program_and_no_way(scene: &Scene) -> Result<Held> {
    let third = scene.third()?;
    let accepting = third.listen((scene.neighbour(3), 0))?;
    let to = accepting.local_addr()?;
    // Who knows the way does not ask for it, which the program would drop.
    Connection::to(scene.client(), &accepting)?.close()?;
    let program = drop_at_link(third, "eth0", Xdp::Generic)?;
    let connecting = unanswered(scene, to)?;
    for _ in 0..3 {
        let refused = scene.server().run(|| Ok(TcpStream::connect(scene.beyond()).map(drop)))?;
        let Err(error) = refused else { bail!("there was a way") };
        ensure!(error.raw_os_error() == Some(libc::ENETUNREACH), "{error}");
    }
    counted(scene.server(), scene.by_family("IpOutNoRoutes", "Ip6OutNoRoutes"), 3)?;
    Ok(Box::new((connecting, program, accepting)))
}
