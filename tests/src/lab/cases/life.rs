//! Situations from real life, in which one thing leads to another.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;

use super::{Case, FAULT, Ongoing, client, server};
use crate::lab::counters::{counted, counter};
use crate::lab::dns::{LATE, Resolver};
use crate::lab::sockets::listener;
use crate::lab::{Actor, Cgroup, Held, Namespace, Scene, Topology, gateway};

pub const CASES: &[Case] = &[
    Case {
        name: "life_late_dns_answer",
        made: "a name server answers after its client has given up, again and again",
        expect: &[server("dns-slow"), client("dns-slow"), server("dns-timeout"), client("dns-timeout")],
        ongoing: Ongoing::Again,
        run: late_answers,
        ..FAULT
    },
    Case {
        name: "life_server_pause",
        made: "a server with a backlog of 4 pauses for two seconds while forty clients come, and goes on",
        expect: &[server("accept-queue-overflow")],
        ongoing: Ongoing::Never("the pause is over when somebody asks"),
        run: pause,
        ..FAULT
    },
    Case {
        name: "life_cpu_throttled",
        made: "a server whose cgroup may use 3 % of a CPU, and clients that wait for half a second",
        expect: &[server("accept-queue-overflow"), server("socket-read-slow")],
        ongoing: Ongoing::Again,
        run: throttled,
        ..FAULT
    },
    Case {
        name: "life_gateway_502",
        made: "a gateway (the third host) keeps connections that its upstream resets when idle",
        topology: Topology::Bridged,
        expect: &[server("reset-by-application")],
        ongoing: Ongoing::Again,
        run: bad_gateway,
        ..FAULT
    },
];

/// The client waits for a third of what the server takes, and closes its socket.
fn late_answers(scene: &Scene) -> Result<Held> {
    let resolver = Resolver::start(&scene.pair)?;
    for n in 0..4 {
        resolver.ask_without_answer(scene.family, &format!("host{n}.late.example"), 1)?;
        sleep(LATE + Duration::from_millis(50));
    }
    let nobody = scene.by_family("UdpNoPorts", "Udp6NoPorts");
    counted(scene.client(), nobody, 3)?;
    Ok(Box::new(()))
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

fn start_server(scene: &Scene, cgroups: &[&Cgroup], part: &str) -> Result<(Actor, SocketAddr)> {
    let at = listener(scene.server(), scene.server_ip())?.local_addr()?;
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

fn bad_gateway(scene: &Scene) -> Result<Held> {
    let idle = Duration::from_millis(100);
    let upstream = gateway::upstream(scene.server(), scene.server_ip(), idle)?;
    let front = gateway::gateway(scene.third()?, scene.neighbour(3), upstream)?;
    let mut client = scene.client().run(|| Ok(TcpStream::connect(front)?))?;
    let mut bad = 0;
    for _ in 0..8 {
        bad += usize::from(gateway::ask(&mut client)? == 502);
        sleep(idle * 2);
    }
    ensure!(bad >= 3, "{bad} of 8 requests got 502");
    Ok(Box::new(client))
}
