//! Sockets whose buffers are full, or that want nothing.

use std::net::UdpSocket;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Result, ensure};
use nix::libc;
use nix::sys::socket::{setsockopt, sockopt};

use super::{Case, FAULT, Ongoing, client, server};
use crate::lab::counters::{counted, counter};
use crate::lab::sockets::{fill, listener, set_option};
use crate::lab::wire::Wire;
use crate::lab::{Actor, Cgroup, Connection, Held, Scene, delays};

pub const CASES: &[Case] = &[
    Case {
        name: "udp_rcvbuf_overflow",
        made: "200 datagrams to a small socket that nobody reads",
        expect: &[server("socket-receive-buffer-full")],
        run: |scene| {
            let socket = receiver(scene)?;
            setsockopt(&socket, sockopt::RcvBuf, &4096)?;
            let sender = scene.datagrams(socket.local_addr()?, 200, 500)?;
            counted(scene.server(), scene.by_family("UdpRcvbufErrors", "Udp6RcvbufErrors"), 100)?;
            Ok(Box::new((sender, socket)))
        },
        ..FAULT
    },
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
        ..FAULT
    },
    Case {
        name: "send_buffer_full",
        made: "datagrams without waiting, through a small buffer into a slow queue",
        expect: &[client("socket-send-buffer-full"), client("queueing-delay")],
        run: small_sender,
        ..FAULT
    },
    Case {
        name: "sock_filter_drop",
        made: "datagrams to a socket whose own filter wants none",
        expect: &[server("socket-filter-drop")],
        run: |scene| {
            let socket = receiver(scene)?;
            want_nothing(&socket)?;
            let sender = scene.datagrams(socket.local_addr()?, 5, 100)?;
            counted(scene.server(), scene.by_family("UdpInErrors", "Udp6InErrors"), 5)?;
            Ok(Box::new((sender, socket)))
        },
        ..FAULT
    },
    Case {
        name: "memcg_tcp_limit",
        made: "a server whose cgroup may hold 32 kB of TCP memory and that never reads",
        expect: &[server("socket-memory-pressure")],
        ongoing: Ongoing::ByItself,
        run: |scene| {
            let limit = Cgroup::of("memory")?;
            limit.set("memory.kmem.tcp.limit_in_bytes", "32768")?;
            let at = listener(scene.server(), scene.server_ip())?.local_addr()?;
            let sink = Actor::start(scene.server(), &[&limit], &format!("sink {at}"))?;
            let client = scene.client().run(|| Ok(std::net::TcpStream::connect(at)?))?;
            fill(&client)?;
            counted(scene.server(), "TcpExtPruneCalled", 1)?;
            counted(scene.server(), "TcpExtTCPRcvQDrop", 1)?;
            Ok(Box::new((client, sink, limit)))
        },
        ..FAULT
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
        ..FAULT
    },
    Case {
        name: "capture_overflow",
        made: "a packet capture that nobody reads, beside healthy traffic",
        expect: &[server("capture-overflow").info()],
        ongoing: Ongoing::Again,
        run: |scene| {
            let capture = Wire::open(scene.server(), "eth0")?;
            capture.hold_little()?;
            let mut connection = Connection::open(&scene.pair, scene.family)?;
            (0..100).try_for_each(|_| connection.exchange(1000, 1000))?;
            ensure!(capture.missed()? > 50, "the capture missed nothing");
            Ok(Box::new((capture, connection)))
        },
        ..FAULT
    },
];

fn receiver(scene: &Scene) -> Result<UdpSocket> {
    scene.server().run(|| Ok(UdpSocket::bind((scene.server_ip(), 0))?))
}

/// Attaches one instruction of classic BPF: return 0.
fn want_nothing(socket: &UdpSocket) -> Result<()> {
    let mut instruction = libc::sock_filter { code: 6, jt: 0, jf: 0, k: 0 };
    let program = libc::sock_fprog { len: 1, filter: &raw mut instruction };
    set_option(socket, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &program)
}

fn small_sender(scene: &Scene) -> Result<Held> {
    let sink = receiver(scene)?;
    let to = sink.local_addr()?;
    delays::throttle(scene.client())?;
    let socket = scene.client().run(|| Ok(UdpSocket::bind((scene.client_ip(), 0))?))?;
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
