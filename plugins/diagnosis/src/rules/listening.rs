//! Nobody listens: the wrong port, a service that is gone, a connection that one side has lost.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use inspector_sdk::flow::TCP;

use crate::fact::{Amount, Flow, Segment, What};
use crate::finding::{CRITICAL, Conclusion, Findings, INFO, WARNING, plural, total};
use crate::rules::Rule;
use crate::rules::packets::is_for_no_tunnel;
use crate::view::View;

const UDP: u8 = 17;
/// DNS answers that come late find their port closed; that is no missing service.
const DNS: u16 = 53;
/// Destination ports of traceroute(8): one more with each probe, from the one registered for it.
pub const TRACEROUTE: RangeInclusive<u16> = 33_434..=33_534;
/// So many connections that went well, for each that did not, make a remark of it.
const MANY: u64 = 10;
/// The same where the service is known to have come, or come back, since.
const SOME: u64 = 5;
const LISTEN: u8 = 10;
const ESTABLISHED: u8 = 1;

/// The rules.
pub const RULES: &[Rule] = &[
    Rule { name: "a connect to a port where nobody listens", judge: closed_tcp_port },
    Rule { name: "datagrams to a port where nobody listens", judge: closed_udp_port },
    Rule { name: "a segment of a connection that is not known here", judge: lost_connection },
];

/// The stack answers a SYN for which it has no socket with a reset; kernels before 6.10 do not say
/// so, but drop the SYN with a reason as all do.
fn closed_tcp_port(view: &View, findings: &mut Findings) {
    let by_reset = view
        .resets
        .iter()
        .filter(|r| !r.reset.with_socket && r.reset.segment == Segment::Syn)
        .map(|r| (r.entity, r.flow.back(), r.amount, "answered a SYN with a reset (NO_SOCKET)"));
    let by_drop = view
        .drops
        .iter()
        .filter(|d| d.is(&["NO_SOCKET"]) && d.flow.proto == TCP && d.drop.segment == Segment::Syn)
        .map(|d| (d.entity, d.flow, d.amount, "dropped a SYN (NO_SOCKET)"));
    // Both tell of one packet, so the larger number counts.
    let mut services: BTreeMap<_, Vec<(Flow, Amount, &str)>> = BTreeMap::new();
    for (entity, flow, amount, how) in by_reset.chain(by_drop) {
        services.entry((entity, flow.to, flow.dport)).or_default().push((flow, amount, how));
    }
    for ((entity, _, port), seen) in services {
        let (flow, _, _) = seen[0];
        let count_of = |what| seen.iter().filter(|s| s.2 == what).map(|s| s.1.count).sum::<u64>();
        let mut amount = seen.iter().skip(1).fold(seen[0].1, |sum, s| {
            let mut sum = sum;
            sum.add(&s.1);
            sum
        });
        amount.count = seen.iter().map(|s| count_of(s.2)).max().unwrap_or(0);
        let title = format!(
            "nobody listens on TCP port {port} of {}; {} refused",
            flow.destination(),
            total("connection")
        );
        let opened = |what: &What| matches!(what, What::Accepted | What::Connected);
        let of_service: BTreeSet<_> = seen.iter().map(|s| Flow { sport: 0, ..s.0 }).collect();
        let went_well = || view.of(opened).filter(|(key, _)| of_service.iter().any(|f| key.flow.meets(f)));
        let accepted = went_well().map(|(_, a)| a.count).sum::<u64>();
        let is_back =
            went_well().map(|(_, a)| a.last).max() > Some(amount.last) && accepted >= SOME * amount.count;
        let of_pair = view.count_on(&Flow { sport: 0, dport: 0, ..flow }, opened);
        let of_host = view.of(|what| *what == What::Accepted).filter(|(key, _)| key.entity == entity);
        let of_host: u64 = of_host.map(|(_, amount)| amount.count).sum();
        let is_stray = amount.count == 1 && (of_pair >= MANY || of_host >= MANY * MANY);
        let severity = match accepted {
            _ if is_back || is_stray => INFO,
            0 => CRITICAL,
            _ => WARNING,
        };
        let mut found =
            Conclusion::new("port-not-listening", entity, amount, title).severity(severity).confidence(95);
        for (flow, amount, how) in seen.iter().take(4) {
            found = found
                .because("event", format!("the stack {how}, {}", flow.show()), amount.last)
                .with("flow", flow.canonical())
                .with("role", "cause");
        }
        found = seen.iter().fold(found, |found, s| found.flow(s.0));
        if accepted > 0 {
            found = found
                .although(format!("{} to it in the same time went well", plural(accepted, "connection")), 5);
        }
        if is_back {
            found = found.because("event", "since then connections to it go well", amount.last);
        } else if is_stray {
            found =
                found.because("text", "one connect among many connections to this host that went well", 0);
        }
        let found = found.check("listeners", &[("port", port.to_string())]);
        findings.add(found.felt_by(view));
    }
}

