//! Datagrams that change their way, come in pieces, or race each other.

use std::net::{SocketAddr, UdpSocket};
use std::thread::{self, sleep};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::lab::cases::{Case, FAULT, know_each_other};
use crate::lab::counters::counted;
use crate::lab::{Held, Namespace, Scene, Topology};

/// Nothing here takes longer, unless it is broken; threads without work end after it.
const PATIENCE: Duration = Duration::from_secs(5);

pub const CASES: &[Case] = &[
    Case {
        name: "baseline_migrated",
        made: "a client that moves to another port, as QUIC does, while answers to the old one are under way",
        run: migrated,
        ..FAULT
    },
    Case {
        name: "baseline_large_datagrams",
        made: "datagrams of 20 kB and answers of 9 kB, all of whose fragments arrive",
        run: large,
        ..FAULT
    },
    Case {
        name: "baseline_first_answer_wins",
        made: "a resolver asks two name servers at once and waits for the faster one only",
        topology: Topology::Bridged,
        run: first_answer_wins,
        ..FAULT
    },
];

/// A socket that waits so long.
fn socket(at: &Namespace, to: SocketAddr) -> Result<UdpSocket> {
    let socket = at.run(|| Ok(UdpSocket::bind(to)?))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(socket)
}

fn migrated(scene: &Scene) -> Result<Held> {
    const PORTS: u64 = 4;
    let server = socket(scene.server(), scene.server_at(443))?;
    let at_client = || socket(scene.client(), (scene.client_ip(), 0).into());
    let mut client = at_client()?;
    for _ in 0..PORTS {
        for _ in 0..100 {
            client.send_to(&[b'q'; 1200], server.local_addr()?)?;
            let (_, from) = server.recv_from(&mut [0; 1200])?;
            server.send_to(&[b'a'; 1200], from)?;
            client.recv(&mut [0; 1200]).context("the answer")?;
        }
        let old = client.local_addr()?;
        client = at_client()?;
        (0..2).try_for_each(|_| server.send_to(&[b'a'; 1200], old).map(drop))?;
    }
    counted(scene.client(), scene.by_family("UdpNoPorts", "Udp6NoPorts"), 2 * PORTS)?;
    Ok(Box::new((client, server)))
}

fn large(scene: &Scene) -> Result<Held> {
    const TIMES: u64 = 50;
    // So many fragments at once do not find room while the way is asked for.
    know_each_other(scene)?;
    let server = socket(scene.server(), scene.server_at(2049))?;
    let client = socket(scene.client(), (scene.client_ip(), 0).into())?;
    for _ in 0..TIMES {
        client.send_to(&[b'w'; 20_000], server.local_addr()?)?;
        let (length, from) = server.recv_from(&mut [0; 20_000]).context("the request")?;
        ensure!(length == 20_000, "{length} bytes came");
        server.send_to(&[b'r'; 9000], from)?;
        client.recv(&mut [0; 9000]).context("the answer")?;
    }
    let whole = scene.by_family("IpReasmOKs", "Ip6ReasmOKs");
    counted(scene.server(), whole, TIMES)?;
    counted(scene.client(), whole, TIMES)?;
    Ok(Box::new((client, server)))
}

/// Answers every question with one address after some time; ends some seconds after the last one.
fn name_server(socket: UdpSocket, takes: Duration) {
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

/// The socket of a question is closed with its first answer, so the second finds nobody.
fn first_answer_wins(scene: &Scene) -> Result<Held> {
    const SLOWER: Duration = Duration::from_millis(30);
    let (first, second) = (scene.server_at(53), SocketAddr::new(scene.neighbour(3), 53));
    name_server(socket(scene.server(), first)?, Duration::ZERO);
    name_server(socket(scene.third()?, second)?, SLOWER);
    for id in 0..25_u8 {
        let asking = socket(scene.client(), (scene.client_ip(), 0).into())?;
        let mut query = vec![0x12, id, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        query.extend(b"\x03www\x07example\x00\x00\x01\x00\x01");
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
