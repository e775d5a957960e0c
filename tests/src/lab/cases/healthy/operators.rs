//! What operators, switches and routers do while everything is well.

use std::thread::sleep;
use std::time::Duration;

use anyhow::{Result, ensure};
use etherparse::EtherType;

use super::pods::connected;
use crate::lab::background::Background;
use crate::lab::cases::routes::{beyond, net};
use crate::lab::cases::{Case, FAULT};
use crate::lab::counters::counted;
use crate::lab::injector::Injector;
use crate::lab::pair::join;
use crate::lab::sockets::listener;
use crate::lab::wire::{Mac, Wire};
use crate::lab::{Connection, Held, Scene, Topology, run};
use crate::wait;

/// Nothing here takes longer, unless it is broken.
const PATIENCE: Duration = Duration::from_secs(10);

pub const CASES: &[Case] = &[
    Case {
        name: "baseline_tracking_expires",
        made: "idle connections that a stateful router forgets and takes up again with their next segment",
        topology: Topology::Routed,
        run: tracking_expires,
        ..FAULT
    },
    Case {
        name: "baseline_changes",
        made: "firewall rules are replaced, and links added, renamed and removed, under load",
        run: changes,
        ..FAULT
    },
    Case {
        name: "baseline_switch_chatter",
        made: "a switch that speaks LLDP, EAPOL, STP, CDP and others to a host that does not",
        run: switch_chatter,
        ..FAULT
    },
    Case {
        name: "baseline_mirrored",
        made: "the server's traffic is mirrored (tc) to a host (the third) that captures it",
        topology: Topology::Bridged,
        run: mirrored,
        ..FAULT
    },
    Case {
        name: "baseline_redirected",
        made: "a router on the same link (the third host) tells the client of the shorter way",
        topology: Topology::Bridged,
        run: redirected,
        ..FAULT
    },
];

fn tracking_expires(scene: &Scene) -> Result<Held> {
    let router = scene.router()?;
    let accepting = listener(scene.server(), scene.server_ip())?;
    router.sysctl("net/netfilter/nf_conntrack_tcp_timeout_established", "1")?;
    router.nft(&format!(
        "add table inet lab; add chain inet lab through {{ type filter hook forward priority 0; }}; \
         add rule inet lab through ct state established,related accept; \
         add rule inet lab through ct state new tcp dport {} accept; \
         add rule inet lab through meta l4proto tcp drop",
        accepting.local_addr()?.port()
    ))?;
    let mut idle = (0..10).map(|_| connected(scene.client(), &accepting)).collect::<Result<Vec<_>>>()?;
    idle.iter_mut().try_for_each(|connection| connection.exchange(300, 2000))?;
    let tracked = format!("-L -f {}", scene.by_family("ipv4", "ipv6"));
    let tracked = || router.run(|| run("conntrack", &tracked));
    ensure!(tracked()?.lines().count() >= 10, "the connections are not tracked");
    wait::within(PATIENCE, "the router to forget", || tracked().ok()?.is_empty().then_some(()))?;
    idle.iter_mut().try_for_each(|connection| connection.exchange(300, 2000))?;
    Ok(Box::new((idle, accepting)))
}

fn changes(scene: &Scene) -> Result<Held> {
    let (load, server) = (Background::start(scene, 6000)?, scene.server());
    for n in 0..10 {
        // In one step, as configuration management does it.
        server.nft(&format!(
            "table inet lab\ndelete table inet lab\n\
             table inet lab {{\n\
               chain in {{\n\
                 type filter hook input priority 0;\n\
                 ct state established accept\n\
                 tcp dport {} drop\n\
               }}\n\
             }}\n",
            8000 + n
        ))?;
        server.ip(&format!("link add extra{n} type veth peer name other{n}"))?;
        server.ip(&format!("link set extra{n} up"))?;
        server.ip(&format!("link set other{n} up"))?;
        server.ip(&format!("link set extra{n} down"))?;
        server.ip(&format!("link set extra{n} name moved{n}"))?;
        server.ip(&format!("link set moved{n} up"))?;
        server.ip(&format!("link del moved{n}"))?;
    }
    let enough = || (load.done() > 100).then_some(());
    wait::within(PATIENCE, "healthy connections", enough)?;
    Ok(Box::new(load))
}

