//! What a node does all day while somebody asks, and what is no fault of it.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::{BRIDGED, GOES_ON, LENGTH, PATIENCE, Service, answer, ask, seen_well};
use crate::lab::cases::Case;
use crate::lab::cases::healthy::operators::chatter;
use crate::lab::counters::counted;
use crate::lab::{Held, Namespace, Scene, gateway};

pub const CASES: &[Case] = &[
    Case {
        name: "ongoing_pods_come_and_go",
        made: "pods start and end beside healthy load, each with its link and its addresses",
        run: |scene| {
            let service = Service::start(scene, answer)?;
            let at = service.at;
            let clients =
                scene.go_on(scene.client(), Duration::from_millis(10), move || ask(at, PATIENCE))?;
            let pods = scene.go_on(scene.client(), Duration::from_millis(200), || {
                let pod = Namespace::new("pod")?;
                pod.ip("link add eth0 type veth peer name outside")?;
                pod.ip("addr add 10.244.7.9/24 dev eth0")?;
                pod.ip("link set eth0 up")?;
                pod.ip("link set outside up").map(drop)
            })?;
            seen_well(scene, 50)?;
            Ok(Box::new((pods, clients, service)))
        },
        ..GOES_ON
    },
    Case {
        name: "ongoing_cancels",
        made: "downloads of which people cancel every fiftieth, as with a browser",
        run: cancels,
        ..GOES_ON
    },
    Case {
        name: "ongoing_gateway",
        made: "a gateway (the third host) passes requests on over connections that it keeps",
        run: |scene| {
            let upstream = gateway::upstream(scene.server(), scene.server_ip(), PATIENCE)?;
            let front = gateway::gateway(scene.third()?, scene.neighbour(3), upstream)?;
            let clients = (0..4).map(|_| {
                let mut stream = scene.client().run(|| Ok(TcpStream::connect(front)?))?;
                scene.go_on(scene.client(), Duration::from_millis(10), move || {
                    let status = gateway::ask(&mut stream)?;
                    ensure!(status == 200, "{status}");
                    Ok(())
                })
            });
            let clients = clients.collect::<Result<Vec<_>>>()?;
            seen_well(scene, 200)?;
            Ok(Box::new(clients))
        },
        ..BRIDGED
    },
    Case {
        name: "ongoing_chatter",
        made: "all that a switch says (spanning tree, discovery, pause frames), beside requests",
        run: |scene| {
            let service = Service::start(scene, answer)?;
            let at = service.at;
            let clients =
                scene.go_on(scene.client(), Duration::from_millis(10), move || ask(at, PATIENCE))?;
            for _ in 0..30 {
                chatter(scene, 1)?;
                scene.attempts.go_on(2)?;
            }
            seen_well(scene, 50)?;
            counted(scene.server(), "eth0 rx drop", 60)?;
            Ok(Box::new((clients, service)))
        },
        ..GOES_ON
    },
    Case {
        name: "ongoing_backups",
        made: "uploads of two megabytes that follow each other, beside small requests",
        run: |scene| {
            let store = Service::start(scene, |mut stream| {
                // Says how much it has got, once that is all.
                let got = std::io::copy(&mut stream, &mut std::io::sink()).unwrap_or_default();
                drop(stream.write_all(&got.to_be_bytes()));
            })?;
            let service = Service::start(scene, answer)?;
            let (to, at) = (store.at, service.at);
            let uploads = scene.go_on(scene.client(), Duration::from_millis(100), move || {
                let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
                stream.write_all(&vec![b'b'; 2_000_000])?;
                stream.shutdown(std::net::Shutdown::Write)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                let mut got = [0; 8];
                stream.read_exact(&mut got).context("the receipt")?;
                ensure!(u64::from_be_bytes(got) == 2_000_000, "not all of it arrived");
                Ok(())
            })?;
            let clients =
                scene.go_on(scene.client(), Duration::from_millis(20), move || ask(at, PATIENCE))?;
            seen_well(scene, 60)?;
            Ok(Box::new((uploads, clients, store, service)))
        },
        ..GOES_ON
    },
];

/// Who cancels closes with something unread, which the kernel answers with a reset.
fn cancels(scene: &Scene) -> Result<Held> {
    let service = Service::start(scene, |mut stream| {
        if stream.read_exact(&mut [0; LENGTH]).is_ok() {
            drop(stream.write_all(&vec![b'd'; 300_000]));
        }
    })?;
    let (at, mut number) = (service.at, 0);
    let clients = scene.go_on(scene.client(), Duration::from_millis(10), move || {
        number += 1;
        let mut stream = TcpStream::connect_timeout(&at, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(&[b'?'; LENGTH])?;
        let wanted = if number % 50 == 25 { 100_000 } else { 300_000 };
        stream.read_exact(&mut vec![0; wanted]).context("the download")
    })?;
    seen_well(scene, 110)?;
    counted(scene.client(), "TcpOutRsts", 2)?;
    Ok(Box::new((clients, service)))
}
