//! Connections that are opened, used, kept and closed.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::libc;
use nix::sys::socket::{SockaddrStorage, bind, connect, setsockopt, sockopt};

use crate::lab::cases::{Case, KNOWN, NOISE, ONGOING, V4};
use crate::lab::counters::counted;
use crate::lab::service::{LENGTH, Service, answer, answer_after, ask_on};
use crate::lab::sockets::{PATIENCE, keep_alive, send_and_read, set_option};
use crate::lab::userspace_link::{Side, tcp, tcp_payload};
use crate::lab::{Connection, Held, Namespace, Scene, run, stream_socket};
use crate::wait;

pub const CASES: &[Case] = &[
    Case {
        name: "baseline",
        made: "connects, sends 1 MB, closes",
        run: |scene| {
            let connection = Connection::open(&scene.pair, scene.family)?;
            send_and_read(&connection, 50, Duration::ZERO)?;
            connection.close()?;
            Ok(Box::new(()))
        },
        ..KNOWN
    },
    Case {
        name: "baseline_nothing",
        made: "two hosts that say nothing",
        families: V4,
        run: |_| Ok(Box::new(())),
        ..KNOWN
    },
    Case {
        name: "baseline_busy_server",
        made: "500 connections to one server, every fifth kept alive and used again",
        run: busy_server,
        ..KNOWN
    },
    Case { name: "baseline_idle", made: "connections that only their keepalive uses", run: idle, ..KNOWN },
    Case {
        name: "baseline_synack_again",
        made: "a handshake whose last packet is lost once",
        run: again,
        ..KNOWN.over_userspace_link()
    },
    Case {
        name: "baseline_kept_alive",
        made: "kept connections that the server ends after their time, and clients that half-close",
        run: kept_alive,
        ..NOISE
    },
    Case {
        name: "baseline_short_lived",
        made: "two thousand short connections, whose ends stay in TIME-WAIT",
        run: short_lived,
        ..NOISE
    },
    Case {
        name: "baseline_fast_open",
        made: "connections that carry their request in the SYN (TCP Fast Open)",
        run: fast_open,
        ..NOISE
    },
    Case {
        name: "baseline_port_used_again",
        made: "a client that comes from one port again and again, while the server is in TIME-WAIT",
        run: port_used_again,
        ..NOISE
    },
    Case {
        name: "ongoing_pools",
        made: "pools of eight connections that are opened, used and closed, again and again",
        run: |scene| {
            let service = Service::start(scene, answer)?;
            let at = service.at;
            let pools = (0..3).map(|_| {
                scene.go_on(scene.client(), Duration::from_millis(50), move || {
                    let pool = (0..8).map(|_| TcpStream::connect(at)).collect::<Result<Vec<_>, _>>()?;
                    (0..3).try_for_each(|_| pool.iter().try_for_each(|stream| ask_on(stream, PATIENCE)))
                })
            });
            let pools = pools.collect::<Result<Vec<_>>>()?;
            scene.seen_well(20)?;
            Ok(Box::new((pools, service)))
        },
        ..ONGOING
    },
    Case {
        name: "ongoing_bursts",
        made: "forty connects at once every second, as from jobs that start together, all of which are served",
        run: |scene| {
            let service = Service::start(scene, answer)?;
            let at = service.at;
            let jobs = scene.go_on(scene.client(), Duration::from_secs(1), move || {
                let all = (0..40).map(|_| TcpStream::connect(at)).collect::<Result<Vec<_>, _>>()?;
                all.iter().try_for_each(|stream| ask_on(stream, PATIENCE))
            })?;
            scene.seen_well(3)?;
            Ok(Box::new((jobs, service)))
        },
        ..ONGOING
    },
    Case {
        name: "ongoing_idle_ends",
        made: "a server that ends idle connections after 0.2 s, and clients that notice and connect anew",
        run: idle_ends,
        ..ONGOING
    },
    Case {
        name: "ongoing_long_polls",
        made: "five clients whose requests are answered after two seconds, when there is news",
        run: |scene| {
            let service = Service::start(scene, |stream| answer_after(stream, Duration::from_secs(2)))?;
            let at = service.at;
            let clients = (0..5).map(|_| {
                let stream = scene.client().connect(at)?;
                scene.go_on(scene.client(), Duration::ZERO, move || ask_on(&stream, PATIENCE))
            });
            let clients = clients.collect::<Result<Vec<_>>>()?;
            scene.seen_well(10)?;
            Ok(Box::new((clients, service)))
        },
        ..ONGOING
    },
    Case {
        name: "ongoing_watches",
        made: "connections that only their programs' own pings use, four times a second",
        run: |scene| {
            let service = Service::start(scene, answer)?;
            let at = service.at;
            let clients = (0..6).map(|_| {
                let stream = scene.client().connect(at)?;
                scene.go_on(scene.client(), Duration::from_millis(250), move || ask_on(&stream, PATIENCE))
            });
            let clients = clients.collect::<Result<Vec<_>>>()?;
            scene.seen_well(60)?;
            Ok(Box::new((clients, service)))
        },
        ..ONGOING
    },
    Case {
        name: "ongoing_trickle",
        made: "downloads of a kilobyte every 50 ms, as of logs that people follow",
        run: |scene| {
            let service = Service::start(scene, |mut stream| {
                while stream.write_all(&[b'l'; 1000]).is_ok() {
                    sleep(Duration::from_millis(50));
                }
            })?;
            let at = service.at;
            let clients = (0..4).map(|_| {
                let mut stream = scene.client().connect(at)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                scene.go_on(scene.client(), Duration::ZERO, move || {
                    stream.read_exact(&mut [0; 1000]).context("the log")
                })
            });
            let clients = clients.collect::<Result<Vec<_>>>()?;
            scene.seen_well(100)?;
            Ok(Box::new((clients, service)))
        },
        ..ONGOING
    },
];

