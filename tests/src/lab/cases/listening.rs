//! Nobody listens.

use std::io::ErrorKind;
use std::net::UdpSocket;
use std::time::Duration;

use anyhow::{Result, ensure};

use super::{Case, FAULT, server};
use crate::lab::{Held, Scene, faults};

pub const CASES: &[Case] = &[
    Case {
        name: "tcp_closed_port",
        made: "connects to a port where nobody listens",
        expect: &[server("port-not-listening")],
        run: |scene| scene.refused(scene.client(), scene.server_at(faults::CLOSED_PORT)),
        ..FAULT
    },
    Case {
        name: "udp_closed_port",
        made: "datagrams to a port where nobody listens",
        expect: &[server("port-not-listening")],
        run: datagrams,
        ..FAULT
    },
];

fn datagrams(scene: &Scene) -> Result<Held> {
    let socket = scene.client().run(|| Ok(UdpSocket::bind((scene.client_ip(), 0))?))?;
    socket.connect(scene.server_at(faults::CLOSED_PORT))?;
    socket.set_read_timeout(Some(Duration::from_secs(5)))?;
    scene.repeat(scene.client(), 3, move || {
        socket.send(b"anybody?")?;
        let answer = socket.recv(&mut [0]);
        let refused = answer.as_ref().is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused);
        ensure!(refused, "expected to be refused, got {answer:?}");
        Ok(())
    })
}
