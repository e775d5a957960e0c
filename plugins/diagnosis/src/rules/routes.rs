//! The way: routes that are missing or refuse, routers that do not forward, addresses that cannot be.

use std::net::IpAddr;

use inspector_sdk::EntityId;

use crate::counters::counter;
use crate::fact::{Flow, What};
use crate::finding::{CRITICAL, Conclusion, Findings, INFO, WARNING, total};
use crate::rules::Rule;
use crate::rules::firewall::outage;
use crate::rules::listening::TRACEROUTE;
use crate::rules::queues::clients;
use crate::view::{Dropped, View};

const ENETUNREACH: u32 = 101;

/// The rules.
pub const RULES: &[Rule] = &[
    Rule { name: "a router has no route", judge: missing },
    Rule { name: "this node has no route for what it sends", judge: missing_locally },
    Rule { name: "a route refuses what is forwarded", judge: blocked },
    Rule { name: "a route refuses what is sent from here", judge: blocked_locally },
    Rule { name: "a host is asked to forward and does not", judge: not_forwarding },
    Rule { name: "the reverse-path filter refuses", judge: reverse_path },
    Rule { name: "a source address that cannot be", judge: martian },
    Rule { name: "a packet ran out of hops", judge: hops },
];

fn conclude(
    view: &View,
    findings: &mut Findings,
    code: &'static str,
    d: &Dropped,
    title: String,
    confidence: u8,
) {
    findings.add(refusal(view, code, d, title).confidence(confidence).felt_by(view));
}

fn refusal(view: &View, code: &'static str, d: &Dropped, title: String) -> Conclusion {
    let way = [("to", d.flow.destination().to_string()), ("from", d.flow.source().to_string())];
    Conclusion::of_drop(code, d, title).severity(outage(view, &d.flow)).check("route", &way)
}

fn missing(view: &View, findings: &mut Findings) {
    for d in view.drops.iter().filter(|d| !d.is_noise && d.is(&["IP_INNOROUTES", "IP_OUTNOROUTES"])) {
        // IPv6 has one reason for both; only its answer tells them apart.
        let answer = |what: &What| matches!(what, What::IcmpSent { v6: true, kind: 1, code: 1 });
        let (to, packets) = (d.flow.destination(), total("packet"));
        if view.count_on(&d.flow, answer) > 0 {
            let title = format!("the route to {to} is of type prohibit: {packets} dropped");
            let found = refusal(view, "route-blocked", d, title).confidence(93);
            findings.add(found.value("type", "prohibit").felt_by(view));
        } else {
            conclude(view, findings, "route-missing", d, format!("no route to {to}: {packets} dropped"), 95);
        }
    }
}

fn missing_locally(view: &View, findings: &mut Findings) {
    for (key, amount) in refused(view, |error| error == ENETUNREACH) {
        let title = format!("no route to {}: {} failed", key.0.destination(), total("send"));
        findings.add(locally("route-missing", key, amount, title));
    }
    for (entity, amount) in view.risen(counter::OUT_NO_ROUTES) {
        if findings.has(&["route-missing"], entity) {
            continue;
        }
        let title = format!("no route for what is sent from here: {} failed", total("send"));
        let found = Conclusion::new("route-missing", entity, amount, title).rose("IpOutNoRoutes", amount);
        // Whoever connects to it waits for answers that have no way back.
        let mut found = clients(view, findings, found, entity);
        if let Some(back) = found.flows.first().map(Flow::source) {
            found = found.value("destination", back);
        }
        let worst = found.flows.iter().map(|flow| outage(view, flow)).max().unwrap_or(WARNING);
        findings.add(found.severity(worst).felt_by(view));
    }
}

/// On a router such a route ends in `ip_error` without a reason of its own; IPv6 has a function for
/// each kind.
fn blocked(view: &View, findings: &mut Findings) {
    let is = |d: &&Dropped| {
        !d.is_noise
            && d.is(&["NOT_SPECIFIED"])
            && d.within(&["ip_error", "dst_discard", "ip6_pkt_discard", "ip6_pkt_prohibit", "ip6_pkt_drop"])
    };
    for d in view.drops.iter().filter(is) {
        let answer =
            view.of(|what| matches!(what, What::IcmpSent { .. })).find(|(key, _)| key.flow.meets(&d.flow));
        let kind = match answer.map(|(key, _)| key.what) {
            Some(
                What::IcmpSent { v6: false, code: 9 | 10 | 13, .. }
                | What::IcmpSent { v6: true, code: 1, .. },
            ) => "prohibit",
            Some(What::IcmpSent { .. }) => "unreachable",
            _ => "blackhole",
        };
        let title =
            format!("the route to {} is of type {kind}: {} dropped", d.flow.destination(), total("packet"));
        let found = refusal(view, "route-blocked", d, title).confidence(90);
        findings.add(found.value("type", kind).felt_by(view));
    }
}

fn blocked_locally(view: &View, findings: &mut Findings) {
    for (key, amount) in refused(view, |error| error != ENETUNREACH) {
        let kind = match key.2 {
            13 => "prohibit",
            113 => "unreachable",
            _ => "blackhole",
        };
        let title =
            format!("the route to {} is of type {kind}: {} failed", key.0.destination(), total("send"));
        findings.add(locally("route-blocked", key, amount, title).value("type", kind));
    }
}

