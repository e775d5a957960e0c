//! Healthy clients and servers that mostly wait while somebody asks.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

use super::{GOES_ON, LENGTH, PATIENCE, ROUTED, Service, answer, answer_after, ask, ask_on, seen_well};
use crate::lab::cases::Case;
use crate::lab::{Held, Scene};

pub const CASES: &[Case] = &[
    Case {
        name: "ongoing_long_polls",
        made: "five clients whose requests are answered after two seconds, when there is news",
        run: |scene| {
            let service = Service::start(scene, |stream| answer_after(stream, Duration::from_secs(2)))?;
            let at = service.at;
            let clients = (0..5).map(|_| {
                let stream = scene.client().run(|| Ok(TcpStream::connect(at)?))?;
                scene.go_on(scene.client(), Duration::ZERO, move || ask_on(&stream, PATIENCE))
            });
            let clients = clients.collect::<Result<Vec<_>>>()?;
            seen_well(scene, 10)?;
            Ok(Box::new((clients, service)))
        },
        ..GOES_ON
    },
    Case {
        name: "ongoing_watches",
        made: "connections that only their programs' own pings use, four times a second",
        run: |scene| {
            let service = Service::start(scene, answer)?;
            let at = service.at;
            let clients = (0..6).map(|_| {
                let stream = scene.client().run(|| Ok(TcpStream::connect(at)?))?;
                scene.go_on(scene.client(), Duration::from_millis(250), move || ask_on(&stream, PATIENCE))
            });
            let clients = clients.collect::<Result<Vec<_>>>()?;
            seen_well(scene, 60)?;
            Ok(Box::new((clients, service)))
        },
        ..GOES_ON
    },
    Case {
        name: "ongoing_idle_ends",
        made: "a server that ends idle connections after 0.2 s, and clients that notice and connect anew",
        run: idle_ends,
        ..GOES_ON
    },
    Case {
        name: "ongoing_late_start",
        made: "clients that began before their server did, were refused twice, and are served ever since",
        run: late_start,
        ..ROUTED
    },
    Case {
        name: "ongoing_trickle",
        made: "downloads of a kilobyte every 50 ms, as of logs that people follow",
        run: |scene| {
            let service = Service::start(scene, |mut stream| {
                while stream.write_all(&[b'l'; 1000]).is_ok() {
                    sleep(Duration::from_millis(50));
                }
            })?;
            let at = service.at;
            let clients = (0..4).map(|_| {
                let mut stream = scene.client().run(|| Ok(TcpStream::connect(at)?))?;
                stream.set_read_timeout(Some(PATIENCE))?;
                scene.go_on(scene.client(), Duration::ZERO, move || {
                    stream.read_exact(&mut [0; 1000]).context("the log")
                })
            });
            let clients = clients.collect::<Result<Vec<_>>>()?;
            seen_well(scene, 100)?;
            Ok(Box::new((clients, service)))
        },
        ..GOES_ON
    },
];

/// One request on each connection, which the client keeps until it sees the server's end.
fn idle_ends(scene: &Scene) -> Result<Held> {
    let service = Service::start(scene, |mut stream| {
        let idle = stream.set_read_timeout(Some(Duration::from_millis(200)));
        let mut request = [0; LENGTH];
        while idle.is_ok() && stream.read_exact(&mut request).is_ok() {
            if stream.write_all(&request).is_err() {
                return;
            }
        }
    })?;
    let at = service.at;
    let clients = (0..5).map(|_| {
        scene.go_on(scene.client(), Duration::from_millis(20), move || {
            let mut stream = TcpStream::connect_timeout(&at, PATIENCE)?;
            ask_on(&stream, PATIENCE)?;
            ensure!(stream.read(&mut [0])? == 0, "expected the server's end");
            Ok(())
        })
    });
    let clients = clients.collect::<Result<Vec<_>>>()?;
    seen_well(scene, 30)?;
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
    let service = Service::serve(scene.server().run(|| Ok(TcpListener::bind(at)?))?, answer)?;
    let clients =
        (0..4).map(|_| scene.go_on(scene.client(), Duration::from_millis(10), move || ask(at, PATIENCE)));
    let clients = clients.collect::<Result<Vec<_>>>()?;
    seen_well(scene, 300)?;
    Ok(Box::new((clients, service)))
}
