//! A connection of the examiner's own, by which it knows that the agent has heard of all that happened
//! before a moment: what is sent on it then is heard of no earlier.

use std::sync::{Mutex, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::{LOOK, PATIENCE};
use crate::agent::Agent;
use crate::lab::counters::counter;
use crate::lab::{Connection, Family, Pair};
use crate::scrape::Scrape;

/// What a sum of the kernel's is made of that is not heard of for so long was not added up: a program
/// of a probe is not run where it interrupts itself. It is sent again then.
const AGAIN: Duration = Duration::from_secs(3);

/// See the module.
#[derive(Debug)]
pub(super) struct Marker {
    pair: Pair,
    connection: Mutex<Connection>,
}

impl Marker {
    pub(super) fn new() -> Result<Self> {
        let pair = Pair::new()?;
        let connection = Mutex::new(Connection::open(&pair, Family::V4)?);
        Ok(Self { pair, connection })
    }

    /// Waits until the agent has read the counter tables, and has been given what the kernel adds up,
    /// both later than now.
    ///
    /// # Errors
    /// If that takes far longer than the second in which it does both.
    pub(super) fn is_heard(&self, agent: &Agent) -> Result<()> {
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            let reads = self.reads(&agent.scrape()?);
            self.connection.lock().unwrap_or_else(PoisonError::into_inner).exchange(1, 0)?;
            let segments = counter(&self.pair.server, "TcpInSegs")? as f64;
            let sent = Instant::now();
            while sent.elapsed() < AGAIN {
                sleep(LOOK);
                let page = agent.scrape()?;
                if self.reads(&page) > reads && self.value(&page, "inspector_pod_tcpinsegs") >= segments {
                    return Ok(());
                }
            }
        }
        ensure!(agent.is_running(), "the agent ended");
        anyhow::bail!("for {PATIENCE:?} the agent heard of nothing that happened")
    }

    /// How often the marker's server has read from its socket.
    fn reads(&self, page: &Scrape) -> f64 {
        self.value(page, "inspector_socket_read_seconds_count")
    }

    fn value(&self, page: &Scrape, name: &str) -> f64 {
        page.sum(name, &[("pod", self.pair.server.name())]).unwrap_or(0.0)
    }
}
