//! Firewalls before which clients do not wait.

use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Result, bail};

use super::{CABLED, GOES_ON, PATIENCE, Service, answer, ask, knocking, seen};
use crate::lab::cases::{Case, client, server};
use crate::lab::{Held, Scene, faults};

pub const CASES: &[Case] = &[
    Case {
        name: "ongoing_far_wall",
        made: "health checks that wait for 0.4 s, against a host behind the cable whose firewall drops them",
        expect: &[client("peer-unresponsive")],
        run: |scene| {
            let stranger = scene.neighbour(60);
            scene
                .client()
                .ip(&format!("neigh add {stranger} lladdr 02:00:00:00:00:3c dev eth0 nud permanent"))?;
            scene.carry(|_, _| false)?;
            let (patience, pause) = (Duration::from_millis(400), Duration::from_millis(600));
            let checks = knocking(scene, scene.client(), (stranger, 8080).into(), patience, pause)?;
            seen(scene, 5)?;
            Ok(checks)
        },
        ..CABLED
    },
    Case {
        name: "ongoing_one_far_wall",
        made: "the same for one of two peers behind the cable; the other is well",
        expect: &[client("peer-unresponsive")],
        run: one_far_wall,
        ..CABLED
    },
    Case {
        name: "ongoing_impatient_checks",
        made: "health checks that wait for 0.3 s, before a rule of the server that drops them",
        expect: &[server("firewall-drop")],
        run: |scene| {
            faults::drop_incoming(scene.server(), "tcp", 8080)?;
            let (patience, pause) = (Duration::from_millis(300), Duration::from_millis(700));
            let checks = knocking(scene, scene.client(), scene.server_at(8080), patience, pause)?;
            seen(scene, 4)?;
            Ok(checks)
        },
        ..GOES_ON
    },
    Case {
        name: "ongoing_wall_for_some",
        made: "the server's firewall drops every third connect, and clients give up after half a second",
        expect: &[server("firewall-drop")],
        run: wall_for_some,
        ..GOES_ON
    },
    Case {
        name: "ongoing_wall_before_answers",
        made: "the client's own firewall drops what the server answers, and clients wait for half a second",
        expect: &[client("firewall-drop")],
        run: |scene| {
            let service = Service::start(scene, answer)?;
            scene.client().nft(&format!(
                "add table inet lab; add chain inet lab in {{ type filter hook input priority 0; }}; \
                 add rule inet lab in tcp sport {} drop",
                service.at.port()
            ))?;
            let (patience, pause) = (Duration::from_millis(500), Duration::from_millis(200));
            let clients = knocking(scene, scene.client(), service.at, patience, pause)?;
            seen(scene, 5)?;
            Ok(Box::new((clients, service)))
        },
        ..GOES_ON
    },
    Case {
        name: "ongoing_refused",
        made: "the server's firewall refuses with a reset, and clients come back every 0.2 s",
        expect: &[server("firewall-reject")],
        run: |scene| {
            scene.server().nft(
                "add table inet lab; add chain inet lab in { type filter hook input priority 0; }; \
                 add rule inet lab in tcp dport 6379 reject with tcp reset",
            )?;
            let to = scene.server_at(6379);
            let clients = scene.go_on(scene.client(), Duration::from_millis(200), move || {
                faults::expect_refusal(to).map(drop)
            })?;
            seen(scene, 10)?;
            Ok(clients)
        },
        ..GOES_ON
    },
];

fn one_far_wall(scene: &Scene) -> Result<Held> {
    let stranger = scene.neighbour(60);
    scene.client().ip(&format!("neigh add {stranger} lladdr 02:00:00:00:00:3c dev eth0 nud permanent"))?;
    scene.carry(|_, _| true)?;
    let service = Service::start(scene, answer)?;
    let at = service.at;
    let well = scene.go_on(scene.client(), Duration::from_millis(50), move || ask(at, PATIENCE))?;
    let (patience, pause) = (Duration::from_millis(700), Duration::from_millis(100));
    let checks = knocking(scene, scene.client(), (stranger, 8080).into(), patience, pause)?;
    seen(scene, 20)?;
    Ok(Box::new((checks, well, service)))
}

/// Who is let in is served.
fn wall_for_some(scene: &Scene) -> Result<Held> {
    let service = Service::start(scene, answer)?;
    let at = service.at;
    scene.server().nft(&format!(
        "add table inet lab; add chain inet lab in {{ type filter hook input priority 0; }}; \
         add rule inet lab in tcp dport {} tcp flags syn / syn,ack numgen inc mod 3 0 drop",
        at.port()
    ))?;
    let clients = scene.go_on(scene.client(), Duration::from_millis(50), move || {
        let Ok(stream) = TcpStream::connect_timeout(&at, Duration::from_millis(500)) else { return Ok(()) };
        drop(stream);
        bail!("this one was let in")
    })?;
    seen(scene, 4)?;
    Ok(Box::new((clients, service)))
}
