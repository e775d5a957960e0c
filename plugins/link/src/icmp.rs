//! ICMP errors that this node sends: what it refuses, and whom it tells.

use inspector_sdk::budget::EventLimit;
use inspector_sdk::icmp::{IcmpError, Meaning};
use inspector_sdk::metrics::Counter;
use inspector_sdk::probes::Icmp;
use inspector_sdk::{Description, Error, Event, MetricDecl, Severity, Timestamp};

const SENT: &str = "inspector_icmp_errors_sent_total";
const ICMP_SENT: &str = "ICMP_SENT";

/// The metrics of ICMP errors.
#[derive(Debug)]
pub struct Errors {
    sent: Counter<[&'static str; 2]>,
}

/// Declares the metrics and events of ICMP errors.
pub fn describe(description: Description) -> Description {
    let sent = MetricDecl::counter(
        SENT,
        "ICMP errors that this node sent, from tracepoint icmp:icmp_send (IPv4) and the kernel's own \
         sending socket (IPv6), by protocol and meaning.",
    );
    description
        .probe::<Icmp>()
        .metric(sent.labels(&["protocol", "error"]))
        .event(ICMP_SENT, "This node answered a packet with an ICMP error.")
}

impl Errors {
    /// Their state; the metric must be declared.
    ///
    /// # Errors
    /// A metric that is not declared.
    pub fn new() -> Result<Self, Error> {
        Ok(Self { sent: Counter::declared(SENT)? })
    }

    /// Counts one and emits its event.
    pub fn take(&mut self, error: &Icmp, now: Timestamp, events: &mut EventLimit) {
        let entity = error.head.entity;
        self.sent.add(entity, [protocol(error), IcmpError::of(error).meaning().as_str()], 1);
        events.emit(entity, ICMP_SENT, now, || event(error));
    }
}

fn protocol(error: &Icmp) -> &'static str {
    if IcmpError::of(error).is_v6 { "icmpv6" } else { "icmp" }
}

/// The addresses are those of the packet that it is about.
fn event(error: &Icmp) -> Event {
    let (head, meaning) = (&error.head, IcmpError::of(error).meaning());
    let event = Event::new(ICMP_SENT, head.ts_ns).flow(head);
    let key = format!("{ICMP_SENT} {} {} {}", head.entity, event.message, meaning.as_str());
    // A router that is told to fragment, or a traceroute, is the normal course of things.
    let is_normal = matches!(meaning, Meaning::PortUnreachable | Meaning::HopsExceeded | Meaning::Redirect);
    event
        .fact("error", meaning.as_str())
        .attr("icmp", protocol(error))
        .attr("type", error.icmp_type)
        .attr("code", error.code)
        .attr("ifindex", error.ifindex)
        .severity(Severity::warning_if(!is_normal))
        .dedup_key(key)
}
