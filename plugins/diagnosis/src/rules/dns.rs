//! Names: servers that do not answer, answer late, or answer with an error.

use std::collections::BTreeMap;
use std::net::IpAddr;

use inspector_sdk::{EntityId, Timestamp};

use crate::fact::{Flow, What};
use crate::finding::{CRITICAL, Conclusion, Findings, INFO, WARNING, plural};
use crate::rules::Rule;
use crate::view::View;

const UDP: u8 = 17;
const PORT: u16 = 53;
/// A resolver waits 5 s; a query without an answer for this long is told.
const PATIENCE_NS: u64 = 1_000_000_000;
/// An answer that takes this long is slow: a resolver in the same data centre takes a few
/// milliseconds, a recursive one seldom more than this.
const SLOW_NS: u64 = 200_000_000;
const NXDOMAIN: u8 = 3;
/// Who asks several servers at once takes the first answer; who turns to the next one for want of an
/// answer has waited longer than this.
const AT_ONCE_NS: u64 = 500_000_000;

/// The rules.
pub const RULES: &[Rule] = &[Rule { name: "a DNS server", judge: server }];

#[derive(Debug, Default)]
struct Tally {
    queries: u64,
    first: Timestamp,
    last_query: Timestamp,
    last: Timestamp,
    answers: u64,
    unmatched: u64,
    errors: BTreeMap<u8, u64>,
    absent: u64,
    slowest_ns: u64,
    late: u64,
    flow: Option<Flow>,
}

fn server(view: &View, findings: &mut Findings) {
    let mut servers: BTreeMap<(EntityId, IpAddr), Tally> = BTreeMap::new();
    for (key, amount) in view.of(|what| matches!(what, What::DnsQuery | What::DnsAnswer { .. })) {
        let tally = servers.entry((key.entity, key.flow.destination())).or_default();
        tally.flow = Some(key.flow);
        tally.first = if tally.first == 0 { amount.first } else { tally.first.min(amount.first) };
        tally.last = tally.last.max(amount.last);
        match key.what {
            What::DnsAnswer { rcode, matched } => {
                tally.answers += if matched { amount.count } else { 0 };
                tally.unmatched += if matched { 0 } else { amount.count };
                tally.slowest_ns = tally.slowest_ns.max(amount.most);
                match rcode {
                    0 => {}
                    NXDOMAIN => tally.absent += amount.count,
                    other => *tally.errors.entry(other).or_default() += amount.count,
                }
            }
            _ => {
                tally.queries += amount.count;
                tally.last_query = amount.last;
            }
        }
    }
    // An answer to a closed port: its client has given up.
    for d in view.drops.iter().filter(|d| d.is(&["NO_SOCKET"]) && d.flow.proto == UDP && d.flow.sport == PORT)
    {
        let tally = servers.entry((d.entity, d.flow.source())).or_default();
        tally.late += d.amount.count;
        tally.last = tally.last.max(d.amount.last);
        tally.first = if tally.first == 0 { d.amount.first } else { tally.first };
        tally.flow.get_or_insert(d.flow.back());
    }
    for ((entity, server), tally) in &servers {
        let mut others = servers.iter().filter(|((at, ip), _)| at == entity && ip != server);
        let is_race = others.any(|(_, other)| {
            other.first.abs_diff(tally.first) <= AT_ONCE_NS && other.answers >= tally.queries
        });
        judge_one(view, findings, *entity, *server, tally, is_race);
    }
}

fn judge_one(
    view: &View,
    findings: &mut Findings,
    entity: EntityId,
    server: IpAddr,
    tally: &Tally,
    is_race: bool,
) {
    let flow = tally.flow.unwrap_or(Flow::NONE);
    let amount = |count: u64| crate::fact::Amount {
        count,
        total: 0,
        least: 0,
        most: 0,
        first: tally.first,
        last: tally.last,
    };
    let is_over = view.now.saturating_sub(tally.last_query) >= PATIENCE_NS;
    let missing = tally.queries.saturating_sub(tally.answers + tally.unmatched);
    let evidence = |found: Conclusion| {
        found
            .because(
                "event",
                format!("{} to {server}, {} answered", plural(tally.queries, "query"), tally.answers),
                tally.last,
            )
            .with("flow", flow.canonical())
            .with("role", "symptom")
    };
    let explained = findings.explain(&flow);
    if tally.late > 0 {
        let title = format!(
            "DNS server {server} answers after its client has given up: {}",
            plural(tally.late, "answer")
        );
        let found = evidence(
            Conclusion::new("dns-timeout", entity, amount(tally.late), title).confidence(92).flow(flow),
        );
        let found = found.because("event", "an answer found its port closed", tally.last);
        findings.add(if is_race {
            found.severity(INFO).because("text", "another server that was asked at once was faster", 0)
        } else {
            found
        });
    } else if missing > 0 && is_over && !explained {
        let title =
            format!("DNS server {server} does not answer: {} of {}", missing, plural(tally.queries, "query"));
        let severity = if tally.answers == 0 { CRITICAL } else { WARNING };
        let found = Conclusion::new("dns-timeout", entity, amount(missing), title)
            .severity(severity)
            .confidence(88)
            .flow(flow);
        findings.add(evidence(found));
    }
    if tally.slowest_ns >= SLOW_NS && tally.late == 0 {
        let title = format!("DNS server {server} is slow: up to {} ms", tally.slowest_ns / 1_000_000);
        findings.add(evidence(
            Conclusion::new("dns-slow", entity, amount(tally.answers), title).confidence(85).flow(flow),
        ));
    }
    for (rcode, count) in &tally.errors {
        let title = format!("DNS server {server} answers {}: {}", rcode_name(*rcode), plural(*count, "time"));
        findings.add(evidence(Conclusion::new("dns-error", entity, amount(*count), title).confidence(90)));
    }
    // A search list asks for names that do not exist; only if nothing else is answered it is told.
    if tally.absent > 0 && tally.absent == tally.answers && tally.absent >= 3 {
        let title =
            format!("DNS server {server} knows none of the names: {}", plural(tally.absent, "answer"));
        findings.add(evidence(
            Conclusion::new("dns-error", entity, amount(tally.absent), title).severity(INFO).confidence(75),
        ));
    }
}

fn rcode_name(rcode: u8) -> String {
    let name = match rcode {
        1 => "FORMERR",
        2 => "SERVFAIL",
        4 => "NOTIMP",
        5 => "REFUSED",
        9 => "NOTAUTH",
        other => return format!("rcode {other}"),
    };
    name.to_owned()
}
