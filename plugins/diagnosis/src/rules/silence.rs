//! Symptoms that no cause here explains: silence, loss, a peer's reset, and drops that no rule knows.

use std::collections::BTreeMap;

use inspector_sdk::EntityId;
use inspector_sdk::probes::tcp_retransmit::{WHY_FAST, WHY_LOSS, WHY_RTO, WHY_SYN};

use crate::fact::{Amount, Flow, What};
use crate::finding::{CRITICAL, Conclusion, Findings, INFO, WARNING, plural, total};
use crate::rules::Rule;
use crate::rules::firewall::outage;
use crate::view::{ResetSent, View};

const ETIMEDOUT: u32 = 110;
const SYN_SENT: u8 = 2;
const ESTABLISHED: u8 = 1;
/// Segments sent again before it is called loss: a few are the price of a shared network.
const LOSS: u64 = 5;
/// Timeouts in a row on one connection before its peer is called silent.
const TIMEOUTS: u64 = 3;

/// Connections that went well, for each attempt without an answer, that make a remark of it.
const MANY: u64 = 10;
/// Time between a reset's sending and its coming, on one node.
const ON_ITS_WAY_NS: u64 = 100_000_000;

/// The rules.
pub const RULES: &[Rule] = &[
    Rule { name: "what nobody answers went to another host", judge: misdirected },
    Rule { name: "a peer does not answer", judge: unresponsive },
    Rule { name: "segments get lost elsewhere", judge: loss },
    Rule { name: "a peer resets", judge: reset_by_peer },
    Rule { name: "a drop that no rule knows", judge: unexplained },
];

type Sum = (Amount, Vec<Flow>);

fn add(sums: &mut BTreeMap<(EntityId, [u8; 16], u16), Sum>, entity: EntityId, flow: Flow, amount: Amount) {
    let service = flow.of_service();
    let port = if service.dport != 0 { service.dport } else { service.sport };
    let (sum, flows) =
        sums.entry((entity, flow.to, port)).or_insert((Amount { count: 0, ..amount }, Vec::new()));
    sum.add(&amount);
    flows.push(flow);
}

/// Frames for others are normal on a flooded or promiscuous link; not so if nobody answers what is in
/// them, and the host that they should have reached is here and saw nothing.
fn misdirected(view: &View, findings: &mut Findings) {
    for d in view.drops.iter().filter(|d| d.is(&["OTHERHOST"]) && !d.drop.to_many) {
        let meant: Vec<_> = view.owners(d.flow.destination()).collect();
        let is_missed = !meant.is_empty() && meant.iter().all(|owner| !view.saw(*owner, &d.flow));
        let is_symptom = |what: &What| matches!(what, What::Retransmit { .. } | What::ConnectFailed { .. });
        if !is_missed || view.count_on(&d.flow, is_symptom) == 0 || findings.explain(&d.flow) {
            continue;
        }
        let title = format!(
            "packets for {} come here, in frames that are for no address of this host: a forwarding or neighbour entry is out of date; {}",
            d.flow.destination(),
            total("packet")
        );
        let found = Conclusion::of_drop("wrong-destination-mac", d, title);
        findings.add(found.confidence(75).severity(outage(view, &d.flow)).felt_by(view));
    }
}

fn unresponsive(view: &View, findings: &mut Findings) {
    let mut silent = BTreeMap::new();
    let gave_up = |what: &What| {
        matches!(
            what,
            What::Retransmit { why: WHY_SYN }
                | What::ConnectFailed { error: ETIMEDOUT, .. }
                | What::Closed { error: ETIMEDOUT }
        )
    };
    for (key, amount) in view.of(gave_up).filter(|(key, _)| !findings.explain_symptom(key)) {
        add(&mut silent, key.entity, key.flow, *amount);
    }
    for (key, amount) in view.of(|what| *what == What::Retransmit { why: WHY_RTO }) {
        if amount.count >= TIMEOUTS && !findings.explain(&key.flow) {
            add(&mut silent, key.entity, key.flow, *amount);
        }
    }
    for ((entity, _, port), (amount, flows)) in silent {
        let flow = flows[0];
        let title = format!("{} port {port} does not answer: {}", flow.destination(), total("attempt"));
        let opened = || view.of(|what| *what == What::Connected);
        let opened = || opened().filter(|(key, _)| key.flow.meets(&flow.of_service()));
        let well: u64 = opened().map(|(_, amount)| amount.count).sum();
        let is_over = opened().map(|(_, a)| a.last).max() > Some(amount.last);
        let severity = match well {
            0 => CRITICAL,
            _ if is_over && well >= MANY * amount.count => INFO,
            _ => WARNING,
        };
        let confidence = if view.is_local(flow.destination()) { 60 } else { 75 };
        let mut found = Conclusion::new("peer-unresponsive", entity, amount, title)
            .severity(severity)
            .confidence(confidence);
        found = found
            .because("event", format!("sent again without an answer, {}", flow.show()), amount.last)
            .with("flow", flow.canonical())
            .with("role", "symptom")
            .because("text", "no drop on this node explains it", 0);
        findings.add(flows.into_iter().fold(found, Conclusion::flow));
    }
}

