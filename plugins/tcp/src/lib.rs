//! TCP: resets, retransmissions, and the life of connections.
//!
//! - [`reset`]: resets sent and received, under the event names of the original exporter.
//! - [`retransmit`]: retransmissions and why.
//! - [`listen`]: accept queues that were full.
//! - [`connection`]: opened, accepted, failed, closed; latency, lifetime, round-trip time.
//!
//! Everything is counted. Events are limited per entity; the rest is reported as a number.

pub mod connection;
pub mod listen;
pub mod reset;
pub mod retransmit;

use std::time::Duration;

use inspector_sdk::budget::EventLimit;
use inspector_sdk::probes::{TcpReset, TcpRetransmit, TcpState};
use inspector_sdk::{Analyzer, Batch, Description, EntityId, Error, InitArgs, Timestamp};

use crate::connection::Connections;
use crate::listen::Listeners;
use crate::reset::Resets;
use crate::retransmit::Retransmits;

/// Events, per entity and second. The host's quota is for all entities together.
const DETAILS: u32 = 500;

/// The analyzer.
#[derive(Debug)]
pub struct Tcp {
    resets: Resets,
    retransmits: Retransmits,
    connections: Connections,
    listeners: Listeners,
    events: EventLimit,
}

inspector_sdk::export!(Tcp with ticker, entity_watch);

impl Analyzer for Tcp {
    fn describe() -> Description {
        let description = Description::new(
            "tcp",
            env!("CARGO_PKG_VERSION"),
            "TCP resets, retransmissions, connect latency and the life of connections",
        );
        let description = description.tick_every(Duration::from_secs(1));
        listen::describe(connection::describe(retransmit::describe(reset::describe(description))))
    }

    fn init(args: &InitArgs) -> Result<Self, Error> {
        Ok(Self {
            resets: Resets::new()?,
            retransmits: Retransmits::new()?,
            connections: Connections::new()?,
            listeners: Listeners::new(args.now),
            events: EventLimit::per_second(DETAILS),
        })
    }

    fn on_batch(&mut self, batch: &Batch<'_>) -> Result<(), Error> {
        let now = batch.now;
        batch.events::<TcpReset>().for_each(|reset| self.resets.take(reset, now, &mut self.events));
        batch
            .events::<TcpRetransmit>()
            .for_each(|retransmit| self.retransmits.take(retransmit, now, &mut self.events));
        batch.events::<TcpState>().for_each(|state| self.connections.take(state, now, &mut self.events));
        Ok(())
    }

    fn tick(&mut self, now: Timestamp) {
        self.listeners.tick(now);
        self.events.tick(now);
    }

    fn removed(&mut self, ids: &[EntityId]) {
        self.events.forget(ids);
        self.listeners.forget(ids);
    }
}
