//! The life of connections: opened, accepted, failed, closed.
//!
//! Sums of bytes and histograms cover connections when they end; one that lives on is not in them.

use std::time::Duration;

use inspector_sdk::budget::EventLimit;
use inspector_sdk::labels::Labels;
use inspector_sdk::metrics::{Counter, Histogram};
use inspector_sdk::probes::TcpState;
use inspector_sdk::probes::tcp_state::{KIND_ACCEPTED, KIND_CLOSED, KIND_CONNECTED, KIND_FAILED};
use inspector_sdk::{Description, Error, Event, MetricDecl, Severity, Timestamp, errno};

const OPENED: &str = "inspector_tcp_connections_opened_total";
const ACCEPTED: &str = "inspector_tcp_connections_accepted_total";
const CLOSED: &str = "inspector_tcp_connections_closed_total";
const FAILURES: &str = "inspector_tcp_connect_failures_total";
const CONNECT_SECONDS: &str = "inspector_tcp_connect_seconds";
const CONNECTION_SECONDS: &str = "inspector_tcp_connection_seconds";
const SRTT_SECONDS: &str = "inspector_tcp_srtt_seconds";
const RETRANSMITS: &str = "inspector_tcp_connection_retransmits";
const SENT_BYTES: &str = "inspector_tcp_sent_bytes_total";
const RECEIVED_BYTES: &str = "inspector_tcp_received_bytes_total";

const CONNECT_FAILED: &str = "TCPCONNECT_FAILED";

/// Up to a second as usual; then where SYNs are sent again: after 1, 3, 7, 15 and 31 seconds.
const CONNECT_BUCKETS: &[f64] =
    &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 3.0, 7.0, 15.0, 31.0];
const LIFETIME_BUCKETS: &[f64] =
    &[0.001, 0.01, 0.1, 1.0, 10.0, 60.0, 300.0, 1_800.0, 3_600.0, 21_600.0, 86_400.0];
const SRTT_BUCKETS: &[f64] =
    &[0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0];
const RETRANSMIT_BUCKETS: &[f64] = &[0.0, 1.0, 2.0, 5.0, 10.0, 50.0, 200.0];

/// The metrics of connections.
#[derive(Debug)]
pub struct Connections {
    opened: Counter,
    accepted: Counter,
    closed: Counter,
    failures: Counter<Errno>,
    connect_seconds: Histogram,
    connection_seconds: Histogram,
    srtt_seconds: Histogram,
    retransmits: Histogram,
    sent_bytes: Counter,
    received_bytes: Counter,
}

/// Why a connect failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Errno(u32);

impl Labels for Errno {
    fn values(&self) -> Vec<String> {
        vec![self.name()]
    }
}

/// Declares the metrics and events of connections.
pub fn describe(description: Description) -> Description {
    let counter = MetricDecl::counter;
    let histogram = MetricDecl::histogram;
    let failures = counter(
        FAILURES,
        "Connects that failed, from tracepoint sock:inet_sock_set_state, by error; ABORTED if the \
         application gave up first.",
    );
    description
        .probe::<TcpState>()
        .metric(counter(OPENED, "TCP connections opened from here (sock:inet_sock_set_state)."))
        .metric(counter(ACCEPTED, "TCP connections accepted here (sock:inet_sock_set_state)."))
        .metric(counter(CLOSED, "Established TCP connections that ended (sock:inet_sock_set_state)."))
        .metric(failures.labels(&["error"]))
        .metric(histogram(CONNECT_SECONDS, "Time from SYN to established.", CONNECT_BUCKETS))
        .metric(histogram(CONNECTION_SECONDS, "Lifetime of connections that ended.", LIFETIME_BUCKETS))
        .metric(histogram(
            SRTT_SECONDS,
            "Smoothed round-trip time of connections at their end.",
            SRTT_BUCKETS,
        ))
        .metric(histogram(RETRANSMITS, "Segments sent again in a connection's life.", RETRANSMIT_BUCKETS))
        .metric(counter(SENT_BYTES, "Bytes that peers acknowledged, over connections that ended."))
        .metric(counter(RECEIVED_BYTES, "Bytes received, over connections that ended."))
        .event(CONNECT_FAILED, "A connection could not be opened.")
}

impl Connections {
    /// Their state; the metrics must be declared.
    ///
    /// # Errors
    /// A metric that is not declared.
    pub fn new() -> Result<Self, Error> {
        Ok(Self {
            opened: Counter::declared(OPENED)?,
            accepted: Counter::declared(ACCEPTED)?,
            closed: Counter::declared(CLOSED)?,
            failures: Counter::declared(FAILURES)?,
            connect_seconds: Histogram::declared(CONNECT_SECONDS)?,
            connection_seconds: Histogram::declared(CONNECTION_SECONDS)?,
            srtt_seconds: Histogram::declared(SRTT_SECONDS)?,
            retransmits: Histogram::declared(RETRANSMITS)?,
            sent_bytes: Counter::declared(SENT_BYTES)?,
            received_bytes: Counter::declared(RECEIVED_BYTES)?,
        })
    }

    /// Counts one transition of a connection, and emits an event if it is a failure.
    pub fn take(&mut self, state: &TcpState, now: Timestamp, events: &mut EventLimit) {
        let entity = state.head.entity;
        match state.head.kind {
            KIND_CONNECTED => {
                self.opened.add(entity, (), 1);
                observe_time(&mut self.connect_seconds, state);
            }
            KIND_ACCEPTED => self.accepted.add(entity, (), 1),
            KIND_CLOSED => self.closed(state),
            KIND_FAILED => {
                self.failures.add(entity, Errno(state.error), 1);
                events.emit(entity, CONNECT_FAILED, now, || failed(state));
            }
            // A kind that a newer probe has and this analyzer does not know.
            _ => {}
        }
    }

    fn closed(&mut self, state: &TcpState) {
        let entity = state.head.entity;
        self.closed.add(entity, (), 1);
        self.sent_bytes.add(entity, (), state.bytes_sent);
        self.received_bytes.add(entity, (), state.bytes_received);
        self.retransmits.observe(entity, (), f64::from(state.retransmits));
        observe_time(&mut self.connection_seconds, state);
        if state.srtt_us > 0 {
            self.srtt_seconds.observe(entity, (), f64::from(state.srtt_us) / 1e6);
        }
    }
}

/// Observes a duration, unless its start was not seen.
fn observe_time(seconds: &mut Histogram, state: &TcpState) {
    if state.duration_ns > 0 {
        seconds.observe(state.head.entity, (), Duration::from_nanos(state.duration_ns).as_secs_f64());
    }
}

fn failed(state: &TcpState) -> Event {
    let head = &state.head;
    let event = Event::new(CONNECT_FAILED, head.ts_ns).flow(head);
    let key = format!("{CONNECT_FAILED} {} {} {}", head.entity, head.destination(), head.dport);
    event
        .fact("error", Errno(state.error).name())
        .say("after", format_args!("{:.1?}", Duration::from_nanos(state.duration_ns)))
        .attr("duration_ns", state.duration_ns)
        .severity(Severity::warning_if(state.error != 0))
        .dedup_key(key)
}

impl Errno {
    /// Its name in errno.h.
    fn name(self) -> String {
        if self.0 == 0 { "ABORTED".to_owned() } else { errno::name(self.0) }
    }
}