fn loss(view: &View, findings: &mut Findings) {
    let mut lossy = BTreeMap::new();
    for (key, amount) in
        view.of(|what| matches!(what, What::Retransmit { why: WHY_FAST | WHY_LOSS | WHY_RTO }))
    {
        if !findings.explain(&key.flow) {
            add(&mut lossy, key.entity, key.flow, *amount);
        }
    }
    for ((entity, _, _), (amount, flows)) in lossy.into_iter().filter(|(_, (amount, _))| amount.count >= LOSS)
    {
        let flow = flows[0];
        let title = format!(
            "segments to {} get lost beyond this node: {} sent again",
            flow.destination(),
            total("segment")
        );
        let found = Conclusion::new("tcp-loss", entity, amount, title).confidence(75);
        let found = found
            .because("event", format!("retransmissions, {}", flow.show()), amount.last)
            .with("flow", flow.canonical())
            .with("role", "symptom")
            .because("text", "no drop on this node explains it", 0);
        findings.add(flows.into_iter().fold(found, Conclusion::flow));
    }
}

fn reset_by_peer(view: &View, findings: &mut Findings) {
    let sent_here = |flow: &Flow| view.resets.iter().any(|r| r.flow.meets(flow));
    for (key, amount) in view.of(|what| matches!(what, What::ResetReceived { .. })) {
        if findings.explain_symptom(key) || sent_here(&key.flow) {
            continue;
        }
        let sent = view.resets.iter().find(|r| may_be_translated(r, &key.flow, amount));
        if sent.is_some_and(|r| findings.blame(&r.flow, key, *amount, view)) {
            continue;
        }
        let What::ResetReceived { state } = key.what else { continue };
        let (title, severity) = match state {
            SYN_SENT => (
                format!("{} refuses connections: {}", key.flow.destination(), plural(amount.count, "reset")),
                WARNING,
            ),
            ESTABLISHED => (
                format!(
                    "{} resets open connections: {}",
                    key.flow.destination(),
                    plural(amount.count, "reset")
                ),
                WARNING,
            ),
            _ => (format!("{} resets connections that are closing", key.flow.destination()), INFO),
        };
        let found = Conclusion::new("reset-by-peer", key.entity, *amount, title)
            .severity(severity)
            .confidence(80)
            .flow(key.flow);
        let found = found
            .because("event", format!("reset received, {}", key.flow.show()), amount.last)
            .with("flow", key.flow.canonical())
            .with("role", "symptom")
            .because("text", "nothing on this node sent it", 0);
        findings.add(found);
    }
}

/// Whether a reset can have been sent to another address and port, which were translated on the way
/// (NAT): it comes from the same end, and at the same time.
fn may_be_translated(sent: &ResetSent, received: &Flow, amount: &Amount) -> bool {
    let (peer, sender) = (received.back(), sent.flow);
    let from = |flow: &Flow| (flow.from, flow.sport, flow.proto);
    let is_within = sent.amount.first <= amount.last.saturating_add(ON_ITS_WAY_NS)
        && amount.first <= sent.amount.last.saturating_add(ON_ITS_WAY_NS);
    from(&peer) == from(&sender) && is_within
}

/// Reasons that follow from something else, or that traffic makes without a fault.
const HARMLESS: [&str; 12] = [
    "SKB_CONSUMED",
    "SOCKET_CLOSE",
    "TCP_RESET",
    "TCP_CLOSE",
    "TCP_OLD_ACK",
    "TCP_FASTOPEN",
    "TCP_ABORT_ON_DATA",
    "TCP_ZEROWINDOW",
    "TCP_OVERWINDOW",
    "TCP_LISTEN_OVERFLOW",
    "UNICAST_IN_L2_MULTICAST",
    "IPV6DISABLED",
];

/// Never hidden, though nothing is known of it but the kernel's words.
fn unexplained(view: &View, findings: &mut Findings) {
    for d in view.drops.iter().filter(|d| !d.is_noise && !d.drop.to_many && !d.is(&HARMLESS)) {
        let is_known = d.flow.is_known() && findings.explain(&d.flow);
        let is_named =
            findings.all().iter().any(|found| found.at == d.entity && found.amount.last >= d.amount.first);
        if is_known || (is_named && !d.is(&["NOT_SPECIFIED"])) || d.is(&["NO_SOCKET"]) {
            continue;
        }
        let title =
            format!("packets dropped in {} ({}): {}", d.symbol, d.reason, plural(d.amount.count, "packet"));
        let found = Conclusion::of_drop("unexplained-drop", d, title).confidence(45);
        let severity = if d.flow.is_known()
            && view.count_on(&d.flow, |what| matches!(what, What::Retransmit { .. })) > 0
        {
            WARNING
        } else {
            INFO
        };
        findings.add(found.severity(severity).felt_by(view));
    }
}
