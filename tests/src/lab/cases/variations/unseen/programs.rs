//! Applications and their sockets.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::thread;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use nix::libc;
use nix::sys::signal::Signal;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, listen, setsockopt, socket, sockopt,
};

use crate::lab::cases::{Case, FAULT, Ongoing, client, server, unanswered};
use crate::lab::counters::counted;
use crate::lab::sockets::{fill, listener, set_option};
use crate::lab::{Actor, Cgroup, Connection, Held, Scene, run};
use crate::wait;

pub const CASES: &[Case] = &[
    Case {
        name: "var_dual_stack_overflow",
        made: "a listener for both families whose host allows two waiting connections (somaxconn)",
        expect: &[server("accept-queue-overflow")],
        run: |scene| {
            scene.server().sysctl("net/core/somaxconn", "2")?;
            let listener = listener(scene.server(), Ipv6Addr::UNSPECIFIED.into())?;
            let to = scene.server_at(listener.local_addr()?.port());
            let waiting = (0..8).map(|_| scene.connect(scene.client(), to));
            let waiting = waiting.collect::<Result<Vec<_>>>()?;
            counted(scene.server(), "TcpExtListenOverflows", 4)?;
            scene.in_vain(scene.client(), 1)?;
            Ok(Box::new((waiting, listener)))
        },
        ..FAULT
    },
    Case {
        name: "var_stalled_worker",
        made: "one of two workers that share a port (SO_REUSEPORT) accepts no more",
        expect: &[server("accept-queue-overflow")],
        run: stalled_worker,
        ..FAULT
    },
    Case {
        name: "var_stopped_in_requests",
        made: "a server is stopped (SIGSTOP), and clients ask on connections that are open already",
        expect: &[server("socket-read-slow")],
        ongoing: Ongoing::ByItself,
        run: stopped_in_requests,
        ..FAULT
    },
    Case {
        name: "var_frozen_reader",
        made: "a container is paused (its cgroup frozen) while it receives an upload",
        expect: &[server("receiver-not-reading"), server("socket-read-slow")],
        ongoing: Ongoing::ByItself,
        run: frozen,
        ..FAULT
    },
    Case {
        name: "var_connections_killed",
        made: "an operator closes the server's connections from outside (ss -K)",
        expect: &[server("reset-by-application")],
        ongoing: Ongoing::Again,
        run: |scene| {
            let open = (0..3).map(|_| {
                let mut connection = Connection::open(&scene.pair, scene.family)?;
                connection.exchange(100, 100)?;
                Ok(connection)
            });
            let open = open.collect::<Result<Vec<_>>>()?;
            scene.server().run(|| run("ss", "-H -t -K state established"))?;
            open.iter().try_for_each(|connection| is_reset(&connection.client))?;
            Ok(Box::new(open))
        },
        ..FAULT
    },
    Case {
        name: "var_reloaded_listener",
        made: "a server closes its listener while five clients wait to be accepted",
        expect: &[server("reset-by-application")],
        ongoing: Ongoing::Again,
        run: |scene| {
            let listener = listener(scene.server(), scene.server_ip())?;
            let to = listener.local_addr()?;
            let clients = (0..5).map(|_| scene.client().run(|| Ok(TcpStream::connect(to)?)));
            let clients = clients.collect::<Result<Vec<_>>>()?;
            counted(scene.server(), "TcpPassiveOpens", 5)?;
            drop(listener);
            clients.iter().try_for_each(is_reset)?;
            Ok(Box::new(clients))
        },
        ..FAULT
    },
    Case {
        name: "var_ports_in_time_wait",
        made: "the client has four local ports, all in TIME-WAIT, and connects five times more",
        expect: &[client("local-port-exhaustion")],
        ongoing: Ongoing::Again,
        run: ports_in_time_wait,
        ..FAULT
    },
    Case {
        name: "var_unsigned_peer",
        made: "the server wants signed segments (TCP MD5, as for BGP), the client does not sign",
        // No code says it; these are the nearest.
        expect: &[server("tcp-invalid-segment"), server("malformed-packet")],
        run: |scene| {
            let listener = listener(scene.server(), scene.server_ip())?;
            set_option(&listener, libc::IPPROTO_TCP, libc::TCP_MD5SIG, &key_of(scene.client_ip()))?;
            Ok(Box::new((unanswered(scene, listener.local_addr()?)?, listener)))
        },
        ..FAULT
    },
    Case {
        name: "var_half_open",
        made: "a server lost its connections without a word, and the clients' keepalive finds out",
        expect: &[server("stale-connection")],
        ongoing: Ongoing::Again,
        run: |scene| {
            let Connection { client, server, .. } = Connection::open(&scene.pair, scene.family)?;
            setsockopt(&client, sockopt::KeepAlive, &true)?;
            setsockopt(&client, sockopt::TcpKeepIdle, &1)?;
            set_option(&server, libc::IPPROTO_TCP, libc::TCP_REPAIR, &1_i32)?;
            drop(server);
            is_reset(&client)?;
            Ok(Box::new(client))
        },
        ..FAULT
    },
];

