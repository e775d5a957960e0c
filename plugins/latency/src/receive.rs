//! TCP segments on their way from a device to their socket.

use inspector_sdk::metrics::Histogram;
use inspector_sdk::probes::RxLatency;
use inspector_sdk::probes::rx_latency::KIND_SUM;
use inspector_sdk::probes::sum::mean_seconds;
use inspector_sdk::{Description, Error, Event, MetricDecl, Severity, Timestamp, tcp};

use crate::{Output, SLOW_NS, Total, VERY_SLOW_NS, buckets};

const LATENCY: &str = "inspector_receive_latency_seconds";
const SLOW: &str = "RXKERNEL_SLOW";

/// The histogram of segments on their way in.
#[derive(Debug)]
pub struct Receive {
    latency: Histogram,
}

/// Declares the metrics and events of segments on their way in.
pub fn describe(description: Description) -> Description {
    let latency = MetricDecl::histogram(
        LATENCY,
        "Time of TCP segments from the last device until their established connection processes them, \
         from tracepoints netif_receive_skb and tcp_probe.",
        &buckets(),
    );
    description
        .probe::<RxLatency>()
        .metric(latency)
        .event(SLOW, "A TCP segment took more than 10 ms from the device to its socket.")
}

impl Receive {
    /// Their state; the metrics must be declared.
    ///
    /// # Errors
    /// A metric that is not declared.
    pub fn new() -> Result<Self, Error> {
        Ok(Self { latency: Histogram::declared(LATENCY)? })
    }

    /// Counts a sum, or emits the event of a slow segment, which is in a sum as well.
    pub fn take(&mut self, segment: &RxLatency, now: Timestamp, output: &mut Output) {
        let (entity, n) = (segment.head.entity, segment.count);
        if segment.head.kind != KIND_SUM {
            return output.events.emit(entity, SLOW, now, || event(segment));
        }
        output.count(entity, Total::RxOver10, segment.bucket, SLOW_NS, n);
        output.count(entity, Total::RxOver100, segment.bucket, VERY_SLOW_NS, n);
        self.latency.observe_times(entity, (), mean_seconds(n, segment.duration_ns), n);
    }
}

fn event(segment: &RxLatency) -> Event {
    let event = Event::new(SLOW, segment.head.ts_ns).flow(&segment.head);
    let key = format!("{SLOW} {} {}", segment.head.entity, event.message);
    event
        .severity(Severity::Warning)
        .say("state", tcp::state(segment.head.tcp_state))
        .duration_ns(segment.duration_ns)
        .fact("length", segment.length)
        .dedup_key(key)
}
