//! Reads that come late and sends that block.
//!
//! Counts come from the sums that the probe delivers once a second, and events from the records of
//! those above 100 ms, which are among the sums and not counted again.

use std::time::Duration;

use inspector_sdk::analyzer::is_granted;
use inspector_sdk::budget::EventLimit;
use inspector_sdk::metrics::Histogram;
use inspector_sdk::probes::SocketLatency;
use inspector_sdk::probes::socket_latency::{KIND_READ, KIND_READS, KIND_SEND, KIND_SENDS};
use inspector_sdk::probes::sum::is_above;
use inspector_sdk::totals::Totals;
use inspector_sdk::{Description, EntityId, Error, Event, InitArgs, MetricDecl, Severity, Timestamp};

const READSLOW: &str = "SOCKETLAT_READSLOW";
const SENDSLOW: &str = "SOCKETLAT_SENDSLOW";

const READ_SECONDS: &str = "inspector_socket_read_seconds";
const SEND_SECONDS: &str = "inspector_socket_send_seconds";

/// Bounds of the probe's own buckets, so that its sums fall into these exactly.
const BUCKETS: &[f64] = &[0.00001, 0.00005, 0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0];

const MS: u64 = 1_000_000;

/// A metric of the contract: name, kind of sum, and bound.
struct Total {
    metric: &'static str,
    kind: u16,
    above_ns: u64,
    help: &'static str,
}

/// The metrics of the contract.
const TOTALS: [Total; 4] = [
    Total {
        metric: "inspector_pod_socketlatencyread1ms",
        kind: KIND_READS,
        above_ns: MS,
        help: "Reads of data that had waited over 1 ms, from tracepoints sock:sk_data_ready and sock_recv_length.",
    },
    Total {
        metric: "inspector_pod_socketlatencyread100ms",
        kind: KIND_READS,
        above_ns: 100 * MS,
        help: "Reads of data that had waited over 100 ms, from tracepoints sock:sk_data_ready and \
               sock_recv_length.",
    },
    Total {
        metric: "inspector_pod_socketlatencywrite1ms",
        kind: KIND_SENDS,
        above_ns: MS,
        help: "TCP sends that blocked over 1 ms, from tracepoints tcp:tcp_sendmsg_locked and \
               sock:sock_send_length.",
    },
    Total {
        metric: "inspector_pod_socketlatencywrite100ms",
        kind: KIND_SENDS,
        above_ns: 100 * MS,
        help: "TCP sends that blocked over 100 ms, from tracepoints tcp:tcp_sendmsg_locked and \
               sock:sock_send_length.",
    },
];

/// The metrics of reads and sends.
#[derive(Debug)]
pub struct Latencies {
    read_seconds: Histogram,
    send_seconds: Histogram,
    totals: Totals<{ TOTALS.len() }>,
}

/// Declares the metrics and events of reads and sends.
pub fn describe(description: Description) -> Description {
    let description = description
        .probe::<SocketLatency>()
        .metric(MetricDecl::histogram(
            READ_SECONDS,
            "Time that data waited in a socket until it was read (sock:sk_data_ready, sock_recv_length).",
            BUCKETS,
        ))
        .metric(MetricDecl::histogram(
            SEND_SECONDS,
            "Time that TCP sends took, full buffers included (tcp:tcp_sendmsg_locked, sock:sock_send_length).",
            BUCKETS,
        ))
        .event(READSLOW, "Data waited over 100 ms in a socket until the application read it.")
        .event(SENDSLOW, "A TCP send blocked over 100 ms: the peer does not take the data.");
    TOTALS.iter().fold(description, |d, total| d.metric(MetricDecl::unknown(total.metric, total.help)))
}

impl Latencies {
    /// Their state; the metrics must be declared. Totals are not shown where their probe is missing.
    ///
    /// # Errors
    /// A metric that is not declared.
    pub fn new(args: &InitArgs) -> Result<Self, Error> {
        let mut totals = Totals::declared(TOTALS.map(|total| total.metric))?;
        if !is_granted::<SocketLatency>(args) {
            totals.hide(0..TOTALS.len());
        }
        Ok(Self {
            read_seconds: Histogram::declared(READ_SECONDS)?,
            send_seconds: Histogram::declared(SEND_SECONDS)?,
            totals,
        })
    }

    /// Counts a sum, or emits the event of a slow one.
    pub fn take(&mut self, one: &SocketLatency, now: Timestamp, events: &mut EventLimit) {
        let entity = one.head.entity;
        match one.head.kind {
            KIND_READS => {
                observe(&mut self.read_seconds, one);
                self.add(one);
            }
            KIND_SENDS => {
                observe(&mut self.send_seconds, one);
                self.add(one);
            }
            KIND_READ => events.emit(entity, READSLOW, now, || event(READSLOW, one)),
            KIND_SEND => events.emit(entity, SENDSLOW, now, || event(SENDSLOW, one)),
            // A kind that a newer probe has and this analyzer does not know.
            _ => {}
        }
    }

    fn add(&mut self, sum: &SocketLatency) {
        for (which, total) in TOTALS.iter().enumerate() {
            if total.kind == sum.head.kind && is_above(sum.bucket, total.above_ns) {
                self.totals.add(sum.head.entity, which, sum.count);
            }
        }
    }

    /// Publishes the totals that changed.
    pub fn publish(&mut self) {
        self.totals.publish();
    }

    /// A total that starts at 0 lets `rate()` see the first slow one.
    pub fn start(&mut self, entities: &[EntityId]) {
        self.totals.start(entities);
        self.publish();
    }

    /// Forgets entities that vanished.
    pub fn forget(&mut self, entities: &[EntityId]) {
        self.totals.forget(entities);
    }

    /// The totals as bytes.
    pub fn save(&self) -> Vec<u8> {
        self.totals.save()
    }

    /// Takes over totals of [`Latencies::save`].
    ///
    /// # Errors
    /// Bytes that are none.
    pub fn restore(&mut self, state: &[u8]) -> Result<(), Error> {
        self.totals.restore(state)?;
        self.publish();
        Ok(())
    }
}

fn observe(seconds: &mut Histogram, sum: &SocketLatency) {
    if sum.count > 0 {
        let mean = sum.latency_ns as f64 / sum.count as f64;
        seconds.observe_times(sum.head.entity, (), mean / 1e9, sum.count);
    }
}

/// A slow one, with whose it was.
fn event(kind: &str, one: &SocketLatency) -> Event {
    let event = Event::new(kind, one.head.ts_ns).flow(&one.head);
    let key = format!("{kind} {} {}", one.head.entity, event.message);
    event
        .say("latency", format_args!("{:.1?}", Duration::from_nanos(one.latency_ns)))
        .attr("latency_ns", one.latency_ns)
        .fact("process", one.thread_name())
        .fact("pid", one.pid)
        .attr("bytes", one.bytes)
        .attr("left", one.left)
        .severity(Severity::Warning)
        .dedup_key(key)
}
