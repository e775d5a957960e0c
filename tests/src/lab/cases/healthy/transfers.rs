//! Transfers with small mishaps that TCP is made for.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use etherparse::SlicedPacket;
use nix::sys::socket::{setsockopt, sockopt};

use crate::lab::cases::{Case, NOISE, ONGOING};
use crate::lab::counters::{counted, counter, queue_dropped};
use crate::lab::raw_socket::RawSocket;
use crate::lab::service::{Service, answer, ask};
use crate::lab::sockets::{PATIENCE, one_packet_per_segment, send_and_read};
use crate::lab::userspace_link::{Side, UserspaceLink, tcp, tcp_payload};
use crate::lab::{Connection, Held, Scene, faults, run};

pub const CASES: &[Case] = &[
    Case {
        name: "baseline_bulk",
        made: "downloads of many megabytes, with and without offloads, and over the loopback device",
        run: bulk,
        ..NOISE
    },
    Case {
        name: "baseline_shaped",
        made: "a link limited to 20 Mbit/s that is used within that",
        run: shaped,
        ..NOISE
    },
    Case {
        name: "baseline_full_for_a_moment",
        made: "an upload to a reader that pauses for 20 ms now and then, with its window full",
        run: full_for_a_moment,
        ..NOISE
    },
    Case {
        name: "baseline_overtaken",
        made: "an upload on whose way every thirtieth segment is overtaken by the one behind it",
        run: overtaken,
        ..NOISE.over_userspace_link()
    },
    Case {
        name: "baseline_first_syn_lost",
        made: "the very first SYN is lost, and the connection opens a second later, as all others at once",
        run: first_syn_lost,
        ..NOISE.over_userspace_link()
    },
    Case {
        name: "baseline_marked",
        made: "an upload as fast as a limited router can, which marks packets (ECN) and drops none",
        run: marked,
        ..NOISE.routed()
    },
    Case {
        name: "baseline_one_burst",
        made: "a link with a short queue that drops a few packets of one burst among much traffic",
        run: one_burst,
        ..NOISE
    },
    Case {
        name: "ongoing_backups",
        made: "uploads of two megabytes that follow each other, beside small requests",
        run: |scene| {
            let store = Service::start(scene, |mut stream| {
                // Says how much it has got, once that is all.
                let got = std::io::copy(&mut stream, &mut std::io::sink()).unwrap_or_default();
                drop(stream.write_all(&got.to_be_bytes()));
            })?;
            let service = Service::start(scene, answer)?;
            let (to, at) = (store.at, service.at);
            let uploads = scene.go_on(scene.client(), Duration::from_millis(100), move || {
                let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
                stream.write_all(&vec![b'b'; 2_000_000])?;
                stream.shutdown(std::net::Shutdown::Write)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                let mut got = [0; 8];
                stream.read_exact(&mut got).context("the receipt")?;
                ensure!(u64::from_be_bytes(got) == 2_000_000, "not all of it arrived");
                Ok(())
            })?;
            let clients =
                scene.go_on(scene.client(), Duration::from_millis(20), move || ask(at, PATIENCE))?;
            scene.seen_well(60)?;
            Ok(Box::new((uploads, clients, store, service)))
        },
        ..ONGOING
    },
];

fn bulk(scene: &Scene) -> Result<Held> {
    // Times 20 kB. Without offloads, so many packets at once as a window allows would not find room
    // with the receiving CPU.
    for (offloads, times, pause) in [("on", 2500, 0), ("off", 500, 1)] {
        for at in [scene.client(), scene.server()] {
            let set = format!("-K eth0 tso {offloads} gso {offloads} gro {offloads}");
            at.run(|| run("ethtool", &set))?;
        }
        let connection = Connection::open(&scene.pair, scene.family)?;
        send_and_read(&connection, times, Duration::from_millis(pause))?;
        connection.close()?;
    }
    let accepting = scene.server().listen((scene.loopback(), 0))?;
    let server_at = accepting.local_addr()?;
    let client = scene.server().connect(server_at)?;
    let (server, client_at) = accepting.accept()?;
    send_and_read(&Connection { client, server, client_at, server_at }, 2500, Duration::ZERO)?;
    for at in [scene.client(), scene.server()] {
        // A busy machine is late with an acknowledgement now and then, and is asked for it.
        let (again, probes) = (counter(at, "TcpRetransSegs")?, counter(at, "TcpExtTCPLossProbes")?);
        ensure!(again <= probes, "{again} segments were sent again in {}", at.name());
    }
    Ok(Box::new(()))
}

