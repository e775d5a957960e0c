//! Queues of listeners, and what runs out when there are many connections.

use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd as _, OwnedFd};

use anyhow::{Result, bail, ensure};
use etherparse::{TcpHeader, TcpOptionElement};
use nix::libc;
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, listen, socket};

use super::{Case, FAULT, Ongoing, client, server};
use crate::lab::counters::counted;
use crate::lab::injector::Injector;
use crate::lab::sockets::listener;
use crate::lab::{Connection, Held, Namespace, Scene, Topology, faults};

pub const CASES: &[Case] = &[
    Case {
        name: "listen_overflow",
        made: "six connect to a listener with a backlog of 1 that never accepts",
        expect: &[server("accept-queue-overflow")],
        ongoing: Ongoing::ByItself,
        run: overflow,
        ..FAULT
    },
    Case {
        name: "listen_overflow_abort",
        made: "the same with tcp_abort_on_overflow",
        expect: &[server("accept-queue-overflow")],
        ongoing: Ongoing::ByItself,
        run: |scene| {
            scene.server().sysctl("net/ipv4/tcp_abort_on_overflow", "1")?;
            overflow(scene)
        },
        ..FAULT
    },
    Case {
        name: "synflood_cookies",
        made: "200 SYNs to a listener with a backlog of 8, whose answers the client drops",
        expect: &[server("syn-queue-overflow")],
        ongoing: Ongoing::Again,
        run: flood_from_client,
        ..FAULT
    },
    Case {
        name: "synflood_no_cookies",
        made: "200 SYNs from elsewhere that nobody confirms, and no SYN cookies",
        topology: Topology::Cabled,
        expect: &[server("syn-queue-overflow")],
        ongoing: Ongoing::ByItself,
        run: flood_from_elsewhere,
        ..FAULT
    },
    Case {
        name: "time_wait_overflow",
        made: "the client closes twenty connections and may keep two in TIME-WAIT",
        expect: &[client("time-wait-overflow")],
        ongoing: Ongoing::Again,
        run: |scene| {
            scene.client().sysctl("net/ipv4/tcp_max_tw_buckets", "2")?;
            (0..20).try_for_each(|_| Connection::open(&scene.pair, scene.family)?.close())?;
            counted(scene.client(), "TcpExtTCPTimeWaitOverflow", 5)?;
            Ok(Box::new(()))
        },
        ..FAULT
    },
    Case {
        name: "ports_exhausted",
        made: "the client has four local ports, all in use, and connects ten times more",
        expect: &[client("local-port-exhaustion")],
        ongoing: Ongoing::Again,
        run: ports_exhausted,
        ..FAULT
    },
];

fn overflow(scene: &Scene) -> Result<Held> {
    let full = faults::fill_accept_queue(&scene.pair, scene.family)?;
    counted(scene.server(), "TcpExtListenOverflows", 4)?;
    scene.in_vain(scene.client(), 1)?;
    Ok(Box::new(full))
}

/// A listener with a small backlog.
fn small_listener(at: &Namespace, ip: IpAddr) -> Result<(OwnedFd, SocketAddr)> {
    at.run(|| {
        let family = if ip.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        let socket = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
        bind(socket.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(ip, 0)))?;
        listen(&socket, Backlog::new(8)?)?;
        let listener = TcpListener::from(socket);
        let at = listener.local_addr()?;
        Ok((listener.into(), at))
    })
}

fn flood(through: &Injector, from: IpAddr, to: SocketAddr) -> Result<()> {
    for port in 20_000..20_200 {
        let mut syn = TcpHeader::new(port, to.port(), u32::from(port), 65_535);
        syn.syn = true;
        syn.set_options(&[TcpOptionElement::MaximumSegmentSize(1400)])?;
        through.segment(from, to.ip(), syn, &[], false)?;
    }
    Ok(())
}

fn flood_from_client(scene: &Scene) -> Result<Held> {
    scene.client().nft(
        "add table inet lab; add chain inet lab in { type filter hook input priority 0; }; \
         add rule inet lab in tcp flags & (syn | ack) == syn | ack drop",
    )?;
    let (listener, at) = small_listener(scene.server(), scene.server_ip())?;
    flood(&Injector::new(&scene.pair)?, scene.client_ip(), at)?;
    counted(scene.server(), "TcpExtSyncookiesSent", 100)?;
    Ok(Box::new(listener))
}

fn flood_from_elsewhere(scene: &Scene) -> Result<Held> {
    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 60];
    let from = scene.neighbour(60);
    scene.server().ip(&format!("neigh add {from} lladdr 02:00:00:00:00:3c dev eth0 nud permanent"))?;
    scene.server().sysctl("net/ipv4/tcp_syncookies", "0")?;
    let (listener, at) = small_listener(scene.server(), scene.server_ip())?;
    let elsewhere = Injector::behind(scene.cable()?.server, &scene.pair, MAC)?;
    flood(&elsewhere, from, at)?;
    counted(scene.server(), "TcpExtListenDrops", 50)?;
    Ok(Box::new((listener, elsewhere)))
}

fn ports_exhausted(scene: &Scene) -> Result<Held> {
    scene.client().sysctl("net/ipv4/ip_local_port_range", "40000 40003")?;
    let listener = listener(scene.server(), scene.server_ip())?;
    let to = listener.local_addr()?;
    let connect = || scene.client().run(|| Ok(TcpStream::connect(to)?));
    let open = (0..4).map(|_| connect()).collect::<Result<Vec<_>>>()?;
    for _ in 0..10 {
        let Err(refused) = connect() else { bail!("there was a port left") };
        let errno = refused.downcast_ref::<std::io::Error>().and_then(std::io::Error::raw_os_error);
        ensure!(errno == Some(libc::EADDRNOTAVAIL), "{refused:#}");
    }
    Ok(Box::new((listener, open)))
}
