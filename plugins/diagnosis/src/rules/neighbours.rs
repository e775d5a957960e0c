//! Hosts on the link that do not answer to ARP or neighbour discovery, and the table of those that do.

use std::net::IpAddr;

use inspector_sdk::Severity;
use inspector_sdk::probes::neighbour::{KIND_FAILED, KIND_TABLE_FULL, KIND_UNANSWERED};
use inspector_sdk::protocol::{ETHERTYPE_ARP, ICMP, ICMPV6};

use crate::codes::Code;
use crate::confidence::Confidence;
use crate::evidence::Kind;
use crate::fact::{Amount, Flow, Key, What};
use crate::finding::Conclusion;
use crate::findings::Findings;
use crate::rules::Rule;
use crate::rules::traffic::{outage, worst_outage};
use crate::title::Title;
use crate::window::{Dropped, Window};

/// Time from one request to the next (`retrans_time_ms`).
const REQUEST_NS: u64 = 1_000_000_000;

/// The rules.
pub const RULES: &[Rule] = &[
    Rule::new("packets wait in vain for a neighbour", neighbour)
        .finds(&[Code::NeighbourUnresolved])
        .after(&[Code::LinkDown]),
    Rule::new("a neighbour does not answer", silent_neighbour)
        .finds(&[Code::NeighbourUnresolved])
        .after(&[Code::LinkDown]),
    Rule::new("packets wait for a neighbour beyond its queue", neighbour_queue)
        .finds(&[Code::NeighbourQueueFull]),
    Rule::new("the neighbour table is full", neighbour_table).finds(&[Code::NeighbourTableFull]),
];

/// Packets that waited for a neighbour are dropped once it has failed, at whoever sends or forwards.
fn neighbour(window: &Window, findings: &mut Findings) {
    for drop in window.missed().filter(|drop| is_for_neighbour(drop)) {
        let hop = next_hop(window, drop);
        if findings.has(&[Code::LinkDown], drop.entity) || is_filtered(window, &hop) {
            continue;
        }
        let (address, to) = (hop.destination(), drop.flow.destination());
        let path = if address == to { String::new() } else { format!(", on the way to {to},") };
        let before = format!("{address}{path} does not answer to ARP or neighbour discovery: ");
        let title = Title::counting(before, "packet", " dropped");
        let severity = if is_ping(&drop.flow) { Severity::Info } else { outage(window, &drop.flow) };
        let found = Conclusion::of_drop(Code::NeighbourUnresolved, drop, title)
            .confidence(Confidence::Certain)
            .severity(severity);
        // Clients that were too impatient to have a packet of theirs in it.
        let pair = Flow { sport: 0, dport: 0, ..drop.flow };
        let silent =
            window.on(std::slice::from_ref(&pair), What::is_silence).filter(|(key, _)| key.flow.meets(&pair));
        let found = to_be_asked(found, address).flows(silent.map(|(key, _)| key.flow));
        findings.add(found.with_affected(window));
    }
}

fn is_for_neighbour(drop: &Dropped) -> bool {
    let is_lost = drop.is(&["NEIGH_FAILED", "NEIGH_DEAD", "NEIGH_HH_FILLFAIL"])
        || (drop.is(&["NOT_SPECIFIED"]) && drop.within(&["neigh_invalidate"]));
    is_lost && drop.ethertype != ETHERTYPE_ARP
}

/// The neighbour that a packet waited for: where it is for itself, or the router that failed nearest
/// to its drop.
fn next_hop(window: &Window, drop: &Dropped) -> Flow {
    let failed = || window.of(What::is_unresolved).filter(|(key, _)| key.entity == drop.entity);
    let is_own = failed().any(|(key, _)| key.flow.to == drop.flow.to);
    let nearest = failed().min_by_key(|(_, amount)| amount.last.abs_diff(drop.amount.last));
    match nearest {
        Some((router, _)) if !is_own => router.flow,
        _ => Flow { to: drop.flow.to, ..Flow::NONE },
    }
}

