//! Names: servers that do not answer, answer late, or answer with an error.

use std::collections::BTreeMap;
use std::net::IpAddr;

use inspector_sdk::{EntityId, Timestamp};

use crate::fact::{Amount, Flow, Key, What};
use crate::finding::{CRITICAL, Conclusion, Findings, INFO, WARNING, plural};
use crate::intake::SLOW_ANSWER_NS;
use crate::rules::Rule;
use crate::view::View;

const UDP: u8 = 17;
const PORT: u16 = 53;
const NXDOMAIN: u8 = 3;
/// So many answers for each slow one make a remark of it.
const MANY: u64 = 10;
/// Who asks several servers at once takes the first answer; who turns to the next one for want of an
/// answer has waited longer than this.
const AT_ONCE_NS: u64 = 500_000_000;

/// The rules.
pub const RULES: &[Rule] = &[Rule { name: "a DNS server", judge: server }];

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

type Servers = BTreeMap<(EntityId, IpAddr), Tally>;

impl Tally {
    fn saw(&mut self, flow: Flow, amount: &Amount) {
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

    fn conclude(&self, code: &'static str, count: u64, title: String, who: (EntityId, IpAddr)) -> Conclusion {
        let (first, last) = (self.first, self.last);
        let amount = Amount { count, total: 0, least: 0, most: 0, first, last };
        let queries = plural(self.queries, "query");
        let (entity, server) = who;
        Conclusion::new(code, entity, amount, title)
            .value("server", server)
            .because("event", format!("{queries} to {server}, {} answered", self.answers), self.last)
            .with("flow", self.flow.unwrap_or(Flow::NONE).canonical())
            .with("role", "symptom")
    }
}

fn tallies(view: &View) -> Servers {
    let mut servers = Servers::new();
    let is_dns = |what: &What| matches!(what, What::DnsQuery | What::DnsUnanswered | What::DnsAnswer { .. });
    for (key, amount) in view.of(is_dns) {
        let tally = servers.entry((key.entity, key.flow.destination())).or_default();
        tally.saw(key.flow, amount);
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
    for d in view.drops.iter().filter(|d| d.is(&["NO_SOCKET"]) && d.flow.proto == UDP && d.flow.sport == PORT)
    {
        let tally = servers.entry((d.entity, d.flow.source())).or_default();
        tally.late += d.amount.count;
        tally.saw(d.flow.back(), &d.amount);
    }
    servers
}

fn server(view: &View, findings: &mut Findings) {
    let servers = tallies(view);
    for (who, tally) in &servers {
        if tally.late > 0 {
            findings.add(late(&servers, *who, tally));
        } else {
            silent(view, findings, *who, tally);
            slow(findings, *who, tally);
        }
        says_no(findings, *who, tally);
    }
}

fn late(servers: &Servers, who: (EntityId, IpAddr), tally: &Tally) -> Conclusion {
    let answers = plural(tally.late, "answer");
    let title = format!("DNS server {} answers after its client has given up: {answers}", who.1);
    let found = tally.conclude("dns-timeout", tally.late, title, who).confidence(92);
    let found = tally.flow.into_iter().fold(found, Conclusion::flow);
    let found = found.because("event", "an answer found its port closed", tally.last);
    let mut others = servers.iter().filter(|((at, ip), _)| *at == who.0 && *ip != who.1);
    let is_race = others
        .any(|(_, other)| other.first.abs_diff(tally.first) <= AT_ONCE_NS && other.answers >= tally.queries);
    if is_race {
        return found.severity(INFO).because("text", "another server that was asked at once was faster", 0);
    }
    found
}

/// Each query has its own patience: that clients go on asking makes no silent server a good one.
/// What is known to stop them is the cause, and says that queries are what it stops. Answers that were
/// lost on the way to this analyzer may be those that are missing.
fn silent(view: &View, findings: &mut Findings, who: (EntityId, IpAddr), tally: &Tally) {
    let missing = tally.unanswered.saturating_sub(tally.recovered);
    let flow = tally.flow.unwrap_or(Flow::NONE);
    if missing == 0 || (tally.answers > 0 && missing <= view.lost_dns) {
        return;
    }
    let severity = match tally.answers {
        0 => CRITICAL,
        // Resolvers ask again: of many queries a few get lost.
        answers if missing.saturating_mul(MANY) < answers => INFO,
        _ => WARNING,
    };
    let key = Key { entity: who.0, what: What::DnsUnanswered, flow };
    let amount = Amount { count: missing, total: 0, least: 0, most: 0, first: tally.first, last: tally.last };
    if findings.blame_for(severity, &flow, &key, amount, view) {
        return;
    }
    let queries = plural(tally.queries.max(missing), "query");
    let title = format!("DNS server {} does not answer: {missing} of {queries}", who.1);
    let found = tally.conclude("dns-timeout", missing, title, who).severity(severity).confidence(88);
    findings.add(found.flow(flow));
}

/// One name among many takes long to find, whichever server looks for it.
fn slow(findings: &mut Findings, who: (EntityId, IpAddr), tally: &Tally) {
    if tally.slow == 0 {
        return;
    }
    let title = format!("DNS server {} is slow: up to {} ms", who.1, tally.slowest_ns / 1_000_000);
    let (slow, limit) = (plural(tally.slow, "answer"), SLOW_ANSWER_NS / 1_000_000);
    let found = tally
        .conclude("dns-slow", tally.slow, title, who)
        .severity(if tally.slow.saturating_mul(MANY) >= tally.answers { WARNING } else { INFO })
        .confidence(85)
        .because("event", format!("{slow} of {} took {limit} ms and more", tally.answers), tally.last);
    findings.add(tally.flow.into_iter().fold(found, Conclusion::flow));
}

fn says_no(findings: &mut Findings, who: (EntityId, IpAddr), tally: &Tally) {
    for (rcode, count) in &tally.errors {
        let times = plural(*count, "time");
        let title = format!("DNS server {} answers {}: {times}", who.1, rcode_name(*rcode));
        findings.add(tally.conclude("dns-error", *count, title, who).confidence(90));
    }
    // A search list asks for names that do not exist; only if nothing else is answered it is told.
    if tally.absent > 0 && tally.absent == tally.answers && tally.absent >= 3 {
        let title =
            format!("DNS server {} knows none of the names: {}", who.1, plural(tally.absent, "answer"));
        let found = tally.conclude("dns-error", tally.absent, title, who);
        findings.add(found.severity(INFO).confidence(75));
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
