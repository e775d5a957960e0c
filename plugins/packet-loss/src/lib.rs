//! Packets that the kernel dropped: how many, why, where and whose.
//!
//! - [`site`]: where and why a packet was dropped, and what that means.
//! - [`tally`]: counts a batch by entity and site.
//! - [`totals`]: the running totals of the original exporter's metrics.
//!
//! Every drop is counted, also those whose details the kernel or the budget here suppressed.
//! Noise is counted and has events, but is never abnormal and never a warning.

pub mod site;
pub mod tally;
pub mod totals;

use std::time::Duration;

use inspector_sdk::analyzer::is_granted;
use inspector_sdk::budget::Budget;
use inspector_sdk::metrics::Counter;
use inspector_sdk::probes::SkbDrop;
use inspector_sdk::probes::skb_drop::KIND_SUMMARY;
use inspector_sdk::protocol::{self, ETHERTYPE_ARP};
use inspector_sdk::{
    Analyzer, Batch, Description, EntityId, Error, Event, InitArgs, MetricDecl, Severity, Timestamp,
};

use crate::site::{Cause, Sites};
use crate::tally::{Key, Tally};
use crate::totals::{BY_PLACE, TOTALS, Totals};

const DROPS: &str = "inspector_drops_total";
const PACKETLOSS: &str = "PACKETLOSS";

/// Drops with an event of their own, per entity and second. The host's quota is for all entities together.
const DETAILS: u32 = 500;
/// The same for noise, which must not take the place of drops that matter.
const NOISE_DETAILS: u32 = 10;

/// The totals of busy entities change with every batch; so often they are published.
const PUBLISH_NS: u64 = 1_000_000_000;

/// The analyzer.
#[derive(Debug)]
pub struct PacketLoss {
    drops: Counter<Cause>,
    totals: Totals,
    /// A place had a name: the host may read the kernel's symbols.
    places_are_named: bool,
    published_at: Timestamp,
    tally: Tally,
    sites: Sites,
    details: Budget,
    noise_details: Budget,
}

inspector_sdk::export!(PacketLoss with ticker, entity_watch, snapshot);

impl Analyzer for PacketLoss {
    fn describe() -> Description {
        let drops = MetricDecl::counter(
            DROPS,
            "Packets dropped, from tracepoint skb:kfree_skb, by the kernel's reason, the function that \
             dropped them, and class: noise is the normal course of things.",
        );
        let description = Description::new(
            "packet-loss",
            env!("CARGO_PKG_VERSION"),
            "Packets that the kernel dropped, by reason, place and entity",
        );
        let description = description
            .probe::<SkbDrop>()
            .tick_every(Duration::from_secs(1))
            .metric(drops.labels(&["reason", "location", "class"]))
            .event(PACKETLOSS, "A packet was dropped, or many whose details were suppressed.");
        TOTALS.iter().fold(description, |d, total| d.metric(MetricDecl::unknown(total.metric, total.help)))
    }

    fn init(args: &InitArgs) -> Result<Self, Error> {
        let mut totals = Totals::declared(TOTALS.map(|total| total.metric))?;
        if !is_granted::<SkbDrop>(args) {
            totals.hide(0..TOTALS.len());
        }
        Ok(Self {
            drops: Counter::declared(DROPS)?,
            totals,
            places_are_named: false,
            published_at: 0,
            tally: Tally::default(),
            sites: Sites::default(),
            details: Budget::per_second(DETAILS),
            noise_details: Budget::per_second(NOISE_DETAILS),
        })
    }

    fn on_batch(&mut self, batch: &Batch<'_>) -> Result<(), Error> {
        self.tally.bound();
        let Some(first) = batch.events::<SkbDrop>().next() else { return Ok(()) };
        let mut run = self.tally.take(Key::of(first), &mut self.sites);
        for drop in batch.events::<SkbDrop>() {
            let key = Key::of(drop);
            if run.key != key {
                self.tally.put(run);
                run = self.tally.take(key, &mut self.sites);
            }
            run.drops += drop.count;
            if drop.head.kind == KIND_SUMMARY {
                continue;
            }
            let is_first = !run.class.is_noise && run.is_among_first(batch.now);
            if run.details_left && !is_first {
                let budget = if run.class.is_noise { &mut self.noise_details } else { &mut self.details };
                run.details_left = budget.take(key.entity, batch.now);
            }
            if is_first || run.details_left {
                run.detailed += 1;
                detail(drop, run.cause()).emit();
            }
        }
        self.tally.put(run);
        self.settle();
        if batch.now.saturating_sub(self.published_at) >= PUBLISH_NS {
            self.publish(batch.now);
        }
        Ok(())
    }

    fn tick(&mut self, now: Timestamp) {
        for (entity, cause, n) in self.tally.held_back() {
            summary(entity, cause, n, now).emit();
        }
        self.publish(now);
    }

    fn added(&mut self, ids: &[EntityId]) {
        // A total that starts at 0 lets `rate()` see the first drop.
        self.totals.start(ids);
        self.totals.publish();
    }

    fn removed(&mut self, ids: &[EntityId]) {
        self.totals.forget(ids);
        self.tally.forget(ids);
        self.details.forget(ids);
        self.noise_details.forget(ids);
    }

    fn save(&self) -> Vec<u8> {
        self.totals.save()
    }

    fn restore(&mut self, _: &str, state: &[u8]) -> Result<(), Error> {
        self.totals.restore(state)
    }
}

impl PacketLoss {
    /// Moves what the batch counted into metrics and totals.
    fn settle(&mut self) {
        for count in self.tally.end_batch() {
            self.drops.add(count.key.entity, count.cause(), count.drops);
            totals::add(&mut self.totals, count.key.entity, count.class, count.drops);
            self.places_are_named |= count.class.is_named;
        }
        self.totals.withhold(BY_PLACE.map(|is_by_place| is_by_place && !self.places_are_named));
    }

    /// Publishes the totals that changed.
    fn publish(&mut self, now: Timestamp) {
        self.published_at = now;
        self.totals.publish();
    }
}

/// One drop, as its event.
fn detail(drop: &SkbDrop, cause: Cause) -> Event {
    let protocol = match (drop.head.proto, drop.ethertype) {
        (0, ETHERTYPE_ARP) => "ARP".to_owned(),
        (0, other) => format!("0x{other:04x}"),
        (number, _) => protocol::name(number),
    };
    let event = Event::new(PACKETLOSS, drop.head.ts_ns).flow_named(&drop.head, &protocol);
    let key = format!("{} {protocol} {} {}", drop.head.entity, event.message, drop.reason);
    event
        .severity(Severity::warning_if(!cause.is_noise))
        .say("protocol", &protocol)
        .fact("reason", cause.reason())
        .fact("location", cause.location())
        .fact("length", drop.length)
        .attr("ifindex", drop.ifindex)
        .attr("class", cause.class())
        .dedup_key(key)
}

/// Many drops of one cause without details, as one event.
fn summary(entity: EntityId, cause: Cause, drops: u64, now: Timestamp) -> Event {
    let mut event = Event::new(PACKETLOSS, now);
    event.message = format!("{drops} drops whose details were suppressed");
    event
        .entity(entity)
        .severity(Severity::warning_if(!cause.is_noise))
        .fact("reason", cause.reason())
        .fact("location", cause.symbol())
        .attr("count", drops)
        .attr("class", cause.class())
}
