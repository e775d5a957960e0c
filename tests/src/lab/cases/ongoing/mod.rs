//! An exam that was written without a look at the rules: what goes on while somebody asks, and has
//! gone on for a few seconds. Clients of a fault come back and are as impatient as health checks,
//! pools and drivers are; what is healthy looks like them.
//!
//! - [`names`]: name servers, dead, failing and well;
//! - [`walls`]: firewalls before which nobody waits;
//! - [`servers`]: applications that do not keep up;
//! - [`ways`]: routes, neighbours, cables and what is translated;
//! - [`healthy`]: clients and servers that are busy;
//! - [`quiet`]: those that mostly wait.

pub mod healthy;
pub mod names;
pub mod quiet;
pub mod servers;
pub mod walls;
pub mod ways;

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd as _;
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::sys::socket::{Shutdown, shutdown};

use super::{Case, FAULT, Ongoing};
use crate::lab::sockets::listener;
use crate::lab::{Held, Namespace, Scene, Topology};

/// What goes on needs nobody to make it again.
const GOES_ON: Case = Case { ongoing: Ongoing::ByItself, ..FAULT };

/// The same with a router.
const ROUTED: Case = Case { topology: Topology::Routed, ..GOES_ON };

/// The same with a third host.
const BRIDGED: Case = Case { topology: Topology::Bridged, ..GOES_ON };

/// The same with a cable.
const CABLED: Case = Case { topology: Topology::Cabled, ..GOES_ON };

/// Who asks has seen it for so long.
const SEEN: Duration = Duration::from_secs(3);

/// How long a client waits that is well served: a machine may stand still for a moment.
const PATIENCE: Duration = Duration::from_secs(10);

/// Bytes of a request and of its answer.
const LENGTH: usize = 100;

/// Waits until it has been seen for a while, and so many attempts have ended as the case says.
fn seen(scene: &Scene, attempts: u64) -> Result<()> {
    let begun = Instant::now();
    scene.attempts.go_on(attempts)?;
    sleep(SEEN.saturating_sub(begun.elapsed()));
    Ok(())
}

/// [`seen`], and not one attempt has failed.
fn seen_well(scene: &Scene, attempts: u64) -> Result<()> {
    seen(scene, attempts)?;
    let failed = scene.attempts.failed();
    ensure!(failed == 0, "{failed} attempts failed");
    Ok(())
}

/// A server with a thread for each connection; it accepts until it is dropped.
struct Service {
    listener: TcpListener,
    at: SocketAddr,
}

impl Service {
    fn start(scene: &Scene, each: impl Fn(TcpStream) + Clone + Send + 'static) -> Result<Self> {
        Self::serve(listener(scene.server(), scene.server_ip())?, each)
    }

    fn serve(listener: TcpListener, each: impl Fn(TcpStream) + Clone + Send + 'static) -> Result<Self> {
        let (accepting, at) = (listener.try_clone()?, listener.local_addr()?);
        thread::spawn(move || {
            while let Ok((stream, _)) = accepting.accept() {
                let each = each.clone();
                thread::spawn(move || each(stream));
            }
        });
        Ok(Self { listener, at })
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // Ends the thread that accepts; its listener is a copy of this one.
        let _ = shutdown(self.listener.as_raw_fd(), Shutdown::Both);
    }
}

/// Answers requests until the client's end of file.
fn answer(stream: TcpStream) {
    answer_after(stream, Duration::ZERO);
}

/// [`answer`], each after so long.
fn answer_after(mut stream: TcpStream, pause: Duration) {
    let mut request = [0; LENGTH];
    while stream.read_exact(&mut request).is_ok() {
        sleep(pause);
        if stream.write_all(&request).is_err() {
            return;
        }
    }
}

/// One request on a connection that is there.
fn ask_on(mut stream: &TcpStream, patience: Duration) -> Result<()> {
    stream.set_read_timeout(Some(patience))?;
    stream.write_all(&[b'?'; LENGTH])?;
    stream.read_exact(&mut [0; LENGTH]).context("the answer")
}

/// One request on a connection of its own, in the namespace of the calling thread.
fn ask(to: SocketAddr, patience: Duration) -> Result<()> {
    ask_on(&TcpStream::connect_timeout(&to, patience)?, patience)
}

/// Clients that connect in vain every `pause`, each time for so long.
fn knocking(
    scene: &Scene,
    from: &Namespace,
    to: SocketAddr,
    patience: Duration,
    pause: Duration,
) -> Result<Held> {
    scene.go_on(from, pause, move || {
        ensure!(TcpStream::connect_timeout(&to, patience).is_err(), "{to} took a connection");
        Ok(())
    })
}
