//! Pods that come and go, and clients that keep connections to them.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::lab::cases::{Case, FAULT};
use crate::lab::counters::{counted, counter};
use crate::lab::sockets::listener;
use crate::lab::{Connection, Held, Namespace, Scene, Topology, faults, run};
use crate::wait;

/// Nothing here takes longer, unless it is broken.
const PATIENCE: Duration = Duration::from_secs(10);

pub const CASES: &[Case] = &[
    Case {
        name: "baseline_scaled_in",
        made: "one of two pods ends its kept connections and goes; one request meets that and is asked again",
        topology: Topology::Bridged,
        run: scaled_in,
        ..FAULT
    },
    Case {
        name: "baseline_readiness",
        made: "a probe (the third host) finds nobody, then a server that warms up, then one that is ready",
        topology: Topology::Bridged,
        run: readiness,
        ..FAULT
    },
    Case {
        name: "baseline_closed_from_both",
        made: "idle connections that client and server close at the same moment, over a long cable",
        topology: Topology::Cabled,
        run: closed_from_both,
        ..FAULT
    },
    Case {
        name: "baseline_watches",
        made: "forty long streams of events, of which the clients cancel two with a reset",
        run: watches,
        ..FAULT
    },
];

/// A connection from any host to a listener of any other.
///
/// # Errors
/// If the network refuses it.
pub fn connected(from: &Namespace, accepting: &TcpListener) -> Result<Connection> {
    let server_at = accepting.local_addr()?;
    let client = from.run(|| Ok(TcpStream::connect(server_at)?))?;
    let (server, client_at) = accepting.accept()?;
    Ok(Connection { client, server, client_at, server_at })
}

fn scaled_in(scene: &Scene) -> Result<Held> {
    const POOL: usize = 20;
    let leaving = listener(scene.third()?, scene.neighbour(3))?;
    let staying = listener(scene.server(), scene.server_ip())?;
    let pool = |to| (0..POOL).map(|_| connected(scene.client(), to)).collect::<Result<Vec<_>>>();
    let (mut old, mut kept) = (pool(&leaving)?, pool(&staying)?);
    for _ in 0..10 {
        old.iter_mut().chain(&mut kept).try_for_each(|connection| connection.exchange(300, 2000))?;
    }
    drop(leaving);
    for (n, connection) in old.into_iter().enumerate() {
        let Connection { mut client, server, .. } = connection;
        drop(server);
        if n == 0 {
            client.write_all(b"one more request")?;
            counted(scene.third()?, "TcpOutRsts", 1)?;
        } else {
            ensure!(client.read(&mut [0])? == 0, "expected the pod's FIN");
        }
        let mut again = connected(scene.client(), &staying)?;
        again.exchange(300, 2000)?;
        kept.push(again);
    }
    scene.third()?.ip("link set eth0 down")?;
    for _ in 0..10 {
        kept.iter_mut().try_for_each(|connection| connection.exchange(300, 2000))?;
    }
    Ok(Box::new((kept, staying)))
}

/// A probe that is not answered in time closes, and what is said to it then is for nobody.
fn readiness(scene: &Scene) -> Result<Held> {
    const PERIOD: Duration = Duration::from_millis(100);
    const GET: &[u8] = b"GET /ready HTTP/1.1\r\n\r\n";
    const NOT_YET: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n";
    const READY: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    let at = listener(scene.server(), scene.server_ip())?.local_addr()?;
    let probing = scene.third()?;
    for _ in 0..3 {
        faults::connect_to_closed_port(probing, at)?;
        sleep(PERIOD);
    }
    let started = scene.server().run(|| Ok(TcpListener::bind(at)?))?;
    let asked = || {
        let mut connection = connected(probing, &started)?;
        connection.client.write_all(GET)?;
        connection.server.read_exact(&mut [0; GET.len()])?;
        Ok::<_, anyhow::Error>(connection)
    };
    for late in 1..3 {
        let Connection { client, mut server, .. } = asked()?;
        sleep(PERIOD);
        drop(client);
        server.write_all(NOT_YET)?;
        counted(probing, "TcpOutRsts", late)?;
    }
    for (times, answer) in [(2, NOT_YET), (5, READY)] {
        for _ in 0..times {
            let mut connection = asked()?;
            connection.server.write_all(answer)?;
            connection.client.read_exact(&mut vec![0; answer.len()])?;
            connection.close()?;
            sleep(PERIOD);
        }
    }
    for _ in 0..50 {
        let mut connection = connected(scene.client(), &started)?;
        connection.exchange(300, 2000)?;
        connection.close()?;
    }
    Ok(Box::new(started))
}

/// Both FINs are on their way before one arrives, so both ends wait for stray segments.
fn closed_from_both(scene: &Scene) -> Result<Held> {
    const POOL: usize = 10;
    let far = Arc::new(AtomicBool::new(false));
    let cable = scene.cable()?.carry({
        let far = Arc::clone(&far);
        move |_, _| {
            if far.load(Ordering::Relaxed) {
                sleep(Duration::from_millis(5));
            }
            true
        }
    });
    let mut pool =
        (0..POOL).map(|_| Connection::open(&scene.pair, scene.family)).collect::<Result<Vec<_>>>()?;
    pool.iter_mut().try_for_each(|connection| connection.exchange(300, 2000))?;
    far.store(true, Ordering::Relaxed);
    drop(pool);
    for at in [scene.client(), scene.server()] {
        let waiting = || at.run(|| run("ss", "-H -t -a -n state time-wait"));
        wait::within(PATIENCE, "TIME-WAIT at both ends", || {
            waiting().is_ok_and(|ends| ends.lines().count() == POOL).then_some(())
        })?;
    }
    Ok(Box::new(cable))
}

fn watches(scene: &Scene) -> Result<Held> {
    const STREAMS: usize = 40;
    let open = || Connection::open(&scene.pair, scene.family);
    let mut streams = (0..STREAMS).map(|_| open()).collect::<Result<Vec<_>>>()?;
    for round in 0..20_usize {
        for Connection { client, server, .. } in &mut streams {
            server.write_all(&[b'e'; 200])?;
            client.read_exact(&mut [0; 200])?;
        }
        if round % 10 == 5 {
            let cancelled = std::mem::replace(&mut streams[round], open()?);
            cancelled.reset_on_client_close()?;
            let Connection { client, mut server, .. } = cancelled;
            drop(client);
            ensure!(server.read(&mut [0]).is_err(), "expected a reset");
        }
        sleep(Duration::from_millis(30));
    }
    ensure!(counter(scene.client(), "TcpOutRsts")? == 2, "not two were cancelled");
    Ok(Box::new(streams))
}
