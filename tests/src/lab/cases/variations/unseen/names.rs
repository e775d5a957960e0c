//! Name servers.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};

use super::sink;
use crate::lab::cases::{Case, Expected, FAULT, client, server, unanswered};
use crate::lab::{Held, Scene, faults};

/// Bits of the third byte of an answer: it is one, and it was cut short.
const ANSWER: u8 = 0x80;
const TRUNCATED: u8 = 0x02;
/// The record type of IPv6 addresses.
const AAAA: u8 = 28;

/// The server is at fault, and its clients feel it; a report may name either first.
const TIMEOUT: &[Expected] = &[server("dns-timeout"), client("dns-timeout")];

pub const CASES: &[Case] = &[
    Case {
        name: "var_dns_other_address",
        made: "a name server with two addresses is asked at one and answers from the other",
        expect: TIMEOUT,
        run: |scene| {
            let second = SocketAddr::new(scene.neighbour(22), 53);
            let prefix = scene.by_family("32", "128 nodad");
            scene.server().ip(&format!("addr add {}/{prefix} dev eth0", second.ip()))?;
            let asked = scene.server().run(|| Ok(UdpSocket::bind(second)?))?;
            serve(asked, sink(scene, 53)?, |_| Some(ANSWER));
            let client = scene.client_ip();
            scene.repeat(scene.client(), 3, move || {
                ensure!(ask(client, second, 1)?.is_none(), "the answer was accepted");
                Ok(())
            })
        },
        ..FAULT
    },
    Case {
        name: "var_dns_cut_short",
        made: "answers too long for a datagram, and a firewall that lets no DNS over TCP in",
        expect: &[server("firewall-drop")],
        run: |scene| {
            let socket = sink(scene, 53)?;
            serve(socket.try_clone()?, socket, |_| Some(ANSWER | TRUNCATED));
            faults::drop_incoming(scene.server(), "tcp", 53)?;
            let again: Vec<Held> = (0..2).map(|_| again_over_tcp(scene)).collect::<Result<_>>()?;
            Ok(Box::new(again))
        },
        ..FAULT
    },
    Case {
        name: "var_dns_no_aaaa",
        made: "a name server that answers for IPv4 addresses and is silent about IPv6",
        expect: TIMEOUT,
        run: |scene| -> Result<Held> {
            let socket = sink(scene, 53)?;
            serve(socket.try_clone()?, socket, |qtype| (qtype != AAAA).then_some(ANSWER));
            let (client, server) = (scene.client_ip(), scene.server_at(53));
            scene.repeat(scene.client(), 4, move || {
                ensure!(ask(client, server, 1)?.is_some(), "it does not serve");
                ensure!(ask(client, server, AAAA)?.is_none(), "it knows IPv6");
                Ok(())
            })
        },
        ..FAULT
    },
];

/// Answers from one socket what another is asked, without a record, with the flags that `flags`
/// has for the record type; ends with the process.
fn serve(asked: UdpSocket, answers: UdpSocket, flags: fn(u8) -> Option<u8>) {
    thread::spawn(move || {
        let mut message = [0; 512];
        while let Ok((length, from)) = asked.recv_from(&mut message) {
            // The type is the last word but one.
            let Some(flags) = length.checked_sub(3).and_then(|at| flags(message[at])) else { continue };
            message[2] |= flags;
            // A client that is gone is a case, not a fault.
            let _ = answers.send_to(&message[..length], from);
        }
    });
}

/// One question from a socket of its own, in the namespace of the calling thread; the third byte of
/// the answer, if one is accepted.
fn ask(client: IpAddr, server: SocketAddr, qtype: u8) -> Result<Option<u8>> {
    let socket = UdpSocket::bind((client, 0))?;
    socket.connect(server)?;
    socket.set_read_timeout(Some(Duration::from_millis(400)))?;
    let mut query = vec![0x12, qtype, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    query.extend(b"\x03www\x07example\x00\x00");
    query.extend([qtype, 0, 1]);
    socket.send(&query)?;
    let mut answer = [0; 512];
    Ok(socket.recv(&mut answer).is_ok().then_some(answer[2]))
}

/// What a resolver does when an answer was cut short.
fn again_over_tcp(scene: &Scene) -> Result<Held> {
    let flags = scene.client().run(|| ask(scene.client_ip(), scene.server_at(53), 16))?;
    ensure!(flags.is_some_and(|flags| flags & TRUNCATED != 0), "the answer was whole");
    unanswered(scene, scene.server_at(53))
}