fn shaped(scene: &Scene) -> Result<Held> {
    scene.client().tc("qdisc add dev eth0 root tbf rate 20mbit burst 20k latency 500ms")?;
    let reader = scene.receiver()?;
    let mut connection = Connection::open(&scene.pair, scene.family)?;
    for _ in 0..20 {
        faults::send_udp_evenly(scene.client(), reader.local_addr()?, 400, 1, |sent| sent < 20)?;
        for _ in 0..20 {
            reader.recv(&mut [0; 100])?;
        }
        connection.exchange(3000, 3000)?;
    }
    let shown = run("tc", &format!("-s -n {} qdisc show dev eth0", scene.client().name()))?;
    ensure!(shown.contains("tbf") && shown.contains("dropped 0"), "{shown}");
    Ok(Box::new((connection, reader)))
}

/// The pauses are shorter than what a sender waits for before it probes.
fn full_for_a_moment(scene: &Scene) -> Result<Held> {
    const CHUNK: usize = 200_000;
    const CHUNKS: usize = 10;
    // BBR, the default here, learns how slow the reader is.
    scene.client().sysctl("net/ipv4/tcp_congestion_control", "reno")?;
    let accepting = scene.listener()?;
    setsockopt(&accepting, sockopt::RcvBuf, &16_384)?;
    let Connection { mut client, mut server, .. } = Connection::to(scene.client(), &accepting)?;
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

fn overtaken(scene: &Scene) -> Result<Held> {
    let link = Uneven::start(scene.userspace_link()?);
    let connection = Connection::open(&scene.pair, scene.family)?;
    send_and_read(&connection, 100, Duration::ZERO)?;
    counted(scene.server(), "TcpExtTCPOFOQueue", 20)?;
    Ok(Box::new((connection, link)))
}

/// A link at work that changes the order of segments, until it is dropped.
struct Uneven {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Uneven {
    fn start(link: UserspaceLink) -> Self {
        let (stop, link) = (Arc::new(AtomicBool::new(false)), Arc::new(link));
        let threads = [Side::Client, Side::Server].map(|side| {
            let (stop, link) = (Arc::clone(&stop), Arc::clone(&link));
            thread::spawn(move || match side {
                Side::Client => carry_unevenly(&link.client, &link.server, &stop),
                Side::Server => carry_unevenly(&link.server, &link.client, &stop),
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

fn carry_unevenly(from: &RawSocket, to: &RawSocket, stop: &AtomicBool) {
    const FULL: usize = 1000;
    let (mut frame, mut held, mut full) = ([0; 2048], None, 0_u32);
    while !stop.load(Ordering::Relaxed) {
        let Ok(found) = from.look(&mut frame) else { return };
        // A frame that a link which is down refuses is lost, as on any link.
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

/// As behind a switch that has yet to learn where everybody is.
fn first_syn_lost(scene: &Scene) -> Result<Held> {
    let lost = AtomicBool::new(false);
    scene.carry(move |side, packet| {
        let asks = side == Side::Client && tcp(packet).is_some_and(|segment| segment.syn());
        !asks || lost.swap(true, Ordering::Relaxed)
    })?;
    let accepting = scene.listener()?;
    let begun = Instant::now();
    for _ in 0..50 {
        let mut connection = Connection::to(scene.client(), &accepting)?;
        connection.exchange(300, 2000)?;
        connection.close()?;
    }
    ensure!(counter(scene.client(), "TcpExtTCPSynRetrans")? == 1, "not one SYN was repeated");
    ensure!(begun.elapsed() < Duration::from_secs(4), "more than the first was slow");
    Ok(Box::new(accepting))
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
    ensure!(queue_dropped(router, "eth1")? == 0, "the queue was too short");
    Ok(Box::new(connection))
}

fn one_burst(scene: &Scene) -> Result<Held> {
    scene.client().tc("qdisc add dev eth0 root tbf rate 400mbit burst 22k limit 25k")?;
    // BBR, the default here, sends no bursts.
    scene.client().sysctl("net/ipv4/tcp_congestion_control", "reno")?;
    one_packet_per_segment(scene.client())?;
    let mut connection = Connection::open(&scene.pair, scene.family)?;
    (0..500).try_for_each(|_| connection.exchange(20_000, 200))?;
    ensure!(queue_dropped(scene.client(), "eth0")? == 0, "its daily traffic does not fit the queue");
    send_and_read(&connection, 20, Duration::ZERO)?;
    let lost = queue_dropped(scene.client(), "eth0")?;
    ensure!((1..70).contains(&lost), "{lost} of more than 7000 packets were dropped");
    Ok(Box::new(connection))
}
