//! Name servers that are silent, slow or say no.

use anyhow::{Result, ensure};

use super::{Case, Expected, FAULT, Ongoing, client, server};
use crate::lab::dns::{A, LATE, Resolver, Transport};
use crate::lab::{Held, Scene};

/// The server is at fault, and its clients feel it; a report may name either first.
const fn either(code: &'static str) -> [Expected; 2] {
    [server(code), client(code)]
}

pub const CASES: &[Case] = &[
    Case {
        name: "dns_timeout",
        made: "a name server that does not answer, asked five times twice",
        expect: &either("dns-timeout"),
        ongoing: Ongoing::Again,
        run: silence,
        ..FAULT
    },
    Case {
        name: "dns_slow",
        made: "a name server that takes 300 ms for each answer",
        expect: &either("dns-slow"),
        ongoing: Ongoing::Again,
        run: |scene| {
            let resolver = Resolver::start(&scene.pair)?;
            for _ in 0..6 {
                let asked = resolver.ask(scene.family, Transport::Udp, "www.late.example", A)?;
                ensure!(asked.took >= LATE, "it took {:?}", asked.took);
            }
            Ok(Box::new(()))
        },
        ..FAULT
    },
    Case {
        name: "dns_servfail",
        made: "a name server that fails",
        expect: &either("dns-error"),
        ongoing: Ongoing::Again,
        run: |scene| ask(scene, 20, "www.servfail.example"),
        ..FAULT
    },
    Case {
        name: "dns_refused",
        made: "a name server that refuses",
        expect: &either("dns-error"),
        ongoing: Ongoing::Again,
        run: |scene| ask(scene, 20, "www.refused.example"),
        ..FAULT
    },
    Case {
        name: "dns_nxdomain_storm",
        made: "fifty questions for names that do not exist, and none for one that does",
        expect: &either("dns-error"),
        ongoing: Ongoing::Again,
        run: |scene| ask(scene, 50, "missing.nx.example"),
        ..FAULT
    },
];

fn ask(scene: &Scene, times: u32, name: &str) -> Result<Held> {
    let resolver = Resolver::start(&scene.pair)?;
    for _ in 0..times {
        resolver.ask(scene.family, Transport::Udp, name, A)?;
    }
    Ok(Box::new(()))
}

/// Each question is repeated once from the same socket, as resolvers do.
fn silence(scene: &Scene) -> Result<Held> {
    let resolver = Resolver::start(&scene.pair)?;
    for n in 0..5 {
        resolver.ask_without_answer(scene.family, &format!("host{n}.silent.example"), 2)?;
    }
    Ok(Box::new(()))
}
