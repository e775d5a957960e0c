//! Connections that an application or a peer resets.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::lab::background::Background;
use crate::lab::cases::{Case, KNOWN, LIFE, NOISE, ONGOING, Ongoing, UNSEEN, V4, VARIATION, server};
use crate::lab::counters::{counted, counter};
use crate::lab::scripted_peer::{ACK, RST, ScriptedPeer, Segment};
use crate::lab::service::Service;
use crate::lab::sockets::{PATIENCE, expect_reset, reset_on_close};
use crate::lab::{Actor, Connection, Held, Scene, faults, gateway, run};
use crate::wait;

pub const CASES: &[Case] = &[
    Case {
        name: "app_close_unread",
        made: "the server closes while data waits there unread",
        expect: &[server("reset-by-application")],
        ongoing: Ongoing::Again,
        run: |scene| {
            for _ in 0..3 {
                faults::reset_by_unread_data(&scene.pair, scene.family)?;
            }
            Ok(Box::new(()))
        },
        ..KNOWN
    },
    Case {
        name: "app_linger0",
        made: "the server closes with SO_LINGER 0",
        expect: &[server("reset-by-application")],
        ongoing: Ongoing::Again,
        run: |scene| {
            for _ in 0..3 {
                faults::reset_by_server(&scene.pair, scene.family)?;
            }
            Ok(Box::new(()))
        },
        ..KNOWN
    },
    Case {
        name: "write_after_close",
        made: "the server closes in order, and the client goes on writing",
        expect: &[server("reset-after-close")],
        ongoing: Ongoing::Again,
        run: |scene| {
            for _ in 0..3 {
                write_after_close(scene)?;
            }
            Ok(Box::new(()))
        },
        ..KNOWN
    },
    Case {
        name: "reset_by_peer",
        made: "a peer that is not on this node resets its connections",
        families: V4,
        expect: &[server("reset-by-peer")],
        run: reset_by_stranger,
        ..KNOWN.over_userspace_link()
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
            open.iter().try_for_each(|connection| expect_reset(&connection.client))?;
            Ok(Box::new(open))
        },
        ..UNSEEN
    },
    Case {
        name: "var_reloaded_listener",
        made: "a server closes its listener while five clients wait to be accepted",
        expect: &[server("reset-by-application")],
        ongoing: Ongoing::Again,
        run: |scene| {
            let listener = scene.listener()?;
            let to = listener.local_addr()?;
            let clients = (0..5).map(|_| scene.client().connect(to));
            let clients = clients.collect::<Result<Vec<_>>>()?;
            counted(scene.server(), "TcpPassiveOpens", 5)?;
            drop(listener);
            clients.iter().try_for_each(expect_reset)?;
            Ok(Box::new(clients))
        },
        ..UNSEEN
    },
    Case {
        name: "var_server_killed",
        made: "a server with requests in its sockets is killed, and its clients come back",
        expect: &[server("reset-by-application"), server("port-not-listening")],
        also: &[server("reset-by-application"), server("port-not-listening")],
        ongoing: Ongoing::Again,
        run: killed,
        ..VARIATION
    },
    Case {
        name: "var_upload_refused",
        made: "one service answers uploads before it has read them and closes; another of the same server is well",
        expect: &[server("reset-by-application")],
        ongoing: Ongoing::Again,
        run: upload_refused,
        ..NOISE
    },
    Case {
        name: "ongoing_reset_loop",
        made: "a server that resets every request, and clients that try again after 0.2 s",
        expect: &[server("reset-by-application")],
        run: reset_loop,
        ..ONGOING
    },
    Case {
        name: "life_gateway_502",
        made: "a gateway (the third host) keeps connections that its upstream resets when idle",
        expect: &[server("reset-by-application")],
        ongoing: Ongoing::Again,
        run: bad_gateway,
        ..LIFE.bridged()
    },
];

fn write_after_close(scene: &Scene) -> Result<()> {
    let mut connection = Connection::open(&scene.pair, scene.family)?;
    connection.exchange(1, 1)?;
    let Connection { mut client, server, .. } = connection;
    drop(server);
    ensure!(client.read(&mut [0])? == 0, "expected the server's FIN");
    client.write_all(b"are you still there?")?;
    expect_end(&client)
}

