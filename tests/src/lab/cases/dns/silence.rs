//! Name servers that are silent.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::thread::{self, sleep};
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::lab::cases::{
    BLIND, Case, Expected, KNOWN, ONGOING, Ongoing, Place, UNSEEN, VARIATION, at, client, server, unanswered,
};
use crate::lab::counters::neighbour_failed;
use crate::lab::dns::{A, FOUND, Resolver, Transport, ask_once, query};
use crate::lab::sockets::{PATIENCE, expect_refusal};
use crate::lab::{Held, Scene, faults};

/// Bits of the third byte of an answer: it is one, and it was cut short.
const ANSWER: u8 = 0x80;
const TRUNCATED: u8 = 0x02;

/// The server is at fault, and its clients feel it; a report may name either first.
const TIMEOUT: &[Expected] = &[server("dns-timeout"), client("dns-timeout")];

/// The record type of IPv6 addresses.
const AAAA: u8 = 28;

/// How long a resolver's client waits that has others to ask.
pub const IMPATIENT: Duration = Duration::from_millis(250);

pub const CASES: &[Case] = &[
    Case {
        name: "dns_timeout",
        made: "a name server that does not answer, asked five times twice",
        expect: &either("dns-timeout"),
        ongoing: Ongoing::Again,
        run: silence,
        ..KNOWN
    },
    Case {
        name: "var_no_name_server",
        made: "questions to a host on which no name server runs",
        expect: &[server("port-not-listening")],
        ongoing: Ongoing::Again,
        run: no_name_server,
        ..VARIATION
    },
    Case {
        name: "var_dead_name_server",
        made: "questions to a name server behind a firewall that drops them",
        expect: &[server("firewall-drop"), client("dns-timeout"), server("dns-timeout")],
        also: &[server("firewall-drop")],
        ongoing: Ongoing::Again,
        run: |scene| {
            let resolver = Resolver::start(&scene.pair)?;
            faults::drop_incoming(scene.server(), "udp", 53)?;
            for n in 0..5 {
                resolver.ask_without_answer(scene.family, &format!("host{n}.example"), 2)?;
            }
            Ok(Box::new(()))
        },
        ..VARIATION
    },
    Case {
        name: "var_first_resolver_gone",
        made: "a client asks two name servers in turn, of which the first does not exist any more",
        expect: &[client("neighbour-unresolved"), client("dns-timeout")],
        ongoing: Ongoing::Again,
        run: first_resolver_gone,
        ..BLIND
    },
    Case {
        name: "var_dns_other_address",
        made: "a name server with two addresses is asked at one and answers from the other",
        expect: TIMEOUT,
        run: |scene| {
            let second = SocketAddr::new(scene.neighbour(22), 53);
            let prefix = scene.by_family("32", "128 nodad");
            scene.server().ip(&format!("addr add {}/{prefix} dev eth0", second.ip()))?;
            let asked = scene.server().udp(second)?;
            answer_with(asked, scene.server().udp(scene.server_at(53))?, |_| Some(ANSWER));
            let client = scene.client_ip();
            scene.repeat(scene.client(), 3, move || {
                ensure!(ask_for(client, second, 1)?.is_none(), "the answer was accepted");
                Ok(())
            })
        },
        ..UNSEEN
    },
    Case {
        name: "var_dns_cut_short",
        made: "answers too long for a datagram, and a firewall that lets no DNS over TCP in",
        expect: &[server("firewall-drop")],
        run: |scene| {
            let socket = scene.server().udp(scene.server_at(53))?;
            answer_with(socket.try_clone()?, socket, |_| Some(ANSWER | TRUNCATED));
            faults::drop_incoming(scene.server(), "tcp", 53)?;
            let again: Vec<Held> = (0..2).map(|_| again_over_tcp(scene)).collect::<Result<_>>()?;
            Ok(Box::new(again))
        },
        ..UNSEEN
    },
    Case {
        name: "var_dns_no_aaaa",
        made: "a name server that answers for IPv4 addresses and is silent about IPv6",
        expect: TIMEOUT,
        run: |scene| -> Result<Held> {
            let socket = scene.server().udp(scene.server_at(53))?;
            answer_with(socket.try_clone()?, socket, |qtype| (qtype != AAAA).then_some(ANSWER));
            let (client, server) = (scene.client_ip(), scene.server_at(53));
            scene.repeat(scene.client(), 4, move || {
                ensure!(ask_for(client, server, 1)?.is_some(), "it does not answer_with");
                ensure!(ask_for(client, server, AAAA)?.is_none(), "it knows IPv6");
                Ok(())
            })
        },
        ..UNSEEN
    },
    Case {
        name: "ongoing_dead_resolver",
        made: "a name server that never answers, asked every 0.3 s by clients that wait for 0.25 s",
        expect: &[server("dns-timeout"), client("dns-timeout")],
        run: |scene| {
            Resolver::start(&scene.pair)?;
            asking(scene, "www.silent.example", None, 50)
        },
        ..ONGOING
    },
    Case {
        name: "ongoing_resolver_long_dead",
        made: "the same with one query every 1.5 s, which waits for one second",
        expect: &[server("dns-timeout"), client("dns-timeout")],
        run: |scene| {
            Resolver::start(&scene.pair)?;
            let to = scene.server_at(53);
            let asking = scene.go_on(scene.client(), Duration::from_millis(500), move || {
                let answer = ask_once(to, "db.silent.example", Duration::from_secs(1))?;
                ensure!(answer.is_none(), "it answered {answer:?}");
                Ok(())
            })?;
            scene.seen(4)?;
            Ok(asking)
        },
        ..ONGOING
    },
    Case {
        name: "ongoing_one_resolver_dead",
        made: "clients ask a name server that is silent (the third host), then one that answers, for each name",
        expect: &[at(Place::Third, "dns-timeout"), client("dns-timeout")],
        run: |scene| {
            Resolver::start(&scene.pair)?;
            let silent = SocketAddr::new(scene.neighbour(3), 53);
            let socket = scene.third()?.udp(silent)?;
            let well = scene.server_at(53);
            let asking = scene.go_on(scene.client(), Duration::from_millis(50), move || {
                ensure!(ask_once(silent, "www.example", IMPATIENT)?.is_none(), "it is not silent");
                ensure!(ask_once(well, "www.example", PATIENCE)? == FOUND, "the other one is not well");
                Ok(())
            })?;
            scene.seen(8)?;
            Ok(Box::new((asking, socket)))
        },
        ..ONGOING.bridged()
    },
];

