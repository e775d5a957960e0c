//! Clients that check, race, change their minds.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, sleep};
use std::time::Duration;

use anyhow::{Result, ensure};
use etherparse::NetSlice;
use nix::libc;
use nix::sys::socket::{setsockopt, sockopt};

use crate::lab::background::Background;
use crate::lab::cable::{Side, tcp};
use crate::lab::cases::{Case, FAULT};
use crate::lab::counters::{counted, counter};
use crate::lab::sockets::listener;
use crate::lab::{Connection, Family, Held, Scene, Topology, faults};
use crate::wait;

/// Nothing here takes longer, unless it is broken.
const PATIENCE: Duration = Duration::from_secs(10);

pub const CASES: &[Case] = &[
    Case {
        name: "baseline_health_checks",
        made: "a balancer (the third host) connects every 50 ms and ends each check with a reset",
        topology: Topology::Bridged,
        run: health_checks,
        ..FAULT
    },
    Case {
        name: "baseline_happy_eyeballs",
        made: "a client tries both families at once and gives up the one that is answered later",
        topology: Topology::Cabled,
        run: happy_eyeballs,
        ..FAULT
    },
    Case {
        name: "baseline_port_check",
        made: "a monitor (the third host) looks once whether a port is closed, beside healthy traffic",
        topology: Topology::Bridged,
        run: port_check,
        ..FAULT
    },
    Case {
        name: "baseline_download_cancelled",
        made: "downloads of which the client cancels every tenth, as people do with a browser",
        run: cancelled,
        ..FAULT
    },
];

/// The checker is content with the handshake; a FIN would leave it with a port in TIME-WAIT.
fn health_checks(scene: &Scene) -> Result<Held> {
    const CHECKS: u64 = 20;
    let load = Background::start(scene, 3000)?;
    let checked = listener(scene.server(), scene.server_ip())?;
    let at = checked.local_addr()?;
    for _ in 0..CHECKS {
        let check = scene.third()?.run(|| Ok(TcpStream::connect(at)?))?;
        setsockopt(&check, sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 0 })?;
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
    let cable = scene.cable()?.carry({
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
    });
    let fast = listener(scene.server(), scene.server_ip())?;
    let slow = listener(scene.server(), scene.pair.server_ip(slower))?;
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
    Ok(Box::new((cable, fast, slow)))
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