/// What is said to a connection that is gone is answered by a reset, of which the next call tells.
pub fn expect_end(stream: &TcpStream) -> Result<()> {
    let mut to = stream;
    wait::until("the reset", || match to.write(b"?") {
        Err(error) if [ErrorKind::BrokenPipe, ErrorKind::ConnectionReset].contains(&error.kind()) => Some(()),
        _ => None,
    })
}

fn reset_by_stranger(scene: &Scene) -> Result<Held> {
    let listener = scene.listener()?;
    let mut stranger =
        ScriptedPeer::behind(scene.userspace_link()?.server, &scene.pair, listener.local_addr()?.port())?;
    let resets = scene.repeat(scene.server(), 3, move || {
        stranger.shake_hands()?;
        let (stream, _) = listener.accept().context("a connection")?;
        stranger.send(&Segment { data: b"hello", ..Segment::default() })?;
        stream.peek(&mut [0])?;
        stranger.send(&Segment { flags: RST | ACK, off: 5, ..Segment::default() })?;
        let mut from = &stream;
        let told = from.read(&mut [0; 5]).and_then(|_| from.read(&mut [0]));
        ensure!(told.is_err_and(|error| error.kind() == ErrorKind::ConnectionReset), "expected a reset");
        stranger.begin_anew();
        Ok(())
    })?;
    counted(scene.server(), "TcpEstabResets", 3)?;
    Ok(resets)
}

fn killed(scene: &Scene) -> Result<Held> {
    let at = scene.listener()?.local_addr()?;
    let actor = Actor::start(scene.server(), &[], &format!("sink {at}"))?;
    let connect = || scene.client().connect(at);
    let mut clients = (0..5).map(|_| connect()).collect::<Result<Vec<_>>>()?;
    clients.iter_mut().try_for_each(|client| client.write_all(b"request"))?;
    // Accepted and received, so that there is something that nobody will read.
    counted(scene.server(), "TcpPassiveOpens", 5)?;
    sleep(Duration::from_millis(100));
    drop(actor);
    counted(scene.server(), "TcpExtTCPAbortOnClose", 5)?;
    let refused = scene.refused(scene.client(), at)?;
    Ok(Box::new((refused, clients)))
}

/// As a web server does that is configured for smaller uploads: its answer is often lost with the
/// connection.
fn upload_refused(scene: &Scene) -> Result<Held> {
    let load = Background::start(scene, 3000)?;
    let mut reset = 0;
    for _ in 0..8 {
        let Connection { mut client, mut server, .. } = Connection::open(&scene.pair, scene.family)?;
        client.write_all(&[b'u'; 60_000])?;
        server.read_exact(&mut [0; 1000])?;
        server.write_all(b"HTTP/1.1 413 Content Too Large\r\nConnection: close\r\n\r\n")?;
        drop(server);
        let outcome = client.read_to_end(&mut Vec::new());
        reset += usize::from(outcome.is_err_and(|error| error.kind() == ErrorKind::ConnectionReset));
    }
    ensure!(reset == 8, "{reset} of 8 uploads were reset");
    ensure!(counter(scene.server(), "TcpExtTCPAbortOnClose")? >= 8, "the server did not abort");
    wait::within(PATIENCE, "healthy requests", || (load.done() > 50).then_some(()))?;
    Ok(Box::new(load))
}

fn reset_loop(scene: &Scene) -> Result<Held> {
    let service = Service::start(scene, |mut stream| {
        drop(stream.read(&mut [0]).map(|_| reset_on_close(&stream)));
    })?;
    let at = service.at;
    let clients = scene.go_on(scene.client(), Duration::from_millis(200), move || {
        let mut stream = TcpStream::connect_timeout(&at, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(b"?")?;
        expect_reset(&stream)
    })?;
    scene.seen(10)?;
    Ok(Box::new((clients, service)))
}

fn bad_gateway(scene: &Scene) -> Result<Held> {
    let idle = Duration::from_millis(100);
    let upstream = gateway::upstream(scene.server(), scene.server_ip(), idle)?;
    let front = gateway::gateway(scene.third()?, scene.neighbour(3), upstream)?;
    let mut client = scene.client().connect(front)?;
    let mut bad = 0;
    for _ in 0..8 {
        bad += usize::from(gateway::ask(&mut client)? == 502);
        sleep(idle * 2);
    }
    ensure!(bad >= 3, "{bad} of 8 requests got 502");
    Ok(Box::new(client))
}
