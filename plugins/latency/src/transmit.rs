//! Packets on their way out: queue, driver, and the way from the socket to the driver.

use inspector_sdk::metrics::{Counter, Histogram};
use inspector_sdk::probes::TxLatency;
use inspector_sdk::probes::record::FLAG_PACKET;
use inspector_sdk::probes::sum::mean_seconds;
use inspector_sdk::probes::tx_latency::{
    KIND_ERROR, KIND_SUM, STAGE_DRIVER, STAGE_ERROR, STAGE_KERNEL, STAGE_QDISC, STAGE_UNSEEN,
};
use inspector_sdk::{Description, Error, Event, MetricDecl, Severity, Timestamp};

use crate::{Output, SLOW_NS, Total, VERY_SLOW_NS, buckets};

const LATENCY: &str = "inspector_transmit_latency_seconds";
const UNSEEN: &str = "inspector_transmit_unseen_total";
const ERRORS: &str = "inspector_transmit_errors_total";

const QDISC: &str = "NETIFTXLAT_QDISC";
const DRIVER: &str = "NETIFTXLAT_XMIT";
const KERNEL: &str = "TXKERNEL_SLOW";
const ERROR: &str = "NETIFTX_ERROR";

/// The metrics of packets on their way out.
#[derive(Debug)]
pub struct Transmit {
    latency: Histogram<&'static str>,
    unseen: Counter,
    errors: Counter,
}

/// Declares the metrics and events of packets on their way out.
pub fn describe(description: Description) -> Description {
    let latency = MetricDecl::histogram(
        LATENCY,
        "Time of packets on their way out, by stage: qdisc (tracepoints net_dev_queue to net_dev_start_xmit), \
         driver (to net_dev_xmit), kernel (from TCP's sending, else from the queue, to the driver).",
        &buckets(),
    );
    let unseen = MetricDecl::counter(
        UNSEEN,
        "Packets of which only the driver was seen, not the queue: segmented in software behind it.",
    );
    let errors = MetricDecl::counter(ERRORS, "Packets that a driver did not take (net_dev_xmit, not 0).");
    description
        .probe::<TxLatency>()
        .metric(latency.labels(&["stage"]))
        .metric(unseen)
        .metric(errors)
        .event(QDISC, "A packet waited for more than 100 ms in a device's queue.")
        .event(DRIVER, "A packet was with a driver for more than 100 ms.")
        .event(KERNEL, "A packet took more than 10 ms from its socket to the driver.")
        .event(ERROR, "A driver did not take a packet.")
}

impl Transmit {
    /// Their state; the metrics must be declared.
    ///
    /// # Errors
    /// A metric that is not declared.
    pub fn new() -> Result<Self, Error> {
        Ok(Self {
            latency: Histogram::declared(LATENCY)?,
            unseen: Counter::declared(UNSEEN)?,
            errors: Counter::declared(ERRORS)?,
        })
    }

    /// Counts a sum, or emits the event of a packet that was slow or refused, which is in a sum as well.
    pub fn take(&mut self, packet: &TxLatency, now: Timestamp, output: &mut Output) {
        let entity = packet.head.entity;
        if packet.head.kind == KIND_SUM {
            return self.count(packet, output);
        }
        let Some(kind) = kind(packet) else { return };
        output.events.emit(entity, kind, now, || event(kind, packet));
    }

    fn count(&mut self, sum: &TxLatency, output: &mut Output) {
        let (entity, n) = (sum.head.entity, sum.count);
        match sum.stage {
            STAGE_UNSEEN => return self.unseen.add(entity, (), n),
            STAGE_ERROR => return self.errors.add(entity, (), n),
            STAGE_QDISC => output.count(entity, Total::QdiscOver100, sum.bucket, VERY_SLOW_NS, n),
            STAGE_DRIVER => output.count(entity, Total::DriverOver100, sum.bucket, VERY_SLOW_NS, n),
            STAGE_KERNEL => {
                output.count(entity, Total::TxOver10, sum.bucket, SLOW_NS, n);
                output.count(entity, Total::TxOver100, sum.bucket, VERY_SLOW_NS, n);
            }
            _ => {}
        }
        self.latency.observe_times(entity, stage(sum.stage), mean_seconds(n, sum.duration_ns), n);
    }
}

fn stage(stage: u8) -> &'static str {
    match stage {
        STAGE_QDISC => "qdisc",
        STAGE_DRIVER => "driver",
        STAGE_KERNEL => "kernel",
        _ => "other",
    }
}

/// The event of a single packet; in queue and driver only more than 100 ms is one.
fn kind(packet: &TxLatency) -> Option<&'static str> {
    let very_slow = packet.duration_ns > VERY_SLOW_NS;
    match (packet.head.kind, packet.stage) {
        (KIND_ERROR, _) => Some(ERROR),
        (_, STAGE_QDISC) => very_slow.then_some(QDISC),
        (_, STAGE_DRIVER) => very_slow.then_some(DRIVER),
        (_, STAGE_KERNEL) => Some(KERNEL),
        _ => None,
    }
}

fn event(kind: &str, packet: &TxLatency) -> Event {
    let head = &packet.head;
    let device = String::from_utf8_lossy(&packet.device);
    let device = device.trim_end_matches('\0');
    // The driver may have freed the packet, so its stage has no addresses.
    let event = match head.flags & FLAG_PACKET {
        0 => Event::new(kind, head.ts_ns).entity(head.entity),
        _ => Event::new(kind, head.ts_ns).flow(head),
    };
    let key = format!("{kind} {} {} {device}", head.entity, event.message);
    let event = event.severity(Severity::Warning).fact("device", device);
    let event = match head.kind {
        KIND_ERROR => event.fact("code", packet.code),
        _ => event.duration_ns(packet.duration_ns),
    };
    event.fact("length", packet.length).attr("ifindex", packet.ifindex).dedup_key(key)
}
