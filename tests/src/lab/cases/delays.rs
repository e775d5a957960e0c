//! Packets that wait.

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::{Case, FAULT, Ongoing, Place, at, client, server};
use crate::lab::background::Repeated;
use crate::lab::counters::counter;
use crate::lab::{Held, Scene, delays, faults};

pub const CASES: &[Case] = &[
    Case {
        name: "queueing_delay",
        made: "datagrams through a queue of the client in which each waits for a second, and none is lost",
        expect: &[client("queueing-delay")],
        ongoing: Ongoing::ByItself,
        run: slow_queue,
        ..FAULT
    },
    Case {
        name: "softirq_delay",
        made: "a firewall with four million rules for a packet keeps a CPU's soft interrupts busy",
        expect: &[at(Place::Host, "softirq-delay"), server("softirq-delay"), client("softirq-delay")],
        ongoing: Ongoing::Never("it keeps a CPU of the machine busy, and one burst of that is enough"),
        run: |scene| delays::busy_soft_interrupt(&scene.pair, scene.family),
        ..FAULT
    },
    Case {
        name: "softnet_backlog",
        made: "the CPUs may keep no packets waiting (global), and a burst comes",
        expect: &[at(Place::Host, "softnet-backlog"), server("softnet-backlog"), client("softnet-backlog")],
        ongoing: Ongoing::Again,
        run: |scene| {
            let held = delays::no_backlog(&scene.pair, scene.family)?;
            ensure!(counter(scene.client(), "TcpRetransSegs")? > 0, "nothing was lost");
            Ok(held)
        },
        ..FAULT
    },
];

/// As much comes as the queue lets through, behind eight packets that are in it already.
fn slow_queue(scene: &Scene) -> Result<Held> {
    let sink = scene.server().run(|| Ok(UdpSocket::bind((scene.server_ip(), 0))?))?;
    sink.set_read_timeout(Some(Duration::from_secs(10)))?;
    let to = sink.local_addr()?;
    delays::throttle(scene.client())?;
    let start = Instant::now();
    faults::send_udp(scene.client(), to, 8, 1000)?;
    let socket = scene.client().run(|| Ok(UdpSocket::bind((scene.client_ip(), 0))?))?;
    // One that cannot be sent is one less.
    let sender = Repeated::start(scene.client(), Duration::from_millis(135), move || {
        drop(socket.send_to(&[0; 1000], to));
    })?;
    (0..16).try_for_each(|_| sink.recv(&mut [0; 1000]).map(drop))?;
    ensure!(start.elapsed() > Duration::from_millis(1500), "the queue was fast: {:?}", start.elapsed());
    ensure!(counter(scene.client(), "eth0 tx drop")? == 0, "the queue dropped");
    Ok(Box::new((sender, sink)))
}
