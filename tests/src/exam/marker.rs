//! A fault of the examiner's own, by which it knows that the agent has heard of all that happened before
//! it: events are read and handed on in their order, and all counter tables are read together.

use std::net::Ipv4Addr;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::{LOOK, PATIENCE};
use crate::agent::Agent;
use crate::lab::Namespace;
use crate::lab::counters::counter;
use crate::lab::faults::{CLOSED_PORT, send_udp};

/// One that is not heard of for so long is made again: the kernel skips a program that interrupts
/// itself.
const AGAIN: Duration = Duration::from_secs(3);

/// See the module.
#[derive(Debug)]
pub(super) struct Marker {
    /// Without an address that any case has.
    at: Namespace,
}

impl Marker {
    pub(super) fn new() -> Result<Self> {
        let at = Namespace::new("marker")?;
        at.ip("link set lo up")?;
        Ok(Self { at })
    }

    /// Waits until the agent has heard of the events until now, and has read the counter tables later.
    ///
    /// # Errors
    /// If that takes far longer than the second in which it reads them.
    pub(super) fn is_heard(&self, agent: &Agent) -> Result<()> {
        let (begun, before) = (Instant::now(), self.value(agent, "inspector_drops_total")?);
        while begun.elapsed() < PATIENCE {
            let sent = Instant::now();
            send_udp(&self.at, (Ipv4Addr::LOCALHOST, CLOSED_PORT).into(), 1, 1)?;
            let refused = counter(&self.at, "UdpNoPorts")? as f64;
            while sent.elapsed() < AGAIN {
                sleep(LOOK);
                if self.value(agent, "inspector_drops_total")? > before
                    && self.value(agent, "inspector_pod_udpnoports")? >= refused
                {
                    return Ok(());
                }
            }
        }
        bail!("for {PATIENCE:?} the agent heard of no fault")
    }

    /// What a metric counts in the marker's namespace.
    fn value(&self, agent: &Agent, name: &str) -> Result<f64> {
        Ok(agent.scrape()?.sum(name, &[("pod", self.at.name())]).unwrap_or(0.0))
    }
}
