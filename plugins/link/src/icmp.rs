//! ICMP errors that this node sends: what it refuses, and whom it tells.

use inspector_sdk::budget::Shown;
use inspector_sdk::metrics::Counter;
use inspector_sdk::probes::Icmp;
use inspector_sdk::probes::icmp::KIND_ICMP;
use inspector_sdk::{Description, Error, Event, MetricDecl, Severity, Timestamp};

const SENT: &str = "inspector_icmp_errors_sent_total";
const ICMP_SENT: &str = "ICMP_SENT";

/// The metrics of ICMP errors.
#[derive(Debug)]
pub struct Errors {
    sent: Counter<[&'static str; 2]>,
}

/// Declares what is told of ICMP errors.
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

    /// Counts and shows one.
    pub fn take(&mut self, error: &Icmp, now: Timestamp, shown: &mut Shown) {
        let entity = error.head.entity;
        self.sent.add(entity, [protocol(error), meaning(error)], 1);
        shown.emit(entity, ICMP_SENT, now, || event(error));
    }
}

fn protocol(error: &Icmp) -> &'static str {
    if error.head.kind == KIND_ICMP { "icmp" } else { "icmpv6" }
}

/// The addresses are those of the packet that it is about.
fn event(error: &Icmp) -> Event {
    let head = &error.head;
    let event = Event::new(ICMP_SENT, head.ts_ns).flow(head);
    let key = format!("{ICMP_SENT} {} {} {}", head.entity, event.message, meaning(error));
    // A router that is told to fragment, or a traceroute, is the normal course of things.
    let is_normal = matches!(meaning(error), "port-unreachable" | "ttl-exceeded" | "redirect");
    event
        .fact("error", meaning(error))
        .attr("icmp", protocol(error))
        .attr("type", error.icmp_type)
        .attr("code", error.code)
        .attr("ifindex", error.ifindex)
        .severity(if is_normal { Severity::Info } else { Severity::Warning })
        .dedup_key(key)
}

/// What type and code mean (RFC 792, 1812, 4443), in one word.
fn meaning(error: &Icmp) -> &'static str {
    match (error.head.kind == KIND_ICMP, error.icmp_type, error.code) {
        (true, 3, 0) => "net-unreachable",
        (true, 3, 1) => "host-unreachable",
        (true, 3, 2) => "protocol-unreachable",
        (true, 3, 3) | (false, 1, 4) => "port-unreachable",
        (true, 3, 4) | (false, 2, _) => "packet-too-big",
        (true, 3, 9 | 10 | 13) | (false, 1, 1) => "prohibited",
        (true, 3, _) | (false, 1, _) => unreachable(error),
        (true, 5, _) => "redirect",
        (true, 11, 0) | (false, 3, 0) => "ttl-exceeded",
        (true, 11, _) | (false, 3, _) => "reassembly-timeout",
        (true, 12, _) | (false, 4, _) => "parameter-problem",
        _ => "other",
    }
}

/// The rarer codes of "destination unreachable".
fn unreachable(error: &Icmp) -> &'static str {
    match (error.head.kind == KIND_ICMP, error.code) {
        (false, 0) => "net-unreachable",
        (false, 3) => "host-unreachable",
        (false, 5) => "source-refused",
        (false, 6) => "route-rejects",
        _ => "unreachable",
    }
}