fn is_reset(mut stream: &TcpStream) -> Result<()> {
    match stream.read(&mut [0]) {
        Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(()),
        other => bail!("expected a reset, got {other:?}"),
    }
}

/// A listener that shares its port with others.
fn shared_listener(scene: &Scene, at: SocketAddr, backlog: i32) -> Result<TcpListener> {
    scene.server().run(|| {
        let family = if at.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        let socket: OwnedFd = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
        setsockopt(&socket, sockopt::ReusePort, &true)?;
        bind(socket.as_raw_fd(), &SockaddrStorage::from(at))?;
        listen(&socket, Backlog::new(backlog)?)?;
        Ok(TcpListener::from(socket))
    })
}

fn stalled_worker(scene: &Scene) -> Result<Held> {
    let at = scene.server_at(8080);
    let (stalled, healthy) = (shared_listener(scene, at, 1)?, shared_listener(scene, at, 128)?);
    let clients = (0..32).map(|_| scene.connect(scene.client(), at)).collect::<Result<Vec<_>>>()?;
    counted(scene.server(), "TcpExtListenOverflows", 4)?;
    scene.in_vain(scene.client(), 1)?;
    Ok(Box::new((healthy.accept()?, clients, stalled, healthy)))
}

/// A server in a process of its own, and connections on which it has answered.
fn echo(scene: &Scene, cgroups: &[&Cgroup], connections: usize) -> Result<(Actor, Vec<TcpStream>)> {
    let at = listener(scene.server(), scene.server_ip())?.local_addr()?;
    let actor = Actor::start(scene.server(), cgroups, &format!("echo {at}"))?;
    let clients = (0..connections).map(|_| {
        let mut client = scene.client().run(|| Ok(TcpStream::connect(at)?))?;
        client.write_all(b"?")?;
        client.read_exact(&mut [0])?;
        Ok(client)
    });
    let clients = clients.collect::<Result<_>>()?;
    Ok((actor, clients))
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

fn frozen(scene: &Scene) -> Result<Held> {
    scene.server().sysctl("net/ipv4/tcp_rmem", "4096 4096 4096")?;
    let cgroup = Cgroup::unified()?;
    let (actor, clients) = echo(scene, &[&cgroup], 1)?;
    cgroup.set("cgroup.freeze", "1")?;
    clients.iter().try_for_each(|client| fill(client).map(drop))?;
    counted(scene.client(), "TcpExtTCPWinProbe", 2)?;
    Ok(Box::new((clients, actor, cgroup)))
}

/// The side that closes first keeps the port in TIME-WAIT.
fn ports_in_time_wait(scene: &Scene) -> Result<Held> {
    scene.client().sysctl("net/ipv4/ip_local_port_range", "40000 40003")?;
    let listener = listener(scene.server(), scene.server_ip())?;
    let to = listener.local_addr()?;
    let serving = listener.try_clone()?;
    thread::spawn(move || {
        while let Ok((mut stream, _)) = serving.accept() {
            // Until the client has closed; how it did is not the server's business.
            drop(stream.read(&mut [0]));
        }
    });
    let connect = || scene.client().run(|| Ok(TcpStream::connect(to)?));
    (0..4).try_for_each(|_| connect().map(drop))?;
    for _ in 0..5 {
        let Err(refused) = connect() else { bail!("there was a port left") };
        let errno = refused.downcast_ref::<std::io::Error>().and_then(std::io::Error::raw_os_error);
        ensure!(errno == Some(libc::EADDRNOTAVAIL), "{refused:#}");
    }
    Ok(Box::new(listener))
}

/// `struct tcp_md5sig` of `uapi/linux/tcp.h`: the peer, the key's length at 130, the key at 136.
fn key_of(peer: IpAddr) -> [u8; 216] {
    let mut key = [0; 216];
    let family = if peer.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    key[..2].copy_from_slice(&(family as u16).to_ne_bytes());
    match peer {
        IpAddr::V4(ip) => key[4..8].copy_from_slice(&ip.octets()),
        IpAddr::V6(ip) => key[8..24].copy_from_slice(&ip.octets()),
    }
    key[130..132].copy_from_slice(&6_u16.to_ne_bytes());
    key[136..142].copy_from_slice(b"secret");
    key
}
