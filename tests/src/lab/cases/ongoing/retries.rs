//! Clients that have something else to try, a pool to fill or a ticket to write: faults behind which
//! most of what is seen is a client's own way to go on.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use nix::libc;

use super::{CABLED, GOES_ON, PATIENCE, ROUTED, Service, answer, ask, ask_on, knocking, seen};
use crate::lab::cable::tcp;
use crate::lab::cases::{Case, client, know_each_other, server};
use crate::lab::counters::counted;
use crate::lab::sockets::{listener, set_option};
use crate::lab::{Family, Held, Scene, faults, run};

/// How long clients wait here.
const SHORT: Duration = Duration::from_millis(300);

pub const CASES: &[Case] = &[
    Case {
        name: "ongoing_one_family_walled",
        made: "a firewall drops one family only, and clients fall back to the other after 0.25 s, with success",
        expect: &[server("firewall-drop")],
        run: one_family,
        ..GOES_ON
    },
    Case {
        name: "ongoing_rejected_by_icmp",
        made: "the server's iptables rejects (ICMP, of which the kernel sends few), and twenty clients come each second",
        expect: &[server("firewall-reject")],
        run: |scene| {
            let program = scene.by_family("iptables-legacy", "ip6tables-legacy");
            scene.server().run(|| run(program, "-w 5 -A INPUT -p tcp --dport 443 -j REJECT"))?;
            let to = scene.server_at(443);
            let pause = Duration::from_millis(50);
            let clients = (0..4).map(|_| knocking(scene, scene.client(), to, SHORT, pause));
            let clients = clients.collect::<Result<Vec<_>>>()?;
            seen(scene, 30)?;
            Ok(Box::new(clients))
        },
        ..GOES_ON
    },
    Case {
        name: "ongoing_log_walled",
        made: "the server's firewall drops log lines (datagrams), which come twenty times a second",
        expect: &[server("firewall-drop")],
        run: |scene| {
            let log = scene.server().run(|| Ok(UdpSocket::bind(scene.server_at(514))?))?;
            faults::drop_incoming(scene.server(), "udp", 514)?;
            let to = log.local_addr()?;
            let sender = scene.go_on(scene.client(), Duration::from_millis(50), move || {
                faults::send_datagrams(to, 1, 200).map(drop)
            })?;
            seen(scene, 40)?;
            log.set_nonblocking(true)?;
            ensure!(log.recv(&mut [0; 200]).is_err(), "a line arrived");
            Ok(Box::new((sender, log)))
        },
        ..GOES_ON
    },
    Case {
        name: "ongoing_pool_cut",
        made: "a cable is cut under a pool, whose requests and connects then wait for half a second each",
        expect: &[client("peer-unresponsive"), server("peer-unresponsive")],
        run: pool_cut,
        ..CABLED
    },
    Case {
        name: "ongoing_ports_used_up",
        made: "the client has four local ports, all in use, and tries ten times a second",
        expect: &[client("local-port-exhaustion")],
        run: ports_used_up,
        ..GOES_ON
    },
    Case {
        name: "ongoing_state_lost",
        made: "a server that loses each connection without a word, and clients that connect anew",
        expect: &[server("stale-connection")],
        run: state_lost,
        ..GOES_ON
    },
    Case {
        name: "ongoing_lossy_requests",
        made: "a cable that loses every tenth segment of small requests and answers",
        expect: &[client("tcp-loss"), server("tcp-loss")],
        run: lossy_requests,
        ..CABLED
    },
    Case {
        name: "ongoing_no_way_back",
        made: "the server has no way back to the client, whose checks wait for 0.3 s",
        expect: &[server("route-missing")],
        run: |scene| {
            let service = Service::start(scene, answer)?;
            know_each_other(scene)?;
            scene.ip(scene.server(), "route del default")?;
            let pause = Duration::from_millis(700);
            let clients = knocking(scene, scene.client(), service.at, SHORT, pause)?;
            seen(scene, 3)?;
            Ok(Box::new((clients, service)))
        },
        ..ROUTED
    },
];

fn one_family(scene: &Scene) -> Result<Held> {
    let other = if scene.family == Family::V4 { Family::V6 } else { Family::V4 };
    let walled = Service::start(scene, answer)?;
    let spare = Service::serve(listener(scene.server(), scene.pair.server_ip(other))?, answer)?;
    faults::drop_incoming(scene.server(), "tcp", walled.at.port())?;
    let (first, second) = (walled.at, spare.at);
    let clients = scene.go_on(scene.client(), Duration::from_millis(150), move || {
        let refused = TcpStream::connect_timeout(&first, Duration::from_millis(250));
        ensure!(refused.is_err(), "there was no wall");
        ask(second, PATIENCE)
    })?;
    seen(scene, 6)?;
    Ok(Box::new((clients, walled, spare)))
}

