//! Queues of listeners.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpStream};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Result, ensure};
use etherparse::{TcpHeader, TcpOptionElement};
use nix::sys::signal::Signal;

use crate::lab::background::Load;
use crate::lab::cases::{Case, KNOWN, LIFE, NOISE, ONGOING, Ongoing, UNSEEN, VARIATION, server};
use crate::lab::counters::{counted, counter};
use crate::lab::injector::Injector;
use crate::lab::{Actor, Cgroup, Connection, Held, Namespace, Scene, faults};

pub const CASES: &[Case] = &[
    Case {
        name: "listen_overflow",
        made: "six connect to a listener with a backlog of 1 that never accepts",
        expect: &[server("accept-queue-overflow")],
        ongoing: Ongoing::ByItself,
        run: overflow,
        ..KNOWN
    },
    Case {
        name: "listen_overflow_abort",
        made: "the same with tcp_abort_on_overflow",
        expect: &[server("accept-queue-overflow")],
        ongoing: Ongoing::ByItself,
        run: |scene| {
            scene.server().sysctl("net/ipv4/tcp_abort_on_overflow", "1")?;
            overflow(scene)
        },
        ..KNOWN
    },
    Case {
        name: "synflood_cookies",
        made: "200 SYNs to a listener with a backlog of 8, whose answers the client drops",
        expect: &[server("syn-queue-overflow")],
        ongoing: Ongoing::Again,
        run: flood_from_client,
        ..KNOWN
    },
    Case {
        name: "synflood_no_cookies",
        made: "200 SYNs from elsewhere that nobody confirms, and no SYN cookies",
        expect: &[server("syn-queue-overflow")],
        ongoing: Ongoing::ByItself,
        run: flood_from_elsewhere,
        ..KNOWN.over_userspace_link()
    },
    Case {
        name: "var_stopped_server",
        made: "a server that accepts is stopped (SIGSTOP) while eight connect; its backlog is 2",
        expect: &[server("accept-queue-overflow")],
        run: stopped,
        ..VARIATION
    },
    Case {
        name: "var_dual_stack_overflow",
        made: "a listener for both families whose host allows two waiting connections (somaxconn)",
        expect: &[server("accept-queue-overflow")],
        run: |scene| {
            scene.server().sysctl("net/core/somaxconn", "2")?;
            let listener = scene.server().listen((Ipv6Addr::UNSPECIFIED, 0))?;
            let to = scene.server_at(listener.local_addr()?.port());
            let waiting = (0..8).map(|_| scene.connect(scene.client(), to));
            let waiting = waiting.collect::<Result<Vec<_>>>()?;
            counted(scene.server(), "TcpExtListenOverflows", 4)?;
            scene.in_vain(scene.client(), 1)?;
            Ok(Box::new((waiting, listener)))
        },
        ..UNSEEN
    },
    Case {
        name: "var_stalled_worker",
        made: "one of two workers that share a port (SO_REUSEPORT) accepts no more",
        expect: &[server("accept-queue-overflow")],
        run: stalled_worker,
        ..UNSEEN
    },
    Case {
        name: "var_busy_beside_full",
        made: "one service does not accept, beside another that a third host keeps busy",
        expect: &[server("accept-queue-overflow")],
        ongoing: Ongoing::ByItself,
        run: |scene| {
            let load = Load::start(scene.third()?, scene)?;
            load.carries(100)?;
            let full = faults::fill_accept_queue(&scene.pair, scene.family)?;
            counted(scene.server(), "TcpExtListenOverflows", 4)?;
            load.carries(200)?;
            Ok(Box::new((full, load)))
        },
        ..NOISE.bridged()
    },
    Case {
        name: "var_full_amid_cancels",
        made: "one service does not accept, and clients of another cancel a few of its downloads",
        expect: &[server("accept-queue-overflow")],
        ongoing: Ongoing::ByItself,
        run: full_amid_cancels,
        ..NOISE
    },
    Case {
        name: "ongoing_full_queue",
        made: "a server with a backlog of 1 that accepts nobody, and clients that give up after half a second",
        expect: &[server("accept-queue-overflow")],
        run: |scene| {
            let full = faults::fill_accept_queue(&scene.pair, scene.family)?;
            counted(scene.server(), "TcpExtListenOverflows", 4)?;
            let (patience, pause) = (Duration::from_millis(500), Duration::from_millis(200));
            let clients = scene.connect_in_vain(scene.client(), full.at, patience, pause)?;
            scene.seen(4)?;
            Ok(Box::new((clients, full)))
        },
        ..ONGOING
    },
    Case {
        name: "life_server_pause",
        made: "a server with a backlog of 4 pauses for two seconds while forty clients come, and goes on",
        expect: &[server("accept-queue-overflow")],
        ongoing: Ongoing::Never("the pause is over when somebody asks"),
        run: pause,
        ..LIFE
    },
    Case {
        name: "life_cpu_throttled",
        made: "a server whose cgroup may use 3 % of a CPU, and clients that wait for half a second",
        expect: &[server("accept-queue-overflow"), server("socket-read-slow")],
        ongoing: Ongoing::Again,
        run: throttled,
        ..LIFE
    },
];

