//! Clients that check, race and change their minds.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, sleep};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use etherparse::NetSlice;

use crate::lab::background::Background;
use crate::lab::cases::{Case, NOISE, ONGOING};
use crate::lab::counters::{counted, counter};
use crate::lab::service::{LENGTH, Service, answer, ask};
use crate::lab::sockets::{PATIENCE, reset_on_close};
use crate::lab::userspace_link::{Side, tcp};
use crate::lab::{Connection, Family, Held, Scene, faults};
use crate::wait;

pub const CASES: &[Case] = &[
    Case {
        name: "baseline_health_checks",
        made: "a balancer (the third host) connects every 50 ms and ends each check with a reset",
        run: health_checks,
        ..NOISE.bridged()
    },
    Case {
        name: "baseline_happy_eyeballs",
        made: "a client tries both families at once and gives up the one that is answered later",
        run: happy_eyeballs,
        ..NOISE.over_userspace_link()
    },
    Case {
        name: "baseline_port_check",
        made: "a monitor (the third host) looks once whether a port is closed, beside healthy traffic",
        run: port_check,
        ..NOISE.bridged()
    },
    Case {
        name: "baseline_download_cancelled",
        made: "downloads of which the client cancels every tenth, as people do with a browser",
        run: cancelled,
        ..NOISE
    },
    Case {
        name: "ongoing_happy_eyeballs",
        made: "clients that connect in both families at once, and drop the second one",
        run: happy_eyeballs_ongoing,
        ..ONGOING
    },
    Case {
        name: "ongoing_health_checks",
        made: "health checks every 0.1 s that succeed and say nothing, beside requests",
        run: |scene| {
            let service = Service::start(scene, answer)?;
            let at = service.at;
            let checks = scene.go_on(scene.third()?, Duration::from_millis(100), move || {
                TcpStream::connect_timeout(&at, PATIENCE).map(drop).context("the check")
            })?;
            let clients =
                scene.go_on(scene.client(), Duration::from_millis(20), move || ask(at, PATIENCE))?;
            scene.seen_well(60)?;
            Ok(Box::new((checks, clients, service)))
        },
        ..ONGOING.bridged()
    },
    Case {
        name: "ongoing_cancels",
        made: "downloads of which people cancel every fiftieth, as with a browser",
        run: cancels,
        ..ONGOING
    },
];

/// The checker is content with the handshake; a FIN would leave it with a port in TIME-WAIT.
fn health_checks(scene: &Scene) -> Result<Held> {
    const CHECKS: u64 = 20;
    let load = Background::start(scene, 3000)?;
    let checked = scene.listener()?;
    let at = checked.local_addr()?;
    for _ in 0..CHECKS {
        let check = scene.third()?.connect(at)?;
        reset_on_close(&check)?;
        drop(check);
        drop(checked.accept()?);
        sleep(Duration::from_millis(50));
    }
    ensure!(counter(scene.third()?, "TcpOutRsts")? >= CHECKS, "the checks did not end with resets");
    ensure!(load.done() > 10, "only {} connections", load.done());
    Ok(Box::new((checked, load)))
}

/// The slower family's answer comes when nobody waits for it any more.
fn happy_eyeballs(scene: &Scene) -> Result<Held> {
    const ATTEMPTS: u64 = 10;
    let slower = if scene.family == Family::V4 { Family::V6 } else { Family::V4 };
    let given_up = Arc::new(AtomicBool::new(false));
    scene.carry({
        let given_up = Arc::clone(&given_up);
        move |side, packet| {
            let of_slower = match packet.net {
                Some(NetSlice::Ipv4(_)) => slower == Family::V4,
                Some(NetSlice::Ipv6(_)) => slower == Family::V6,
                _ => false,
            };
            if side == Side::Server && of_slower && tcp(packet).is_some_and(|segment| segment.syn()) {
                // If it never is, the case finds no reset and fails.
                drop(wait::within(PATIENCE, "the end of the attempt", || {
                    given_up.load(Ordering::Relaxed).then_some(())
                }));
            }
            true
        }
    })?;
    let fast = scene.listener()?;
    let slow = scene.server().listen((scene.pair.server_ip(slower), 0))?;
    for attempt in 1..=ATTEMPTS {
        given_up.store(false, Ordering::Relaxed);
        let (first, _) = faults::start_connect(scene.client(), fast.local_addr()?)?;
        let (second, _) = faults::start_connect(scene.client(), slow.local_addr()?)?;
        let stream = TcpStream::from(first);
        wait::within(PATIENCE, "the faster family", || stream.peer_addr().ok())?;
        drop(second);
        given_up.store(true, Ordering::Relaxed);
        stream.set_nonblocking(false)?;
        let (server, client_at) = fast.accept()?;
        let server_at = fast.local_addr()?;
        let mut connection = Connection { client: stream, server, client_at, server_at };
        connection.exchange(200, 2000)?;
        connection.close()?;
        counted(scene.client(), "TcpOutRsts", attempt)?;
    }
    Ok(Box::new((fast, slow)))
}

