//! Names that are looked for.

use std::io::Write as _;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::{self, sleep};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use etherparse::TransportSlice;

use crate::lab::cases::{Case, KNOWN, NOISE, ONGOING};
use crate::lab::counters::counted;
use crate::lab::dns::{
    A, AAAA, FOUND, Resolver, Transport, UNKNOWN, ask_once, query, read_message, with_length,
};
use crate::lab::sockets::PATIENCE;
use crate::lab::userspace_link::Side;
use crate::lab::{Held, Scene};

pub const CASES: &[Case] = &[
    Case {
        name: "baseline_dns_search",
        made: "names that are found, some after their search list said no",
        run: |scene| {
            let resolver = Resolver::start(&scene.pair)?;
            for n in 0..10 {
                for kind in [A, AAAA] {
                    if n % 3 == 0 {
                        resolver.ask(scene.family, Transport::Udp, "www.nx.example", kind)?;
                    }
                    resolver.ask(scene.family, Transport::Udp, "www.example", kind)?;
                }
            }
            Ok(Box::new(()))
        },
        ..KNOWN
    },
    Case {
        name: "baseline_dns_no_data",
        made: "names asked for both kinds of address at once, that have only one",
        run: no_data,
        ..NOISE
    },
    Case {
        name: "baseline_dns_truncated",
        made: "answers that do not fit a datagram, and are asked for again over TCP",
        run: truncated,
        ..NOISE
    },
    Case {
        name: "baseline_first_answer_wins",
        made: "a resolver asks two name servers at once and waits for the faster one only",
        run: first_answer_wins,
        ..NOISE.bridged()
    },
    Case {
        name: "ongoing_late_answers",
        made: "a name server that is late (0.3 s) with every twentieth answer, for clients that wait",
        run: |scene| {
            Resolver::start(&scene.pair)?;
            let (to, mut number) = (scene.server_at(53), 0);
            let asking = scene.go_on(scene.client(), Duration::from_millis(10), move || {
                number += 1;
                let name = if number % 20 == 0 { "www.late.example" } else { "www.example" };
                ensure!(ask_once(to, name, PATIENCE)? == FOUND, "it did not answer");
                Ok(())
            })?;
            scene.seen_well(100)?;
            Ok(asking)
        },
        ..ONGOING
    },
    Case {
        name: "ongoing_search_lists",
        made: "pods that look for every name along two domains in which it does not exist",
        run: |scene| {
            Resolver::start(&scene.pair)?;
            let to = scene.server_at(53);
            let asking = scene.go_on(scene.client(), Duration::from_millis(50), move || {
                for (domain, code) in
                    [("svc.nx.example", UNKNOWN), ("nx.example", UNKNOWN), ("example", FOUND)]
                {
                    let answer = ask_once(to, &format!("db.{domain}"), PATIENCE)?;
                    ensure!(answer == code, "{domain}: {answer:?}");
                }
                Ok(())
            })?;
            scene.seen_well(20)?;
            Ok(asking)
        },
        ..ONGOING
    },
    Case {
        name: "ongoing_queries_repeated",
        made: "a network that loses one query in forty, which the client repeats with success after 0.4 s",
        run: repeated,
        ..ONGOING.over_userspace_link()
    },
];

/// Both questions leave before the first answer comes, from one socket, as the C library does.
fn no_data(scene: &Scene) -> Result<Held> {
    let only_v4: Answers = |kind, _| Answer::Addresses(u16::from(kind == A));
    let to = name_server(scene, only_v4)?;
    for n in 0..30 {
        let socket = scene.sender()?;
        let name = format!("host{n}.example");
        socket.send_to(&query(n * 2, &name, A), to)?;
        socket.send_to(&query(n * 2 + 1, &name, AAAA), to)?;
        let mut addresses = 0;
        for _ in 0..2 {
            let mut answer = [0; 512];
            socket.recv(&mut answer).context("an answer")?;
            addresses += answer[7];
        }
        ensure!(addresses == 1, "{addresses} addresses of {name}");
    }
    Ok(Box::new(()))
}

/// What a name server of these cases answers to a question.
type Answers = fn(kind: u16, datagram: bool) -> Answer;

enum Answer {
    /// So many addresses; none is an answer as well.
    Addresses(u16),
    /// Too many of them.
    Truncated,
}

