//! Transfers with small mishaps that TCP is made for.

use std::io::{Read as _, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle, sleep};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use etherparse::SlicedPacket;
use nix::sys::socket::{setsockopt, sockopt};

use super::pods::connected;
use crate::lab::cable::{Cable, Side, tcp, tcp_payload};
use crate::lab::cases::{Case, FAULT};
use crate::lab::counters::{counted, counter};
use crate::lab::sockets::{listener, one_packet_per_segment, send_and_read};
use crate::lab::wire::Wire;
use crate::lab::{Connection, Held, Namespace, Scene, Topology, run};

const CABLED: Case = Case { topology: Topology::Cabled, ..FAULT };

pub const CASES: &[Case] = &[
    Case {
        name: "baseline_full_for_a_moment",
        made: "an upload to a reader that pauses for 20 ms now and then, with its window full",
        run: full_for_a_moment,
        ..FAULT
    },
    Case {
        name: "baseline_overtaken",
        made: "an upload on whose way every thirtieth segment is overtaken by the one behind it",
        run: overtaken,
        ..CABLED
    },
    Case {
        name: "baseline_first_syn_lost",
        made: "the very first SYN is lost, and the connection opens a second later, as all others at once",
        run: first_syn_lost,
        ..CABLED
    },
    Case {
        name: "baseline_marked",
        made: "an upload as fast as a limited router can, which marks packets (ECN) and drops none",
        topology: Topology::Routed,
        run: marked,
        ..FAULT
    },
    Case {
        name: "baseline_one_burst",
        made: "a link with a short queue that drops a few packets of one burst among much traffic",
        run: one_burst,
        ..FAULT
    },
];

/// The pauses are shorter than what a sender waits for before it probes.
fn full_for_a_moment(scene: &Scene) -> Result<Held> {
    const CHUNK: usize = 200_000;
    const CHUNKS: usize = 10;
    // BBR, the default here, learns how slow the reader is.
    scene.client().sysctl("net/ipv4/tcp_congestion_control", "reno")?;
    let accepting = listener(scene.server(), scene.server_ip())?;
    setsockopt(&accepting, sockopt::RcvBuf, &16_384)?;
    let Connection { mut client, mut server, .. } = connected(scene.client(), &accepting)?;
    let writer = thread::spawn(move || client.write_all(&vec![b'x'; CHUNK * CHUNKS]).map(|()| client));
    for _ in 0..CHUNKS {
        server.read_exact(&mut vec![0; CHUNK])?;
        sleep(Duration::from_millis(20));
    }
    let client = writer.join().expect("writing does not panic")?;
    let shown = scene.client().run(|| run("ss", "-H -t -i -n"))?;
    ensure!(shown.contains("rwnd_limited:"), "the window was never full: {shown}");
    ensure!(counter(scene.client(), "TcpExtTCPWinProbe")? == 0, "the window was full for long");
    Ok(Box::new((client, server)))
}

/// A cable at work that changes the order of segments, until it is dropped.
struct Uneven {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Uneven {
    fn start(cable: Cable) -> Self {
        let (stop, cable) = (Arc::new(AtomicBool::new(false)), Arc::new(cable));
        let threads = [Side::Client, Side::Server].map(|side| {
            let (stop, cable) = (Arc::clone(&stop), Arc::clone(&cable));
            thread::spawn(move || match side {
                Side::Client => carry_unevenly(&cable.client, &cable.server, &stop),
                Side::Server => carry_unevenly(&cable.server, &cable.client, &stop),
            })
        });
        Self { stop, threads: threads.into() }
    }
}

impl Drop for Uneven {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // It does not panic, and if it did there would be nothing left to carry.
            drop(thread.join());
        }
    }
}

fn carry_unevenly(from: &Wire, to: &Wire, stop: &AtomicBool) {
    const FULL: usize = 1000;
    let (mut frame, mut held, mut full) = ([0; 2048], None, 0_u32);
    while !stop.load(Ordering::Relaxed) {
        let Ok(found) = from.look(&mut frame) else { return };
        // A frame that a link which is down refuses is lost, as on any cable.
        if let Some(length) = found {
            let whole = &frame[..length];
            if SlicedPacket::from_ethernet(whole).is_ok_and(|packet| tcp_payload(&packet) >= FULL) {
                full += 1;
                if full % 30 == 0 {
                    held = Some(whole.to_vec());
                    continue;
                }
            }
            let _ = to.send(whole);
        }
        if let Some(overtaken) = held.take() {
            let _ = to.send(&overtaken);
        }
    }
}