fn pool_cut(scene: &Scene) -> Result<Held> {
    let cut = Arc::new(AtomicBool::new(false));
    scene.carry({
        let cut = Arc::clone(&cut);
        move |_, _| !cut.load(Ordering::Relaxed)
    })?;
    let service = Service::start(scene, answer)?;
    let at = service.at;
    let pool = (0..4).map(|_| {
        let stream = scene.client().run(|| Ok(TcpStream::connect(at)?))?;
        ask_on(&stream, PATIENCE)?;
        Ok(stream)
    });
    let pool = pool.collect::<Result<Vec<_>>>()?;
    cut.store(true, Ordering::Relaxed);
    let clients = pool.into_iter().map(|stream| {
        let mut stream = Some(stream);
        scene.go_on(scene.client(), Duration::from_millis(100), move || {
            let patience = Duration::from_millis(500);
            let outcome = match stream.take() {
                Some(stream) => ask_on(&stream, patience),
                None => ask(at, patience),
            };
            ensure!(outcome.is_err(), "the cable is whole");
            Ok(())
        })
    });
    let clients = clients.collect::<Result<Vec<_>>>()?;
    seen(scene, 16)?;
    Ok(Box::new((clients, service)))
}

fn ports_used_up(scene: &Scene) -> Result<Held> {
    scene.client().sysctl("net/ipv4/ip_local_port_range", "40000 40003")?;
    let service = Service::start(scene, answer)?;
    let at: SocketAddr = service.at;
    let open = (0..4).map(|_| scene.client().run(|| Ok(TcpStream::connect(at)?)));
    let open = open.collect::<Result<Vec<_>>>()?;
    let clients =
        scene.go_on(scene.client(), Duration::from_millis(100), move || match TcpStream::connect(at) {
            Err(error) if error.raw_os_error() == Some(libc::EADDRNOTAVAIL) => Ok(()),
            other => bail!("{other:?}"),
        })?;
    seen(scene, 20)?;
    Ok(Box::new((clients, open, service)))
}

/// A socket under repair is closed without a word to its peer.
fn state_lost(scene: &Scene) -> Result<Held> {
    let service = Service::start(scene, |mut stream| {
        if stream.read(&mut [0]).is_ok() && stream.write_all(b"!").is_ok() {
            // One that is not closed so answers with its end, and the client says so.
            let _ = set_option(&stream, libc::IPPROTO_TCP, libc::TCP_REPAIR, &1_i32);
        }
    })?;
    let at = service.at;
    let clients = scene.go_on(scene.client(), Duration::from_millis(150), move || {
        let mut stream = TcpStream::connect_timeout(&at, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(b"?")?;
        stream.read_exact(&mut [0]).context("the first answer")?;
        // Until the server has forgotten; a request before that is lost with its connection.
        std::thread::sleep(Duration::from_millis(50));
        stream.write_all(b"?")?;
        let answer = stream.read(&mut [0]);
        let reset = answer.as_ref().is_err_and(|error| error.kind() == ErrorKind::ConnectionReset);
        ensure!(reset, "expected a reset, got {answer:?}");
        Ok(())
    })?;
    seen(scene, 8)?;
    Ok(Box::new((clients, service)))
}

fn lossy_requests(scene: &Scene) -> Result<Held> {
    let number = AtomicU32::new(0);
    scene.carry(move |_, packet| {
        let data = tcp(packet).is_some_and(|segment| !segment.payload().is_empty());
        !data || number.fetch_add(1, Ordering::Relaxed) % 10 != 9
    })?;
    let service = Service::start(scene, answer)?;
    let at = service.at;
    let clients = (0..4).map(|_| {
        let stream = scene.client().run(|| Ok(TcpStream::connect(at)?))?;
        scene.go_on(scene.client(), Duration::from_millis(10), move || ask_on(&stream, PATIENCE))
    });
    let clients = clients.collect::<Result<Vec<_>>>()?;
    seen(scene, 60)?;
    counted(scene.client(), "TcpRetransSegs", 3)?;
    Ok(Box::new((clients, service)))
}
