//! Applications that do not read, or late.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use nix::sys::signal::Signal;
use nix::sys::socket::{setsockopt, sockopt};

use crate::lab::cases::{BLIND, Case, KNOWN, NOISE, ONGOING, Ongoing, UNSEEN, VARIATION, client, server};
use crate::lab::counters::{counted, counter};
use crate::lab::dns::{A, AAAA, Resolver, Transport};
use crate::lab::service::{LENGTH, Service, ask_on};
use crate::lab::sockets::{PATIENCE, fill};
use crate::lab::{Actor, Cgroup, Connection, Held, Scene};
use crate::wait;

pub const CASES: &[Case] = &[
    Case {
        name: "tcp_zero_window",
        made: "an upload to a server that accepts and never reads",
        expect: &[server("receiver-not-reading")],
        ongoing: Ongoing::ByItself,
        run: |scene| {
            scene.server().sysctl("net/ipv4/tcp_rmem", "4096 4096 4096")?;
            let connection = Connection::open(&scene.pair, scene.family)?;
            fill(&connection.client)?;
            counted(scene.client(), "TcpExtTCPWinProbe", 2)?;
            Ok(Box::new(connection))
        },
        ..KNOWN
    },
    Case {
        name: "socket_read_slow",
        made: "a server that lets requests wait for half a second",
        expect: &[server("socket-read-slow")],
        ongoing: Ongoing::Again,
        run: |scene| {
            let mut connection = Connection::open(&scene.pair, scene.family)?;
            for _ in 0..4 {
                std::io::Write::write_all(&mut connection.client, b"request")?;
                sleep(Duration::from_millis(500));
                std::io::Read::read_exact(&mut connection.server, &mut [0; 7])?;
            }
            Ok(Box::new(connection))
        },
        ..KNOWN
    },
    Case {
        name: "var_trickling_reader",
        made: "a server that reads a few bytes at a time from a small buffer",
        expect: &[server("receiver-not-reading"), server("socket-read-slow")],
        ongoing: Ongoing::Again,
        run: trickling,
        ..VARIATION
    },
    Case {
        name: "var_stopped_in_requests",
        made: "a server is stopped (SIGSTOP), and clients ask on connections that are open already",
        expect: &[server("socket-read-slow")],
        ongoing: Ongoing::ByItself,
        run: stopped_in_requests,
        ..UNSEEN
    },
    Case {
        name: "var_frozen_reader",
        made: "a container is paused (its cgroup frozen) while it receives an upload",
        expect: &[server("receiver-not-reading"), server("socket-read-slow")],
        ongoing: Ongoing::ByItself,
        run: frozen,
        ..UNSEEN
    },
    Case {
        name: "var_accepts_and_sleeps",
        made: "a server that accepts and never reads; its clients have said hello (as TLS does) and wait",
        expect: &[server("socket-read-slow"), server("receiver-not-reading")],
        ongoing: Ongoing::ByItself,
        run: sleeper,
        ..BLIND
    },
    Case {
        name: "var_both_write",
        made: "two programs that each write all they have before they read what the other wrote",
        expect: &[client("receiver-not-reading"), server("receiver-not-reading")],
        also: &[client("receiver-not-reading"), server("receiver-not-reading")],
        ongoing: Ongoing::ByItself,
        run: |scene| {
            for host in [scene.client(), scene.server()] {
                host.sysctl("net/ipv4/tcp_rmem", "4096 4096 4096")?;
            }
            let connection = Connection::open(&scene.pair, scene.family)?;
            for end in [&connection.client, &connection.server] {
                fill(end)?;
            }
            for host in [scene.client(), scene.server()] {
                counted(host, "TcpExtTCPWinProbe", 2)?;
            }
            Ok(Box::new(connection))
        },
        ..BLIND
    },
    Case {
        name: "var_reader_wakes_up",
        made: "a server that does not read for more than a second, and then reads all there is",
        expect: &[server("receiver-not-reading"), server("socket-read-slow")],
        ongoing: Ongoing::Never("it has healed when somebody asks"),
        run: reader_wakes_up,
        ..NOISE
    },
    Case {
        name: "var_unread_amid_search_lists",
        made: "a server that never reads an upload, while names are looked for along a search list",
        expect: &[server("receiver-not-reading"), server("socket-read-slow")],
        ongoing: Ongoing::ByItself,
        run: unread,
        ..NOISE
    },
    Case {
        name: "ongoing_unread_upload",
        made: "a server that never reads, while its client goes on sending",
        expect: &[server("receiver-not-reading")],
        run: unread_ongoing,
        ..ONGOING
    },
    Case {
        name: "ongoing_answers_wait",
        made: "a server that looks at each request after 0.6 s only, for four clients at once",
        expect: &[server("socket-read-slow")],
        run: answers_wait,
        ..ONGOING
    },
];

fn trickling(scene: &Scene) -> Result<Held> {
    scene.server().sysctl("net/ipv4/tcp_rmem", "4096 4096 4096")?;
    let Connection { client, server, .. } = Connection::open(&scene.pair, scene.family)?;
    fill(&client)?;
    let mut reading = server.try_clone()?;
    for _ in 0..10 {
        sleep(Duration::from_millis(150));
        reading.read_exact(&mut [0; 16])?;
    }
    ensure!(counter(scene.server(), "TcpExtTCPToZeroWindowAdv")? > 0, "the window was never closed");
    Ok(Box::new((client, server)))
}

