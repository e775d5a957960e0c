//! Healthy traffic, which looks like trouble to whoever counts only.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, sleep};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::sys::socket::{setsockopt, sockopt};

use super::{Case, FAULT, V4};
use crate::lab::cable::{Side, tcp, tcp_payload};
use crate::lab::counters::counted;
use crate::lab::dns::{A, AAAA, Resolver, Transport};
use crate::lab::sockets::listener;
use crate::lab::wire::Wire;
use crate::lab::{Connection, Family, Held, Scene, Topology};
use crate::wait;

pub const CASES: &[Case] = &[
    Case {
        name: "baseline",
        made: "connects, sends 1 MB, closes",
        run: |scene| {
            let connection = Connection::open(&scene.pair, scene.family)?;
            crate::lab::sockets::send_and_read(&connection, 50, Duration::ZERO)?;
            connection.close()?;
            Ok(Box::new(()))
        },
        ..FAULT
    },
    Case {
        name: "baseline_busy_server",
        made: "500 connections to one server, every fifth kept alive and used again",
        run: busy_server,
        ..FAULT
    },
    Case {
        name: "baseline_deploy",
        made: "a server that ends its connections in order, while its clients come back",
        run: deploy,
        ..FAULT
    },
    Case {
        name: "baseline_discovery",
        made: "a link that comes up with IPv6's own addresses, duplicate detection and solicitations",
        families: &[Family::V6],
        run: discovery,
        ..FAULT
    },
    Case {
        name: "baseline_capture",
        made: "a packet capture that is read, beside traffic",
        run: capture,
        ..FAULT
    },
    Case { name: "baseline_idle", made: "connections that only their keepalive uses", run: idle, ..FAULT },
    Case {
        name: "baseline_synack_again",
        made: "a handshake whose last packet is lost once",
        topology: Topology::Cabled,
        run: again,
        ..FAULT
    },
    Case { name: "baseline_udp_echo", made: "two hundred datagrams there and back", run: udp_echo, ..FAULT },
    Case {
        name: "baseline_dns_search",
        made: "names that are found, some after their search list said no",
        run: |scene| {
            let resolver = Resolver::start(&scene.pair)?;
            for n in 0..10 {
                for kind in [A, AAAA] {
                    if n % 3 == 0 {
                        resolver.ask(scene.family, Transport::Udp, "www.nx.example", kind)?;
                    }
                    resolver.ask(scene.family, Transport::Udp, "www.example", kind)?;
                }
            }
            Ok(Box::new(()))
        },
        ..FAULT
    },
    Case {
        name: "baseline_nothing",
        made: "two hosts that say nothing",
        families: V4,
        run: |_| Ok(Box::new(())),
        ..FAULT
    },
];

/// Echoes on every connection until it is dropped.
struct Echo {
    listener: TcpListener,
}

impl Echo {
    fn start(scene: &Scene) -> Result<Self> {
        let listener = listener(scene.server(), scene.server_ip())?;
        let accepting = listener.try_clone()?;
        thread::spawn(move || {
            while let Ok((stream, _)) = accepting.accept() {
                thread::spawn(move || echo(stream));
            }
        });
        Ok(Self { listener })
    }

    fn connect(&self, scene: &Scene) -> Result<TcpStream> {
        let to = self.listener.local_addr()?;
        scene.client().run(|| Ok(TcpStream::connect(to)?))
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        use std::os::fd::AsRawFd as _;
        // Ends the thread that accepts; its listener is a copy of this one.
        let _ = nix::sys::socket::shutdown(self.listener.as_raw_fd(), nix::sys::socket::Shutdown::Both);
    }
}

/// Until the client's end of file, which it answers with its own.
fn echo(mut stream: TcpStream) {
    let mut data = [0; 4096];
    while let Ok(length @ 1..) = stream.read(&mut data) {
        if stream.write_all(&data[..length]).is_err() {
            return;
        }
    }
}

fn use_once(mut stream: &TcpStream) -> Result<()> {
    stream.write_all(&[b'x'; 200])?;
    stream.read_exact(&mut [0; 200]).context("the echo")
}

fn busy_server(scene: &Scene) -> Result<Held> {
    let echo = Echo::start(scene)?;
    let mut kept = Vec::new();
    for n in 0..500 {
        let stream = echo.connect(scene)?;
        use_once(&stream)?;
        if n % 5 == 0 {
            kept.push(stream);
        }
    }
    for _ in 0..5 {
        kept.iter().try_for_each(use_once)?;
    }
    counted(scene.server(), "TcpPassiveOpens", 500)?;
    Ok(Box::new((kept, echo)))
}

