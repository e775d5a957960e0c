//! Sockets: errors reported to them, packets that they have no room for, and applications that are
//! slow to read or whose sends block.
//!
//! - [`trouble`]: errors and full buffers.
//! - [`latency`]: reads and sends.
//!
//! Everything is counted. Events are limited per entity; the rest is reported as a number.

mod latency;
mod trouble;

use std::time::Duration;

use inspector_sdk::budget::EventLimit;
use inspector_sdk::probes::{SocketError, SocketLatency};
use inspector_sdk::{Analyzer, Batch, Description, EntityId, Error, InitArgs, Timestamp};

use crate::latency::Latencies;
use crate::trouble::Troubles;

/// Events, per entity and second.
const DETAILS: u32 = 100;

/// The analyzer.
#[derive(Debug)]
pub struct Socket {
    troubles: Troubles,
    latencies: Latencies,
    events: EventLimit,
}

inspector_sdk::export!(Socket with ticker, entity_watch, snapshot);

impl Analyzer for Socket {
    fn describe() -> Description {
        let description = Description::new(
            "socket",
            env!("CARGO_PKG_VERSION"),
            "Errors and full buffers of sockets, slow readers and blocked sends",
        );
        latency::describe(trouble::describe(description.tick_every(Duration::from_secs(1))))
    }

    fn init(args: &InitArgs) -> Result<Self, Error> {
        Ok(Self {
            troubles: Troubles::new()?,
            latencies: Latencies::new(args)?,
            events: EventLimit::per_second(DETAILS),
        })
    }

    fn on_batch(&mut self, batch: &Batch<'_>) -> Result<(), Error> {
        let now = batch.now;
        batch.events::<SocketError>().for_each(|error| self.troubles.take(error, now, &mut self.events));
        batch.events::<SocketLatency>().for_each(|one| self.latencies.take(one, now, &mut self.events));
        self.latencies.publish();
        Ok(())
    }

    fn tick(&mut self, now: Timestamp) {
        self.events.tick(now);
    }

    fn added(&mut self, ids: &[EntityId]) {
        self.latencies.start(ids);
    }

    fn removed(&mut self, ids: &[EntityId]) {
        self.events.forget(ids);
        self.latencies.forget(ids);
    }

    fn save(&self) -> Vec<u8> {
        self.latencies.save()
    }

    fn restore(&mut self, _: &str, state: &[u8]) -> Result<(), Error> {
        self.latencies.restore(state)
    }
}
