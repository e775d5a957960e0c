//! Packets that wait.

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::{Case, FAULT, Place, at, client, server};
use crate::lab::counters::counter;
use crate::lab::{Held, Scene, delays, faults};

pub const CASES: &[Case] = &[
    Case {
        name: "queueing_delay",
        made: "requests through a queue of the client in which each waits for a tenth of a second",
        expect: &[client("queueing-delay")],
        run: slow_queue,
        ..FAULT
    },
    Case {
        name: "softirq_delay",
        made: "a firewall with four million rules for a packet keeps a CPU's soft interrupts busy",
        expect: &[at(Place::Host, "softirq-delay"), server("softirq-delay"), client("softirq-delay")],
        run: |scene| delays::busy_soft_interrupt(&scene.pair, scene.family),
        ..FAULT
    },
    Case {
        name: "softnet_backlog",
        made: "the CPUs may keep no packets waiting (global), and a burst comes",
        expect: &[at(Place::Host, "softnet-backlog"), server("softnet-backlog"), client("softnet-backlog")],
        run: |scene| {
            let held = delays::no_backlog(&scene.pair, scene.family)?;
            ensure!(counter(scene.client(), "TcpRetransSegs")? > 0, "nothing was lost");
            Ok(held)
        },
        ..FAULT
    },
];

fn slow_queue(scene: &Scene) -> Result<Held> {
    let sink = scene.server().run(|| Ok(UdpSocket::bind((scene.server_ip(), 0))?))?;
    sink.set_read_timeout(Some(Duration::from_secs(10)))?;
    delays::throttle(scene.client())?;
    let start = Instant::now();
    // Long enough for several readings of the queue.
    for _ in 0..2 {
        faults::send_udp(scene.client(), sink.local_addr()?, 12, 1000)?;
        (0..12).try_for_each(|_| sink.recv(&mut [0; 1000]).map(drop))?;
    }
    ensure!(start.elapsed() > Duration::from_secs(2), "the queue was fast: {:?}", start.elapsed());
    ensure!(counter(scene.client(), "eth0 tx drop")? == 0, "the queue dropped");
    Ok(Box::new(sink))
}
