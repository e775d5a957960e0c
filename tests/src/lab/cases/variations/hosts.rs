//! Applications and sockets that fail in other ways.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread::{self, sleep};
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use nix::libc;
use nix::sys::signal::Signal;
use nix::sys::socket::{setsockopt, sockopt};

use crate::lab::background::Background;
use crate::lab::cases::{Case, FAULT, Ongoing, client, server};
use crate::lab::counters::{counted, counter};
use crate::lab::dns::Resolver;
use crate::lab::sockets::{listener, set_option};
use crate::lab::{Actor, Connection, Held, Scene, Topology, faults};

pub const CASES: &[Case] = &[
    Case {
        name: "var_stopped_server",
        made: "a server that accepts is stopped (SIGSTOP) while eight connect; its backlog is 2",
        expect: &[server("accept-queue-overflow")],
        run: stopped,
        ..FAULT
    },
    Case {
        name: "var_loopback_only",
        made: "the server listens on its loopback address only",
        expect: &[server("port-not-listening")],
        run: |scene| {
            let lo: IpAddr = scene.by_family(Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into());
            let listener = listener(scene.server(), lo)?;
            let port = listener.local_addr()?.port();
            let refused = scene.refused(scene.client(), scene.server_at(port))?;
            Ok(Box::new((refused, listener)))
        },
        ..FAULT
    },
    Case {
        name: "var_server_killed",
        made: "a server with requests in its sockets is killed, and its clients come back",
        expect: &[server("reset-by-application"), server("port-not-listening")],
        also: &[server("reset-by-application"), server("port-not-listening")],
        ongoing: Ongoing::Again,
        run: killed,
        ..FAULT
    },
    Case {
        name: "var_slow_udp_reader",
        made: "a reader that takes a datagram every 2 ms, and thousands come",
        expect: &[server("socket-receive-buffer-full")],
        ongoing: Ongoing::Again,
        run: slow_reader,
        ..FAULT
    },
    Case {
        name: "var_state_lost",
        made: "a server that lost its connections without a word, as after a power failure",
        expect: &[server("stale-connection")],
        ongoing: Ongoing::Again,
        run: state_lost,
        ..FAULT
    },
    Case {
        name: "var_third_host",
        made: "a third host asks at a closed port, beside healthy traffic of the client",
        topology: Topology::Bridged,
        expect: &[server("port-not-listening")],
        ongoing: Ongoing::Again,
        run: |scene| {
            let load = Background::start(scene, 1000)?;
            for _ in 0..3 {
                faults::connect_to_closed_port(scene.third()?, scene.server_at(8888))?;
                sleep(Duration::from_millis(100));
            }
            ensure!(load.done() > 3, "only {} connections", load.done());
            Ok(Box::new(load))
        },
        ..FAULT
    },
    Case {
        name: "var_no_name_server",
        made: "questions to a host on which no name server runs",
        expect: &[server("port-not-listening")],
        ongoing: Ongoing::Again,
        run: no_name_server,
        ..FAULT
    },
    Case {
        name: "var_dead_name_server",
        made: "questions to a name server behind a firewall that drops them",
        expect: &[server("firewall-drop"), client("dns-timeout"), server("dns-timeout")],
        also: &[server("firewall-drop")],
        ongoing: Ongoing::Again,
        run: |scene| {
            let resolver = Resolver::start(&scene.pair)?;
            faults::drop_incoming(scene.server(), "udp", 53)?;
            for n in 0..5 {
                resolver.ask_without_answer(scene.family, &format!("host{n}.example"), 2)?;
            }
            Ok(Box::new(()))
        },
        ..FAULT
    },
    Case {
        name: "var_trickling_reader",
        made: "a server that reads a few bytes at a time from a small buffer",
        expect: &[server("receiver-not-reading"), server("socket-read-slow")],
        ongoing: Ongoing::Again,
        run: trickling,
        ..FAULT
    },
];