fn overflow(scene: &Scene) -> Result<Held> {
    let full = faults::fill_accept_queue(&scene.pair, scene.family)?;
    counted(scene.server(), "TcpExtListenOverflows", 4)?;
    scene.in_vain(scene.client(), 1)?;
    Ok(Box::new(full))
}

fn flood_from_client(scene: &Scene) -> Result<Held> {
    scene.client().filter("input", "tcp flags & (syn | ack) == syn | ack drop")?;
    let listener = scene.server().listen_with((scene.server_ip(), 0), 8)?;
    let at = listener.local_addr()?;
    flood(&Injector::new(&scene.pair)?, scene.client_ip(), at)?;
    counted(scene.server(), "TcpExtSyncookiesSent", 100)?;
    Ok(Box::new(listener))
}

fn flood(through: &Injector, from: IpAddr, to: SocketAddr) -> Result<()> {
    for port in 20_000..20_200 {
        let mut syn = TcpHeader::new(port, to.port(), u32::from(port), 65_535);
        syn.syn = true;
        syn.set_options(&[TcpOptionElement::MaximumSegmentSize(1400)])?;
        through.segment(from, to.ip(), syn, &[], false)?;
    }
    Ok(())
}

fn flood_from_elsewhere(scene: &Scene) -> Result<Held> {
    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 60];
    let from = scene.neighbour(60);
    scene.server().knows(from, "02:00:00:00:00:3c")?;
    scene.server().sysctl("net/ipv4/tcp_syncookies", "0")?;
    let listener = scene.server().listen_with((scene.server_ip(), 0), 8)?;
    let at = listener.local_addr()?;
    let elsewhere = Injector::behind(scene.userspace_link()?.server, &scene.pair, MAC)?;
    flood(&elsewhere, from, at)?;
    counted(scene.server(), "TcpExtListenDrops", 50)?;
    Ok(Box::new((listener, elsewhere)))
}

fn stopped(scene: &Scene) -> Result<Held> {
    let at = scene.listener()?.local_addr()?;
    let actor = Actor::start(scene.server(), &[], &format!("echo {at} 2"))?;
    let mut first = scene.client().connect(at)?;
    first.write_all(b"?")?;
    first.read_exact(&mut [0])?;
    actor.signal(Signal::SIGSTOP)?;
    let waiting: Vec<Held> = (0..8).map(|_| scene.connect(scene.client(), at)).collect::<Result<_>>()?;
    counted(scene.server(), "TcpExtListenOverflows", 4)?;
    scene.in_vain(scene.client(), 1)?;
    Ok(Box::new((waiting, first, actor)))
}

