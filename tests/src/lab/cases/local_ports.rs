//! What runs out when a client has many connections.

use std::io::Read as _;
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use nix::libc;

use crate::lab::cases::{Case, KNOWN, ONGOING, Ongoing, UNSEEN, client};
use crate::lab::counters::counted;
use crate::lab::service::{Service, answer};
use crate::lab::{Connection, Held, Scene};

pub const CASES: &[Case] = &[
    Case {
        name: "time_wait_overflow",
        made: "the client closes twenty connections and may keep two in TIME-WAIT",
        expect: &[client("time-wait-overflow")],
        ongoing: Ongoing::Again,
        run: |scene| {
            scene.client().sysctl("net/ipv4/tcp_max_tw_buckets", "2")?;
            (0..20).try_for_each(|_| Connection::open(&scene.pair, scene.family)?.close())?;
            counted(scene.client(), "TcpExtTCPTimeWaitOverflow", 5)?;
            Ok(Box::new(()))
        },
        ..KNOWN
    },
    Case {
        name: "ports_exhausted",
        made: "the client has four local ports, all in use, and connects ten times more",
        expect: &[client("local-port-exhaustion")],
        ongoing: Ongoing::Again,
        run: ports_exhausted,
        ..KNOWN
    },
    Case {
        name: "var_ports_in_time_wait",
        made: "the client has four local ports, all in TIME-WAIT, and connects five times more",
        expect: &[client("local-port-exhaustion")],
        ongoing: Ongoing::Again,
        run: ports_in_time_wait,
        ..UNSEEN
    },
    Case {
        name: "ongoing_ports_used_up",
        made: "the client has four local ports, all in use, and tries ten times a second",
        expect: &[client("local-port-exhaustion")],
        run: ports_used_up,
        ..ONGOING
    },
];

fn ports_exhausted(scene: &Scene) -> Result<Held> {
    scene.client().sysctl("net/ipv4/ip_local_port_range", "40000 40003")?;
    let listener = scene.listener()?;
    let to = listener.local_addr()?;
    let connect = || scene.client().connect(to);
    let open = (0..4).map(|_| connect()).collect::<Result<Vec<_>>>()?;
    for _ in 0..10 {
        let Err(refused) = connect() else { bail!("there was a port left") };
        let errno = refused.downcast_ref::<std::io::Error>().and_then(std::io::Error::raw_os_error);
        ensure!(errno == Some(libc::EADDRNOTAVAIL), "{refused:#}");
    }
    Ok(Box::new((listener, open)))
}

/// The side that closes first keeps the port in TIME-WAIT.
fn ports_in_time_wait(scene: &Scene) -> Result<Held> {
    scene.client().sysctl("net/ipv4/ip_local_port_range", "40000 40003")?;
    let listener = scene.listener()?;
    let to = listener.local_addr()?;
    let serving = listener.try_clone()?;
    thread::spawn(move || {
        while let Ok((mut stream, _)) = serving.accept() {
            // Until the client has closed; how it did is not the server's business.
            drop(stream.read(&mut [0]));
        }
    });
    let connect = || scene.client().connect(to);
    (0..4).try_for_each(|_| connect().map(drop))?;
    for _ in 0..5 {
        let Err(refused) = connect() else { bail!("there was a port left") };
        let errno = refused.downcast_ref::<std::io::Error>().and_then(std::io::Error::raw_os_error);
        ensure!(errno == Some(libc::EADDRNOTAVAIL), "{refused:#}");
    }
    Ok(Box::new(listener))
}

fn ports_used_up(scene: &Scene) -> Result<Held> {
    scene.client().sysctl("net/ipv4/ip_local_port_range", "40000 40003")?;
    let service = Service::start(scene, answer)?;
    let at: SocketAddr = service.at;
    let open = (0..4).map(|_| scene.client().connect(at));
    let open = open.collect::<Result<Vec<_>>>()?;
    let clients =
        scene.go_on(scene.client(), Duration::from_millis(100), move || match TcpStream::connect(at) {
            Err(error) if error.raw_os_error() == Some(libc::EADDRNOTAVAIL) => Ok(()),
            other => bail!("{other:?}"),
        })?;
    scene.seen(20)?;
    Ok(Box::new((clients, open, service)))
}
