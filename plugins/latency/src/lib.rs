//! Where the time of packets goes inside of this node: queues, drivers, the kernel's own paths.
//!
//! - [`transmit`]: packets on their way out, and what drivers refuse.
//! - [`receive`]: segments on their way in.
//! - [`queue`]: what goes through queueing disciplines.
//!
//! Its probes see every packet, so it is off in the shipped configuration. Counters and histograms
//! come from sums and are exact; events come from records, which the probes limit.

pub mod queue;
pub mod receive;
pub mod transmit;

use std::time::Duration;

use inspector_sdk::analyzer::is_granted;
use inspector_sdk::budget::EventLimit;
use inspector_sdk::probes::sum::{bounds_seconds, is_above};
use inspector_sdk::probes::{Qdisc, RxLatency, TxLatency};
use inspector_sdk::totals::Totals;
use inspector_sdk::{Analyzer, Batch, Description, EntityId, Error, InitArgs, MetricDecl, Timestamp};

use crate::queue::Queues;
use crate::receive::Receive;
use crate::transmit::Transmit;

/// Above it, a time is slow in the words of the contract.
pub const SLOW_NS: u64 = 10_000_000;
/// Above it, it has names of its own there.
pub const VERY_SLOW_NS: u64 = 100_000_000;

/// Events of single packets, per entity and second.
const DETAILS: u32 = 100;

/// A total of the contract, as an index of [`TOTALS`].
#[derive(Debug, Clone, Copy)]
enum Total {
    TxOver10,
    TxOver100,
    RxOver10,
    RxOver100,
    QdiscOver100,
    DriverOver100,
}

/// The metrics of the contract.
const TOTALS: [(&str, &str); 6] = [
    (
        "inspector_pod_kernellatency_txslow",
        "Packets that took more than 10 ms from TCP's sending (others: from the device's queue) to the driver \
         (tracepoints net_dev_queue and net_dev_start_xmit).",
    ),
    ("inspector_pod_kernellatency_txslow100ms", "Of these, those that took more than 100 ms."),
    (
        "inspector_pod_kernellatency_rxslow",
        "TCP segments that took more than 10 ms from the device to their socket (tracepoints netif_receive_skb \
         and tcp_probe).",
    ),
    ("inspector_pod_kernellatency_rxslow100ms", "Of these, those that took more than 100 ms."),
    (
        "inspector_pod_netiftxlat_qdiscslow100ms",
        "Packets that waited for more than 100 ms in a device's queue (tracepoints net_dev_queue to \
         net_dev_start_xmit).",
    ),
    (
        "inspector_pod_netiftxlat_netdevslow100ms",
        "Packets that were with a driver for more than 100 ms (tracepoints net_dev_start_xmit to net_dev_xmit).",
    ),
];

/// The analyzer.
#[derive(Debug)]
pub struct Latency {
    transmit: Transmit,
    receive: Receive,
    queues: Queues,
    output: Output,
}

/// What all parts write to.
#[derive(Debug)]
pub struct Output {
    totals: Totals<6>,
    events: EventLimit,
}

inspector_sdk::export!(Latency with ticker, entity_watch, snapshot);

impl Analyzer for Latency {
    fn describe() -> Description {
        let description = Description::new(
            "latency",
            env!("CARGO_PKG_VERSION"),
            "Time of packets in queues, drivers and the kernel's own paths",
        );
        let description = description.tick_every(Duration::from_secs(1));
        let description = TOTALS.iter().fold(description, |description, (name, help)| {
            description.metric(MetricDecl::unknown(name, help))
        });
        queue::describe(receive::describe(transmit::describe(description)))
    }

    fn init(args: &InitArgs) -> Result<Self, Error> {
        let mut totals = Totals::declared(TOTALS.map(|(name, _)| name))?;
        let (received, queued) = (Total::RxOver10 as usize, Total::QdiscOver100 as usize);
        if !is_granted::<TxLatency>(args) {
            totals.hide(0..received);
            totals.hide(queued..TOTALS.len());
        }
        if !is_granted::<RxLatency>(args) {
            totals.hide(received..queued);
        }
        let output = Output { totals, events: EventLimit::per_second(DETAILS) };
        Ok(Self { transmit: Transmit::new()?, receive: Receive::new()?, queues: Queues::new()?, output })
    }

    fn on_batch(&mut self, batch: &Batch<'_>) -> Result<(), Error> {
        let now = batch.now;
        batch.events::<TxLatency>().for_each(|packet| self.transmit.take(packet, now, &mut self.output));
        batch.events::<RxLatency>().for_each(|segment| self.receive.take(segment, now, &mut self.output));
        batch.events::<Qdisc>().for_each(|sum| self.queues.take(sum));
        self.output.totals.publish();
        Ok(())
    }

    fn tick(&mut self, now: Timestamp) {
        self.output.events.tick(now);
        self.output.totals.publish();
    }

    fn added(&mut self, ids: &[EntityId]) {
        self.output.totals.start(ids);
        self.output.totals.publish();
    }

    fn removed(&mut self, ids: &[EntityId]) {
        self.output.totals.forget(ids);
        self.output.events.forget(ids);
    }

    fn save(&self) -> Vec<u8> {
        self.output.totals.save()
    }

    fn restore(&mut self, _: &str, state: &[u8]) -> Result<(), Error> {
        self.output.totals.restore(state)
    }
}

impl Output {
    /// Counts `n` of one bucket in a total if they are above its bound.
    fn count(&mut self, entity: EntityId, total: Total, bucket: u16, bound_ns: u64, n: u64) {
        if is_above(bucket, bound_ns) {
            self.totals.add(entity, total as usize, n);
        }
    }
}

/// Buckets of the histograms: some entities have several, so not every bound of the sums.
fn buckets() -> Vec<f64> {
    bounds_seconds(10_000, 1_000_000_000, true)
}