fn busy_server(scene: &Scene) -> Result<Held> {
    let service = Service::start(scene, answer)?;
    let mut kept = Vec::new();
    for n in 0..500 {
        let stream = scene.client().connect(service.at)?;
        ask_on(&stream, PATIENCE)?;
        if n % 5 == 0 {
            kept.push(stream);
        }
    }
    for _ in 0..5 {
        kept.iter().try_for_each(|stream| ask_on(stream, PATIENCE))?;
    }
    counted(scene.server(), "TcpPassiveOpens", 500)?;
    Ok(Box::new((kept, service)))
}

fn idle(scene: &Scene) -> Result<Held> {
    let open = (0..10).map(|_| Connection::open(&scene.pair, scene.family)).collect::<Result<Vec<_>>>()?;
    for connection in &open {
        keep_alive(&connection.client, 9)?;
    }
    counted(scene.client(), "TcpExtTCPKeepAlive", 20)?;
    Ok(Box::new(open))
}

/// The client's acknowledgement is lost, so the server repeats its SYN-ACK.
fn again(scene: &Scene) -> Result<Held> {
    let lost = AtomicBool::new(false);
    scene.carry(move |side, packet| {
        let last_of_handshake = side == Side::Client
            && tcp(packet).is_some_and(|segment| segment.ack())
            && tcp_payload(packet) == 0;
        !last_of_handshake || lost.swap(true, Ordering::Relaxed)
    })?;
    let listener = scene.listener()?;
    let mut connection = Connection::to(scene.client(), &listener)?;
    counted(scene.server(), "TcpExtTCPSynRetrans", 1)?;
    connection.exchange(100, 100)?;
    Ok(Box::new(connection))
}

/// Half of the clients end their own side first and read what is still to come; the others leave
/// a connection alone until the server has had enough, and take their time to notice.
fn kept_alive(scene: &Scene) -> Result<Held> {
    let open = (0..30).map(|_| Connection::open(&scene.pair, scene.family)).collect::<Result<Vec<_>>>()?;
    let mut noticed_late = Vec::new();
    for (n, mut connection) in open.into_iter().enumerate() {
        connection.exchange(300, 3000)?;
        let Connection { mut client, mut server, .. } = connection;
        if n % 2 == 0 {
            client.write_all(b"the last request")?;
            client.shutdown(Shutdown::Write)?;
            server.read_to_end(&mut Vec::new())?;
            server.write_all(&[b'x'; 5000])?;
            drop(server);
            let mut answer = Vec::new();
            client.read_to_end(&mut answer)?;
            ensure!(answer.len() == 5000, "{} bytes of the last answer", answer.len());
        } else {
            drop(server);
            noticed_late.push(client);
        }
    }
    sleep(Duration::from_millis(500));
    for mut client in noticed_late {
        ensure!(client.read(&mut [0])? == 0, "expected the server's FIN");
    }
    Ok(Box::new(()))
}