/// LLDP, EAPOL, loop detection and HomePlug; then, with a length in place of a type, STP and CDP.
const CHATTER: [(Mac, u16, &[u8]); 6] = [
    ([0x01, 0x80, 0xc2, 0, 0, 0x0e], 0x88cc, b"\x02\x07\x04"),
    ([0x01, 0x80, 0xc2, 0, 0, 0x03], 0x888e, b"\x02\x01\x00\x00"),
    ([0xcf, 0, 0, 0, 0, 0], 0x9000, b"\x00\x00\x01\x00"),
    ([0xff; 6], 0x88e1, b"\x00\x00\xa0"),
    ([0x01, 0x80, 0xc2, 0, 0, 0], 38, b"\x42\x42\x03\x00\x00"),
    ([0x01, 0, 0x0c, 0xcc, 0xcc, 0xcc], 46, b"\xaa\xaa\x03\x00\x00\x0c\x20\x00\x02\xb4"),
];

/// Each thing that a switch says, so many times.
///
/// # Errors
/// If the link refuses it.
pub fn chatter(scene: &Scene, times: u32) -> Result<()> {
    let switch = Injector::new(&scene.pair)?;
    for (to, kind, says) in CHATTER {
        let mut padded = [0; 46];
        padded[..says.len()].copy_from_slice(says);
        (0..times).try_for_each(|_| switch.frame(to, EtherType(kind), &padded))?;
    }
    Ok(())
}

fn switch_chatter(scene: &Scene) -> Result<Held> {
    let mut connection = Connection::open(&scene.pair, scene.family)?;
    for _ in 0..10 {
        chatter(scene, 1)?;
        (0..20).try_for_each(|_| connection.exchange(300, 2000))?;
        sleep(Duration::from_millis(50));
    }
    counted(scene.server(), "eth0 rx drop", 30)?;
    Ok(Box::new(connection))
}

/// What comes to the capturing host is addressed to somebody else, each frame of it.
fn mirrored(scene: &Scene) -> Result<Held> {
    const ROUNDS: usize = 10;
    let (server, captures) = (scene.server(), scene.third()?);
    join(server, "mirror0", captures, "tap0")?;
    server.ip("link set mirror0 addrgenmode none up")?;
    captures.ip("link set tap0 addrgenmode none promisc on up")?;
    server.tc("qdisc add dev eth0 clsact")?;
    for side in ["ingress", "egress"] {
        server.tc(&format!(
            "filter add dev eth0 {side} protocol all u32 match u32 0 0 \
             action mirred egress mirror dev mirror0"
        ))?;
    }
    let capture = Wire::open(captures, "tap0")?;
    let mut connection = Connection::open(&scene.pair, scene.family)?;
    let (mut frame, mut seen) = ([0; 2048], 0);
    for _ in 0..ROUNDS {
        (0..10).try_for_each(|_| connection.exchange(300, 1000))?;
        while capture.look(&mut frame)?.is_some() {
            seen += 1;
        }
    }
    ensure!(seen >= ROUNDS * 15, "the capture saw {seen} frames");
    Ok(Box::new((connection, capture)))
}

fn redirected(scene: &Scene) -> Result<Held> {
    let (router, net, ip) = (scene.third()?, net(scene.family), beyond(scene.family).ip());
    router.sysctl("net/ipv4/ip_forward", "1")?;
    router.sysctl("net/ipv6/conf/all/forwarding", "1")?;
    // The address from which a router speaks of ways, and by which its clients must know it.
    router.ip("addr add fe80::3/64 dev eth0 nodad")?;
    router.ip(&format!("route add {net} dev eth0"))?;
    scene.server().ip(&format!("addr add {ip}/{} dev eth0 nodad", scene.by_family(32, 128)))?;
    let via = scene.by_family("10.9.0.3", "fe80::3");
    scene.ip(scene.client(), &format!("route add {net} via {via} dev eth0"))?;
    let accepting = listener(scene.server(), ip)?;
    for _ in 0..30 {
        let mut connection = connected(scene.client(), &accepting)?;
        connection.exchange(300, 2000)?;
        connection.close()?;
    }
    counted(router, scene.by_family("IcmpOutRedirects", "Icmp6OutRedirects"), 1)?;
    Ok(Box::new(accepting))
}
