//! Healthy clients and servers that are busy while somebody asks.

use std::net::{TcpStream, UdpSocket};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::{BRIDGED, GOES_ON, PATIENCE, SEEN, Service, answer, answer_after, ask, ask_on, seen_well};
use crate::lab::background::Background;
use crate::lab::cases::Case;
use crate::lab::cases::healthy::watchers::{STRANGERS, keep_out_all_but, kept_out_so_far, knock};
use crate::lab::counters::counter;
use crate::lab::injector::Injector;
use crate::lab::sockets::listener;
use crate::lab::{Family, Held, Scene, faults};

pub const CASES: &[Case] = &[
    Case {
        name: "ongoing_happy_eyeballs",
        made: "clients that connect in both families at once, and drop the second one",
        run: happy_eyeballs,
        ..GOES_ON
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
            seen_well(scene, 20)?;
            Ok(Box::new((pools, service)))
        },
        ..GOES_ON
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
            seen_well(scene, 60)?;
            Ok(Box::new((checks, clients, service)))
        },
        ..BRIDGED
    },
    Case {
        name: "ongoing_port_scan",
        made: "an inventory tool (the third host) looks at one port after the other, beside healthy load",
        run: |scene| {
            let load = Background::start(scene, 6000)?;
            let (ip, next) = (scene.server_ip(), AtomicU16::new(1));
            let scan = scene.go_on(scene.third()?, Duration::from_millis(150), move || {
                faults::expect_refusal((ip, next.fetch_add(1, Ordering::Relaxed)).into()).map(drop)
            })?;
            seen_well(scene, 15)?;
            Ok(Box::new((scan, load)))
        },
        ..BRIDGED
    },
    Case {
        name: "ongoing_rolling_restart",
        made: "a server is replaced every half second; the old one ends its connections in order",
        run: rolling_restart,
        ..GOES_ON
    },
    Case {
        name: "ongoing_slow_server",
        made: "a server that takes 80 ms for every tenth answer, and clients that ask again after 50 ms",
        run: slow_server,
        ..GOES_ON
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
            seen_well(scene, 3)?;
            Ok(Box::new((jobs, service)))
        },
        ..GOES_ON
    },
    Case {
        name: "ongoing_statistics",
        made: "datagrams of statistics, ten every 20 ms, which their reader takes as they come",
        run: |scene| {
            let reader = scene.server().run(|| Ok(UdpSocket::bind((scene.server_ip(), 0))?))?;
            let to = reader.local_addr()?;
            reader.set_read_timeout(Some(PATIENCE))?;
            // Until nothing has come for a while.
            thread::spawn(move || while reader.recv(&mut [0; 200]).is_ok() {});
            let sender = scene.go_on(scene.client(), Duration::from_millis(20), move || {
                faults::send_datagrams(to, 10, 100).map(drop)
            })?;
            seen_well(scene, 50)?;
            Ok(sender)
        },
        ..GOES_ON
    },
    Case {
        name: "ongoing_noise_kept_out",
        made: "a firewall drops what one stranger after the other tries once, and its service is well",
        run: |scene| {
            let load = Background::start(scene, 6000)?;
            keep_out_all_but(scene.server(), load.server_at())?;
            let strangers = Injector::new(&scene.pair)?;
            (0..4).try_for_each(|round| knock(scene, &strangers, 1 + round * STRANGERS))?;
            ensure!(kept_out_so_far(scene.server())? >= 60, "the strangers did not come");
            ensure!(load.done() > 100, "only {} connections", load.done());
            Ok(Box::new(load))
        },
        ..GOES_ON
    },
];

/// Both are answered at once; who comes second is not needed.
fn happy_eyeballs(scene: &Scene) -> Result<Held> {
    let other = if scene.family == Family::V4 { Family::V6 } else { Family::V4 };
    let first = Service::start(scene, answer)?;
    let second = Service::serve(listener(scene.server(), scene.pair.server_ip(other))?, answer)?;
    let (preferred, spare) = (first.at, second.at);
    let clients = scene.go_on(scene.client(), Duration::from_millis(100), move || {
        let dropped = thread::scope(|scope| {
            let racing = scope.spawn(|| TcpStream::connect_timeout(&spare, PATIENCE));
            let outcome = ask(preferred, PATIENCE);
            racing.join().expect("connecting does not panic").map(drop).map_err(Into::into).and(outcome)
        });
        dropped.context("an attempt")
    })?;
    seen_well(scene, 15)?;
    Ok(Box::new((clients, first, second)))
}

/// Clients look where the service is before they ask, as with a list of endpoints; what an old
/// server has begun it ends.
fn rolling_restart(scene: &Scene) -> Result<Held> {
    let start = || Service::start(scene, |stream| answer_after(stream, Duration::from_millis(5)));
    let mut current = start()?;
    let endpoint = Arc::new(Mutex::new(current.at));
    let clients = (0..4).map(|_| {
        let endpoint = Arc::clone(&endpoint);
        scene.go_on(scene.client(), Duration::from_millis(10), move || {
            let at = *endpoint.lock().unwrap_or_else(PoisonError::into_inner);
            ask(at, PATIENCE)
        })
    });
    let clients = clients.collect::<Result<Vec<_>>>()?;
    for _ in 0..6 {
        let new = start()?;
        *endpoint.lock().unwrap_or_else(PoisonError::into_inner) = new.at;
        thread::sleep(SEEN / 6);
        // Nobody comes to the old one any more.
        current = new;
    }
    seen_well(scene, 50)?;
    Ok(Box::new((clients, current)))
}

/// A client that is tired of waiting closes, and asks on a new connection, which is answered.
fn slow_server(scene: &Scene) -> Result<Held> {
    let number = Arc::new(AtomicU16::new(0));
    let service = Service::start(scene, move |stream| {
        let slow = number.fetch_add(1, Ordering::Relaxed) % 10 == 9;
        answer_after(stream, Duration::from_millis(if slow { 80 } else { 0 }));
    })?;
    let at = service.at;
    let clients = (0..3).map(|_| {
        scene.go_on(scene.client(), Duration::from_millis(20), move || {
            ask(at, Duration::from_millis(50)).or_else(|_| ask(at, PATIENCE))
        })
    });
    let clients = clients.collect::<Result<Vec<_>>>()?;
    seen_well(scene, 100)?;
    ensure!(counter(scene.client(), "TcpOutRsts")? > 0, "nobody lost patience");
    Ok(Box::new((clients, service)))
}
