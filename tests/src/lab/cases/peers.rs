//! Links and peers that lose or do not answer, where nobody on this node sees why.

use std::io::Write as _;
use std::net::TcpStream;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::lab::cases::{BLIND, Case, KNOWN, ONGOING, Ongoing, VARIATION, client, server, unanswered};
use crate::lab::counters::counted;
use crate::lab::service::{Service, answer, ask, ask_on};
use crate::lab::sockets::{PATIENCE, keep_alive, one_packet_per_segment, send_and_read};
use crate::lab::userspace_link::{tcp, tcp_payload};
use crate::lab::{Connection, Held, Scene};

pub const CASES: &[Case] = &[
    Case {
        name: "tcp_loss",
        made: "a cable that loses every twentieth full segment of an upload",
        expect: &[client("tcp-loss")],
        ongoing: Ongoing::Again,
        run: lossy_cable,
        ..KNOWN.over_userspace_link()
    },
    Case {
        name: "peer_silent",
        made: "connects to a host behind the cable that does not answer",
        expect: &[client("peer-unresponsive")],
        run: |scene| {
            let stranger = scene.neighbour(60);
            scene.client().knows(stranger, "02:00:00:00:00:3c")?;
            scene.carry(|_, _| false)?;
            unanswered(scene, (stranger, 80).into())
        },
        ..KNOWN.over_userspace_link()
    },
    Case {
        name: "peer_vanishes",
        made: "a cable that is cut while a connection is in use",
        expect: &[client("peer-unresponsive"), server("peer-unresponsive")],
        ongoing: Ongoing::ByItself,
        run: |scene| {
            let cut = scene.carry_until_cut()?;
            let mut connection = Connection::open(&scene.pair, scene.family)?;
            connection.exchange(100, 100)?;
            cut.store(true, Ordering::Relaxed);
            connection.client.write_all(b"are you there?")?;
            counted(scene.client(), "TcpExtTCPTimeouts", 3)?;
            Ok(Box::new(connection))
        },
        ..KNOWN.over_userspace_link()
    },
    Case {
        name: "var_lossy_way_back",
        made: "a cable that loses every second acknowledgement and every tenth segment of a download",
        expect: &[server("tcp-loss"), client("tcp-loss")],
        ongoing: Ongoing::Again,
        run: lossy_download,
        ..VARIATION.over_userspace_link()
    },
    Case {
        name: "var_keepalive_finds_out",
        made: "a cable is cut under an idle connection, whose keepalive notices",
        expect: &[client("reset-keepalive-timeout"), client("peer-unresponsive")],
        ongoing: Ongoing::Never("a connection is given up once"),
        run: cut_while_idle,
        ..BLIND.over_userspace_link()
    },
    Case {
        name: "ongoing_far_wall",
        made: "health checks that wait for 0.4 s, against a host behind the cable whose firewall drops them",
        expect: &[client("peer-unresponsive")],
        run: |scene| {
            let stranger = scene.neighbour(60);
            scene.client().knows(stranger, "02:00:00:00:00:3c")?;
            scene.carry(|_, _| false)?;
            let (patience, pause) = (Duration::from_millis(400), Duration::from_millis(600));
            let checks = scene.connect_in_vain(scene.client(), (stranger, 8080).into(), patience, pause)?;
            scene.seen(5)?;
            Ok(checks)
        },
        ..ONGOING.over_userspace_link()
    },
    Case {
        name: "ongoing_one_far_wall",
        made: "the same for one of two peers behind the cable; the other is well",
        expect: &[client("peer-unresponsive")],
        run: one_far_wall,
        ..ONGOING.over_userspace_link()
    },
    Case {
        name: "ongoing_pool_cut",
        made: "a cable is cut under a pool, whose requests and connects then wait for half a second each",
        expect: &[client("peer-unresponsive"), server("peer-unresponsive")],
        run: pool_cut,
        ..ONGOING.over_userspace_link()
    },
    Case {
        name: "ongoing_lossy_requests",
        made: "a cable that loses every tenth segment of small requests and answers",
        expect: &[client("tcp-loss"), server("tcp-loss")],
        run: lossy_requests,
        ..ONGOING.over_userspace_link()
    },
    Case {
        name: "ongoing_lossy_way",
        made: "a cable that loses every twentieth full segment of uploads that follow each other",
        expect: &[client("tcp-loss")],
        run: lossy,
        ..ONGOING.over_userspace_link()
    },
];

