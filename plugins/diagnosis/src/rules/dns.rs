//! Names: servers that do not answer, answer late, or answer with an error.

use std::collections::BTreeMap;
use std::net::IpAddr;

use inspector_sdk::analyzer::Role;
use inspector_sdk::protocol::{DNS_PORT, UDP};
use inspector_sdk::{EntityId, Severity, Timestamp};

use crate::codes::Code;
use crate::confidence::Confidence;
use crate::evidence::Kind;
use crate::fact::{Amount, Flow, Key, What};
use crate::finding::Conclusion;
use crate::findings::Findings;
use crate::intake::SLOW_ANSWER_NS;
use crate::rules::Rule;
use crate::title::plural;
use crate::window::{Dropped, Window};

const NXDOMAIN: u8 = 3;
/// So many answers for each slow or missing one make it no fault.
const MANY: u64 = 10;
/// Names that do not exist, and nothing else, before a server is said to know none.
const SEVERAL: u64 = 3;
/// Who asks several servers at once takes the first answer; who turns to the next one for want of an
/// answer has waited longer than this.
const AT_ONCE_NS: u64 = 500_000_000;

/// The rules.
pub const RULES: &[Rule] = &[Rule::new("a DNS server", server)
    .finds(&[Code::DnsTimeout, Code::DnsSlow, Code::DnsError])
    .after(&[Code::FirewallDrop, Code::FirewallReject, Code::PortNotListening])];

/// What one client asked of one server.
#[derive(Debug, Default)]
struct Tally {
    queries: u64,
    answers: u64,
    unanswered: u64,
    /// Answers to some of these, after all.
    recovered: u64,
    /// Answers that found their port closed.
    late: u64,
    errors: BTreeMap<u8, u64>,
    absent: u64,
    slow: u64,
    slowest_ns: u64,
    first: Timestamp,
    last: Timestamp,
    flow: Option<Flow>,
}

/// The client and the server.
type Pair = (EntityId, IpAddr);
type Tallies = BTreeMap<Pair, Tally>;

impl Tally {
    fn observe(&mut self, flow: Flow, amount: &Amount) {
        self.flow.get_or_insert(flow);
        self.first = if self.first == 0 { amount.first } else { self.first.min(amount.first) };
        self.last = self.last.max(amount.last);
    }

    fn answered(&mut self, rcode: u8, amount: &Amount) {
        self.slowest_ns = self.slowest_ns.max(amount.most);
        match rcode {
            0 => {}
            NXDOMAIN => self.absent += amount.count,
            other => *self.errors.entry(other).or_default() += amount.count,
        }
    }

    fn amount(&self, count: u64) -> Amount {
        Amount { count, total: 0, least: 0, most: 0, first: self.first, last: self.last }
    }

    fn conclude(&self, code: Code, count: u64, title: String, pair: Pair) -> Conclusion {
        let (entity, server) = pair;
        let summary = format!("{} to {server}, {} answered", plural(self.queries, "query"), self.answers);
        Conclusion::new(code, entity, self.amount(count), title)
            .value("server", server)
            .because(Kind::Event, summary, self.last)
            .on(&self.flow.unwrap_or(Flow::NONE), Role::Symptom)
    }
}

fn tallies(window: &Window) -> Tallies {
    let mut servers = Tallies::new();
    let is_dns = |what: &What| matches!(what, What::DnsQuery | What::DnsUnanswered | What::DnsAnswer { .. });
    for (key, amount) in window.of(is_dns) {
        let tally = servers.entry((key.entity, key.flow.destination())).or_default();
        tally.observe(key.flow, amount);
        match key.what {
            What::DnsAnswer { rcode, matched, overdue, slow } => {
                tally.slow += if slow { amount.count } else { 0 };
                tally.answers += if matched { amount.count } else { 0 };
                tally.recovered += if overdue { amount.count } else { 0 };
                tally.answered(rcode, amount);
            }
            What::DnsUnanswered => tally.unanswered += amount.count,
            _ => tally.queries += amount.count,
        }
    }
    // An answer to a closed port: its client has given up.
    let is_answer = |drop: &&Dropped| drop.flow.proto == UDP && drop.flow.sport == DNS_PORT;
    for drop in window.dropped_for(&["NO_SOCKET"]).filter(is_answer) {
        let tally = servers.entry((drop.entity, drop.flow.source())).or_default();
        tally.late += drop.amount.count;
        tally.observe(drop.flow.back(), &drop.amount);
    }
    servers
}

