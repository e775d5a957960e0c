//! Services that start, wait, replace each other, and have many short visits.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::{self, sleep};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::libc;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, connect, listen, setsockopt, socket,
    sockopt,
};

use crate::lab::cases::{Case, FAULT};
use crate::lab::counters::counted;
use crate::lab::sockets::{listener, set_option};
use crate::lab::{Connection, Held, Namespace, Scene, faults, run};
use crate::wait;

/// Nothing here takes longer, unless it is broken.
const PATIENCE: Duration = Duration::from_secs(10);

pub const CASES: &[Case] = &[
    Case {
        name: "baseline_slow_start",
        made: "clients ask for 200 ms whether a server has started, and are served once it has",
        run: slow_start,
        ..FAULT
    },
    Case {
        name: "baseline_kept_alive",
        made: "kept connections that the server ends after their time, and clients that half-close",
        run: kept_alive,
        ..FAULT
    },
    Case {
        name: "baseline_short_lived",
        made: "two thousand short connections, whose ends stay in TIME-WAIT",
        run: short_lived,
        ..FAULT
    },
    Case {
        name: "baseline_rolling_restart",
        made: "four workers on one port hand their listeners over to four others under load",
        run: rolling_restart,
        ..FAULT
    },
    Case {
        name: "baseline_fast_open",
        made: "connections that carry their request in the SYN (TCP Fast Open)",
        run: fast_open,
        ..FAULT
    },
    Case {
        name: "baseline_port_used_again",
        made: "a client that comes from one port again and again, while the server is in TIME-WAIT",
        run: port_used_again,
        ..FAULT
    },
];

/// Whoever waits for a server to start has no other way than to ask.
fn slow_start(scene: &Scene) -> Result<Held> {
    let at = listener(scene.server(), scene.server_ip())?.local_addr()?;
    for _ in 0..4 {
        faults::connect_to_closed_port(scene.client(), at)?;
        sleep(Duration::from_millis(50));
    }
    let started = scene.server().run(|| Ok(TcpListener::bind(at)?))?;
    ask_in_turn(scene.client(), &started, 100)?;
    Ok(Box::new(started))
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
    let server = listener(scene.server(), scene.server_ip())?;
    ask_in_turn(scene.client(), &server, 2000)?;
    let left = waiting(scene.client())?;
    ensure!(left > 1900, "only {left} in TIME-WAIT");
    Ok(Box::new(server))
}

/// So many connections after each other, each with a question and an answer; clients close first.
fn ask_in_turn(client: &Namespace, server: &TcpListener, times: u32) -> Result<()> {
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

/// Answers on a listener, until it is dropped.
struct Worker {
    over: Arc<AtomicBool>,
    answered: Arc<AtomicU32>,
}

impl Worker {
    /// On a listener that one of the other generation may have as well.
    fn start(listener: &TcpListener) -> Result<Self> {
        listener.set_nonblocking(true)?;
        let listener = listener.try_clone()?;
        let (over, answered) = <(Arc<AtomicBool>, Arc<AtomicU32>)>::default();
        let worker = Self { over: Arc::clone(&over), answered: Arc::clone(&answered) };
        thread::spawn(move || {
            while !over.load(Ordering::Relaxed) {
                match listener.accept() {
                    // A client that breaks off is seen by its own end of the connection.
                    Ok((stream, _)) => {
                        answered.fetch_add(u32::from(answer(&stream).is_ok()), Ordering::Relaxed);
                    }
                    Err(_) => sleep(Duration::from_millis(1)),
                }
            }
        });
        Ok(worker)
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

fn answer(mut stream: &TcpStream) -> Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.read_exact(&mut [0])?;
    stream.write_all(b"!")?;
    ensure!(stream.read(&mut [0])? == 0, "expected the client's FIN");
    Ok(())
}

/// The listeners stay open while one generation takes over from the other, so no connect is lost.
fn rolling_restart(scene: &Scene) -> Result<Held> {
    const WORKERS: usize = 4;
    let first = reusable(scene, 0)?;
    let at = first.local_addr()?;
    let others = (1..WORKERS).map(|_| reusable(scene, at.port()));
    let listeners = std::iter::once(Ok(first)).chain(others).collect::<Result<Vec<_>>>()?;
    let generation = || listeners.iter().map(Worker::start).collect::<Result<Vec<_>>>();
    let ask = |times| {
        scene.client().run(|| {
            for _ in 0..times {
                let mut stream = TcpStream::connect(at)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                stream.write_all(b"?")?;
                stream.read_exact(&mut [0]).context("the answer")?;
            }
            Ok(())
        })
    };
    let old = generation()?;
    ask(150)?;
    let new = generation()?;
    ask(50)?;
    drop(old);
    ask(150)?;
    let idle = new.iter().filter(|worker| worker.answered.load(Ordering::Relaxed) == 0).count();
    ensure!(idle == 0, "{idle} of the new workers answered nobody");
    Ok(Box::new((new, listeners)))
}

/// A listener at a port that others may listen at as well.
fn reusable(scene: &Scene, port: u16) -> Result<TcpListener> {
    scene.server().run(|| {
        let socket = stream_socket(scene.server_ip())?;
        setsockopt(&socket, sockopt::ReusePort, &true)?;
        bind(socket.as_raw_fd(), &SockaddrStorage::from(scene.server_at(port)))?;
        listen(&socket, Backlog::new(128)?)?;
        Ok(TcpListener::from(socket))
    })
}

fn stream_socket(ip: IpAddr) -> Result<OwnedFd> {
    let family = if ip.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    Ok(socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?)
}

fn fast_open(scene: &Scene) -> Result<Held> {
    for at in [scene.client(), scene.server()] {
        at.sysctl("net/ipv4/tcp_fastopen", "3")?;
    }
    let server = listener(scene.server(), scene.server_ip())?;
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
    let server = listener(scene.server(), scene.server_ip())?;
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
