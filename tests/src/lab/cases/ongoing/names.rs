//! Name servers that are asked all the time.

use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Result, ensure};
use etherparse::TransportSlice;

use super::{BRIDGED, CABLED, GOES_ON, PATIENCE, seen, seen_well};
use crate::lab::cable::Side;
use crate::lab::cases::{Case, Place, at, client, server};
use crate::lab::dns::{Resolver, ask_once};
use crate::lab::{Held, Scene};

/// How long a resolver's client waits that has others to ask.
const IMPATIENT: Duration = Duration::from_millis(250);

/// Codes of answers.
const FOUND: Option<u8> = Some(0);
const FAILED: Option<u8> = Some(2);
const UNKNOWN: Option<u8> = Some(3);

pub const CASES: &[Case] = &[
    Case {
        name: "ongoing_dead_resolver",
        made: "a name server that never answers, asked every 0.3 s by clients that wait for 0.25 s",
        expect: &[server("dns-timeout"), client("dns-timeout")],
        run: |scene| {
            Resolver::start(&scene.pair)?;
            asking(scene, "www.silent.example", None, 50)
        },
        ..GOES_ON
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
            seen(scene, 4)?;
            Ok(asking)
        },
        ..GOES_ON
    },
    Case {
        name: "ongoing_servfail",
        made: "a name server that fails for ever, asked every 0.3 s",
        expect: &[server("dns-error"), client("dns-error")],
        run: |scene| {
            Resolver::start(&scene.pair)?;
            asking(scene, "www.servfail.example", FAILED, 300)
        },
        ..GOES_ON
    },
    Case {
        name: "ongoing_one_resolver_dead",
        made: "clients ask a name server that is silent (the third host), then one that answers, for each name",
        expect: &[at(Place::Third, "dns-timeout"), client("dns-timeout")],
        run: |scene| {
            Resolver::start(&scene.pair)?;
            let silent = SocketAddr::new(scene.neighbour(3), 53);
            let socket = scene.third()?.run(|| Ok(UdpSocket::bind(silent)?))?;
            let well = scene.server_at(53);
            let asking = scene.go_on(scene.client(), Duration::from_millis(50), move || {
                ensure!(ask_once(silent, "www.example", IMPATIENT)?.is_none(), "it is not silent");
                ensure!(ask_once(well, "www.example", PATIENCE)? == FOUND, "the other one is not well");
                Ok(())
            })?;
            seen(scene, 8)?;
            Ok(Box::new((asking, socket)))
        },
        ..BRIDGED
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
            seen_well(scene, 100)?;
            Ok(asking)
        },
        ..GOES_ON
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
            seen_well(scene, 20)?;
            Ok(asking)
        },
        ..GOES_ON
    },
    Case {
        name: "ongoing_queries_repeated",
        made: "a network that loses one query in forty, which the client repeats with success after 0.4 s",
        run: repeated,
        ..CABLED
    },
];

/// A client that asks the server for ever, with pauses, until it has been seen for a while.
fn asking(scene: &Scene, name: &'static str, code: Option<u8>, pause_ms: u64) -> Result<Held> {
    let to = scene.server_at(53);
    let asking = scene.go_on(scene.client(), Duration::from_millis(pause_ms), move || {
        let answer = ask_once(to, name, IMPATIENT)?;
        ensure!(answer == code, "the answer was {answer:?}");
        Ok(())
    })?;
    seen(scene, 8)?;
    Ok(asking)
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
    seen_well(scene, 100)?;
    Ok(asking)
}