/// Ends each connection by a FIN once its request was answered; clients see that and connect anew.
fn deploy(scene: &Scene) -> Result<Held> {
    let old = (0..30).map(|_| Connection::open(&scene.pair, scene.family)).collect::<Result<Vec<_>>>()?;
    let new = Echo::start(scene)?;
    let mut back = Vec::new();
    for mut connection in old {
        connection.exchange(100, 100)?;
        let Connection { mut client, server, .. } = connection;
        drop(server);
        ensure!(client.read(&mut [0])? == 0, "expected the server's FIN");
        drop(client);
        let stream = new.connect(scene)?;
        use_once(&stream)?;
        back.push(stream);
    }
    Ok(Box::new((back, new)))
}

fn discovery(scene: &Scene) -> Result<Held> {
    for (host, at) in [(1, scene.client()), (2, scene.server())] {
        at.sysctl("net/ipv6/conf/eth0/dad_transmits", "1")?;
        at.ip("link set eth0 down")?;
        at.ip("link set eth0 addrgenmode eui64")?;
        at.ip("link set eth0 up")?;
        // IPv6 addresses go with the link.
        at.ip(&format!("addr replace fd00:9::{host}/64 dev eth0"))?;
    }
    wait::until("duplicate detection to be over", || {
        let addresses = [scene.client(), scene.server()].map(|at| at.ip("-6 addr show dev eth0").ok());
        let settled = |shown: &str| shown.contains("fe80::") && !shown.contains("tentative");
        addresses.iter().flatten().filter(|shown| settled(shown)).nth(1).map(drop)
    })?;
    let mut connection = Connection::open(&scene.pair, scene.family)?;
    connection.exchange(1000, 1000)?;
    connection.close()?;
    Ok(Box::new(()))
}

fn capture(scene: &Scene) -> Result<Held> {
    let wire = Wire::open(scene.server(), "eth0")?;
    let done = AtomicBool::new(false);
    let seen = thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let (mut frame, mut seen) = ([0; 2048], 0);
            // Until nothing comes any more.
            loop {
                match wire.look(&mut frame) {
                    Ok(Some(_)) => seen += 1,
                    _ if done.load(Ordering::Relaxed) => return seen,
                    _ => {}
                }
            }
        });
        let mut connection = Connection::open(&scene.pair, scene.family)?;
        let outcome = (0..100).try_for_each(|_| connection.exchange(500, 500));
        done.store(true, Ordering::Relaxed);
        outcome.map(|()| reader.join().expect("reading does not panic"))
    })?;
    ensure!(seen > 100, "the capture saw {seen} packets");
    Ok(Box::new(wire))
}

fn idle(scene: &Scene) -> Result<Held> {
    let open = (0..10).map(|_| Connection::open(&scene.pair, scene.family)).collect::<Result<Vec<_>>>()?;
    for connection in &open {
        setsockopt(&connection.client, sockopt::KeepAlive, &true)?;
        setsockopt(&connection.client, sockopt::TcpKeepIdle, &1)?;
        setsockopt(&connection.client, sockopt::TcpKeepInterval, &1)?;
    }
    counted(scene.client(), "TcpExtTCPKeepAlive", 20)?;
    Ok(Box::new(open))
}

/// The client's acknowledgement is lost, so the server repeats its SYN-ACK.
fn again(scene: &Scene) -> Result<Held> {
    let lost = AtomicBool::new(false);
    let cable = scene.cable()?.carry(move |side, packet| {
        let last_of_handshake = side == Side::Client
            && tcp(packet).is_some_and(|segment| segment.ack())
            && tcp_payload(packet) == 0;
        !last_of_handshake || lost.swap(true, Ordering::Relaxed)
    });
    let listener = listener(scene.server(), scene.server_ip())?;
    let to = listener.local_addr()?;
    let client = scene.client().run(|| Ok(TcpStream::connect(to)?))?;
    let (server, client_at) = listener.accept()?;
    counted(scene.server(), "TcpExtTCPSynRetrans", 1)?;
    let mut connection = Connection { client, server, client_at, server_at: to };
    connection.exchange(100, 100)?;
    Ok(Box::new((connection, cable)))
}

fn udp_echo(scene: &Scene) -> Result<Held> {
    let server = scene.server().run(|| Ok(UdpSocket::bind((scene.server_ip(), 0))?))?;
    let client = scene.client().run(|| Ok(UdpSocket::bind((scene.client_ip(), 0))?))?;
    client.set_read_timeout(Some(Duration::from_secs(5)))?;
    server.set_read_timeout(Some(Duration::from_secs(5)))?;
    for _ in 0..200 {
        client.send_to(b"ping", server.local_addr()?)?;
        let (length, from) = server.recv_from(&mut [0; 4])?;
        server.send_to(&b"pong"[..length], from)?;
        client.recv(&mut [0; 4])?;
        sleep(Duration::from_millis(1));
    }
    Ok(Box::new((client, server)))
}