type Refusal = (Flow, EntityId, u32);

fn refused(view: &View, is: impl Fn(u32) -> bool) -> Vec<(Refusal, crate::fact::Amount)> {
    let facts = view.of(|what| matches!(what, What::RouteRefused { .. }));
    let all = facts.filter_map(|(key, amount)| match key.what {
        What::RouteRefused { error } if is(error) => Some(((key.flow, key.entity, error), *amount)),
        _ => None,
    });
    all.collect()
}

fn locally(
    code: &'static str,
    (flow, entity, error): Refusal,
    amount: crate::fact::Amount,
    title: String,
) -> Conclusion {
    let summary = format!(
        "a route lookup for {} failed with {}",
        flow.destination(),
        inspector_sdk::errno::name(error)
    );
    let found = Conclusion::new(code, entity, amount, title).severity(CRITICAL).confidence(95).flow(flow);
    found
        .because("event", summary, amount.last)
        .with("flow", flow.canonical())
        .with("role", "cause")
        .check("route", &[("to", flow.destination().to_string())])
}

/// A host gets what is for another one, and is no router. What is for nobody it knows is often
/// meant for an address that has moved.
fn not_forwarding(view: &View, findings: &mut Findings) {
    for d in view.drops.iter().filter(|d| d.is(&["IP_INADDRERRORS"])) {
        let title = format!(
            "asked to forward packets to {}, but forwarding is off: {} dropped",
            d.flow.destination(),
            total("packet")
        );
        let confidence = if outage(view, &d.flow) == CRITICAL { 92 } else { 80 };
        conclude(view, findings, "forwarding-disabled", d, title, confidence);
    }
    let without_reason = |d: &&Dropped| d.is(&["NOT_SPECIFIED"]) && d.within(&["ip6_forward"]);
    for d in view.drops.iter().filter(without_reason) {
        let title =
            format!("asked to forward packets to {} and does not: {}", d.flow.destination(), total("packet"));
        conclude(view, findings, "forwarding-disabled", d, title, 75);
    }
}

fn reverse_path(view: &View, findings: &mut Findings) {
    for d in view.drops.iter().filter(|d| d.is(&["IP_RPFILTER"])) {
        let title = format!(
            "source validation refuses {}: the way back is through another device; {}",
            d.flow.source(),
            total("packet")
        );
        conclude(view, findings, "reverse-path-filter", d, title, 95);
    }
}

/// Kernels before 6.13 have no reason for it and IPv6 has none of its own, but the addresses say it.
fn martian(view: &View, findings: &mut Findings) {
    for d in view.drops.iter().filter(|d| is_martian(view, d)) {
        let packets = total("packet");
        let title = if d.is(&["IP_LOCALNET"]) && d.flow.destination().is_loopback() {
            format!("packets for the host's own {} came over a network: {packets}", d.flow.destination())
        } else {
            format!("packets from the impossible address {}: {packets}", d.flow.source())
        };
        conclude(view, findings, "martian-source", d, title, 90);
    }
}

/// Whether a packet was dropped for its source address.
pub fn is_martian(view: &View, d: &Dropped) -> bool {
    let source = d.flow.source();
    let impossible = match source {
        IpAddr::V4(ip) => {
            ip.is_loopback() || ip.is_broadcast() || ip.is_multicast() || view.owns(d.entity, source)
        }
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_multicast(),
    };
    d.is(&["IP_LOCAL_SOURCE", "IP_INVALID_SOURCE", "IP_LOCALNET"])
        || (impossible && d.is(&["NOT_SPECIFIED", "IP_INHDR"]) && d.within(&["ip_rcv_finish", "ip6_rcv"]))
}

/// Traceroute does this on purpose, so a few are no fault.
fn hops(view: &View, findings: &mut Findings) {
    let is_exceeded = |what: &What| {
        matches!(
            what,
            What::IcmpSent { v6: false, kind: 11, code: 0 } | What::IcmpSent { v6: true, kind: 3, code: 0 }
        )
    };
    for d in view.drops.iter().filter(|d| d.is(&["IP_INHDR"]) && d.within(&["ip_forward", "ip6_forward"])) {
        let title =
            format!("packets to {} ran out of hops: {} dropped", d.flow.destination(), total("packet"));
        if TRACEROUTE.contains(&d.flow.dport) {
            let found = Conclusion::of_drop("ttl-exceeded", d, title).severity(INFO);
            findings.add(found.although("traceroute(8) does this on purpose", 40).felt_by(view));
        } else {
            conclude(view, findings, "ttl-exceeded", d, title, 90);
        }
    }
    for (key, amount) in view.of(is_exceeded) {
        if !findings.has(&["ttl-exceeded"], key.entity) {
            let title = format!("packets to {} ran out of hops", key.flow.destination());
            let found =
                Conclusion::new("ttl-exceeded", key.entity, *amount, title).flow(key.flow).confidence(85);
            let severity = if amount.count > 3 { WARNING } else { INFO };
            findings.add(
                found
                    .severity(severity)
                    .because("event", "ICMP time exceeded sent", amount.last)
                    .felt_by(view),
            );
        }
    }
}
