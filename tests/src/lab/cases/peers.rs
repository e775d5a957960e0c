//! What goes wrong where nobody on this node can see it.

use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use anyhow::Result;

use super::{Case, FAULT, Ongoing, client, server, unanswered};
use crate::lab::cable::tcp_payload;
use crate::lab::counters::counted;
use crate::lab::sockets::send_and_read;
use crate::lab::{Connection, Held, Scene, Topology};

const CABLED: Case = Case { topology: Topology::Cabled, ..FAULT };

pub const CASES: &[Case] = &[
    Case {
        name: "tcp_loss",
        made: "a cable that loses every twentieth full segment of an upload",
        expect: &[client("tcp-loss")],
        ongoing: Ongoing::Again,
        run: lossy_cable,
        ..CABLED
    },
    Case {
        name: "peer_silent",
        made: "connects to a host behind the cable that does not answer",
        expect: &[client("peer-unresponsive")],
        run: |scene| {
            let stranger = scene.neighbour(60);
            scene
                .client()
                .ip(&format!("neigh add {stranger} lladdr 02:00:00:00:00:3c dev eth0 nud permanent"))?;
            let cable = scene.cable()?.carry(|_, _| false);
            Ok(Box::new((unanswered(scene, (stranger, 80).into())?, cable)))
        },
        ..CABLED
    },
    Case {
        name: "peer_vanishes",
        made: "a cable that is cut while a connection is in use",
        expect: &[client("peer-unresponsive"), server("peer-unresponsive")],
        ongoing: Ongoing::ByItself,
        run: |scene| {
            let cut = Arc::new(AtomicBool::new(false));
            let cable = scene.cable()?.carry({
                let cut = Arc::clone(&cut);
                move |_, _| !cut.load(Ordering::Relaxed)
            });
            let mut connection = Connection::open(&scene.pair, scene.family)?;
            connection.exchange(100, 100)?;
            cut.store(true, Ordering::Relaxed);
            connection.client.write_all(b"are you there?")?;
            counted(scene.client(), "TcpExtTCPTimeouts", 3)?;
            Ok(Box::new((connection, cable)))
        },
        ..CABLED
    },
];

fn lossy_cable(scene: &Scene) -> Result<Held> {
    const FULL: usize = 1000;
    let number = AtomicU32::new(0);
    scene.carry(move |_, packet| {
        tcp_payload(packet) < FULL || number.fetch_add(1, Ordering::Relaxed) % 20 != 19
    })?;
    let connection = Connection::open(&scene.pair, scene.family)?;
    send_and_read(&connection, 50, Duration::ZERO)?;
    counted(scene.client(), "TcpRetransSegs", 10)?;
    Ok(Box::new(connection))
}