/// A datagram that comes back from a service to a closed port was late; multicast is for whoever
/// wants it; traceroute(8) asks where nobody listens on purpose.
fn closed_udp_port(view: &View, findings: &mut Findings) {
    for d in view.drops.iter().filter(|d| d.is(&["NO_SOCKET"]) && d.flow.proto == UDP && !d.drop.to_many) {
        let answer = d.flow.sport == DNS
            || (d.flow.sport != 0 && d.flow.of_service().dport == 0 && d.flow.sport < 1024);
        if answer || is_for_no_tunnel(d) {
            continue;
        }
        let title = format!(
            "nobody listens on UDP port {} of {}; {} lost",
            d.flow.dport,
            d.flow.destination(),
            total("datagram")
        );
        let told = view.of(|what| {
            matches!(
                what,
                What::IcmpSent { v6: false, kind: 3, code: 3 }
                    | What::IcmpSent { v6: true, kind: 1, code: 4 }
            )
        });
        let told = told.filter(|(key, _)| key.flow.meets(&d.flow)).map(|(_, a)| a.count).sum::<u64>();
        let mut found = Conclusion::of_drop("port-not-listening", d, title).confidence(80);
        if told > 0 {
            found = found
                .because(
                    "event",
                    format!("{} sent: port unreachable", plural(told, "ICMP error")),
                    d.amount.last,
                )
                .confidence(90);
        }
        if TRACEROUTE.contains(&d.flow.dport) {
            found = found.severity(INFO).although("traceroute(8) uses such ports", 40);
        }
        let found = found.check("listeners", &[("port", d.flow.dport.to_string())]);
        findings.add(found.felt_by(view));
    }
}

/// The stack resets what belongs to no connection that it knows, and a listener resets stray
/// segments. Worth a warning if the peer believed in the connection.
fn lost_connection(view: &View, findings: &mut Findings) {
    let by_reset = view.resets.iter().filter(|r| {
        let unknown = !r.reset.with_socket && r.reset.segment == Segment::Other;
        unknown || (r.reset.with_socket && r.reset.state == LISTEN && r.reset.segment != Segment::Syn)
    });
    for r in by_reset {
        if findings.explain(&r.flow) {
            continue;
        }
        let peer_believed =
            view.count_on(&r.flow, |what| *what == What::ResetReceived { state: ESTABLISHED });
        lost(view, findings, r.entity, r.flow.back(), r.amount, peer_believed);
    }
    // Before 6.10 there is no event for a reset without a socket.
    let told = |flow: &Flow| view.resets.iter().any(|r| r.flow.meets(flow));
    let by_drop = view.drops.iter().filter(|d| {
        d.flow.proto == TCP
            && d.drop.segment == Segment::Other
            && d.is(&["NO_SOCKET"])
            && !d.within(&["cookie"])
    });
    for d in by_drop.filter(|d| !told(&d.flow)) {
        if findings.explain(&d.flow) {
            continue;
        }
        let peer_believed =
            view.count_on(&d.flow, |what| *what == What::ResetReceived { state: ESTABLISHED });
        lost(view, findings, d.entity, d.flow, d.amount, peer_believed);
    }
}

fn lost(view: &View, findings: &mut Findings, at: u32, flow: Flow, amount: Amount, peer_believed: u64) {
    // The end of a connection that was here a moment ago.
    let ended = view.of(|what| matches!(what, What::Closed { .. }));
    let ended_here = ended.filter(|(key, _)| key.entity == at && key.flow.meets(&flow)).count() > 0;
    let title =
        format!("{} of connections that it does not know (any more) answered with a reset", total("segment"));
    let mut found = Conclusion::new("stale-connection", at, amount, title).flow(flow).confidence(75);
    found = found
        .because("event", format!("the stack has no connection {}", flow.show()), amount.last)
        .with("flow", flow.canonical())
        .with("role", "cause");
    if peer_believed > 0 {
        found = found.confidence(92);
    } else if ended_here {
        found = found.although("the connection was closed here shortly before", 30).severity(0);
    }
    findings.add(found.felt_by(view));
}
