//! The path: routes that are missing or refuse, routers that do not forward, addresses that cannot be.

use inspector_sdk::analyzer::Role;
use inspector_sdk::errno::{self, EACCES, EHOSTUNREACH, ENETUNREACH};
use inspector_sdk::icmp::Meaning;
use inspector_sdk::{EntityId, Severity};

use crate::codes::Code;
use crate::confidence::Confidence;
use crate::counters::counter;
use crate::evidence::Kind;
use crate::fact::{Amount, Flow, What};
use crate::finding::Conclusion;
use crate::findings::Findings;
use crate::rules::Rule;
use crate::rules::queues::clients;
use crate::rules::traffic::{is_martian, is_traceroute, outage, worst_outage};
use crate::title::Title;
use crate::window::{Dropped, Window};

/// ICMP errors of which a few are a traceroute.
const FEW: u64 = 3;

/// The rules.
pub const RULES: &[Rule] = &[
    Rule::new("a router has no route", missing).finds(&[Code::RouteMissing, Code::RouteBlocked]),
    Rule::new("this node has no route for what it sends", missing_locally)
        .finds(&[Code::RouteMissing])
        .after(&[Code::FirewallDrop]),
    Rule::new("a route refuses what is forwarded", blocked).finds(&[Code::RouteBlocked]),
    Rule::new("a route refuses what is sent from here", blocked_locally).finds(&[Code::RouteBlocked]),
    Rule::new("a host is asked to forward and does not", not_forwarding).finds(&[Code::ForwardingDisabled]),
    Rule::new("the reverse-path filter refuses", reverse_path).finds(&[Code::ReversePathFilter]),
    Rule::new("a source address that cannot be", martian).finds(&[Code::MartianSource]),
    Rule::new("a packet ran out of hops", hops).finds(&[Code::TtlExceeded]),
];

fn of_drop(window: &Window, code: Code, drop: &Dropped, title: Title) -> Conclusion {
    let ends = [("to", drop.flow.destination().to_string()), ("from", drop.flow.source().to_string())];
    Conclusion::of_drop(code, drop, title).severity(outage(window, &drop.flow)).check("route", &ends)
}

fn missing(window: &Window, findings: &mut Findings) {
    for drop in window.missed().filter(|drop| drop.is(&["IP_INNOROUTES", "IP_OUTNOROUTES"])) {
        let to = drop.flow.destination();
        // IPv6 has one reason for both; only its answer tells them apart.
        let is_prohibited = |what: &What| {
            what.icmp_error().is_some_and(|error| error.is_v6 && error.meaning() == Meaning::Prohibited)
        };
        let found = if window.count_on(&drop.flow, is_prohibited) > 0 {
            let before = format!("the route to {to} is of type prohibit: ");
            let title = Title::counting(before, "packet", " dropped");
            of_drop(window, Code::RouteBlocked, drop, title).value("type", "prohibit")
        } else {
            let title = Title::counting(format!("no route to {to}: "), "packet", " dropped");
            of_drop(window, Code::RouteMissing, drop, title)
        };
        findings.add(found.confidence(Confidence::Certain).with_affected(window));
    }
}

fn missing_locally(window: &Window, findings: &mut Findings) {
    for refusal in refusals(window).filter(|refusal| refusal.error == ENETUNREACH) {
        let before = format!("no route to {}: ", refusal.flow.destination());
        findings.add(refusal.conclude(Code::RouteMissing, Title::counting(before, "send", " failed")));
    }
    for (entity, amount) in window.risen(counter::OUT_NO_ROUTES) {
        if findings.has(&[Code::RouteMissing], entity) {
            continue;
        }
        let title = Title::counting("no route for what is sent from here: ", "send", " failed");
        let found = Conclusion::new(Code::RouteMissing, entity, amount, title).rose("IpOutNoRoutes", amount);
        // Whoever connects to it waits for answers that have no route back.
        let mut found = clients(window, findings, found);
        if let Some(back) = found.flows.first().map(Flow::source) {
            found = found.value("destination", back);
        }
        let severity = worst_outage(window, &found.flows, Severity::Warning);
        findings.add(found.severity(severity).with_affected(window));
    }
}

/// On a router such a route ends in `ip_error` without a reason of its own; IPv6 has a function for
/// each kind.
fn blocked(window: &Window, findings: &mut Findings) {
    let symbols = ["ip_error", "dst_discard", "ip6_pkt_discard", "ip6_pkt_prohibit", "ip6_pkt_drop"];
    let is_by_route = |drop: &&Dropped| drop.is(&["NOT_SPECIFIED"]) && drop.within(&symbols);
    for drop in window.missed().filter(is_by_route) {
        let mut answers = window.on(std::slice::from_ref(&drop.flow), |what| what.icmp_error().is_some());
        let answer = answers.find(|(key, _)| key.flow.meets(&drop.flow));
        let kind = match answer.and_then(|(key, _)| key.what.icmp_error()) {
            Some(error) if error.meaning() == Meaning::Prohibited => "prohibit",
            Some(_) => "unreachable",
            None => "blackhole",
        };
        let before = format!("the route to {} is of type {kind}: ", drop.flow.destination());
        let title = Title::counting(before, "packet", " dropped");
        let found = of_drop(window, Code::RouteBlocked, drop, title);
        findings.add(found.value("type", kind).with_affected(window));
    }
}