fn overtaken(scene: &Scene) -> Result<Held> {
    let cable = Uneven::start(scene.cable()?);
    let connection = Connection::open(&scene.pair, scene.family)?;
    send_and_read(&connection, 100, Duration::ZERO)?;
    counted(scene.server(), "TcpExtTCPOFOQueue", 20)?;
    Ok(Box::new((connection, cable)))
}

/// As behind a switch that has yet to learn where everybody is.
fn first_syn_lost(scene: &Scene) -> Result<Held> {
    let lost = AtomicBool::new(false);
    let cable = scene.cable()?.carry(move |side, packet| {
        let asks = side == Side::Client && tcp(packet).is_some_and(|segment| segment.syn());
        !asks || lost.swap(true, Ordering::Relaxed)
    });
    let accepting = listener(scene.server(), scene.server_ip())?;
    let begun = Instant::now();
    for _ in 0..50 {
        let mut connection = connected(scene.client(), &accepting)?;
        connection.exchange(300, 2000)?;
        connection.close()?;
    }
    ensure!(counter(scene.client(), "TcpExtTCPSynRetrans")? == 1, "not one SYN was repeated");
    ensure!(begun.elapsed() < Duration::from_secs(4), "more than the first was slow");
    Ok(Box::new((accepting, cable)))
}

/// The senders are told to slow down before the queue is full.
fn marked(scene: &Scene) -> Result<Held> {
    let (router, ip) = (scene.router()?, scene.by_family("ip", "ip6"));
    router.tc("qdisc add dev eth1 root tbf rate 40mbit burst 10k limit 300k")?;
    router.nft(&format!(
        "add table {ip} lab; add chain {ip} lab out {{ type filter hook postrouting priority 0; }}; \
         add rule {ip} lab out oifname \"eth1\" {ip} ecn ect0 numgen inc mod 30 0 {ip} ecn set ce"
    ))?;
    scene.client().sysctl("net/ipv4/tcp_ecn", "1")?;
    // BBR, the default here, does not listen to marks.
    scene.client().sysctl("net/ipv4/tcp_congestion_control", "reno")?;
    one_packet_per_segment(scene.client())?;
    let connection = Connection::open(&scene.pair, scene.family)?;
    send_and_read(&connection, 200, Duration::ZERO)?;
    counted(scene.server(), scene.by_family("IpExtInCEPkts", "Ip6InCEPkts"), 20)?;
    ensure!(dropped(router, "eth1")? == 0, "the queue was too short");
    Ok(Box::new(connection))
}

/// What the queue of a link has dropped.
///
/// # Errors
/// If there is no such link, or nothing counts there.
pub fn dropped(at: &Namespace, link: &str) -> Result<u64> {
    let shown = run("tc", &format!("-s -n {} qdisc show dev {link}", at.name()))?;
    let number = shown.split("dropped ").nth(1).and_then(|rest| rest.split(',').next());
    number.and_then(|number| number.parse().ok()).with_context(|| shown.clone())
}

fn one_burst(scene: &Scene) -> Result<Held> {
    scene.client().tc("qdisc add dev eth0 root tbf rate 400mbit burst 22k limit 25k")?;
    // BBR, the default here, sends no bursts.
    scene.client().sysctl("net/ipv4/tcp_congestion_control", "reno")?;
    one_packet_per_segment(scene.client())?;
    let mut connection = Connection::open(&scene.pair, scene.family)?;
    (0..500).try_for_each(|_| connection.exchange(20_000, 200))?;
    ensure!(dropped(scene.client(), "eth0")? == 0, "its daily traffic does not fit the queue");
    send_and_read(&connection, 20, Duration::ZERO)?;
    let lost = dropped(scene.client(), "eth0")?;
    ensure!((1..70).contains(&lost), "{lost} of more than 7000 packets were dropped");
    Ok(Box::new(connection))
}