fn server(window: &Window, findings: &mut Findings) {
    let servers = tallies(window);
    for (pair, tally) in &servers {
        if tally.late > 0 {
            findings.add(late(&servers, *pair, tally));
        } else {
            silent(window, findings, *pair, tally);
            slow(findings, *pair, tally);
        }
        refusing(findings, *pair, tally);
    }
}

fn late(servers: &Tallies, pair: Pair, tally: &Tally) -> Conclusion {
    let (client, server) = pair;
    let answers = plural(tally.late, "answer");
    let title = format!("DNS server {server} answers after its client has given up: {answers}");
    let found = tally
        .conclude(Code::DnsTimeout, tally.late, title, pair)
        .confidence(Confidence::Certain)
        .flows(tally.flow)
        .because(Kind::Event, "an answer found its port closed", tally.last);
    let mut others = servers.iter().filter(|((at, ip), _)| *at == client && *ip != server);
    let is_race = others
        .any(|(_, other)| other.first.abs_diff(tally.first) <= AT_ONCE_NS && other.answers >= tally.queries);
    if is_race {
        return found.severity(Severity::Info).text("another server that was asked at once was faster");
    }
    found
}

/// Each query has its own patience: that clients go on asking makes no silent server a good one.
/// What is known to stop them is the cause, and says that queries are what it stops. Answers that were
/// lost on the way to this analyzer may be those that are missing.
fn silent(window: &Window, findings: &mut Findings, pair: Pair, tally: &Tally) {
    let missing = tally.unanswered.saturating_sub(tally.recovered);
    let flow = tally.flow.unwrap_or(Flow::NONE);
    if missing == 0 || (tally.answers > 0 && missing <= window.lost_dns) {
        return;
    }
    let severity = match tally.answers {
        0 => Severity::Critical,
        // Resolvers ask again: of many queries a few get lost.
        answers => Severity::warning_if(missing.saturating_mul(MANY) >= answers),
    };
    let key = Key { entity: pair.0, what: What::DnsUnanswered, flow };
    let symptom = (&key, tally.amount(missing));
    let explained = window
        .behind(&flow)
        .iter()
        .filter(|flow| findings.attribute(flow, severity, symptom, window))
        .count();
    if explained > 0 {
        return;
    }
    let queries = plural(tally.queries.max(missing), "query");
    let title = format!("DNS server {} does not answer: {missing} of {queries}", pair.1);
    findings.add(tally.conclude(Code::DnsTimeout, missing, title, pair).severity(severity).flow(flow));
}

/// One name among many takes long to find, whichever server looks for it.
fn slow(findings: &mut Findings, pair: Pair, tally: &Tally) {
    if tally.slow == 0 {
        return;
    }
    let title = format!("DNS server {} is slow: up to {} ms", pair.1, tally.slowest_ns / 1_000_000);
    let (slow, limit) = (plural(tally.slow, "answer"), SLOW_ANSWER_NS / 1_000_000);
    let summary = format!("{slow} of {} took {limit} ms and more", tally.answers);
    let found = tally
        .conclude(Code::DnsSlow, tally.slow, title, pair)
        .severity(Severity::warning_if(tally.slow.saturating_mul(MANY) >= tally.answers))
        .because(Kind::Event, summary, tally.last);
    findings.add(found.flows(tally.flow));
}

/// A search list asks for names that do not exist; it is a finding only if nothing else is answered.
fn refusing(findings: &mut Findings, pair: Pair, tally: &Tally) {
    let server = pair.1;
    for (rcode, count) in &tally.errors {
        let times = plural(*count, "time");
        let title = format!("DNS server {server} answers {}: {times}", rcode_name(*rcode));
        findings.add(tally.conclude(Code::DnsError, *count, title, pair));
    }
    if tally.absent == tally.answers && tally.absent >= SEVERAL {
        let answers = plural(tally.absent, "answer");
        let title = format!("DNS server {server} knows none of the names: {answers}");
        let found = tally.conclude(Code::DnsError, tally.absent, title, pair);
        findings.add(found.severity(Severity::Info).confidence(Confidence::Likely));
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