fn stopped_in_requests(scene: &Scene) -> Result<Held> {
    let (actor, clients) = echo(scene, &[], 3)?;
    actor.signal(Signal::SIGSTOP)?;
    for mut client in &clients {
        client.set_read_timeout(Some(Duration::from_millis(700)))?;
        // What was on a CPU when the signal came may still answer once.
        wait::until("the server to stop", || {
            client.write_all(b"request").ok()?;
            client.read(&mut [0; 64]).is_err().then_some(())
        })?;
    }
    Ok(Box::new((clients, actor)))
}

/// A server in a process of its own, and connections on which it has answered.
fn echo(scene: &Scene, cgroups: &[&Cgroup], connections: usize) -> Result<(Actor, Vec<TcpStream>)> {
    let at = scene.listener()?.local_addr()?;
    let actor = Actor::start(scene.server(), cgroups, &format!("echo {at}"))?;
    let clients = (0..connections).map(|_| {
        let mut client = scene.client().connect(at)?;
        client.write_all(b"?")?;
        client.read_exact(&mut [0])?;
        Ok(client)
    });
    let clients = clients.collect::<Result<_>>()?;
    Ok((actor, clients))
}

fn frozen(scene: &Scene) -> Result<Held> {
    scene.server().sysctl("net/ipv4/tcp_rmem", "4096 4096 4096")?;
    let cgroup = Cgroup::unified()?;
    let (actor, clients) = echo(scene, &[&cgroup], 1)?;
    cgroup.set("cgroup.freeze", "1")?;
    clients.iter().try_for_each(|client| fill(client).map(drop))?;
    counted(scene.client(), "TcpExtTCPWinProbe", 2)?;
    Ok(Box::new((clients, actor, cgroup)))
}

fn sleeper(scene: &Scene) -> Result<Held> {
    let at = scene.listener()?.local_addr()?;
    let actor = Actor::start(scene.server(), &[], &format!("sink {at}"))?;
    let connect = || scene.client().connect(at);
    let mut clients = (0..6).map(|_| connect()).collect::<Result<Vec<_>>>()?;
    clients.iter_mut().try_for_each(|client| client.write_all(&[0x16; 517]))?;
    sleep(Duration::from_millis(1500));
    for client in &mut clients {
        client.set_nonblocking(true)?;
        let answer = client.read(&mut [0]);
        let silence = answer.as_ref().is_err_and(|error| error.kind() == ErrorKind::WouldBlock);
        ensure!(silence, "expected no answer, got {answer:?}");
    }
    Ok(Box::new((clients, actor)))
}

fn reader_wakes_up(scene: &Scene) -> Result<Held> {
    let listener = scene.listener()?;
    setsockopt(&listener, sockopt::RcvBuf, &16_384)?;
    let to = listener.local_addr()?;
    let client = scene.client().connect(to)?;
    let (mut server, _) = listener.accept()?;
    let mut sent = fill(&client)?;
    counted(scene.client(), "TcpExtTCPWinProbe", 2)?;
    sleep(Duration::from_millis(700));
    server.set_read_timeout(Some(PATIENCE))?;
    while sent > 0 {
        let read = server.read(&mut [0; 65536])?;
        ensure!(read > 0, "the connection ended with {sent} bytes unread");
        sent -= read;
    }
    Ok(Box::new((client, server)))
}

fn unread(scene: &Scene) -> Result<Held> {
    let resolver = Resolver::start(&scene.pair)?;
    let accepting = scene.listener()?;
    setsockopt(&accepting, sockopt::RcvBuf, &4096)?;
    let upload = Connection::to(scene.client(), &accepting)?;
    fill(&upload.client)?;
    for _ in 0..10 {
        for kind in [A, AAAA] {
            resolver.ask(scene.family, Transport::Udp, "db.default.svc.nx.example", kind)?;
            resolver.ask(scene.family, Transport::Udp, "db.example", kind)?;
        }
    }
    counted(scene.client(), "TcpExtTCPWinProbe", 2)?;
    Ok(Box::new(upload))
}

fn unread_ongoing(scene: &Scene) -> Result<Held> {
    let accepting = scene.listener()?;
    setsockopt(&accepting, sockopt::RcvBuf, &4096)?;
    let to = accepting.local_addr()?;
    let mut client = scene.client().connect(to)?;
    let (server, _) = accepting.accept()?;
    client.set_write_timeout(Some(Duration::from_millis(300)))?;
    let sender = scene.go_on(scene.client(), Duration::ZERO, move || {
        // Until nothing more fits; then each write ends in vain.
        match client.write_all(&[0; 65_536]) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(()),
            other => bail!("{other:?}"),
        }
    })?;
    scene.seen(5)?;
    counted(scene.client(), "TcpExtTCPWinProbe", 2)?;
    Ok(Box::new((sender, server)))
}

fn answers_wait(scene: &Scene) -> Result<Held> {
    // Kept busy by something else before it looks at its socket.
    let service = Service::start(scene, |mut stream| {
        loop {
            sleep(Duration::from_millis(600));
            let mut request = [0; LENGTH];
            if stream.read_exact(&mut request).and_then(|()| stream.write_all(&request)).is_err() {
                return;
            }
        }
    })?;
    let at = service.at;
    let clients = (0..4).map(|_| {
        let stream = scene.client().connect(at)?;
        scene.go_on(scene.client(), Duration::ZERO, move || ask_on(&stream, PATIENCE))
    });
    let clients = clients.collect::<Result<Vec<_>>>()?;
    scene.seen(12)?;
    Ok(Box::new((clients, service)))
}
