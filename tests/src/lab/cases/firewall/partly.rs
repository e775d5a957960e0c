//! Netfilter drops some of it, or for a while.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Result, bail, ensure};

use crate::lab::background::Load;
use crate::lab::cases::{Case, KNOWN, NOISE, ONGOING, Ongoing, server};
use crate::lab::counters::counted;
use crate::lab::service::{Service, answer, ask};
use crate::lab::sockets::{PATIENCE, one_packet_per_segment, send_and_read};
use crate::lab::{Connection, Family, Held, Scene, faults};

pub const CASES: &[Case] = &[
    Case {
        name: "nft_random_loss",
        made: "the server's nft drops 5 % of an upload",
        expect: &[server("firewall-drop")],
        ongoing: Ongoing::Again,
        run: lossy_upload,
        ..KNOWN
    },
    Case {
        name: "var_limited_beside_load",
        made: "the server's firewall lets few connects per second to one service, beside another under load",
        expect: &[server("firewall-drop")],
        run: limited,
        ..NOISE.bridged()
    },
    Case {
        name: "var_wall_for_a_second",
        made: "a firewall of the server drops what connections in use receive, and is removed again",
        expect: &[server("firewall-drop")],
        ongoing: Ongoing::Never("it has healed when somebody asks"),
        run: wall_for_a_second,
        ..NOISE
    },
    Case {
        name: "ongoing_wall_for_some",
        made: "the server's firewall drops every third connect, and clients give up after half a second",
        expect: &[server("firewall-drop")],
        run: wall_for_some,
        ..ONGOING
    },
    Case {
        name: "ongoing_one_family_walled",
        made: "a firewall drops one family only, and clients fall back to the other after 0.25 s, with success",
        expect: &[server("firewall-drop")],
        run: one_family,
        ..ONGOING
    },
];

fn lossy_upload(scene: &Scene) -> Result<Held> {
    let connection = Connection::open(&scene.pair, scene.family)?;
    one_packet_per_segment(scene.client())?;
    // Not only those with PSH, which few segments of a long transfer have.
    scene.server().filter("input", "meta l4proto tcp meta length > 1000 numgen random mod 20 0 drop")?;
    send_and_read(&connection, 100, Duration::ZERO)?;
    counted(scene.client(), "TcpRetransSegs", 5)?;
    Ok(Box::new(connection))
}

fn limited(scene: &Scene) -> Result<Held> {
    let load = Load::start(scene.third()?, scene)?;
    let listener = scene.listener()?;
    let to = listener.local_addr()?;
    scene.server().filter(
        "input",
        &format!("tcp dport {} ct state new limit rate over 2/second burst 5 packets drop", to.port()),
    )?;
    let connecting = (0..12).map(|_| scene.connect(scene.client(), to)).collect::<Result<Vec<_>>>()?;
    scene.in_vain(scene.client(), 5)?;
    load.carries(200)?;
    Ok(Box::new((connecting, listener, load)))
}

fn wall_for_a_second(scene: &Scene) -> Result<Held> {
    let mut open = (0..5).map(|_| Connection::open(&scene.pair, scene.family)).collect::<Result<Vec<_>>>()?;
    open.iter_mut().try_for_each(|connection| connection.exchange(500, 500))?;
    scene.server().filter("input", "meta l4proto tcp counter drop")?;
    for connection in &mut open {
        connection.client.write_all(&[b'x'; 500])?;
    }
    counted(scene.client(), "TcpExtTCPTimeouts", 5)?;
    sleep(Duration::from_secs(1));
    faults::stop_dropping(scene.server())?;
    for connection in &mut open {
        connection.server.set_read_timeout(Some(PATIENCE))?;
        connection.server.read_exact(&mut [0; 500])?;
        connection.exchange(500, 500)?;
    }
    Ok(Box::new(open))
}

/// Who is let in is served.
fn wall_for_some(scene: &Scene) -> Result<Held> {
    let service = Service::start(scene, answer)?;
    let at = service.at;
    scene.server().filter(
        "input",
        &format!("tcp dport {} tcp flags syn / syn,ack numgen inc mod 3 0 drop", at.port()),
    )?;
    let clients = scene.go_on(scene.client(), Duration::from_millis(50), move || {
        let Ok(stream) = TcpStream::connect_timeout(&at, Duration::from_millis(500)) else { return Ok(()) };
        drop(stream);
        bail!("this one was let in")
    })?;
    scene.seen(4)?;
    Ok(Box::new((clients, service)))
}

fn one_family(scene: &Scene) -> Result<Held> {
    let other = if scene.family == Family::V4 { Family::V6 } else { Family::V4 };
    let walled = Service::start(scene, answer)?;
    let spare = Service::serve(scene.server().listen((scene.pair.server_ip(other), 0))?, answer)?;
    faults::drop_incoming(scene.server(), "tcp", walled.at.port())?;
    let (first, second) = (walled.at, spare.at);
    let clients = scene.go_on(scene.client(), Duration::from_millis(150), move || {
        let refused = TcpStream::connect_timeout(&first, Duration::from_millis(250));
        ensure!(refused.is_err(), "there was no wall");
        ask(second, PATIENCE)
    })?;
    scene.seen(6)?;
    Ok(Box::new((clients, walled, spare)))
}