/// The kernel asks three times, a second apart, before it gives up: who waits less than that goes
/// without its verdict.
fn silent_neighbour(window: &Window, findings: &mut Findings) {
    for (key, amount) in window.of(What::is_unresolved) {
        let is_explained = findings.has(&[Code::LinkDown], key.entity) || is_filtered(window, &key.flow);
        let is_open = is_waiting(key) && (is_decided(window, key) || is_reached(window, key, amount));
        if is_explained || is_open {
            continue;
        }
        let address = key.flow.destination();
        let title = format!("{address} does not answer to ARP or neighbour discovery");
        let severity = Severity::warning_if(is_tried(window, key));
        let confidence = if is_known(key) { Confidence::Likely } else { Confidence::Strong };
        let found = Conclusion::new(Code::NeighbourUnresolved, key.entity, *amount, title)
            .confidence(confidence)
            .because(Kind::Event, format!("neighbour {address} {}", words(key)), amount.last);
        let found = to_be_asked(found, address).flows(senders(window, key, amount));
        let worst = worst_outage(window, &found.flows, severity);
        findings.add(found.severity(worst.max(severity)).with_affected(window));
    }
}

/// Conversations that wait for a neighbour. One that nobody talks to is a router: until the kernel
/// gives it up, and drops what waits for it, what is silent meanwhile is taken to go through it.
fn senders(window: &Window, neighbour: &Key, asked: &Amount) -> Vec<Flow> {
    let fails = |what: &What| {
        matches!(what, What::Retransmit { .. } | What::ConnectFailed { .. } | What::SocketError { .. })
    };
    let direct = window.of(fails).filter(|(sent, _)| goes_to(window, sent, neighbour));
    let direct: Vec<_> = direct.map(|(sent, _)| sent.flow).collect();
    if !direct.is_empty() || !is_waiting(neighbour) {
        return direct;
    }
    let is_meanwhile = |(key, amount): &&(Key, Amount)| {
        key.entity == neighbour.entity && amount.last.saturating_add(REQUEST_NS) >= asked.first
    };
    window.of(What::is_silence).filter(is_meanwhile).map(|(key, _)| key.flow).collect()
}

fn to_be_asked(found: Conclusion, address: IpAddr) -> Conclusion {
    let is_of_link = matches!(address, IpAddr::V6(ip) if ip.is_unicast_link_local());
    let found = found.check("neighbour", &[("address", address.to_string())]);
    if is_of_link {
        found.value("address", format!("{address}%DEVICE"))
    } else {
        found.value("address", address)
    }
}

fn is_known(neighbour: &Key) -> bool {
    matches!(neighbour.what, What::Neighbour { never_known: false, .. })
}

/// The kernel has not given up yet.
fn is_waiting(neighbour: &Key) -> bool {
    matches!(neighbour.what, What::Neighbour { kind: KIND_UNANSWERED, .. })
}

fn words(neighbour: &Key) -> &'static str {
    match (is_waiting(neighbour), is_known(neighbour)) {
        (true, _) => "was asked for a second and longer",
        (_, false) => "was never known",
        (_, true) => "answered before and went away",
    }
}

/// Whether the kernel has given up since.
fn is_decided(window: &Window, neighbour: &Key) -> bool {
    let given_up = window.of(|what| matches!(what, What::Neighbour { kind: KIND_FAILED, .. }));
    given_up.into_iter().any(|(key, _)| (key.entity, key.flow) == (neighbour.entity, neighbour.flow))
}

/// Whether it was reached after all.
fn is_reached(window: &Window, neighbour: &Key, asked: &Amount) -> bool {
    let answers = |what: &What| matches!(what, What::Connected | What::Accepted | What::DnsAnswer { .. });
    window.of(answers).any(|(key, amount)| goes_to(window, key, neighbour) && amount.last >= asked.last)
}

