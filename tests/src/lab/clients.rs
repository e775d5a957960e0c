//! Clients of a scene: they try once, or again and again while somebody asks why it fails.
//!
//! What a case lets its clients do by [`Scene::connect`], [`Scene::refused`], [`Scene::datagrams`] or
//! [`Scene::repeat`] happens once in a scene of [`Pace::Once`]. In one of [`Pace::Again`] the same
//! clients go on as long as what the case holds, and no client is more patient than that pace says.

use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::background::Repeated;
use super::counters::counted;
use super::{Held, Namespace, Scene, faults};
use crate::wait;

/// A client comes back so long after it has given up.
const PAUSE: Duration = Duration::from_millis(100);

/// Who asks what is wrong has seen it for so long.
pub const SEEN: Duration = Duration::from_secs(3);

/// Far beyond what a few attempts of the most patient clients take.
const ENOUGH: Duration = Duration::from_secs(60);

/// How clients try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// Once, as patiently as the kernel: what they have started goes on as long as it is held.
    Once,
    /// Again and again; each attempt is given up after so long.
    Again(Duration),
}

/// What became of the attempts of clients that go on.
#[derive(Debug, Default)]
pub struct Attempts {
    /// Those that ended as the case says they do.
    done: AtomicU64,
    /// Those that ended otherwise.
    failed: AtomicU64,
    /// No client begins another one.
    over: AtomicBool,
}

impl Attempts {
    fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    /// Waits for so many attempts more that end as the case says.
    ///
    /// # Errors
    /// If nobody tries, or attempts end otherwise.
    pub fn go_on(&self, attempts: u64) -> Result<()> {
        let goal = self.done() + attempts;
        wait::within(ENOUGH, "clients that go on", || (self.done() >= goal).then_some(()))
    }

    /// Those that ended otherwise than the case says.
    pub fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }

    /// Lets all clients end at once, so that nobody waits for one after the other.
    pub fn end(&self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

impl Scene {
    /// Lets a client connect to where it will get no connection, and returns at once. The attempt,
    /// or the client that repeats it, ends with what is returned.
    ///
    /// # Errors
    /// If the first connect fails at once.
    pub fn connect(&self, from: &Namespace, to: SocketAddr) -> Result<Held> {
        match self.pace {
            Pace::Once => Ok(Box::new(faults::start_connect(from, to)?)),
            Pace::Again(patience) => self.connect_in_vain(from, to, patience, PAUSE),
        }
    }

    /// Waits until so many connects that [`Scene::connect`] started at a host have proved to be in
    /// vain: nobody answers a patient client's SYN, or impatient ones have given up.
    ///
    /// # Errors
    /// If they are answered.
    pub fn in_vain(&self, from: &Namespace, connects: u64) -> Result<()> {
        match self.pace {
            // Where the host's own output is dropped, no segment counts as sent again.
            Pace::Once => counted(from, "TcpExtTCPTimeouts", connects),
            Pace::Again(_) => self.attempts.go_on(connects),
        }
    }

    /// Lets a client be refused a connection, three times at least.
    ///
    /// # Errors
    /// If it is not refused.
    pub fn refused(&self, from: &Namespace, to: SocketAddr) -> Result<Held> {
        self.repeat(from, 3, move || faults::expect_refusal(to).map(drop))
    }

    /// Lets the client send so many datagrams of `payload` bytes as fast as it can.
    ///
    /// # Errors
    /// If one cannot be sent.
    pub fn datagrams(&self, to: SocketAddr, packets: u64, payload: usize) -> Result<Held> {
        self.repeat(self.client(), 1, move || faults::send_datagrams(to, packets, payload).map(drop))
    }

    /// Does in a namespace what some client does, so many `times` one after the other; at the pace of
    /// [`Pace::Again`], it is done then as long as what is returned.
    ///
    /// # Errors
    /// If it fails one of those times.
    pub fn repeat(
        &self,
        at: &Namespace,
        times: u32,
        mut act: impl FnMut() -> Result<()> + Send + 'static,
    ) -> Result<Held> {
        at.run(|| (0..times).try_for_each(|_| act()))?;
        match self.pace {
            // What it holds stays.
            Pace::Once => Ok(Box::new(act)),
            Pace::Again(_) => self.go_on(at, PAUSE, act),
        }
    }

    /// Lets a client in a namespace act now and then `every` so often, at any pace of the scene, as
    /// long as what is returned.
    ///
    /// # Errors
    /// If the namespace is gone.
    pub fn go_on(
        &self,
        at: &Namespace,
        every: Duration,
        mut act: impl FnMut() -> Result<()> + Send + 'static,
    ) -> Result<Held> {
        let attempts = Arc::clone(&self.attempts);
        let client = Repeated::start(at, every, move || {
            if !attempts.over.load(Ordering::Relaxed) {
                let ended = if act().is_ok() { &attempts.done } else { &attempts.failed };
                ended.fetch_add(1, Ordering::Relaxed);
            }
        })?;
        Ok(Box::new(client))
    }

    /// Waits until what goes on has been seen for a few seconds, and so many attempts have ended as the
    /// case says.
    ///
    /// # Errors
    /// If they do not.
    pub fn seen(&self, attempts: u64) -> Result<()> {
        let begun = Instant::now();
        self.attempts.go_on(attempts)?;
        sleep(SEEN.saturating_sub(begun.elapsed()));
        Ok(())
    }

    /// [`Scene::seen`], and not one attempt has failed.
    ///
    /// # Errors
    /// As there.
    pub fn seen_well(&self, attempts: u64) -> Result<()> {
        self.seen(attempts)?;
        let failed = self.attempts.failed();
        ensure!(failed == 0, "{failed} attempts failed");
        Ok(())
    }

    /// Lets clients connect in vain every `pause`, each time for so long.
    ///
    /// # Errors
    /// If the namespace is gone.
    pub fn connect_in_vain(
        &self,
        from: &Namespace,
        to: SocketAddr,
        patience: Duration,
        pause: Duration,
    ) -> Result<Held> {
        self.go_on(from, pause, move || {
            ensure!(TcpStream::connect_timeout(&to, patience).is_err(), "{to} took a connection");
            Ok(())
        })
    }
}
