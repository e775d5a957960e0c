//! Ways that are closed, narrow, lossy or lead to nobody, and clients that go on.

use std::io::Write as _;
use std::net::{IpAddr, TcpStream};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

use super::{CABLED, GOES_ON, PATIENCE, ROUTED, Service, answer, knocking, seen};
use crate::lab::cable::tcp_payload;
use crate::lab::cases::routes::{beyond, net};
use crate::lab::cases::{Case, client, router, server};
use crate::lab::counters::counted;
use crate::lab::sockets::one_packet_per_segment;
use crate::lab::{Held, Scene};

pub const CASES: &[Case] = &[
    Case {
        name: "ongoing_gone_neighbour",
        made: "clients that wait for 1.2 s for an address on the link that nobody has",
        expect: &[client("neighbour-unresolved")],
        run: |scene| {
            let (patience, pause) = (Duration::from_millis(1200), Duration::from_millis(300));
            let gone = (scene.neighbour(99), 5432).into();
            let clients = knocking(scene, scene.client(), gone, patience, pause)?;
            seen(scene, 3)?;
            Ok(clients)
        },
        ..GOES_ON
    },
    Case {
        name: "ongoing_gone_neighbour_checked",
        made: "the same with checks that wait for 0.3 s, every two seconds",
        expect: &[client("neighbour-unresolved")],
        run: |scene| {
            let (patience, pause) = (Duration::from_millis(300), Duration::from_millis(1700));
            let gone = (scene.neighbour(98), 8080).into();
            let clients = knocking(scene, scene.client(), gone, patience, pause)?;
            seen(scene, 3)?;
            Ok(clients)
        },
        ..GOES_ON
    },
    Case {
        name: "ongoing_half_dead_service",
        made: "a router sends the connections of a service to two ports in turn; nobody listens at one",
        expect: &[server("port-not-listening")],
        run: half_dead,
        ..ROUTED
    },
    Case {
        name: "ongoing_dead_pod",
        made: "a router sends a service's connections to the address of a pod that is gone; clients wait 0.8 s",
        expect: &[router("neighbour-unresolved"), router("stale-translation")],
        run: dead_pod,
        ..ROUTED
    },
    Case {
        name: "ongoing_narrow_way",
        made: "uploads again and again over a narrow link, of which the router's firewall lets nobody know",
        expect: &[router("pmtu-blackhole")],
        run: narrow,
        ..ROUTED
    },
    Case {
        name: "ongoing_blackhole",
        made: "a blackhole route of the router, and clients that wait for 0.4 s",
        expect: &[router("route-blocked")],
        run: |scene| {
            scene.router()?.ip(&format!("route add blackhole {}", net(scene.family)))?;
            let (patience, pause) = (Duration::from_millis(400), Duration::from_millis(300));
            let clients = knocking(scene, scene.client(), beyond(scene.family), patience, pause)?;
            seen(scene, 5)?;
            Ok(clients)
        },
        ..ROUTED
    },
    Case {
        name: "ongoing_lossy_way",
        made: "a cable that loses every twentieth full segment of uploads that follow each other",
        expect: &[client("tcp-loss")],
        run: lossy,
        ..CABLED
    },
];

/// Half of the requests are answered.
fn half_dead(scene: &Scene) -> Result<Held> {
    let service = Service::serve(
        scene.server().run(|| Ok(std::net::TcpListener::bind(scene.server_at(8080))?))?,
        answer,
    )?;
    let (family, front) = (scene.by_family("ip", "ip6"), scene.neighbour(254));
    let backend = scene.by_family("10.9.1.2", "fd00:9:0:1::2");
    scene.router()?.nft(&format!(
        "add table {family} lab; \
         add chain {family} lab pre {{ type nat hook prerouting priority -100; }}; \
         add rule {family} lab pre {family} daddr {front} tcp dport 80 \
         dnat to {backend} : numgen inc mod 2 map {{ 0 : 8080, 1 : 8081 }}"
    ))?;
    let clients =
        scene.go_on(scene.client(), Duration::from_millis(100), move || match TcpStream::connect_timeout(
            &(front, 80).into(),
            PATIENCE,
        ) {
            Ok(stream) => {
                super::ask_on(&stream, PATIENCE)?;
                bail!("this one is well")
            }
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => Ok(()),
            Err(error) => Err(error).context("refused otherwise"),
        })?;
    seen(scene, 8)?;
    Ok(Box::new((clients, service)))
}

fn dead_pod(scene: &Scene) -> Result<Held> {
    let (family, front) = (scene.by_family("ip", "ip6"), scene.neighbour(254));
    let pod: IpAddr = scene.by_family("10.9.1.77", "fd00:9:0:1::77").parse()?;
    scene.router()?.nft(&format!(
        "add table {family} lab; \
         add chain {family} lab pre {{ type nat hook prerouting priority -100; }}; \
         add rule {family} lab pre {family} daddr {front} tcp dport 80 dnat to {pod}"
    ))?;
    let (patience, pause) = (Duration::from_millis(800), Duration::from_millis(200));
    let clients = knocking(scene, scene.client(), (front, 80).into(), patience, pause)?;
    seen(scene, 4)?;
    Ok(clients)
}

/// Small requests pass; of an upload nothing arrives.
fn narrow(scene: &Scene) -> Result<Held> {
    let error = scene.by_family("icmp type destination-unreachable", "icmpv6 type packet-too-big");
    scene.router()?.nft(&format!(
        "add table inet lab; add chain inet lab out {{ type filter hook output priority 0; }}; \
         add rule inet lab out {error} drop"
    ))?;
    scene.router()?.ip("link set eth1 mtu 1300")?;
    let service = Service::start(scene, answer)?;
    let at = service.at;
    let clients = scene.go_on(scene.client(), Duration::from_millis(200), move || {
        let mut stream = TcpStream::connect_timeout(&at, PATIENCE)?;
        super::ask_on(&stream, PATIENCE)?;
        stream.write_all(&[b'u'; 20_000])?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        ensure!(std::io::Read::read(&mut stream, &mut [0]).is_err(), "the upload arrived");
        Ok(())
    })?;
    seen(scene, 3)?;
    counted(scene.router()?, scene.by_family("IpFragFails", "Ip6InTooBigErrors"), 3)?;
    Ok(Box::new((clients, service)))
}

fn lossy(scene: &Scene) -> Result<Held> {
    const FULL: usize = 1000;
    let number = AtomicU32::new(0);
    scene.carry(move |_, packet| {
        tcp_payload(packet) < FULL || number.fetch_add(1, Ordering::Relaxed) % 20 != 19
    })?;
    one_packet_per_segment(scene.client())?;
    let service = Service::start(scene, answer)?;
    let at = service.at;
    let clients = scene.go_on(scene.client(), Duration::from_millis(100), move || {
        let stream = TcpStream::connect_timeout(&at, PATIENCE)?;
        // The service answers a hundred bytes at a time.
        let mut answers = stream.try_clone()?;
        let reader = std::thread::spawn(move || std::io::copy(&mut answers, &mut std::io::sink()));
        (&stream).write_all(&[b'u'; 100_000])?;
        stream.shutdown(std::net::Shutdown::Write)?;
        let answered = reader.join().expect("reading does not panic")?;
        ensure!(answered == 100_000, "{answered} bytes were answered");
        Ok(())
    })?;
    seen(scene, 3)?;
    counted(scene.client(), "TcpRetransSegs", 10)?;
    Ok(Box::new((clients, service)))
}
