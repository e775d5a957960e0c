//! The wire: MTU, carrier, neighbours, addresses of frames.

use std::net::IpAddr;

use inspector_sdk::probes::neighbour::{KIND_FAILED, KIND_TABLE_FULL, KIND_UNANSWERED};
use inspector_sdk::probes::tcp_retransmit::WHY_RTO;

use crate::counters::counter;
use crate::fact::{Amount, Flow, Key, What};
use crate::finding::{CRITICAL, Conclusion, Findings, INFO, WARNING, total};
use crate::rules::Rule;
use crate::rules::firewall::outage;
use crate::view::{Dropped, View};

const ARP: u16 = 0x0806;
const ICMPV4: u8 = 1;
const ICMPV6: u8 = 58;
/// Every IPv4 link takes packets of this size (RFC 791), so a smaller one that is dropped for its
/// size does not exist.
const SMALL: u64 = 576;
/// Path MTU discovery that works needs a round trip or two.
const STUCK_NS: u64 = 500_000_000;
/// And as many packets.
const SEVERAL: u64 = 3;

/// The rules.
pub const RULES: &[Rule] = &[
    Rule { name: "a packet is too big for the next link", judge: too_big },
    Rule { name: "the other end of a link does not take the packet", judge: not_forwarded },
    Rule { name: "a link has no carrier", judge: no_carrier },
    Rule { name: "a port of a bridge is blocked", judge: blocked_port },
    Rule { name: "packets wait in vain for a neighbour", judge: neighbour },
    Rule { name: "a neighbour does not answer", judge: silent_neighbour },
    Rule { name: "packets wait for a neighbour beyond its queue", judge: neighbour_queue },
    Rule { name: "the neighbour table is full", judge: neighbour_table },
    Rule { name: "frames for another link-layer address", judge: wrong_mac },
];

/// It is a black hole if the sender goes on as before: its timer sends the same again and again, or
/// (where a tunnel hides the connection) large packets come again and again and the ICMP error is
/// dropped.
fn too_big(view: &View, findings: &mut Findings) {
    for d in view.drops.iter().filter(|d| d.is(&["PKT_TOO_BIG"])) {
        let lasts = d.amount.last.saturating_sub(d.amount.first);
        let is_again = |what: &What| *what == What::Retransmit { why: WHY_RTO };
        let again = view.count_on(&d.flow, is_again);
        // Of connections that are given up before, and others that fare the same.
        let others_again = view.count_on(&Flow { sport: 0, ..d.flow }, is_again);
        let tells = |i: &&Dropped| matches!(i.flow.proto, ICMPV4 | ICMPV6) && i.flow.to == d.flow.from;
        let lost = view.drops.iter().filter(|i| i.is(&["NETFILTER_DROP"])).find(tells);
        let stuck =
            (lasts >= STUCK_NS && again >= 2) || ((lost.is_some() || others_again >= 2) && goes_on(view, d));
        let size = format!("packets of {} bytes to {}", d.amount.most, d.flow.destination());
        let packets = total("packet");
        let found = if stuck {
            let title = format!(
                "{size} are too big for the next link, and their sender never learns of it: {packets} dropped"
            );
            let found = Conclusion::of_drop("pmtu-blackhole", d, title).severity(CRITICAL).confidence(90);
            match lost {
                Some(lost) => found
                    .because(
                        "event",
                        format!("a firewall in {} drops ICMP", view.name(lost.entity)),
                        lost.amount.last,
                    )
                    .confidence(95),
                None => found,
            }
        } else {
            let title = format!(
                "{size} were too big for the next link, and path MTU discovery is at work: {packets}"
            );
            Conclusion::of_drop("packet-too-big", d, title).severity(INFO)
        };
        findings.add(found.felt_by(view));
    }
    // The same packet often has an ICMP error without a drop of its own, e.g. with IPv6.
    let is_told = |what: &What| {
        matches!(
            what,
            What::IcmpSent { v6: false, kind: 3, code: 4 } | What::IcmpSent { v6: true, kind: 2, .. }
        )
    };
    for (key, amount) in view.of(is_told).filter(|(key, _)| !findings.explain(&key.flow)).collect::<Vec<_>>()
    {
        let title = format!(
            "packets to {} were too big for the next link; their sender was told",
            key.flow.destination()
        );
        let found =
            Conclusion::new("packet-too-big", key.entity, *amount, title).severity(INFO).flow(key.flow);
        findings.add(found.because("event", "ICMP: packet too big", amount.last).felt_by(view));
    }
}

/// Whether packets go on to be too big. A tunnel has another source port for each attempt.
fn goes_on(view: &View, d: &Dropped) -> bool {
    let of_service = |d: &Dropped| (d.entity, Flow { sport: 0, ..d.flow });
    let same = view.drops.iter().filter(|o| o.is(&["PKT_TOO_BIG"]) && of_service(o) == of_service(d));
    let mut all = d.amount;
    all.count = 0;
    same.for_each(|o| all.add(&o.amount));
    all.count >= SEVERAL && all.last - all.first >= STUCK_NS
}

