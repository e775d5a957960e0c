//! What goes through the queueing disciplines of devices.

use inspector_sdk::metrics::{Counter, Histogram};
use inspector_sdk::probes::Qdisc;
use inspector_sdk::probes::qdisc::{OP_DEQUEUE, OP_ENQUEUE};
use inspector_sdk::probes::sum::mean_seconds;
use inspector_sdk::{Description, Error, MetricDecl};

use crate::buckets;

const ENQUEUED: &str = "inspector_qdisc_enqueued_total";
const DEQUEUED: &str = "inspector_qdisc_dequeued_total";
const SOJOURN: &str = "inspector_qdisc_sojourn_seconds";

/// The metrics of queueing disciplines.
#[derive(Debug)]
pub struct Queues {
    enqueued: Counter<Device>,
    dequeued: Counter<Device>,
    sojourn: Histogram,
}

/// An interface by its index, which is what the probe knows.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Device(u32);

impl inspector_sdk::labels::Labels for Device {
    fn values(&self) -> Vec<String> {
        vec![self.0.to_string()]
    }
}

/// Declares the metrics of queueing disciplines.
pub fn describe(description: Description) -> Description {
    let enqueued = MetricDecl::counter(
        ENQUEUED,
        "Packets that a device's queueing discipline took in, from tracepoint qdisc_enqueue.",
    );
    let dequeued = MetricDecl::counter(
        DEQUEUED,
        "Packets that a device's queueing discipline gave to the device, from tracepoint qdisc_dequeue.",
    );
    let sojourn = MetricDecl::histogram(
        SOJOURN,
        "Time of packets in queueing disciplines (qdisc_enqueue to qdisc_dequeue); of several that leave in \
         one call, of the first.",
        &buckets(),
    );
    description
        .probe::<Qdisc>()
        .metric(enqueued.labels(&["ifindex"]))
        .metric(dequeued.labels(&["ifindex"]))
        .metric(sojourn)
}

impl Queues {
    /// Their state; the metrics must be declared.
    ///
    /// # Errors
    /// A metric that is not declared.
    pub fn new() -> Result<Self, Error> {
        Ok(Self {
            enqueued: Counter::declared(ENQUEUED)?,
            dequeued: Counter::declared(DEQUEUED)?,
            sojourn: Histogram::declared(SOJOURN)?,
        })
    }

    /// Counts a sum.
    pub fn take(&mut self, sum: &Qdisc) {
        let (entity, device, n) = (sum.head.entity, Device(sum.ifindex), sum.count);
        if sum.op == OP_ENQUEUE {
            return self.enqueued.add(entity, device, n);
        }
        self.dequeued.add(entity, device, n);
        if sum.op == OP_DEQUEUE {
            self.sojourn.observe_times(entity, (), mean_seconds(n, sum.duration_ns), n);
        }
    }
}