/// A name server for one host's questions; it ends some seconds after the last one.
fn name_server(scene: &Scene, answers: Answers) -> Result<SocketAddr> {
    let at = scene.server_at(53);
    let (udp, tcp) = scene.server().run(|| Ok((UdpSocket::bind(at)?, TcpListener::bind(at)?)))?;
    udp.set_read_timeout(Some(PATIENCE))?;
    thread::spawn(move || {
        let mut query = [0; 512];
        while let Ok((length, from)) = udp.recv_from(&mut query) {
            // Whoever asked sees that there is no answer.
            drop(udp.send_to(&reply(&query[..length], answers, true), from));
        }
    });
    thread::spawn(move || {
        while let Ok((stream, _)) = tcp.accept() {
            drop(serve(stream, answers));
        }
    });
    Ok(at)
}

fn serve(mut stream: TcpStream, answers: Answers) -> Result<()> {
    let query = read_message(&mut stream)?;
    let reply = reply(&query, answers, false);
    Ok(stream.write_all(&with_length(&reply))?)
}

fn reply(query: &[u8], answers: Answers, datagram: bool) -> Vec<u8> {
    let kind = match query {
        [.., high, low, _, _] => u16::from_be_bytes([*high, *low]),
        _ => 0,
    };
    let mut reply = query.to_vec();
    // An answer, and recursion is available.
    (reply[2], reply[3]) = (0x81, 0x80);
    match answers(kind, datagram) {
        Answer::Truncated => reply[2] |= 2,
        Answer::Addresses(count) => {
            reply[6..8].copy_from_slice(&count.to_be_bytes());
            for n in 0..count {
                // A pointer to the question's name, A IN, 60 seconds, four bytes.
                reply.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, n as u8]);
            }
        }
    }
    reply
}

fn truncated(scene: &Scene) -> Result<Held> {
    let long: Answers = |_, datagram| if datagram { Answer::Truncated } else { Answer::Addresses(60) };
    let to = name_server(scene, long)?;
    for n in 0..10 {
        let question = query(n, "all.example", A);
        let socket = scene.sender()?;
        socket.send_to(&question, to)?;
        let mut answer = [0; 512];
        socket.recv(&mut answer).context("an answer")?;
        ensure!(answer[2] & 2 != 0, "the answer is whole");
        let mut stream = scene.client().connect(to)?;
        stream.write_all(&with_length(&question))?;
        let whole = read_message(&mut stream)?;
        ensure!(whole[7] == 60, "{} addresses over TCP", whole[7]);
    }
    Ok(Box::new(()))
}

/// The socket of a question is closed with its first answer, so the second finds nobody.
fn first_answer_wins(scene: &Scene) -> Result<Held> {
    const SLOWER: Duration = Duration::from_millis(30);
    let (first, second) = (scene.server_at(53), SocketAddr::new(scene.neighbour(3), 53));
    name_server_that_takes(scene.server().udp(first)?, Duration::ZERO);
    name_server_that_takes(scene.third()?.udp(second)?, SLOWER);
    for id in 0..25 {
        let asking = scene.sender()?;
        let query = query(id, "www.example", A);
        for server in [first, second] {
            asking.send_to(&query, server)?;
        }
        let (_, from) = asking.recv_from(&mut [0; 512]).context("an answer")?;
        ensure!(from == first, "{from} was faster");
        drop(asking);
        sleep(SLOWER + Duration::from_millis(15));
    }
    counted(scene.client(), scene.by_family("UdpNoPorts", "Udp6NoPorts"), 25)?;
    Ok(Box::new(()))
}

/// Answers every question with one address after some time; ends some seconds after the last one.
fn name_server_that_takes(socket: UdpSocket, takes: Duration) {
    thread::spawn(move || {
        let mut query = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut query) {
            sleep(takes);
            let mut answer = query[..length].to_vec();
            // An answer, recursion is available, one record.
            (answer[2], answer[3], answer[7]) = (0x81, 0x80, 1);
            // A pointer to the question's name, A IN, 60 seconds, 192.0.2.1.
            answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 1]);
            // Whoever asked may be gone, which is the case here.
            drop(socket.send_to(&answer, from));
        }
    });
}

fn repeated(scene: &Scene) -> Result<Held> {
    let number = AtomicU32::new(0);
    scene.carry(move |side, packet| {
        let query = side == Side::Client && matches!(packet.transport, Some(TransportSlice::Udp(_)));
        !query || number.fetch_add(1, Ordering::Relaxed) % 40 != 39
    })?;
    Resolver::start(&scene.pair)?;
    let to = scene.server_at(53);
    let asking = scene.go_on(scene.client(), Duration::from_millis(20), move || {
        let first = ask_once(to, "www.example", Duration::from_millis(400))?;
        ensure!(first == FOUND || ask_once(to, "www.example", PATIENCE)? == FOUND, "twice in vain");
        Ok(())
    })?;
    scene.seen_well(100)?;
    Ok(asking)
}
