//! DNS as this node's clients see it: how long answers take, what they say, and those that never
//! come or come too late.
//!
//! - [`words`]: names of response codes and record types.
//! - [`waiting`]: queries without an answer, and their deadline.
//! - [`report`]: the wording of events.
//!
//! Everything is counted. Events are limited per entity; the rest is reported as a number.

mod report;
mod waiting;
mod words;

use std::time::Duration;

use inspector_sdk::budget::EventLimit;
use inspector_sdk::metrics::{Counter, Histogram};
use inspector_sdk::probes::dns::{KIND_ANSWER, KIND_QUERY};
use inspector_sdk::probes::{Dns, Record as _, SkbDrop};
use inspector_sdk::protocol::{DNS_PORT, UDP};
use inspector_sdk::{Analyzer, Batch, Description, EntityId, Error, InitArgs, MetricDecl, Timestamp, kernel};

use crate::waiting::{Closed, Waiting};
use crate::words::{qtype, rcode, transport};

const QUERIES: &str = "inspector_dns_queries_total";
const RETRIES: &str = "inspector_dns_retries_total";
const ANSWERS: &str = "inspector_dns_answers_total";
const LATENCY: &str = "inspector_dns_latency_seconds";
const TIMEOUTS: &str = "inspector_dns_timeouts_total";
const LATE: &str = "inspector_dns_late_answers_total";
const UNJUDGED: &str = "inspector_dns_unjudged_queries_total";

/// A cache on the node answers below a millisecond; resolvers ask again after 5 seconds.
const BUCKETS: &[f64] =
    &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// As long as resolvers wait (`options timeout:5` of resolv.conf), and as the probe takes a query
/// that is sent again for the same.
const DEADLINE: Duration = Duration::from_secs(5);
/// Slower is worth an event: a page that needs ten names one after the other takes five seconds.
const SLOW: Duration = Duration::from_millis(500);

/// Events, per entity and second; names that do not exist have a limit of their own, because search
/// lists make them by the thousand.
const DETAILS: u32 = 100;

