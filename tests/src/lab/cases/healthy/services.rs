//! Services that start, wait and replace each other.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, sleep};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

use crate::lab::cases::healthy::connections::ask_in_turn;
use crate::lab::cases::{Case, KNOWN, NOISE, ONGOING};
use crate::lab::counters::counter;
use crate::lab::service::{Service, answer, answer_after, ask, ask_on};
use crate::lab::sockets::PATIENCE;
use crate::lab::{Connection, Held, SEEN, Scene, faults, gateway};

pub const CASES: &[Case] = &[
    Case {
        name: "baseline_deploy",
        made: "a server that ends its connections in order, while its clients come back",
        run: deploy,
        ..KNOWN
    },
    Case {
        name: "baseline_slow_start",
        made: "clients ask for 200 ms whether a server has started, and are served once it has",
        run: slow_start,
        ..NOISE
    },
    Case {
        name: "baseline_rolling_restart",
        made: "four workers on one port hand their listeners over to four others under load",
        run: rolling_restart,
        ..NOISE
    },
    Case {
        name: "ongoing_rolling_restart",
        made: "a server is replaced every half second; the old one ends its connections in order",
        run: rolling_restart_ongoing,
        ..ONGOING
    },
    Case {
        name: "ongoing_slow_server",
        made: "a server that takes 80 ms for every tenth answer, and clients that ask again after 50 ms",
        run: slow_server,
        ..ONGOING
    },
    Case {
        name: "ongoing_late_start",
        made: "clients that began before their server did, were refused twice, and are served ever since",
        run: late_start,
        ..ONGOING.routed()
    },
    Case {
        name: "ongoing_gateway",
        made: "a gateway (the third host) passes requests on over connections that it keeps",
        run: |scene| {
            let upstream = gateway::upstream(scene.server(), scene.server_ip(), PATIENCE)?;
            let front = gateway::gateway(scene.third()?, scene.neighbour(3), upstream)?;
            let clients = (0..4).map(|_| {
                let mut stream = scene.client().connect(front)?;
                scene.go_on(scene.client(), Duration::from_millis(10), move || {
                    let status = gateway::ask(&mut stream)?;
                    ensure!(status == 200, "{status}");
                    Ok(())
                })
            });
            let clients = clients.collect::<Result<Vec<_>>>()?;
            scene.seen_well(200)?;
            Ok(Box::new(clients))
        },
        ..ONGOING.bridged()
    },
];

/// Ends each connection by a FIN once its request was answered; clients see that and connect anew.
fn deploy(scene: &Scene) -> Result<Held> {
    let old = (0..30).map(|_| Connection::open(&scene.pair, scene.family)).collect::<Result<Vec<_>>>()?;
    let new = Service::start(scene, answer)?;
    let mut back = Vec::new();
    for mut connection in old {
        connection.exchange(100, 100)?;
        let Connection { mut client, server, .. } = connection;
        drop(server);
        ensure!(client.read(&mut [0])? == 0, "expected the server's FIN");
        drop(client);
        let stream = scene.client().connect(new.at)?;
        ask_on(&stream, PATIENCE)?;
        back.push(stream);
    }
    Ok(Box::new((back, new)))
}

/// Whoever waits for a server to start has no other way than to ask.
fn slow_start(scene: &Scene) -> Result<Held> {
    let at = scene.listener()?.local_addr()?;
    for _ in 0..4 {
        faults::connect_to_closed_port(scene.client(), at)?;
        sleep(Duration::from_millis(50));
    }
    let started = scene.server().listen(at)?;
    ask_in_turn(scene.client(), &started, 100)?;
    Ok(Box::new(started))
}

/// The listeners stay open while one generation takes over from the other, so no connect is lost.
fn rolling_restart(scene: &Scene) -> Result<Held> {
    const WORKERS: usize = 4;
    let share = |port| scene.server().listen_with(scene.server_at(port), 128);
    let first = share(0)?;
    let at = first.local_addr()?;
    let others = (1..WORKERS).map(|_| share(at.port()));
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
                        answered.fetch_add(u32::from(serve_one(&stream).is_ok()), Ordering::Relaxed);
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

fn serve_one(mut stream: &TcpStream) -> Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.read_exact(&mut [0])?;
    stream.write_all(b"!")?;
    ensure!(stream.read(&mut [0])? == 0, "expected the client's FIN");
    Ok(())
}

/// Clients look where the service is before they ask, as with a list of endpoints; what an old
/// server has begun it ends.
fn rolling_restart_ongoing(scene: &Scene) -> Result<Held> {
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
        sleep(SEEN / 6);
        // Nobody comes to the old one any more.
        current = new;
    }
    scene.seen_well(50)?;
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
    scene.seen_well(100)?;
    ensure!(counter(scene.client(), "TcpOutRsts")? > 0, "nobody lost patience");
    Ok(Box::new((clients, service)))
}

/// As at every start of a cluster: who comes first waits a little.
fn late_start(scene: &Scene) -> Result<Held> {
    let at = scene.server_at(8080);
    for _ in 0..2 {
        match scene.client().run(|| Ok(TcpStream::connect(at)))? {
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {}
            other => bail!("expected to be refused, got {other:?}"),
        }
        sleep(Duration::from_millis(100));
    }
    let service = Service::serve(scene.server().listen(at)?, answer)?;
    let clients =
        (0..4).map(|_| scene.go_on(scene.client(), Duration::from_millis(10), move || ask(at, PATIENCE)));
    let clients = clients.collect::<Result<Vec<_>>>()?;
    scene.seen_well(300)?;
    Ok(Box::new((clients, service)))
}
