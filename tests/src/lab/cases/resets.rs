//! Connections that end in a reset.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, TcpStream};

use anyhow::{Context as _, Result, ensure};
use etherparse::TcpHeader;

use super::{Case, FAULT, Ongoing, Place, V4, at, know_each_other, server};
use crate::lab::counters::counted;
use crate::lab::injector::Injector;
use crate::lab::puppet::{ACK, Puppet, RST, Segment};
use crate::lab::sockets::listener;
use crate::lab::wire::Wire;
use crate::lab::{Connection, Held, Scene, Topology, faults};

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
        ..FAULT
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
        ..FAULT
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
        ..FAULT
    },
    Case {
        name: "tcp_ack_no_conn",
        made: "acknowledgements out of the blue to a listener, and data to a closed port",
        expect: &[server("stale-connection")],
        ongoing: Ongoing::Again,
        run: out_of_the_blue,
        ..FAULT
    },
    Case {
        name: "duplicate_ip",
        made: "a third host takes over the server's address while a connection is open",
        topology: Topology::Bridged,
        families: V4,
        expect: &[at(Place::Third, "stale-connection")],
        ongoing: Ongoing::Never("an address is taken over once"),
        run: taken_over,
        ..FAULT
    },
    Case {
        name: "reset_by_peer",
        made: "a peer that is not on this node resets its connections",
        topology: Topology::Cabled,
        families: V4,
        expect: &[server("reset-by-peer")],
        run: reset_by_stranger,
        ..FAULT
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
fn expect_end(stream: &TcpStream) -> Result<()> {
    let mut to = stream;
    crate::wait::until("the reset", || match to.write(b"?") {
        Err(error) if [ErrorKind::BrokenPipe, ErrorKind::ConnectionReset].contains(&error.kind()) => Some(()),
        _ => None,
    })
}

fn out_of_the_blue(scene: &Scene) -> Result<Held> {
    let listener = listener(scene.server(), scene.server_ip())?;
    let through = Injector::new(&scene.pair)?;
    // The server knows the way back; it would ask for it else.
    know_each_other(scene)?;
    let stray = |to: u16, data: &[u8]| {
        let mut tcp = TcpHeader::new(30_000, to, 1_000_000, 500);
        (tcp.ack, tcp.acknowledgment_number) = (true, 2_000_000);
        through.segment(scene.client_ip(), scene.server_ip(), tcp, data, false)
    };
    let at = listener.local_addr()?.port();
    stray(at, b"")?;
    stray(at, b"")?;
    for _ in 0..3 {
        stray(faults::CLOSED_PORT, b"hello again")?;
    }
    counted(scene.server(), "TcpOutRsts", 5)?;
    Ok(Box::new(listener))
}

/// A gratuitous ARP reply, as a host sends it that got an address.
fn taken_over(scene: &Scene) -> Result<Held> {
    let third = scene.third()?;
    // An entry that is younger than this would not be overwritten.
    scene.client().sysctl("net/ipv4/neigh/eth0/locktime", "0")?;
    let mut connection = Connection::open(&scene.pair, scene.family)?;
    connection.exchange(1, 1)?;
    let IpAddr::V4(ip) = scene.server_ip() else { anyhow::bail!("ARP is IPv4's") };
    third.ip(&format!("addr add {ip}/24 dev eth0"))?;
    let wire = Wire::open(third, "eth0")?;
    let mut frame = Vec::from([0xff; 6]);
    frame.extend(wire.mac);
    // Ethernet, IPv4, address lengths, reply.
    frame.extend([0x08, 0x06, 0, 1, 0x08, 0x00, 6, 4, 0, 2]);
    for _ in 0..2 {
        frame.extend(wire.mac);
        frame.extend(ip.octets());
    }
    let mac = wire.mac.map(|byte| format!("{byte:02x}")).join(":");
    crate::wait::until("the client to believe it", || {
        wire.send(&frame).ok()?;
        scene.client().ip("neigh show").ok()?.contains(&mac).then_some(())
    })?;
    connection.client.write_all(b"hello?")?;
    expect_end(&connection.client)?;
    Ok(Box::new(connection.server))
}

fn reset_by_stranger(scene: &Scene) -> Result<Held> {
    let listener = listener(scene.server(), scene.server_ip())?;
    let mut stranger = Puppet::behind(scene.cable()?.server, &scene.pair, listener.local_addr()?.port())?;
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