fn blocked_locally(window: &Window, findings: &mut Findings) {
    for refusal in refusals(window).filter(|refusal| refusal.error != ENETUNREACH) {
        let kind = match refusal.error {
            EACCES => "prohibit",
            EHOSTUNREACH => "unreachable",
            _ => "blackhole",
        };
        let before = format!("the route to {} is of type {kind}: ", refusal.flow.destination());
        let title = Title::counting(before, "send", " failed");
        findings.add(refusal.conclude(Code::RouteBlocked, title).value("type", kind));
    }
}

/// A route that refused what was sent from here.
struct Refusal {
    flow: Flow,
    entity: EntityId,
    error: u32,
    amount: Amount,
}

fn refusals(window: &Window) -> impl Iterator<Item = Refusal> {
    let refused = window.of(|what| matches!(what, What::RouteRefused { .. }));
    refused.filter_map(|(key, amount)| match key.what {
        What::RouteRefused { error } => {
            Some(Refusal { flow: key.flow, entity: key.entity, error, amount: *amount })
        }
        _ => None,
    })
}

impl Refusal {
    fn conclude(&self, code: Code, title: Title) -> Conclusion {
        let to = self.flow.destination();
        let summary = format!("a route lookup for {to} failed with {}", errno::name(self.error));
        Conclusion::new(code, self.entity, self.amount, title)
            .severity(Severity::Critical)
            .confidence(Confidence::Certain)
            .flow(self.flow)
            .because(Kind::Event, summary, self.amount.last)
            .on(&self.flow, Role::Cause)
            .check("route", &[("to", to.to_string())])
    }
}

/// A host gets what is for another one, and is no router. What is for nobody it knows is often
/// meant for an address that has moved.
fn not_forwarding(window: &Window, findings: &mut Findings) {
    for drop in window.dropped_for(&["IP_INADDRERRORS"]) {
        let before =
            format!("asked to forward packets to {}, but forwarding is off: ", drop.flow.destination());
        let title = Title::counting(before, "packet", " dropped");
        let found = of_drop(window, Code::ForwardingDisabled, drop, title);
        let is_outage = found.severity == Severity::Critical;
        let confidence = if is_outage { Confidence::Certain } else { Confidence::Likely };
        findings.add(found.confidence(confidence).with_affected(window));
    }
    for drop in window.dropped_for(&["NOT_SPECIFIED"]).filter(|drop| drop.within(&["ip6_forward"])) {
        let before = format!("asked to forward packets to {} and does not: ", drop.flow.destination());
        let found = of_drop(window, Code::ForwardingDisabled, drop, Title::counting(before, "packet", ""));
        findings.add(found.confidence(Confidence::Likely).with_affected(window));
    }
}

fn reverse_path(window: &Window, findings: &mut Findings) {
    for drop in window.dropped_for(&["IP_RPFILTER"]) {
        let before = format!(
            "source validation refuses {}: the way back is through another device; ",
            drop.flow.source()
        );
        let found = of_drop(window, Code::ReversePathFilter, drop, Title::counting(before, "packet", ""));
        findings.add(found.confidence(Confidence::Certain).with_affected(window));
    }
}

fn martian(window: &Window, findings: &mut Findings) {
    for drop in window.drops.iter().filter(|drop| is_martian(window, drop)) {
        let (from, to) = (drop.flow.source(), drop.flow.destination());
        let before = if drop.is(&["IP_LOCALNET"]) && to.is_loopback() {
            format!("packets for the host's own {to} came over a network: ")
        } else {
            format!("packets from the impossible address {from}: ")
        };
        let found = of_drop(window, Code::MartianSource, drop, Title::counting(before, "packet", ""));
        findings.add(found.with_affected(window));
    }
}

/// Traceroute does this on purpose, so a few are no fault.
fn hops(window: &Window, findings: &mut Findings) {
    let forwarded = window.dropped_for(&["IP_INHDR"]);
    for drop in forwarded.filter(|drop| drop.within(&["ip_forward", "ip6_forward"])) {
        let before = format!("packets to {} ran out of hops: ", drop.flow.destination());
        let title = Title::counting(before, "packet", " dropped");
        let found = if is_traceroute(&drop.flow) {
            Conclusion::of_drop(Code::TtlExceeded, drop, title)
                .severity(Severity::Info)
                .although("traceroute(8) does this on purpose")
        } else {
            of_drop(window, Code::TtlExceeded, drop, title)
        };
        findings.add(found.with_affected(window));
    }
    for (key, amount) in window.of(|what| what.is_icmp(Meaning::HopsExceeded)) {
        if !findings.has(&[Code::TtlExceeded], key.entity) {
            let title = format!("packets to {} ran out of hops", key.flow.destination());
            let found = Conclusion::new(Code::TtlExceeded, key.entity, *amount, title)
                .severity(Severity::warning_if(amount.count > FEW))
                .flow(key.flow)
                .because(Kind::Event, "ICMP time exceeded sent", amount.last);
            findings.add(found.with_affected(window));
        }
    }
}
