//! Applications that do not keep up, and whose clients come back.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{TcpStream, UdpSocket};
use std::thread::{self, sleep};
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use nix::libc::linger;
use nix::sys::socket::{setsockopt, sockopt};

use super::{GOES_ON, PATIENCE, Service, knocking, seen};
use crate::lab::cases::{Case, server};
use crate::lab::counters::counted;
use crate::lab::sockets::listener;
use crate::lab::{Held, Scene, faults};

pub const CASES: &[Case] = &[
    Case {
        name: "ongoing_full_queue",
        made: "a server with a backlog of 1 that accepts nobody, and clients that give up after half a second",
        expect: &[server("accept-queue-overflow")],
        run: |scene| {
            let full = faults::fill_accept_queue(&scene.pair, scene.family)?;
            counted(scene.server(), "TcpExtListenOverflows", 4)?;
            let (patience, pause) = (Duration::from_millis(500), Duration::from_millis(200));
            let clients = knocking(scene, scene.client(), full.at, patience, pause)?;
            seen(scene, 4)?;
            Ok(Box::new((clients, full)))
        },
        ..GOES_ON
    },
    Case {
        name: "ongoing_unread_upload",
        made: "a server that never reads, while its client goes on sending",
        expect: &[server("receiver-not-reading")],
        run: unread,
        ..GOES_ON
    },
    Case {
        name: "ongoing_reset_loop",
        made: "a server that resets every request, and clients that try again after 0.2 s",
        expect: &[server("reset-by-application")],
        run: reset_loop,
        ..GOES_ON
    },
    Case {
        name: "ongoing_crash_loop",
        made: "a service that is down, and a client that tries again every 0.1 s",
        expect: &[server("port-not-listening")],
        run: |scene| {
            let to = listener(scene.server(), scene.server_ip())?.local_addr()?;
            let clients = scene.go_on(scene.client(), Duration::from_millis(100), move || {
                faults::expect_refusal(to).map(drop)
            })?;
            seen(scene, 20)?;
            Ok(clients)
        },
        ..GOES_ON
    },
    Case {
        name: "ongoing_slow_reader",
        made: "a reader that takes a datagram every 5 ms, and a thousand come every second",
        expect: &[server("socket-receive-buffer-full")],
        run: slow_reader,
        ..GOES_ON
    },
    Case {
        name: "ongoing_answers_wait",
        made: "a server that looks at each request after 0.6 s only, for four clients at once",
        expect: &[server("socket-read-slow")],
        run: answers_wait,
        ..GOES_ON
    },
];

fn unread(scene: &Scene) -> Result<Held> {
    let accepting = listener(scene.server(), scene.server_ip())?;
    setsockopt(&accepting, sockopt::RcvBuf, &4096)?;
    let to = accepting.local_addr()?;
    let mut client = scene.client().run(|| Ok(TcpStream::connect(to)?))?;
    let (server, _) = accepting.accept()?;
    client.set_write_timeout(Some(Duration::from_millis(300)))?;
    let sender = scene.go_on(scene.client(), Duration::ZERO, move || {
        // Until nothing more fits; then each write ends in vain.
        match client.write_all(&[0; 65_536]) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(()),
            other => bail!("{other:?}"),
        }
    })?;
    seen(scene, 5)?;
    counted(scene.client(), "TcpExtTCPWinProbe", 2)?;
    Ok(Box::new((sender, server)))
}

fn reset_loop(scene: &Scene) -> Result<Held> {
    let service = Service::start(scene, |mut stream| {
        let at_once = linger { l_onoff: 1, l_linger: 0 };
        if stream.read(&mut [0]).is_ok() && setsockopt(&stream, sockopt::Linger, &at_once).is_ok() {
            drop(stream);
        }
    })?;
    let at = service.at;
    let clients = scene.go_on(scene.client(), Duration::from_millis(200), move || {
        let mut stream = TcpStream::connect_timeout(&at, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(b"?")?;
        let answer = stream.read(&mut [0]);
        let reset = answer.as_ref().is_err_and(|error| error.kind() == ErrorKind::ConnectionReset);
        ensure!(reset, "expected a reset, got {answer:?}");
        Ok(())
    })?;
    seen(scene, 10)?;
    Ok(Box::new((clients, service)))
}

fn slow_reader(scene: &Scene) -> Result<Held> {
    let socket = scene.server().run(|| Ok(UdpSocket::bind((scene.server_ip(), 0))?))?;
    setsockopt(&socket, sockopt::RcvBuf, &16_384)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let to = socket.local_addr()?;
    thread::spawn(move || {
        // Until nothing has come for a while.
        while socket.recv(&mut [0; 200]).is_ok() {
            sleep(Duration::from_millis(5));
        }
    });
    let sender = scene.go_on(scene.client(), Duration::from_millis(20), move || {
        faults::send_datagrams(to, 20, 100).map(drop)
    })?;
    seen(scene, 100)?;
    counted(scene.server(), scene.by_family("UdpRcvbufErrors", "Udp6RcvbufErrors"), 500)?;
    Ok(sender)
}

fn answers_wait(scene: &Scene) -> Result<Held> {
    // Kept busy by something else before it looks at its socket.
    let service = Service::start(scene, |mut stream| {
        loop {
            sleep(Duration::from_millis(600));
            let mut request = [0; super::LENGTH];
            if stream.read_exact(&mut request).and_then(|()| stream.write_all(&request)).is_err() {
                return;
            }
        }
    })?;
    let at = service.at;
    let clients = (0..4).map(|_| {
        let stream = scene.client().run(|| Ok(TcpStream::connect(at)?))?;
        scene.go_on(scene.client(), Duration::ZERO, move || super::ask_on(&stream, PATIENCE))
    });
    let clients = clients.collect::<Result<Vec<_>>>()?;
    seen(scene, 12)?;
    Ok(Box::new((clients, service)))
}