fn short_lived(scene: &Scene) -> Result<Held> {
    let server = scene.listener()?;
    ask_in_turn(scene.client(), &server, 2000)?;
    let left = waiting(scene.client())?;
    ensure!(left > 1900, "only {left} in TIME-WAIT");
    Ok(Box::new(server))
}

/// So many connections after each other, each with a question and an answer; clients close first.
pub fn ask_in_turn(client: &Namespace, server: &TcpListener, times: u32) -> Result<()> {
    let at = server.local_addr()?;
    client.run(|| {
        for _ in 0..times {
            let mut asking = TcpStream::connect(at)?;
            let mut answering = server.accept()?.0;
            asking.write_all(b"?")?;
            answering.read_exact(&mut [0])?;
            answering.write_all(b"!")?;
            asking.read_exact(&mut [0])?;
            drop(asking);
            ensure!(answering.read(&mut [0])? == 0, "expected the client's FIN");
        }
        Ok(())
    })
}

/// Ends of connections in TIME-WAIT.
fn waiting(at: &Namespace) -> Result<usize> {
    Ok(at.run(|| run("ss", "-H -t -a -n state time-wait"))?.lines().count())
}

fn fast_open(scene: &Scene) -> Result<Held> {
    for at in [scene.client(), scene.server()] {
        at.sysctl("net/ipv4/tcp_fastopen", "3")?;
    }
    let server = scene.listener()?;
    set_option(&server, libc::IPPROTO_TCP, libc::TCP_FASTOPEN, &16_i32)?;
    let at = server.local_addr()?;
    for _ in 0..20 {
        let mut asking = scene.client().run(|| {
            let socket = stream_socket(at.ip())?;
            set_option(&socket, libc::IPPROTO_TCP, libc::TCP_FASTOPEN_CONNECT, &1_i32)?;
            connect(socket.as_raw_fd(), &SockaddrStorage::from(at))?;
            Ok(TcpStream::from(socket))
        })?;
        asking.write_all(b"?")?;
        let mut answering = server.accept()?.0;
        answering.read_exact(&mut [0])?;
        answering.write_all(b"!")?;
        asking.read_exact(&mut [0])?;
    }
    // The first one asks for the cookie that the others need.
    counted(scene.server(), "TcpExtTCPFastOpenPassive", 19)?;
    Ok(Box::new(server))
}

fn port_used_again(scene: &Scene) -> Result<Held> {
    let server = scene.listener()?;
    let at = server.local_addr()?;
    let any: IpAddr = scene.by_family(Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into());
    for n in 0..30 {
        let mut asking = scene.client().run(|| {
            let socket = stream_socket(any)?;
            setsockopt(&socket, sockopt::ReuseAddr, &true)?;
            bind(socket.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(any, 33_333)))?;
            connect(socket.as_raw_fd(), &SockaddrStorage::from(at))
                .with_context(|| format!("connect {n}"))?;
            Ok(TcpStream::from(socket))
        })?;
        let mut answering = server.accept()?.0;
        asking.write_all(b"?")?;
        answering.read_exact(&mut [0])?;
        drop(answering);
        ensure!(asking.read(&mut [0])? == 0, "expected the server's FIN");
        drop(asking);
        wait::within(PATIENCE, "TIME-WAIT at the server", || {
            waiting(scene.server()).is_ok_and(|ends| ends == 1).then_some(())
        })?;
    }
    Ok(Box::new(server))
}

/// One request on each connection, which the client keeps until it sees the server's end.
fn idle_ends(scene: &Scene) -> Result<Held> {
    let service = Service::start(scene, |mut stream| {
        let idle = stream.set_read_timeout(Some(Duration::from_millis(200)));
        let mut request = [0; LENGTH];
        while idle.is_ok() && stream.read_exact(&mut request).is_ok() {
            if stream.write_all(&request).is_err() {
                return;
            }
        }
    })?;
    let at = service.at;
    let clients = (0..5).map(|_| {
        scene.go_on(scene.client(), Duration::from_millis(20), move || {
            let mut stream = TcpStream::connect_timeout(&at, PATIENCE)?;
            ask_on(&stream, PATIENCE)?;
            ensure!(stream.read(&mut [0])? == 0, "expected the server's end");
            Ok(())
        })
    });
    let clients = clients.collect::<Result<Vec<_>>>()?;
    scene.seen_well(30)?;
    Ok(Box::new((clients, service)))
}
