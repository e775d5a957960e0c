//! Programs and queueing disciplines that drop.

use std::net::UdpSocket;

use anyhow::Result;
use nix::sys::socket::{setsockopt, sockopt};

use super::{Case, FAULT, Ongoing, client, know_each_other, server, unanswered};
use crate::lab::bpf::{Direction, Xdp, drop_at_cgroup, drop_at_link};
use crate::lab::counters::counted;
use crate::lab::{Actor, Cgroup, Held, Scene};

const PORT: u16 = 80;

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
            unanswered(scene, scene.server_at(PORT))
        },
        ..FAULT
    },
    Case {
        name: "xdp_drop_native",
        made: "an XDP program in the server's driver drops everything",
        expect: &[server("xdp-drop")],
        run: |scene| {
            // The link knows the way already, so that what is dropped is the connection and not ARP.
            know_each_other(scene)?;
            let program = drop_at_link(scene.server(), "eth0", Xdp::Native)?;
            Ok(Box::new((unanswered(scene, scene.server_at(PORT))?, program)))
        },
        ..FAULT
    },
    Case {
        name: "cgroup_egress_drop",
        made: "an eBPF program of the client's cgroup drops what it sends",
        expect: &[client("cgroup-bpf-drop")],
        ongoing: Ongoing::ByItself,
        run: |scene| refused_by_cgroup(scene, Direction::Egress),
        ..FAULT
    },
    Case {
        name: "cgroup_ingress_drop",
        made: "an eBPF program of the client's cgroup drops what it receives",
        expect: &[client("cgroup-bpf-drop")],
        ongoing: Ongoing::ByItself,
        run: |scene| refused_by_cgroup(scene, Direction::Ingress),
        ..FAULT
    },
    Case {
        name: "tc_tbf",
        made: "the client's tbf has room for 8 kB at 1 Mbit/s, and 200 datagrams come at once",
        expect: &[client("qdisc-drop")],
        ongoing: Ongoing::Again,
        run: full_qdisc,
        ..FAULT
    },
];

fn refused_by_cgroup(scene: &Scene, direction: Direction) -> Result<Held> {
    let listener = crate::lab::sockets::listener(scene.server(), scene.server_ip())?;
    let cgroup = Cgroup::unified()?;
    let program = drop_at_cgroup(&cgroup, direction)?;
    let connecting =
        Actor::start(scene.client(), &[&cgroup], &format!("connect {}", listener.local_addr()?))?;
    scene.in_vain(scene.client(), 1)?;
    // The process ends before its cgroup does.
    Ok(Box::new((connecting, program, cgroup, listener)))
}

fn full_qdisc(scene: &Scene) -> Result<Held> {
    let sink = scene.server().run(|| Ok(UdpSocket::bind((scene.server_ip(), 0))?))?;
    let at = sink.local_addr()?;
    scene.client().tc("qdisc replace dev eth0 root tbf rate 1mbit burst 4kb limit 8kb")?;
    scene.client().run(|| {
        let socket = UdpSocket::bind((scene.client_ip(), 0))?;
        setsockopt(&socket, sockopt::SndBuf, &(1 << 20))?;
        // What is dropped is told to the sender, which is no surprise here.
        (0..200).for_each(|_| drop(socket.send_to(&[0; 1000], at)));
        Ok(())
    })?;
    let refused = scene.by_family("IpOutDiscards", "Ip6OutDiscards");
    counted(scene.client(), refused, 100)?;
    Ok(Box::new(sink))
}
