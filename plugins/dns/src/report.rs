//! Events: `client -> server name=… type=…`, and what was wrong.

use std::time::Duration;

use inspector_sdk::probes::Dns;
use inspector_sdk::{Event, Severity, Timestamp};

use crate::words::{self, qtype, rcode};

/// No answer for five seconds.
pub const TIMEOUT: &str = "DNS_TIMEOUT";
/// An answer that took long.
pub const SLOW: &str = "DNS_SLOW";
/// An answer that is an error.
pub const ERROR: &str = "DNS_ERROR";
/// An answer that came when nobody waited any more.
pub const LATE: &str = "DNS_LATE";

/// A query without an answer.
pub fn timeout(query: &Dns, now: Timestamp) -> Event {
    let waited = Duration::from_nanos(now.saturating_sub(query.head.ts_ns));
    event(TIMEOUT, query)
        .say("after", format_args!("{waited:.1?}"))
        .fact("tries", query.tries)
        .severity(Severity::Warning)
}

/// A slow answer.
pub fn slow(answer: &Dns) -> Event {
    with_latency(event(SLOW, answer), Duration::from_nanos(answer.latency_ns))
        .attr("rcode", rcode(answer.rcode))
        .severity(Severity::Warning)
}

/// An answer after the deadline, or to a closed socket.
pub fn late(dns: &Dns, after: Duration, why: &str) -> Event {
    let event = with_latency(event(LATE, dns), after).fact("why", why);
    // A client that closes early may have got what it needed from another server.
    event.severity(if why == "timeout" { Severity::Warning } else { Severity::Info })
}

/// An error; names that do not exist are the normal course of search lists.
pub fn error(answer: &Dns) -> Event {
    let is_nxdomain = answer.rcode == words::NXDOMAIN;
    let event = event(ERROR, answer).fact("rcode", rcode(answer.rcode)).attr("code", answer.rcode);
    let event = with_latency(event, Duration::from_nanos(answer.latency_ns));
    event.severity(if is_nxdomain { Severity::Info } else { Severity::Warning })
}

fn with_latency(event: Event, latency: Duration) -> Event {
    event.say("latency", format_args!("{latency:.1?}")).attr("latency_ns", latency.as_nanos())
}

fn event(kind: &str, dns: &Dns) -> Event {
    let name = dns.query_name();
    let head = &dns.head;
    let key = format!("{kind} {} {} {name} {} {}", head.entity, head.destination(), dns.qtype, dns.rcode);
    Event::new(kind, head.ts_ns)
        .flow(head)
        .fact("name", name)
        .fact("type", qtype(dns.qtype))
        .attr("id", dns.id)
        .dedup_key(key)
}