/// The analyzer.
#[derive(Debug)]
pub struct DnsAnalyzer {
    queries: Counter<[&'static str; 2]>,
    retries: Counter,
    answers: Counter<[&'static str; 2]>,
    latency: Histogram,
    timeouts: Counter,
    late: Counter<&'static str>,
    unjudged: Counter,
    waiting: Waiting,
    events: EventLimit,
    nxdomain_events: EventLimit,
}

inspector_sdk::export!(DnsAnalyzer with ticker, entity_watch);

impl Analyzer for DnsAnalyzer {
    fn describe() -> Description {
        let counter = MetricDecl::counter;
        let description = Description::new(
            "dns",
            env!("CARGO_PKG_VERSION"),
            "DNS latency and response codes, answers that never come or come too late",
        );
        description
            .tick_every(Duration::from_secs(1))
            .probe::<Dns>()
            .probe::<SkbDrop>()
            .only("sport", "eq", DNS_PORT.into())
            .only("proto", "eq", UDP.into())
            .metric(
                counter(QUERIES, "DNS queries sent by clients here (cgroup_skb), by record type and transport.")
                    .labels(&["qtype", "transport"]),
            )
            .metric(counter(RETRIES, "DNS queries that were sent again within five seconds (cgroup_skb)."))
            .metric(
                counter(
                    ANSWERS,
                    "DNS answers that clients here received (cgroup_skb), by response code and record type.",
                )
                .labels(&["rcode", "qtype"]),
            )
            .metric(MetricDecl::histogram(LATENCY, "Time from a DNS query to its answer (cgroup_skb).", BUCKETS))
            .metric(counter(TIMEOUTS, "DNS queries without an answer for five seconds (cgroup_skb)."))
            .metric(
                counter(
                    LATE,
                    "DNS answers that came too late, by why: timeout (after five seconds) or closed (the \
                     client had closed its socket; skb:kfree_skb).",
                )
                .labels(&["why"]),
            )
            .metric(counter(
                UNJUDGED,
                "DNS queries of which it is not known whether an answer came: events were lost, or too many wait.",
            ))
            .event(report::TIMEOUT, "A DNS query had no answer for five seconds.")
            .event(report::SLOW, "A DNS answer took half a second or more.")
            .event(report::ERROR, "A DNS answer was an error.")
            .event(report::LATE, "A DNS answer came too late: after five seconds, or to a socket that was closed.")
    }

    fn init(_: &InitArgs) -> Result<Self, Error> {
        Ok(Self {
            queries: Counter::declared(QUERIES)?,
            retries: Counter::declared(RETRIES)?,
            answers: Counter::declared(ANSWERS)?,
            latency: Histogram::declared(LATENCY)?,
            timeouts: Counter::declared(TIMEOUTS)?,
            late: Counter::declared(LATE)?,
            unjudged: Counter::declared(UNJUDGED)?,
            waiting: Waiting::default(),
            events: EventLimit::per_second(DETAILS),
            nxdomain_events: EventLimit::per_second(DETAILS),
        })
    }

    fn on_batch(&mut self, batch: &Batch<'_>) -> Result<(), Error> {
        for dns in batch.events::<Dns>() {
            match dns.head.kind {
                KIND_QUERY => self.query(dns, batch.now),
                KIND_ANSWER => self.answer(dns, batch.now),
                // A kind that a newer probe has and this analyzer does not know.
                _ => {}
            }
        }
        if batch.probe == Dns::PROBE && batch.lost > 0 {
            // Answers may be among what was lost: nothing can be called a timeout.
            let unjudged = self.waiting.clear();
            unjudged.into_iter().for_each(|entity| self.unjudged.add(entity, (), 1));
        }
        for drop in batch.events::<SkbDrop>() {
            if *kernel::drop_reason(drop.reason) == *"NO_SOCKET" {
                self.dropped(drop, batch.now);
            }
        }
        Ok(())
    }

    fn tick(&mut self, now: Timestamp) {
        for query in self.waiting.overdue(now) {
            self.timed_out(&query, now);
        }
        self.events.tick(now);
        self.nxdomain_events.tick(now);
    }

    fn removed(&mut self, ids: &[EntityId]) {
        self.waiting.forget(ids);
        self.events.forget(ids);
        self.nxdomain_events.forget(ids);
    }
}

impl DnsAnalyzer {
    fn query(&mut self, dns: &Dns, now: Timestamp) {
        let entity = dns.head.entity;
        self.queries.add(entity, [qtype(dns.qtype), transport(dns.head.proto)], 1);
        if dns.tries > 1 {
            self.retries.add(entity, (), 1);
        }
        match self.waiting.ask(dns) {
            Ok(None) => {}
            Ok(Some(overdue)) => self.timed_out(&overdue, now),
            Err(waiting::Full) => self.unjudged.add(entity, (), 1),
        }
    }

    fn answer(&mut self, dns: &Dns, now: Timestamp) {
        let entity = dns.head.entity;
        self.waiting.answered(dns);
        self.answers.add(entity, [rcode(dns.rcode), qtype(dns.qtype)], 1);
        let latency = Duration::from_nanos(dns.latency_ns);
        if dns.matched != 0 {
            self.latency.observe(entity, (), latency.as_secs_f64());
        }
        if latency >= DEADLINE {
            self.late.add(entity, "timeout", 1);
            self.events.emit(entity, report::LATE, now, || report::late(dns, latency, "timeout"));
        } else if latency >= SLOW {
            self.events.emit(entity, report::SLOW, now, || report::slow(dns));
        }
        if dns.rcode != words::NOERROR {
            let is_nxdomain = dns.rcode == words::NXDOMAIN;
            let events = if is_nxdomain { &mut self.nxdomain_events } else { &mut self.events };
            events.emit(entity, report::ERROR, now, || report::error(dns));
        }
    }

    fn timed_out(&mut self, query: &Dns, now: Timestamp) {
        let entity = query.head.entity;
        self.timeouts.add(entity, (), 1);
        self.events.emit(entity, report::TIMEOUT, now, || report::timeout(query, now));
    }

    /// An answer for which there was no socket any more.
    fn dropped(&mut self, drop: &SkbDrop, now: Timestamp) {
        let Some(Closed { query, after }) = self.waiting.closed(drop) else { return };
        let entity = query.head.entity;
        self.late.add(entity, "closed", 1);
        self.events.emit(entity, report::LATE, now, || report::late(&query, after, "closed"));
    }
}
