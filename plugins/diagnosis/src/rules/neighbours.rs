//! Hosts on the link that do not answer to ARP or neighbour discovery, and the table of those that do.

use std::net::IpAddr;

use inspector_sdk::probes::neighbour::{KIND_FAILED, KIND_TABLE_FULL, KIND_UNANSWERED};

use crate::fact::{Amount, Flow, Key, What};
use crate::finding::{CRITICAL, Conclusion, Findings, INFO, WARNING, total};
use crate::rules::Rule;
use crate::rules::firewall::outage;
use crate::view::{Dropped, View};

const ARP: u16 = 0x0806;
const ICMPV4: u8 = 1;
const ICMPV6: u8 = 58;
/// Time from one request to the next (`retrans_time_ms`).
const REQUEST_NS: u64 = 1_000_000_000;

/// The rules.
pub const RULES: &[Rule] = &[
    Rule { name: "packets wait in vain for a neighbour", judge: neighbour },
    Rule { name: "a neighbour does not answer", judge: silent_neighbour },
    Rule { name: "packets wait for a neighbour beyond its queue", judge: neighbour_queue },
    Rule { name: "the neighbour table is full", judge: neighbour_table },
];

/// Packets that waited for a neighbour are dropped once it has failed, at whoever sends or forwards.
fn neighbour(view: &View, findings: &mut Findings) {
    for d in view.drops.iter().filter(|d| is_for_neighbour(d)) {
        let hop = next_hop(view, d);
        if findings.has(&["link-down"], d.entity) || is_filtered(view, &hop) {
            continue;
        }
        let (address, to) = (hop.destination(), d.flow.destination());
        let way = if address == to { String::new() } else { format!(", on the way to {to},") };
        let packets = total("packet");
        let title =
            format!("{address}{way} does not answer to ARP or neighbour discovery: {packets} dropped");
        let found = Conclusion::of_drop("neighbour-unresolved", d, title)
            .confidence(92)
            .severity(if is_ping(d) { INFO } else { outage(view, &d.flow) });
        // Clients that were too impatient to have a packet of theirs in it.
        let pair = Flow { sport: 0, dport: 0, ..d.flow };
        let silent = view.of(What::is_silence).filter(|(key, _)| key.flow.meets(&pair));
        let found = silent.fold(to_be_asked(found, address), |found, (key, _)| found.flow(key.flow));
        findings.add(found.felt_by(view));
    }
}

fn is_for_neighbour(d: &Dropped) -> bool {
    let is_lost = d.is(&["NEIGH_FAILED", "NEIGH_DEAD", "NEIGH_HH_FILLFAIL"])
        || (d.is(&["NOT_SPECIFIED"]) && d.within(&["neigh_invalidate"]));
    is_lost && !d.is_noise && d.drop.ethertype != ARP
}

/// The neighbour that a packet waited for: where it is for itself, or the router that failed nearest
/// to its drop.
fn next_hop(view: &View, d: &Dropped) -> Flow {
    let failed = || view.of(What::is_unresolved).filter(|(key, _)| key.entity == d.entity);
    let is_own = failed().any(|(key, _)| key.flow.to == d.flow.to);
    let nearest = failed().min_by_key(|(_, amount)| amount.last.abs_diff(d.amount.last));
    match nearest {
        Some((router, _)) if !is_own => router.flow,
        _ => Flow { to: d.flow.to, ..Flow::NONE },
    }
}

/// The kernel asks three times, a second apart, before it gives up: who waits less than that goes
/// without its verdict.
fn silent_neighbour(view: &View, findings: &mut Findings) {
    for (key, amount) in view.of(What::is_unresolved) {
        let is_explained = findings.has(&["link-down"], key.entity) || is_filtered(view, &key.flow);
        if is_explained || (is_waiting(key) && (is_decided(view, key) || is_reached(view, key, amount))) {
            continue;
        }
        let address = key.flow.destination();
        let title = format!("{address} does not answer to ARP or neighbour discovery");
        let severity = if tried(view, key) { WARNING } else { INFO };
        let found = Conclusion::new("neighbour-unresolved", key.entity, *amount, title)
            .severity(severity)
            .confidence(if is_known(key) { 80 } else { 90 })
            .because("event", format!("neighbour {address} {}", words(key)), amount.last);
        let found =
            senders(view, key, amount).into_iter().fold(to_be_asked(found, address), Conclusion::flow);
        let worst = found.flows.iter().map(|flow| outage(view, flow)).max().unwrap_or(severity);
        findings.add(found.severity(worst.max(severity)).felt_by(view));
    }
}