fn stopped(scene: &Scene) -> Result<Held> {
    let at = free_port(scene)?;
    let actor = Actor::start(scene.server(), &[], &format!("echo {at} 2"))?;
    let mut first = scene.client().run(|| Ok(TcpStream::connect(at)?))?;
    first.write_all(b"?")?;
    first.read_exact(&mut [0])?;
    actor.signal(Signal::SIGSTOP)?;
    let waiting: Vec<Held> = (0..8).map(|_| scene.connect(scene.client(), at)).collect::<Result<_>>()?;
    counted(scene.server(), "TcpExtListenOverflows", 4)?;
    scene.in_vain(scene.client(), 1)?;
    Ok(Box::new((waiting, first, actor)))
}

/// An address at the server where nobody listens.
fn free_port(scene: &Scene) -> Result<SocketAddr> {
    Ok(listener(scene.server(), scene.server_ip())?.local_addr()?)
}

fn killed(scene: &Scene) -> Result<Held> {
    let at = free_port(scene)?;
    let actor = Actor::start(scene.server(), &[], &format!("sink {at}"))?;
    let connect = || scene.client().run(|| Ok(TcpStream::connect(at)?));
    let mut clients = (0..5).map(|_| connect()).collect::<Result<Vec<_>>>()?;
    clients.iter_mut().try_for_each(|client| client.write_all(b"request"))?;
    // Accepted and received, so that there is something that nobody will read.
    counted(scene.server(), "TcpPassiveOpens", 5)?;
    sleep(Duration::from_millis(100));
    drop(actor);
    counted(scene.server(), "TcpExtTCPAbortOnClose", 5)?;
    let refused = scene.refused(scene.client(), at)?;
    Ok(Box::new((refused, clients)))
}

fn slow_reader(scene: &Scene) -> Result<Held> {
    let socket = scene.server().run(|| Ok(UdpSocket::bind((scene.server_ip(), 0))?))?;
    setsockopt(&socket, sockopt::RcvBuf, &16_384)?;
    socket.set_read_timeout(Some(Duration::from_millis(200)))?;
    let (at, reading) = (socket.local_addr()?, socket.try_clone()?);
    let reader = thread::spawn(move || {
        while reading.recv(&mut [0; 2000]).is_ok() {
            sleep(Duration::from_millis(2));
        }
    });
    faults::send_udp_evenly(scene.client(), at, 5000, 4, |sent| sent < 4000)?;
    counted(scene.server(), scene.by_family("UdpRcvbufErrors", "Udp6RcvbufErrors"), 500)?;
    drop(reader.join());
    Ok(Box::new(socket))
}

/// A socket under repair is closed without a word to its peer.
fn state_lost(scene: &Scene) -> Result<Held> {
    let Connection { client, server, server_at, .. } = Connection::open(&scene.pair, scene.family)?;
    set_option(&server, libc::IPPROTO_TCP, libc::TCP_REPAIR, &1_i32)?;
    drop(server);
    let mut to = &client;
    to.write_all(b"where were we?")?;
    match to.read(&mut [0]) {
        Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(Box::new((client, server_at))),
        other => bail!("expected a reset, got {other:?}"),
    }
}

fn no_name_server(scene: &Scene) -> Result<Held> {
    let to = scene.server_at(53);
    scene.client().run(|| {
        for id in 0..5_u8 {
            let socket = UdpSocket::bind((scene.client_ip(), 0))?;
            socket.connect(to)?;
            let mut query = vec![0x12, id, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
            query.extend(b"\x07example\x00\x00\x01\x00\x01");
            socket.send(&query)?;
            socket.set_read_timeout(Some(Duration::from_secs(1)))?;
            ensure!(socket.recv(&mut [0; 512]).is_err(), "there was a name server");
        }
        Ok(())
    })?;
    Ok(Box::new(()))
}

fn trickling(scene: &Scene) -> Result<Held> {
    scene.server().sysctl("net/ipv4/tcp_rmem", "4096 4096 4096")?;
    let listener: TcpListener = listener(scene.server(), scene.server_ip())?;
    let at = listener.local_addr()?;
    let client = scene.client().run(|| Ok(TcpStream::connect(at)?))?;
    let (server, _) = listener.accept()?;
    crate::lab::sockets::fill(&client)?;
    let mut reading = server.try_clone()?;
    for _ in 0..10 {
        sleep(Duration::from_millis(150));
        reading.read_exact(&mut [0; 16])?;
    }
    ensure!(counter(scene.server(), "TcpExtTCPToZeroWindowAdv")? > 0, "the window was never closed");
    Ok(Box::new((client, server)))
}