fn stalled_worker(scene: &Scene) -> Result<Held> {
    let at = scene.server_at(8080);
    let (stalled, healthy) = (scene.server().listen_with(at, 1)?, scene.server().listen_with(at, 128)?);
    let clients = (0..32).map(|_| scene.connect(scene.client(), at)).collect::<Result<Vec<_>>>()?;
    counted(scene.server(), "TcpExtListenOverflows", 4)?;
    scene.in_vain(scene.client(), 1)?;
    Ok(Box::new((healthy.accept()?, clients, stalled, healthy)))
}

fn full_amid_cancels(scene: &Scene) -> Result<Held> {
    let full = faults::fill_accept_queue(&scene.pair, scene.family)?;
    for n in 0..40 {
        let mut connection = Connection::open(&scene.pair, scene.family)?;
        connection.exchange(300, 5000)?;
        if n % 20 == 7 {
            // Something has come that nobody will read.
            connection.server.write_all(&[b'x'; 5000])?;
            connection.client.peek(&mut [0])?;
            let Connection { client, mut server, .. } = connection;
            drop(client);
            ensure!(server.read(&mut [0]).is_err(), "expected a reset");
        } else {
            connection.close()?;
        }
    }
    counted(scene.server(), "TcpExtListenOverflows", 4)?;
    scene.in_vain(scene.client(), 1)?;
    Ok(Box::new(full))
}

fn pause(scene: &Scene) -> Result<Held> {
    let (server, at) = start_server(scene, &[], "echo")?;
    ensure!(requests(scene, at, 4, Duration::from_secs(5))? == 4, "the server does not serve");
    server.signal(Signal::SIGSTOP)?;
    let answered = std::thread::scope(|scope| {
        let clients = scope.spawn(|| requests(scene, at, 40, Duration::from_secs(10)));
        sleep(Duration::from_secs(2));
        server.signal(Signal::SIGCONT)?;
        clients.join().expect("asking does not panic")
    })?;
    ensure!(answered > 30, "{answered} were answered at last");
    counted(scene.server(), "TcpExtListenOverflows", 10)?;
    Ok(Box::new(server))
}

fn start_server(scene: &Scene, cgroups: &[&Cgroup], part: &str) -> Result<(Actor, SocketAddr)> {
    let at = scene.listener()?.local_addr()?;
    Ok((Actor::start(scene.server(), cgroups, &format!("{part} {at} 4"))?, at))
}

/// Requests from so many clients at once; returns how many were answered in time.
fn requests(scene: &Scene, to: SocketAddr, clients: usize, patience: Duration) -> Result<usize> {
    std::thread::scope(|scope| {
        let asked: Vec<_> =
            (0..clients).map(|_| scope.spawn(move || request(scene.client(), to, patience))).collect();
        let answers = asked.into_iter().map(|one| one.join().expect("asking does not panic"));
        answers.filter(|answer| !matches!(answer, Ok(false))).map(|answer| answer.map(usize::from)).sum()
    })
}

/// One request on a connection of its own; false if it took longer than `patience`.
fn request(at: &Namespace, to: SocketAddr, patience: Duration) -> Result<bool> {
    at.run(|| {
        let Ok(mut stream) = TcpStream::connect_timeout(&to, patience) else { return Ok(false) };
        stream.set_read_timeout(Some(patience))?;
        stream.write_all(b"?")?;
        Ok(stream.read(&mut [0]).is_ok_and(|length| length == 1))
    })
}

fn throttled(scene: &Scene) -> Result<Held> {
    let cgroup = Cgroup::of("cpu")?;
    let (server, at) = start_server(scene, &[&cgroup], "work")?;
    let patience = Duration::from_millis(500);
    ensure!(requests(scene, at, 4, patience)? == 4, "the server does not serve");
    cgroup.set("cpu.cfs_quota_us", "3000")?;
    let mut answered = 0;
    for _ in 0..5 {
        answered += requests(scene, at, 20, patience)?;
    }
    ensure!(answered < 80, "{answered} of 100 were answered");
    ensure!(counter(scene.server(), "TcpExtListenOverflows")? > 0, "its queue was never full");
    Ok(Box::new((server, cgroup)))
}
