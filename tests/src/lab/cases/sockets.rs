//! Sockets whose buffers are full.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::thread::{self, sleep};
use std::time::Duration;

use anyhow::{Result, ensure};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, bind, setsockopt, socket, sockopt,
};

use crate::lab::cases::{BLIND, Case, KNOWN, NOISE, ONGOING, Ongoing, VARIATION, client, server};
use crate::lab::counters::{counted, counter};
use crate::lab::raw_socket::RawSocket;
use crate::lab::sockets::fill;
use crate::lab::{Actor, Cgroup, Connection, Held, Namespace, Scene, delays, faults};

pub const CASES: &[Case] = &[
    Case {
        name: "udp_rcvbuf_overflow",
        made: "200 datagrams to a small socket that nobody reads",
        expect: &[server("socket-receive-buffer-full")],
        run: |scene| {
            let socket = scene.receiver()?;
            setsockopt(&socket, sockopt::RcvBuf, &4096)?;
            let sender = scene.datagrams(socket.local_addr()?, 200, 500)?;
            counted(scene.server(), scene.by_family("UdpRcvbufErrors", "Udp6RcvbufErrors"), 100)?;
            Ok(Box::new((sender, socket)))
        },
        ..KNOWN
    },
    Case {
        name: "send_buffer_full",
        made: "datagrams without waiting, through a small buffer into a slow queue",
        expect: &[client("socket-send-buffer-full"), client("queueing-delay")],
        run: small_sender,
        ..KNOWN
    },
    Case {
        name: "memcg_tcp_limit",
        made: "a server whose cgroup may hold 32 kB of TCP memory and that never reads",
        expect: &[server("socket-memory-pressure")],
        ongoing: Ongoing::ByItself,
        run: |scene| {
            let limit = Cgroup::of("memory")?;
            limit.set("memory.kmem.tcp.limit_in_bytes", "32768")?;
            let at = scene.listener()?.local_addr()?;
            let sink = Actor::start(scene.server(), &[&limit], &format!("sink {at}"))?;
            let client = scene.client().connect(at)?;
            fill(&client)?;
            counted(scene.server(), "TcpExtPruneCalled", 1)?;
            counted(scene.server(), "TcpExtTCPRcvQDrop", 1)?;
            Ok(Box::new((client, sink, limit)))
        },
        ..KNOWN
    },
    Case {
        name: "capture_overflow",
        made: "a packet capture that nobody reads, beside healthy traffic",
        expect: &[server("capture-overflow").info()],
        ongoing: Ongoing::Again,
        run: |scene| {
            let capture = RawSocket::open(scene.server(), "eth0")?;
            capture.hold_little()?;
            let mut connection = Connection::open(&scene.pair, scene.family)?;
            (0..100).try_for_each(|_| connection.exchange(1000, 1000))?;
            ensure!(capture.missed()? > 50, "the capture missed nothing");
            Ok(Box::new((capture, connection)))
        },
        ..KNOWN
    },
    Case {
        name: "var_slow_udp_reader",
        made: "a reader that takes a datagram every 2 ms, and thousands come",
        expect: &[server("socket-receive-buffer-full")],
        ongoing: Ongoing::Again,
        run: slow_reader,
        ..VARIATION
    },
    Case {
        name: "var_stuck_datagram_worker",
        made: "one of two workers that share a port for datagrams (SO_REUSEPORT) reads no more",
        expect: &[server("socket-receive-buffer-full"), server("socket-read-slow")],
        ongoing: Ongoing::Again,
        run: stuck_worker,
        ..BLIND
    },
    Case {
        name: "var_deaf_client_and_refusing_server",
        made: "datagrams find no room at the client, and the server's firewall refuses a third host",
        expect: &[client("socket-receive-buffer-full"), server("firewall-reject")],
        also: &[client("socket-receive-buffer-full"), server("firewall-reject")],
        ongoing: Ongoing::Again,
        run: deaf_and_refusing,
        ..NOISE.bridged()
    },
    Case {
        name: "ongoing_slow_reader",
        made: "a reader that takes a datagram every 5 ms, and a thousand come every second",
        expect: &[server("socket-receive-buffer-full")],
        run: slow_reader_ongoing,
        ..ONGOING
    },
];

fn small_sender(scene: &Scene) -> Result<Held> {
    let sink = scene.receiver()?;
    let to = sink.local_addr()?;
    delays::throttle(scene.client())?;
    let socket = scene.sender()?;
    setsockopt(&socket, sockopt::SndBuf, &4096)?;
    socket.set_nonblocking(true)?;
    let sender = scene.repeat(scene.client(), 1, move || {
        // Full is what is wanted.
        (0..100).for_each(|_| drop(socket.send_to(&[0; 1000], to)));
        Ok(())
    })?;
    let errors = scene.by_family("UdpSndbufErrors", "Udp6SndbufErrors");
    ensure!(counter(scene.client(), errors)? > 50, "the buffer was not full");
    Ok(Box::new((sender, sink)))
}

fn slow_reader(scene: &Scene) -> Result<Held> {
    let socket = scene.receiver()?;
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

fn deaf_and_refusing(scene: &Scene) -> Result<Held> {
    let deaf = scene.client().udp((scene.client_ip(), 5140))?;
    setsockopt(&deaf, sockopt::RcvBuf, &8192)?;
    faults::send_udp_evenly(scene.server(), deaf.local_addr()?, 1000, 2, |sent| sent < 500)?;
    counted(scene.client(), scene.by_family("UdpRcvbufErrors", "Udp6RcvbufErrors"), 300)?;
    let rule = "-A INPUT -p tcp --dport 6379 -j REJECT --reject-with tcp-reset";
    scene.iptables(scene.server(), "legacy", rule)?;
    let refused = scene.refused(scene.third()?, scene.server_at(6379))?;
    Ok(Box::new((refused, deaf)))
}

fn slow_reader_ongoing(scene: &Scene) -> Result<Held> {
    let socket = scene.receiver()?;
    setsockopt(&socket, sockopt::RcvBuf, &16_384)?;
    let to = socket.local_addr()?;
    thread::spawn(move || {
        // Until nothing has come for a while.
        while socket.recv(&mut [0; 200]).is_ok() {
            sleep(Duration::from_millis(5));
        }
    });
    let sender = scene.go_on(scene.client(), Duration::from_millis(20), move || {
        faults::send_datagrams(to, 20, 100).map(drop)
    })?;
    scene.seen(100)?;
    counted(scene.server(), scene.by_family("UdpRcvbufErrors", "Udp6RcvbufErrors"), 500)?;
    Ok(sender)
}
