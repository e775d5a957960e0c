//! Nobody listens.

use std::thread::sleep;
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::lab::background::Background;
use crate::lab::cases::{Case, KNOWN, ONGOING, Ongoing, VARIATION, server};
use crate::lab::sockets::expect_refusal;
use crate::lab::{Held, Scene, faults};

pub const CASES: &[Case] = &[
    Case {
        name: "tcp_closed_port",
        made: "connects to a port where nobody listens",
        expect: &[server("port-not-listening")],
        run: |scene| scene.refused(scene.client(), scene.server_at(faults::CLOSED_PORT)),
        ..KNOWN
    },
    Case {
        name: "udp_closed_port",
        made: "datagrams to a port where nobody listens",
        expect: &[server("port-not-listening")],
        run: datagrams,
        ..KNOWN
    },
    Case {
        name: "var_loopback_only",
        made: "the server listens on its loopback address only",
        expect: &[server("port-not-listening")],
        run: |scene| {
            let listener = scene.server().listen((scene.loopback(), 0))?;
            let port = listener.local_addr()?.port();
            let refused = scene.refused(scene.client(), scene.server_at(port))?;
            Ok(Box::new((refused, listener)))
        },
        ..VARIATION
    },
    Case {
        name: "var_third_host",
        made: "a third host asks at a closed port, beside healthy traffic of the client",
        expect: &[server("port-not-listening")],
        ongoing: Ongoing::Again,
        run: |scene| {
            let load = Background::start(scene, 1000)?;
            for _ in 0..3 {
                faults::connect_to_closed_port(scene.third()?, scene.server_at(8888))?;
                sleep(Duration::from_millis(100));
            }
            ensure!(load.done() > 3, "only {} connections", load.done());
            Ok(Box::new(load))
        },
        ..VARIATION.bridged()
    },
    Case {
        name: "ongoing_crash_loop",
        made: "a service that is down, and a client that tries again every 0.1 s",
        expect: &[server("port-not-listening")],
        run: |scene| {
            let to = scene.listener()?.local_addr()?;
            let clients = scene.go_on(scene.client(), Duration::from_millis(100), move || {
                faults::expect_refusal(to).map(drop)
            })?;
            scene.seen(20)?;
            Ok(clients)
        },
        ..ONGOING
    },
];

fn datagrams(scene: &Scene) -> Result<Held> {
    let socket = scene.sender()?;
    socket.connect(scene.server_at(faults::CLOSED_PORT))?;
    scene.repeat(scene.client(), 3, move || {
        socket.send(b"anybody?")?;
        expect_refusal(&socket)
    })
}