/// The server is at fault, and its clients feel it; a report may name either first.
pub const fn either(code: &'static str) -> [Expected; 2] {
    [server(code), client(code)]
}

/// Each question is repeated once from the same socket, as resolvers do.
fn silence(scene: &Scene) -> Result<Held> {
    let resolver = Resolver::start(&scene.pair)?;
    for n in 0..5 {
        resolver.ask_without_answer(scene.family, &format!("host{n}.silent.example"), 2)?;
    }
    // Nobody calls it silence before a second has passed.
    sleep(Duration::from_millis(1100));
    Ok(Box::new(()))
}

fn no_name_server(scene: &Scene) -> Result<Held> {
    for id in 0..5 {
        let socket = scene.sender()?;
        socket.connect(scene.server_at(53))?;
        socket.send(&query(id, "example", A))?;
        expect_refusal(&socket)?;
    }
    Ok(Box::new(()))
}

fn first_resolver_gone(scene: &Scene) -> Result<Held> {
    let gone = SocketAddr::new(scene.neighbour(66), 53);
    let resolver = Resolver::start(&scene.pair)?;
    for id in 0..5 {
        let socket = scene.client().udp((scene.client_ip(), 0))?;
        let query = query(id, "www.example", A);
        socket.set_read_timeout(Some(Duration::from_millis(600)))?;
        // Once the neighbour is given up, that is what the socket says.
        let answer = socket.send_to(&query, gone).and_then(|_| socket.recv(&mut [0; 512]));
        ensure!(answer.is_err(), "there was a name server");
        resolver.ask(scene.family, Transport::Udp, "www.example", A)?;
    }
    neighbour_failed(scene.client())?;
    Ok(Box::new(()))
}

/// Answers from one socket what another is asked, without a record, with the flags that `flags`
/// has for the record type; ends with the process.
fn answer_with(asked: UdpSocket, answers: UdpSocket, flags: fn(u8) -> Option<u8>) {
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
fn ask_for(client: IpAddr, server: SocketAddr, qtype: u8) -> Result<Option<u8>> {
    let socket = UdpSocket::bind((client, 0))?;
    socket.connect(server)?;
    socket.set_read_timeout(Some(Duration::from_millis(400)))?;
    socket.send(&query(0x1200, "www.example", qtype.into()))?;
    let mut answer = [0; 512];
    Ok(socket.recv(&mut answer).is_ok().then_some(answer[2]))
}

/// What a resolver does when an answer was cut short.
fn again_over_tcp(scene: &Scene) -> Result<Held> {
    let flags = scene.client().run(|| ask_for(scene.client_ip(), scene.server_at(53), 16))?;
    ensure!(flags.is_some_and(|flags| flags & TRUNCATED != 0), "the answer was whole");
    unanswered(scene, scene.server_at(53))
}

/// A client that asks the server for ever, with pauses, until it has been seen for a while.
pub fn asking(scene: &Scene, name: &'static str, code: Option<u8>, pause_ms: u64) -> Result<Held> {
    let to = scene.server_at(53);
    let asking = scene.go_on(scene.client(), Duration::from_millis(pause_ms), move || {
        let answer = ask_once(to, name, IMPATIENT)?;
        ensure!(answer == code, "the answer was {answer:?}");
        Ok(())
    })?;
    scene.seen(8)?;
    Ok(asking)
}
