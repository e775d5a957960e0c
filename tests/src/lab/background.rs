//! Healthy connections beside a fault, so that it has to be found among much that is well.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle, sleep};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::sockets::PATIENCE;
use super::{Actor, Namespace, Scene, service};
use crate::wait;

/// Connections, one after the other at an even rate, until it is dropped.
#[derive(Debug)]
pub struct Background {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    at: SocketAddr,
    threads: Vec<JoinHandle<()>>,
}

impl Background {
    /// Starts so many connections per minute from the client to a server of its own.
    ///
    /// # Errors
    /// If no server can be started.
    pub fn start(scene: &Scene, per_minute: u32) -> Result<Self> {
        let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let listener = scene.listener()?;
        let at = listener.local_addr()?;
        // Threads are in the namespace of the thread that starts them.
        let client = scene.client().run(|| {
            let (stop, done) = (Arc::clone(&stop), Arc::clone(&done));
            Ok(thread::spawn(move || connect(at, per_minute, &stop, &done)))
        })?;
        let server = thread::spawn({
            let stop = Arc::clone(&stop);
            move || serve(&listener, &stop)
        });
        Ok(Self { stop, done, at, threads: vec![client, server] })
    }

    /// Connections that were served so far.
    pub fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    /// Where its server listens.
    pub fn server_at(&self) -> SocketAddr {
        self.at
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // One that panicked has stopped as well.
            drop(thread.join());
        }
    }
}

/// Requests from a host to a server process, one after the other, until it is dropped.
#[derive(Debug)]
pub struct Load {
    served: Arc<AtomicU64>,
    _asking: Repeated,
    _server: Actor,
}

impl Load {
    /// Starts the process, and asks it from a host.
    ///
    /// # Errors
    /// If it cannot serve.
    pub fn start(from: &Namespace, scene: &Scene) -> Result<Self> {
        let at = scene.listener()?.local_addr()?;
        let server = Actor::start(scene.server(), &[], &format!("echo {at} 128"))?;
        let served = Arc::new(AtomicU64::new(0));
        let counting = Arc::clone(&served);
        let asking = Repeated::start(from, Duration::from_millis(2), move || {
            if service::ask(at, PATIENCE).is_ok() {
                counting.fetch_add(1, Ordering::Relaxed);
            }
        })?;
        Ok(Self { served, _asking: asking, _server: server })
    }

    /// Waits until so many have been served.
    ///
    /// # Errors
    /// If they are not.
    pub fn carries(&self, requests: u64) -> Result<()> {
        let enough = || (self.served.load(Ordering::Relaxed) >= requests).then_some(());
        wait::within(PATIENCE, "healthy requests", enough)
    }
}

/// Something that is done again and again in a namespace, until it is dropped.
#[derive(Debug)]
pub struct Repeated {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Repeated {
    /// Does it now and then `every` so often, on a thread of its own.
    ///
    /// # Errors
    /// If the namespace is gone.
    pub fn start(at: &Namespace, every: Duration, mut act: impl FnMut() + Send + 'static) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let thread = at.run(|| {
            let stop = Arc::clone(&stop);
            Ok(thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    act();
                    sleep(every);
                }
            }))
        })?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Repeated {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // One that panicked has stopped as well.
        drop(self.thread.take().map(JoinHandle::join));
    }
}

fn connect(to: SocketAddr, per_minute: u32, stop: &AtomicBool, done: &AtomicU64) {
    let (start, pace) = (Instant::now(), Duration::from_secs(60) / per_minute);
    while !stop.load(Ordering::Relaxed) {
        let due = pace * u32::try_from(done.load(Ordering::Relaxed)).unwrap_or(u32::MAX);
        sleep(due.saturating_sub(start.elapsed()));
        // Where the fault is in the way of these as well, the next one tries again.
        if ask(to).is_err() {
            sleep(pace);
        }
        done.fetch_add(1, Ordering::Relaxed);
    }
}

fn ask(to: SocketAddr) -> Result<()> {
    let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(1))?;
    stream.set_read_timeout(Some(Duration::from_secs(1)))?;
    stream.write_all(b"?")?;
    stream.read_exact(&mut [0]).context("the answer")
}

fn serve(listener: &TcpListener, stop: &AtomicBool) {
    // Looks up from waiting to see whether it is to stop.
    if listener.set_nonblocking(true).is_err() {
        return;
    }
    while !stop.load(Ordering::Relaxed) {
        let Ok((stream, _)) = listener.accept() else {
            sleep(Duration::from_millis(1));
            continue;
        };
        // A client that is gone needs no answer.
        drop(answer(stream));
    }
}

fn answer(mut stream: TcpStream) -> Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(Duration::from_secs(1)))?;
    stream.read_exact(&mut [0])?;
    stream.write_all(b"!")?;
    // The client closes first.
    stream.read_exact(&mut [0]).or(Ok(()))
}
