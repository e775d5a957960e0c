//! The link: hosts on it that do not answer or change their address, ICMP errors that this node
//! sends, and connects and sends that its routes refuse.
//!
//! - [`neighbour`]: ARP and neighbour discovery.
//! - [`icmp`]: what this node refuses, and whom it tells.
//! - [`route`]: what its own programs are refused.
//!
//! Everything is counted. Events are limited per entity; the rest is reported as a number.

pub mod icmp;
pub mod neighbour;
pub mod route;

use std::time::Duration;

use inspector_sdk::budget::EventLimit;
use inspector_sdk::probes::{Icmp, Neighbour, Route};
use inspector_sdk::{Analyzer, Batch, Description, EntityId, Error, InitArgs, Timestamp};

use crate::icmp::Errors;
use crate::neighbour::Neighbours;
use crate::route::Refusals;

/// Events, per entity and second.
const DETAILS: u32 = 100;

/// The analyzer.
#[derive(Debug)]
pub struct Link {
    neighbours: Neighbours,
    errors: Errors,
    refusals: Refusals,
    events: EventLimit,
}

inspector_sdk::export!(Link with ticker, entity_watch);

impl Analyzer for Link {
    fn describe() -> Description {
        let description = Description::new(
            "link",
            env!("CARGO_PKG_VERSION"),
            "Hosts on the link that do not answer, changed link-layer addresses, ICMP errors sent, routes \
             that refuse",
        );
        let description = description.tick_every(Duration::from_secs(1));
        route::describe(icmp::describe(neighbour::describe(description)))
    }

    fn init(_: &InitArgs) -> Result<Self, Error> {
        Ok(Self {
            neighbours: Neighbours::new()?,
            errors: Errors::new()?,
            refusals: Refusals::new()?,
            events: EventLimit::per_second(DETAILS),
        })
    }

    fn on_batch(&mut self, batch: &Batch<'_>) -> Result<(), Error> {
        let now = batch.now;
        batch.events::<Neighbour>().for_each(|n| self.neighbours.take(n, now, &mut self.events));
        batch.events::<Icmp>().for_each(|error| self.errors.take(error, now, &mut self.events));
        batch.events::<Route>().for_each(|refusal| self.refusals.take(refusal, now, &mut self.events));
        Ok(())
    }

    fn tick(&mut self, now: Timestamp) {
        self.events.tick(now);
    }

    fn removed(&mut self, ids: &[EntityId]) {
        self.events.forget(ids);
    }
}
