//! What operators and switches do while everything is well.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, sleep};
use std::time::Duration;

use anyhow::{Result, ensure};
use etherparse::EtherType;

use crate::lab::background::Background;
use crate::lab::cases::{Case, KNOWN, NOISE, ONGOING};
use crate::lab::counters::counted;
use crate::lab::injector::Injector;
use crate::lab::pair::join;
use crate::lab::raw_socket::{Mac, RawSocket};
use crate::lab::service::{Service, answer, ask};
use crate::lab::sockets::PATIENCE;
use crate::lab::{Connection, Held, Scene, run};
use crate::wait;

/// LLDP, EAPOL, loop detection and HomePlug; then, with a length in place of a type, STP and CDP.
pub const CHATTER: [(Mac, u16, &[u8]); 6] = [
    ([0x01, 0x80, 0xc2, 0, 0, 0x0e], 0x88cc, b"\x02\x07\x04"),
    ([0x01, 0x80, 0xc2, 0, 0, 0x03], 0x888e, b"\x02\x01\x00\x00"),
    ([0xcf, 0, 0, 0, 0, 0], 0x9000, b"\x00\x00\x01\x00"),
    ([0xff; 6], 0x88e1, b"\x00\x00\xa0"),
    ([0x01, 0x80, 0xc2, 0, 0, 0], 38, b"\x42\x42\x03\x00\x00"),
    ([0x01, 0, 0x0c, 0xcc, 0xcc, 0xcc], 46, b"\xaa\xaa\x03\x00\x00\x0c\x20\x00\x02\xb4"),
];

pub const CASES: &[Case] = &[
    Case {
        name: "baseline_tracking_expires",
        made: "idle connections that a stateful router forgets and takes up again with their next segment",
        run: tracking_expires,
        ..NOISE.routed()
    },
    Case {
        name: "baseline_changes",
        made: "firewall rules are replaced, and links added, renamed and removed, under load",
        run: changes,
        ..NOISE
    },
    Case {
        name: "baseline_switch_chatter",
        made: "a switch that speaks LLDP, EAPOL, STP, CDP and others to a host that does not",
        run: switch_chatter,
        ..NOISE
    },
    Case {
        name: "baseline_mirrored",
        made: "the server's traffic is mirrored (tc) to a host (the third) that captures it",
        run: mirrored,
        ..NOISE.bridged()
    },
    Case {
        name: "baseline_capture",
        made: "a packet capture that is read, beside traffic",
        run: capture,
        ..KNOWN
    },
    Case {
        name: "ongoing_chatter",
        made: "all that a switch says (spanning tree, discovery, pause frames), beside requests",
        run: |scene| {
            let service = Service::start(scene, answer)?;
            let at = service.at;
            let clients =
                scene.go_on(scene.client(), Duration::from_millis(10), move || ask(at, PATIENCE))?;
            for _ in 0..30 {
                chatter(scene, 1)?;
                scene.attempts.go_on(2)?;
            }
            scene.seen_well(50)?;
            counted(scene.server(), "eth0 rx drop", 60)?;
            Ok(Box::new((clients, service)))
        },
        ..ONGOING
    },
];

fn tracking_expires(scene: &Scene) -> Result<Held> {
    let router = scene.router()?;
    let accepting = scene.listener()?;
    router.sysctl("net/netfilter/nf_conntrack_tcp_timeout_established", "1")?;
    router.filter("forward", "ct state established,related accept")?;
    let port = accepting.local_addr()?.port();
    router.filter("forward", &format!("ct state new tcp dport {port} accept"))?;
    router.filter("forward", "meta l4proto tcp drop")?;
    let mut idle = (0..10).map(|_| Connection::to(scene.client(), &accepting)).collect::<Result<Vec<_>>>()?;
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
    let capture = RawSocket::open(captures, "tap0")?;
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

fn capture(scene: &Scene) -> Result<Held> {
    let raw = RawSocket::open(scene.server(), "eth0")?;
    let done = AtomicBool::new(false);
    let seen = thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let (mut frame, mut seen) = ([0; 2048], 0);
            // Until nothing comes any more.
            loop {
                match raw.look(&mut frame) {
                    Ok(Some(_)) => seen += 1,
                    _ if done.load(Ordering::Relaxed) => return seen,
                    _ => {}
                }
            }
        });
        let mut connection = Connection::open(&scene.pair, scene.family)?;
        let outcome = (0..100).try_for_each(|_| connection.exchange(500, 500));
        done.store(true, Ordering::Relaxed);
        outcome.map(|()| reader.join().expect("reading does not panic"))
    })?;
    ensure!(seen > 100, "the capture saw {seen} packets");
    Ok(Box::new(raw))
}