/// Conversations that wait for a neighbour. One that nobody talks to is a router: until the kernel
/// gives it up, and drops what waits for it, what is silent meanwhile is taken to go through it.
fn senders(view: &View, neighbour: &Key, asked: &Amount) -> Vec<Flow> {
    let fails = |what: &What| {
        matches!(what, What::Retransmit { .. } | What::ConnectFailed { .. } | What::SocketError { .. })
    };
    let direct = view.of(fails).filter(|(sent, _)| goes_to(view, sent, neighbour));
    let direct: Vec<_> = direct.map(|(sent, _)| sent.flow).collect();
    if !direct.is_empty() || !is_waiting(neighbour) {
        return direct;
    }
    let is_meanwhile = |(key, amount): &&(Key, Amount)| {
        key.entity == neighbour.entity && amount.last.saturating_add(REQUEST_NS) >= asked.first
    };
    view.of(What::is_silence).filter(is_meanwhile).map(|(key, _)| key.flow).collect()
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
fn is_decided(view: &View, neighbour: &Key) -> bool {
    let given_up = view.of(|what| matches!(what, What::Neighbour { kind: KIND_FAILED, .. }));
    given_up.into_iter().any(|(key, _)| (key.entity, key.flow) == (neighbour.entity, neighbour.flow))
}

/// Whether it was reached after all.
fn is_reached(view: &View, neighbour: &Key, asked: &Amount) -> bool {
    let answers = |what: &What| matches!(what, What::Connected | What::Accepted | What::DnsAnswer { .. });
    view.of(answers).any(|(key, amount)| goes_to(view, key, neighbour) && amount.last >= asked.last)
}

/// Who pings a host wants to know whether it is there; that it is not is the answer.
fn is_ping(d: &Dropped) -> bool {
    matches!(d.flow.proto, ICMPV4 | ICMPV6)
}

/// Whether something here is told to drop what asks for a neighbour, or its answer.
fn is_filtered(view: &View, neighbour: &Flow) -> bool {
    let told = ["NETFILTER_DROP", "TC_INGRESS", "TC_EGRESS", "XDP", "BRIDGE_INGRESS_STP_STATE"];
    view.drops.iter().filter(|d| d.is(&told) || d.within(&["xdp"])).any(|d| asks_for(d, neighbour))
}

/// Whether what asks for a conversation's other end, or its answer, is lost for a cause that is known.
pub fn is_lookup_lost(view: &View, findings: &Findings, flow: &Flow) -> bool {
    view.drops.iter().any(|d| asks_for(d, flow) && findings.explain(&d.flow))
}

/// Whether a packet asks for a neighbour, or is its answer.
pub fn asks_for(d: &Dropped, neighbour: &Flow) -> bool {
    (d.drop.ethertype == ARP || d.flow.proto == ICMPV6)
        && [neighbour.to, solicited_node(neighbour.to)]
            .iter()
            .any(|ip| d.flow.to == *ip || d.flow.from == *ip)
}

/// The multicast group in which an IPv6 address is asked for (RFC 4291, 2.7.1).
fn solicited_node(mut ip: [u8; 16]) -> [u8; 16] {
    ip[..13].copy_from_slice(&[0xff, 0x02, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff]);
    ip
}

/// Whether somebody sends to it in vain, besides the kernel's own looking for it.
fn tried(view: &View, neighbour: &Key) -> bool {
    let to_it = |what: &What| {
        matches!(what, What::Retransmit { .. } | What::ConnectFailed { .. } | What::IcmpSent { .. })
    };
    let is_ping = |key: &Key| matches!(key.flow.proto, ICMPV4 | ICMPV6);
    view.of(to_it).any(|(key, _)| !is_ping(key) && goes_to(view, key, neighbour))
}

/// Whether something is sent to a neighbour, from its own network or through it: where overlapping
/// networks have the address, or had it one after the other, only their own traffic is meant.
fn goes_to(view: &View, sent: &Key, neighbour: &Key) -> bool {
    let is_alone = !view.is_shared(sent.flow.destination()) && !view.is_gone(neighbour.entity);
    let is_own = sent.entity == neighbour.entity || is_alone;
    is_own && sent.flow.to == neighbour.flow.to
}

fn neighbour_queue(view: &View, findings: &mut Findings) {
    for d in view.drops.iter().filter(|d| d.is(&["NEIGH_QUEUEFULL"])) {
        let title = format!(
            "more packets wait for neighbour {} than its queue holds: {} dropped",
            d.flow.destination(),
            total("packet")
        );
        findings.add(Conclusion::of_drop("neighbour-queue-full", d, title).confidence(90).felt_by(view));
    }
}

fn neighbour_table(view: &View, findings: &mut Findings) {
    for d in view.drops.iter().filter(|d| d.is(&["NEIGH_CREATEFAIL"])) {
        let title = format!("the neighbour table is full: {} dropped", total("packet"));
        findings.add(
            Conclusion::of_drop("neighbour-table-full", d, title)
                .severity(CRITICAL)
                .confidence(95)
                .felt_by(view),
        );
    }
    for (key, amount) in view.of(|what| matches!(what, What::Neighbour { kind: KIND_TABLE_FULL, .. })) {
        let title = format!("the neighbour table is full: {} refused", total("new entry"));
        let found = Conclusion::new("neighbour-table-full", key.entity, *amount, title)
            .severity(CRITICAL)
            .confidence(95);
        findings.add(
            found
                .because("event", format!("no entry for {}", key.flow.destination()), amount.last)
                .flow(key.flow),
        );
    }
}