fn port_check(scene: &Scene) -> Result<Held> {
    let load = Background::start(scene, 9000)?;
    sleep(Duration::from_millis(700));
    faults::connect_to_closed_port(scene.third()?, scene.server_at(23))?;
    wait::within(PATIENCE, "healthy connections", || (load.done() > 200).then_some(()))?;
    Ok(Box::new(load))
}

fn cancelled(scene: &Scene) -> Result<Held> {
    const WHOLE: usize = 300_000;
    // More than any buffers on the way hold.
    const ENDLESS: usize = 200_000_000;
    for n in 0..30 {
        let cancels = n % 10 == 4;
        let Connection { mut client, mut server, .. } = Connection::open(&scene.pair, scene.family)?;
        server.set_write_timeout(Some(PATIENCE))?;
        let bytes = if cancels { ENDLESS } else { WHOLE };
        let sender =
            thread::spawn(move || (0..bytes / 10_000).try_for_each(|_| server.write_all(&[0; 10_000])));
        client.set_read_timeout(Some(PATIENCE))?;
        client.read_exact(&mut vec![0; if cancels { WHOLE / 2 } else { WHOLE }])?;
        if cancels {
            // Something has come that nobody will read.
            wait::within(PATIENCE, "more of the download", || client.peek(&mut [0]).ok())?;
        }
        drop(client);
        let sent = sender.join().expect("sending does not panic");
        ensure!(sent.is_err() == cancels, "download {n}: {sent:?}");
    }
    counted(scene.client(), "TcpExtTCPAbortOnClose", 3)?;
    Ok(Box::new(()))
}

/// Both are answered at once; who comes second is not needed.
fn happy_eyeballs_ongoing(scene: &Scene) -> Result<Held> {
    let other = if scene.family == Family::V4 { Family::V6 } else { Family::V4 };
    let first = Service::start(scene, answer)?;
    let second = Service::serve(scene.server().listen((scene.pair.server_ip(other), 0))?, answer)?;
    let (preferred, spare) = (first.at, second.at);
    let clients = scene.go_on(scene.client(), Duration::from_millis(100), move || {
        let dropped = thread::scope(|scope| {
            let racing = scope.spawn(|| TcpStream::connect_timeout(&spare, PATIENCE));
            let outcome = ask(preferred, PATIENCE);
            racing.join().expect("connecting does not panic").map(drop).map_err(Into::into).and(outcome)
        });
        dropped.context("an attempt")
    })?;
    scene.seen_well(15)?;
    Ok(Box::new((clients, first, second)))
}

/// Who cancels closes with something unread, which the kernel answers with a reset.
fn cancels(scene: &Scene) -> Result<Held> {
    let service = Service::start(scene, |mut stream| {
        if stream.read_exact(&mut [0; LENGTH]).is_ok() {
            drop(stream.write_all(&vec![b'd'; 300_000]));
        }
    })?;
    let (at, mut number) = (service.at, 0);
    let clients = scene.go_on(scene.client(), Duration::from_millis(10), move || {
        number += 1;
        let mut stream = TcpStream::connect_timeout(&at, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(&[b'?'; LENGTH])?;
        let wanted = if number % 50 == 25 { 100_000 } else { 300_000 };
        stream.read_exact(&mut vec![0; wanted]).context("the download")
    })?;
    scene.seen_well(110)?;
    counted(scene.client(), "TcpOutRsts", 2)?;
    Ok(Box::new((clients, service)))
}
