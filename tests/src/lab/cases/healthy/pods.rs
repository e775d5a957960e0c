//! Pods that come and go, and clients that keep connections to them.

use std::io::{Read as _, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::lab::cases::{Case, NOISE, ONGOING};
use crate::lab::counters::{counted, counter};
use crate::lab::service::{Service, answer, ask};
use crate::lab::sockets::{PATIENCE, reset_on_close};
use crate::lab::{Connection, Held, Namespace, Scene, faults, run};
use crate::wait;

pub const CASES: &[Case] = &[
    Case {
        name: "baseline_scaled_in",
        made: "one of two pods ends its kept connections and goes; one request meets that and is asked again",
        run: scaled_in,
        ..NOISE.bridged()
    },
    Case {
        name: "baseline_readiness",
        made: "a probe (the third host) finds nobody, then a server that warms up, then one that is ready",
        run: readiness,
        ..NOISE.bridged()
    },
    Case {
        name: "baseline_closed_from_both",
        made: "idle connections that client and server close at the same moment, over a long cable",
        run: closed_from_both,
        ..NOISE.over_userspace_link()
    },
    Case {
        name: "baseline_watches",
        made: "forty long streams of events, of which the clients cancel two with a reset",
        run: watches,
        ..NOISE
    },
    Case {
        name: "ongoing_pods_come_and_go",
        made: "pods start and end beside healthy load, each with its link and its addresses",
        run: |scene| {
            let service = Service::start(scene, answer)?;
            let at = service.at;
            let clients =
                scene.go_on(scene.client(), Duration::from_millis(10), move || ask(at, PATIENCE))?;
            let pods = scene.go_on(scene.client(), Duration::from_millis(200), || {
                let pod = Namespace::new("pod")?;
                pod.ip("link add eth0 type veth peer name outside")?;
                pod.ip("addr add 10.244.7.9/24 dev eth0")?;
                pod.ip("link set eth0 up")?;
                pod.ip("link set outside up").map(drop)
            })?;
            scene.seen_well(50)?;
            Ok(Box::new((pods, clients, service)))
        },
        ..ONGOING
    },
];

fn scaled_in(scene: &Scene) -> Result<Held> {
    const POOL: usize = 20;
    let leaving = scene.third()?.listen((scene.neighbour(3), 0))?;
    let staying = scene.listener()?;
    let pool = |to| (0..POOL).map(|_| Connection::to(scene.client(), to)).collect::<Result<Vec<_>>>();
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
        let mut again = Connection::to(scene.client(), &staying)?;
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
    let at = scene.listener()?.local_addr()?;
    let probing = scene.third()?;
    for _ in 0..3 {
        faults::connect_to_closed_port(probing, at)?;
        sleep(PERIOD);
    }
    let started = scene.server().listen(at)?;
    let asked = || {
        let mut connection = Connection::to(probing, &started)?;
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
        let mut connection = Connection::to(scene.client(), &started)?;
        connection.exchange(300, 2000)?;
        connection.close()?;
    }
    Ok(Box::new(started))
}

/// Both FINs are on their way before one arrives, so both ends wait for stray segments.
fn closed_from_both(scene: &Scene) -> Result<Held> {
    const POOL: usize = 10;
    let far = Arc::new(AtomicBool::new(false));
    scene.carry({
        let far = Arc::clone(&far);
        move |_, _| {
            if far.load(Ordering::Relaxed) {
                sleep(Duration::from_millis(5));
            }
            true
        }
    })?;
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
    Ok(Box::new(()))
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
            reset_on_close(&cancelled.client)?;
            let Connection { client, mut server, .. } = cancelled;
            drop(client);
            ensure!(server.read(&mut [0]).is_err(), "expected a reset");
        }
        sleep(Duration::from_millis(30));
    }
    ensure!(counter(scene.client(), "TcpOutRsts")? == 2, "not two were cancelled");
    Ok(Box::new(streams))
}