fn lossy_cable(scene: &Scene) -> Result<Held> {
    const FULL: usize = 1000;
    let number = AtomicU32::new(0);
    scene.carry(move |_, packet| {
        tcp_payload(packet) < FULL || number.fetch_add(1, Ordering::Relaxed) % 20 != 19
    })?;
    let connection = Connection::open(&scene.pair, scene.family)?;
    send_and_read(&connection, 50, Duration::ZERO)?;
    counted(scene.client(), "TcpRetransSegs", 10)?;
    Ok(Box::new(connection))
}

fn lossy_download(scene: &Scene) -> Result<Held> {
    let (acknowledgements, segments) = (AtomicU32::new(0), AtomicU32::new(0));
    scene.carry(move |_, packet| {
        let Some(segment) = tcp(packet).filter(|segment| !segment.syn()) else { return true };
        if segment.payload().is_empty() {
            acknowledgements.fetch_add(1, Ordering::Relaxed) % 2 == 0
        } else {
            segments.fetch_add(1, Ordering::Relaxed) % 10 != 9
        }
    })?;
    let Connection { client, server, client_at, server_at } = Connection::open(&scene.pair, scene.family)?;
    // The server uploads to the client.
    let turned = Connection { client: server, server: client, client_at: server_at, server_at: client_at };
    send_and_read(&turned, 20, Duration::ZERO)?;
    counted(scene.server(), "TcpRetransSegs", 10)?;
    Ok(Box::new(turned))
}

fn cut_while_idle(scene: &Scene) -> Result<Held> {
    let cut = scene.carry_until_cut()?;
    let mut connection = Connection::open(&scene.pair, scene.family)?;
    connection.exchange(300, 300)?;
    keep_alive(&connection.client, 2)?;
    cut.store(true, Ordering::Relaxed);
    counted(scene.client(), "TcpExtTCPAbortOnTimeout", 1)?;
    Ok(Box::new(connection))
}

fn one_far_wall(scene: &Scene) -> Result<Held> {
    let stranger = scene.neighbour(60);
    scene.client().knows(stranger, "02:00:00:00:00:3c")?;
    scene.carry(|_, _| true)?;
    let service = Service::start(scene, answer)?;
    let at = service.at;
    let well = scene.go_on(scene.client(), Duration::from_millis(50), move || ask(at, PATIENCE))?;
    let (patience, pause) = (Duration::from_millis(700), Duration::from_millis(100));
    let checks = scene.connect_in_vain(scene.client(), (stranger, 8080).into(), patience, pause)?;
    scene.seen(20)?;
    Ok(Box::new((checks, well, service)))
}

fn pool_cut(scene: &Scene) -> Result<Held> {
    let cut = scene.carry_until_cut()?;
    let service = Service::start(scene, answer)?;
    let at = service.at;
    let pool = (0..4).map(|_| {
        let stream = scene.client().connect(at)?;
        ask_on(&stream, PATIENCE)?;
        Ok(stream)
    });
    let pool = pool.collect::<Result<Vec<_>>>()?;
    cut.store(true, Ordering::Relaxed);
    let clients = pool.into_iter().map(|stream| {
        let mut stream = Some(stream);
        scene.go_on(scene.client(), Duration::from_millis(100), move || {
            let patience = Duration::from_millis(500);
            let outcome = match stream.take() {
                Some(stream) => ask_on(&stream, patience),
                None => ask(at, patience),
            };
            ensure!(outcome.is_err(), "the cable is whole");
            Ok(())
        })
    });
    let clients = clients.collect::<Result<Vec<_>>>()?;
    scene.seen(16)?;
    Ok(Box::new((clients, service)))
}

fn lossy_requests(scene: &Scene) -> Result<Held> {
    let number = AtomicU32::new(0);
    scene.carry(move |_, packet| {
        let data = tcp(packet).is_some_and(|segment| !segment.payload().is_empty());
        !data || number.fetch_add(1, Ordering::Relaxed) % 10 != 9
    })?;
    let service = Service::start(scene, answer)?;
    let at = service.at;
    let clients = (0..4).map(|_| {
        let stream = scene.client().connect(at)?;
        scene.go_on(scene.client(), Duration::from_millis(10), move || ask_on(&stream, PATIENCE))
    });
    let clients = clients.collect::<Result<Vec<_>>>()?;
    scene.seen(60)?;
    counted(scene.client(), "TcpRetransSegs", 3)?;
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
    scene.seen(3)?;
    counted(scene.client(), "TcpRetransSegs", 10)?;
    Ok(Box::new((clients, service)))
}
