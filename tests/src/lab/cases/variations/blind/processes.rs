//! Applications and their sockets.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, sleep};
use std::time::Duration;

use anyhow::{Result, ensure};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, bind, setsockopt, socket, sockopt,
};

use crate::lab::cases::{Case, FAULT, Ongoing, client, server};
use crate::lab::counters::counted;
use crate::lab::sockets::{fill, listener};
use crate::lab::{Actor, Connection, Held, Namespace, Scene, Topology, faults};

pub const CASES: &[Case] = &[
    Case {
        name: "var_accepts_and_sleeps",
        made: "a server that accepts and never reads; its clients have said hello (as TLS does) and wait",
        expect: &[server("socket-read-slow"), server("receiver-not-reading")],
        ongoing: Ongoing::ByItself,
        run: sleeper,
        ..FAULT
    },
    Case {
        name: "var_keepalive_finds_out",
        made: "a cable is cut under an idle connection, whose keepalive notices",
        topology: Topology::Cabled,
        expect: &[client("reset-keepalive-timeout"), client("peer-unresponsive")],
        ongoing: Ongoing::Never("a connection is given up once"),
        run: cut_while_idle,
        ..FAULT
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
        ..FAULT
    },
    Case {
        name: "var_stuck_datagram_worker",
        made: "one of two workers that share a port for datagrams (SO_REUSEPORT) reads no more",
        expect: &[server("socket-receive-buffer-full"), server("socket-read-slow")],
        ongoing: Ongoing::Again,
        run: stuck_worker,
        ..FAULT
    },
];

fn sleeper(scene: &Scene) -> Result<Held> {
    let at = listener(scene.server(), scene.server_ip())?.local_addr()?;
    let actor = Actor::start(scene.server(), &[], &format!("sink {at}"))?;
    let connect = || scene.client().run(|| Ok(TcpStream::connect(at)?));
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

fn cut_while_idle(scene: &Scene) -> Result<Held> {
    let cut = Arc::new(AtomicBool::new(false));
    let cable = scene.cable()?.carry({
        let cut = Arc::clone(&cut);
        move |_, _| !cut.load(Ordering::Relaxed)
    });
    let mut connection = Connection::open(&scene.pair, scene.family)?;
    connection.exchange(300, 300)?;
    setsockopt(&connection.client, sockopt::KeepAlive, &true)?;
    setsockopt(&connection.client, sockopt::TcpKeepIdle, &1)?;
    setsockopt(&connection.client, sockopt::TcpKeepInterval, &1)?;
    setsockopt(&connection.client, sockopt::TcpKeepCount, &2)?;
    cut.store(true, Ordering::Relaxed);
    counted(scene.client(), "TcpExtTCPAbortOnTimeout", 1)?;
    Ok(Box::new((connection, cable)))
}

/// A socket for datagrams that shares its port with others.
fn worker(at: &Namespace, ip: IpAddr, port: u16) -> Result<UdpSocket> {
    at.run(|| {
        let family = if ip.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        let socket: OwnedFd = socket(family, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
        setsockopt(&socket, sockopt::ReusePort, &true)?;
        setsockopt(&socket, sockopt::RcvBuf, &32_768)?;
        bind(socket.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(ip, port)))?;
        Ok(UdpSocket::from(socket))
    })
}

/// Which worker gets a datagram depends on the client's port.
fn stuck_worker(scene: &Scene) -> Result<Held> {
    const SENT: u64 = 2000;
    let stuck = worker(scene.server(), scene.server_ip(), 0)?;
    let at = stuck.local_addr()?;
    let awake = worker(scene.server(), at.ip(), at.port())?;
    awake.set_read_timeout(Some(Duration::from_millis(500)))?;
    let reader = thread::spawn(move || std::iter::from_fn(|| awake.recv(&mut [0; 100]).ok()).count());
    faults::send_udp_evenly(scene.client(), at, 2000, 16, |sent| sent < SENT)?;
    counted(scene.server(), scene.by_family("UdpRcvbufErrors", "Udp6RcvbufErrors"), 100)?;
    let read = reader.join().expect("reading does not panic");
    ensure!(read > 100, "the other worker got {read} datagrams");
    Ok(Box::new(stuck))
}