/// veth and bridges hand packets over themselves. They refuse them all if the other end is down, and
/// large ones if the other end takes smaller ones only.
fn not_forwarded(view: &View, findings: &mut Findings) {
    let bridge = ["br_dev_queue_push_xmit"];
    let is = |d: &&Dropped| {
        let at_end = d.within(&["dev_forward_skb", "veth_xmit"]) || d.within(&bridge);
        !d.is_noise && d.is(&["NOT_SPECIFIED", "DEV_READY"]) && at_end
    };
    for d in view.drops.iter().filter(is) {
        let same = view.drops.iter().filter(|o| is(o) && o.entity == d.entity);
        let least = same.map(|o| o.amount.least).min().unwrap_or(0);
        let packets = total("packet");
        let end = if d.within(&bridge) { "a port of a bridge" } else { "the other end of a link" };
        let found = if least > SMALL {
            let title = format!(
                "{end} takes smaller packets only: {packets} of {} bytes and more dropped",
                d.amount.least
            );
            Conclusion::of_drop("link-mtu-mismatch", d, title).confidence(90)
        } else {
            Conclusion::of_drop("link-down", d, format!("{end} is down: {packets} dropped")).confidence(85)
        };
        findings.add(found.severity(outage(view, &d.flow)).felt_by(view));
    }
}

fn no_carrier(view: &View, findings: &mut Findings) {
    for d in view.drops.iter().filter(|d| !d.is_noise && d.is(&["QDISC_DROP"])) {
        if view.rise(d.entity, counter::QDISC_DROPS) > 0 {
            continue;
        }
        let title = format!("a link has no carrier, or is down: {} dropped on the way out", total("packet"));
        let mut found = Conclusion::of_drop("link-down", d, title).severity(CRITICAL).confidence(90);
        if let Some(amount) = view.counter(d.entity, counter::DEVICE_TX_DROPS) {
            found = found.rose("the device's tx_dropped", amount);
        }
        // Asked for by all that it cannot send to.
        let sent_again = view.of(|what| {
            what.is_silence()
                || matches!(
                    what,
                    What::Retransmit { .. } | What::SocketError { .. } | What::Closed { error: 1.. }
                )
        });
        for (key, _) in sent_again.filter(|(key, _)| key.entity == d.entity) {
            found = found.flow(key.flow);
        }
        findings.add(found.felt_by(view));
    }
}

/// Spanning tree, or a person, keeps a port from forwarding (a reason since 6.14). It is meant to
/// where there are two ways, so what goes to many is told only if somebody waits for its answer.
fn blocked_port(view: &View, findings: &mut Findings) {
    let is_missed = |d: &Dropped| view.of(What::is_unresolved).any(|(key, _)| asks_for(d, &key.flow));
    let blocked = view.drops.iter().filter(|d| d.is(&["BRIDGE_INGRESS_STP_STATE"]));
    for d in blocked.filter(|d| !d.drop.to_many || is_missed(d)) {
        let title = format!(
            "a port of a bridge does not forward (its spanning-tree state): {} dropped",
            total("packet")
        );
        let found = Conclusion::of_drop("link-down", d, title).confidence(92);
        findings.add(found.severity(outage(view, &d.flow)).felt_by(view));
    }
}

fn neighbour(view: &View, findings: &mut Findings) {
    let is_for_it = |d: &&Dropped| {
        d.is(&["NEIGH_FAILED", "NEIGH_DEAD", "NEIGH_HH_FILLFAIL"])
            || (d.is(&["NOT_SPECIFIED"]) && d.within(&["neigh_invalidate"]))
    };
    let lost = view.drops.iter().filter(|d| !d.is_noise).filter(is_for_it);
    for d in lost.filter(|d| d.drop.ethertype != ARP) {
        if findings.has(&["link-down"], d.entity) || is_filtered(view, &d.flow) {
            continue;
        }
        let title = format!(
            "{} does not answer to ARP or neighbour discovery: {} dropped",
            d.flow.destination(),
            total("packet")
        );
        let found = Conclusion::of_drop("neighbour-unresolved", d, title)
            .confidence(92)
            .severity(if is_ping(d) { INFO } else { outage(view, &d.flow) });
        findings.add(to_be_asked(found, d.flow.destination()).felt_by(view));
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
        let words = words(key);
        let found = Conclusion::new("neighbour-unresolved", key.entity, *amount, title)
            .severity(severity)
            .confidence(if is_known(key) { 80 } else { 90 })
            .because("event", format!("neighbour {address} {words}"), amount.last);
        let sent = view.of(|what| {
            matches!(what, What::Retransmit { .. } | What::ConnectFailed { .. } | What::SocketError { .. })
        });
        let sent = sent.filter(|(sent, _)| goes_to(view, sent, key));
        let found = sent.fold(to_be_asked(found, address), |found, (sent, _)| found.flow(sent.flow));
        let worst = found.flows.iter().map(|flow| outage(view, flow)).max().unwrap_or(severity);
        findings.add(found.severity(worst.max(severity)).felt_by(view));
    }
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
fn asks_for(d: &Dropped, neighbour: &Flow) -> bool {
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

/// A frame for another host is normal on a flooded or promiscuous link, unless its packet is for us.
fn wrong_mac(view: &View, findings: &mut Findings) {
    for d in view.drops.iter().filter(|d| d.is(&["OTHERHOST"]) && view.owns(d.entity, d.flow.destination())) {
        let title = format!(
            "frames with packets for {} carry another link-layer address: the sender's neighbour entry is wrong; {}",
            d.flow.destination(),
            total("packet")
        );
        let found = Conclusion::of_drop("wrong-destination-mac", d, title)
            .confidence(93)
            .severity(outage(view, &d.flow));
        findings.add(found.felt_by(view));
    }
}