/// Who pings a host wants to know whether it is there; that it is not is the answer.
fn is_ping(flow: &Flow) -> bool {
    matches!(flow.proto, ICMP | ICMPV6)
}

/// Whether a filter here drops what asks for a neighbour, or its answer.
fn is_filtered(window: &Window, neighbour: &Flow) -> bool {
    let reasons = ["NETFILTER_DROP", "TC_INGRESS", "TC_EGRESS", "XDP", "BRIDGE_INGRESS_STP_STATE"];
    let mut filtered = window.drops.iter().filter(|drop| drop.is(&reasons) || drop.within(&["xdp"]));
    filtered.any(|drop| asks_for(drop, neighbour))
}

/// Whether what asks for a conversation's other end, or its answer, is lost for a cause that is known.
pub fn is_lookup_lost(window: &Window, findings: &Findings, flow: &Flow) -> bool {
    window.drops.iter().any(|drop| asks_for(drop, flow) && findings.explain(&drop.flow))
}

/// Whether a packet asks for a neighbour, or is its answer.
pub fn asks_for(drop: &Dropped, neighbour: &Flow) -> bool {
    let ends = [drop.flow.to, drop.flow.from];
    (drop.ethertype == ETHERTYPE_ARP || drop.flow.proto == ICMPV6)
        && [neighbour.to, solicited_node(neighbour.to)].iter().any(|ip| ends.contains(ip))
}

/// The multicast group in which an IPv6 address is asked for (RFC 4291, 2.7.1).
fn solicited_node(mut ip: [u8; 16]) -> [u8; 16] {
    ip[..13].copy_from_slice(&[0xff, 0x02, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff]);
    ip
}

/// Whether somebody sends to it in vain, besides the kernel's own looking for it.
fn is_tried(window: &Window, neighbour: &Key) -> bool {
    let to_it = |what: &What| {
        matches!(what, What::Retransmit { .. } | What::ConnectFailed { .. } | What::IcmpSent { .. })
    };
    window.of(to_it).any(|(key, _)| !is_ping(&key.flow) && goes_to(window, key, neighbour))
}

/// Whether something is sent to a neighbour, from its own network or through it: where overlapping
/// networks have the address, or had it one after the other, only their own traffic is meant.
fn goes_to(window: &Window, sent: &Key, neighbour: &Key) -> bool {
    let is_alone = !window.is_shared(sent.flow.destination()) && !window.is_gone(neighbour.entity);
    let is_own = sent.entity == neighbour.entity || is_alone;
    is_own && sent.flow.to == neighbour.flow.to
}

fn neighbour_queue(window: &Window, findings: &mut Findings) {
    for drop in window.dropped_for(&["NEIGH_QUEUEFULL"]) {
        let before =
            format!("more packets wait for neighbour {} than its queue holds: ", drop.flow.destination());
        let title = Title::counting(before, "packet", " dropped");
        findings.add(Conclusion::of_drop(Code::NeighbourQueueFull, drop, title).with_affected(window));
    }
}

fn neighbour_table(window: &Window, findings: &mut Findings) {
    let before = "the neighbour table is full: ";
    for drop in window.dropped_for(&["NEIGH_CREATEFAIL"]) {
        let title = Title::counting(before, "packet", " dropped");
        let found = Conclusion::of_drop(Code::NeighbourTableFull, drop, title).severity(Severity::Critical);
        findings.add(found.confidence(Confidence::Certain).with_affected(window));
    }
    for (key, amount) in window.of(|what| matches!(what, What::Neighbour { kind: KIND_TABLE_FULL, .. })) {
        let title = Title::counting(before, "new entry", " refused");
        let summary = format!("no entry for {}", key.flow.destination());
        let found = Conclusion::new(Code::NeighbourTableFull, key.entity, *amount, title)
            .severity(Severity::Critical)
            .confidence(Confidence::Certain);
        findings.add(found.because(Kind::Event, summary, amount.last).flow(key.flow));
    }
}
