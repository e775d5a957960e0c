//! The wire: MTU, carrier, addresses of frames.

use inspector_sdk::Severity;
use inspector_sdk::icmp::Meaning;
use inspector_sdk::probes::tcp_retransmit::WHY_RTO;
use inspector_sdk::protocol::{ICMP, ICMPV6};

use crate::codes::Code;
use crate::confidence::Confidence;
use crate::counters::counter;
use crate::evidence::Kind;
use crate::fact::{Flow, What};
use crate::finding::Conclusion;
use crate::findings::Findings;
use crate::rules::Rule;
use crate::rules::neighbours::asks_for;
use crate::rules::traffic::outage;
use crate::title::Title;
use crate::window::{Dropped, Window};

/// Every IPv4 link takes packets of this size (RFC 791), so a smaller one that is dropped for its
/// size does not exist.
const SMALL: u64 = 576;
/// Path MTU discovery that works needs a round trip or two.
const STUCK_NS: u64 = 500_000_000;
/// And as many packets.
const SEVERAL: u64 = 3;
/// And as many timeouts.
const TIMEOUTS: u64 = 2;

/// The rules.
pub const RULES: &[Rule] = &[
    Rule::new("a packet is too big for the next link", too_big)
        .finds(&[Code::PacketTooBig, Code::PmtuBlackhole]),
    Rule::new("a sender learns that its packet is too big", reported_too_big)
        .finds(&[Code::PacketTooBig])
        .after(&[Code::PmtuBlackhole]),
    Rule::new("the other end of a link does not take the packet", not_forwarded)
        .finds(&[Code::LinkMtuMismatch, Code::LinkDown]),
    Rule::new("a link has no carrier", no_carrier).finds(&[Code::LinkDown]),
    Rule::new("a port of a bridge is blocked", blocked_port).finds(&[Code::LinkDown]),
    Rule::new("frames for another link-layer address", wrong_mac).finds(&[Code::WrongDestinationMac]),
];

fn too_big(window: &Window, findings: &mut Findings) {
    for drop in window.dropped_for(&["PKT_TOO_BIG"]) {
        let size = format!("packets of {} bytes to {}", drop.amount.most, drop.flow.destination());
        let lost = lost_icmp(window, drop);
        if !is_stuck(window, drop, lost.is_some()) {
            let before =
                format!("{size} were too big for the next link, and path MTU discovery is at work: ");
            let title = Title::counting(before, "packet", "");
            let found = Conclusion::of_drop(Code::PacketTooBig, drop, title);
            findings.add(found.severity(Severity::Info).with_affected(window));
            continue;
        }
        let before = format!("{size} are too big for the next link, and their sender never learns of it: ");
        let title = Title::counting(before, "packet", " dropped");
        let mut found = Conclusion::of_drop(Code::PmtuBlackhole, drop, title).severity(Severity::Critical);
        if let Some(lost) = lost {
            let summary = format!("a firewall in {} drops ICMP", window.name(lost.entity));
            found = found.because(Kind::Event, summary, lost.amount.last).confidence(Confidence::Certain);
        }
        findings.add(found.with_affected(window));
    }
}

/// The ICMP error about a packet, if it was dropped on its way back.
fn lost_icmp<'a>(window: &'a Window, drop: &Dropped) -> Option<&'a Dropped> {
    let is_about =
        |icmp: &&Dropped| matches!(icmp.flow.proto, ICMP | ICMPV6) && icmp.flow.to == drop.flow.from;
    window.dropped_for(&["NETFILTER_DROP"]).find(is_about)
}

/// It is a black hole if the sender goes on as before: its timer retransmits the same packet, or
/// large packets come again and again (of connections that are given up before, or where a tunnel
/// hides the connection), and timers or a lost ICMP error say that nobody learnt.
fn is_stuck(window: &Window, drop: &Dropped, is_icmp_lost: bool) -> bool {
    let lasts = drop.amount.last.saturating_sub(drop.amount.first);
    let timeouts = |flow: &Flow| window.count_on(flow, |what| *what == What::Retransmit { why: WHY_RTO });
    let of_service = Flow { sport: 0, ..drop.flow };
    (lasts >= STUCK_NS && timeouts(&drop.flow) >= TIMEOUTS)
        || ((is_icmp_lost || timeouts(&of_service) >= TIMEOUTS) && goes_on(window, drop))
}

/// The same packet often has an ICMP error without a drop of its own, e.g. with IPv6.
fn reported_too_big(window: &Window, findings: &mut Findings) {
    let reported = window.of(|what| what.is_icmp(Meaning::PacketTooBig));
    let unexplained: Vec<_> = reported.filter(|(key, _)| !findings.explain(&key.flow)).collect();
    for (key, amount) in unexplained {
        let to = key.flow.destination();
        let title = format!("packets to {to} were too big for the next link; their sender was told");
        let found = Conclusion::new(Code::PacketTooBig, key.entity, *amount, title)
            .severity(Severity::Info)
            .flow(key.flow)
            .because(Kind::Event, "ICMP: packet too big", amount.last);
        findings.add(found.with_affected(window));
    }
}

/// Whether packets go on to be too big. A tunnel has another source port for each attempt.
fn goes_on(window: &Window, drop: &Dropped) -> bool {
    let of_service = |drop: &Dropped| (drop.entity, Flow { sport: 0, ..drop.flow });
    let same = window.dropped_for(&["PKT_TOO_BIG"]).filter(|other| of_service(other) == of_service(drop));
    let mut all = drop.amount;
    all.count = 0;
    same.for_each(|other| all.add(&other.amount));
    all.count >= SEVERAL && all.last - all.first >= STUCK_NS
}

const BRIDGE: &[&str] = &["br_dev_queue_push_xmit"];

fn is_at_end(drop: &Dropped) -> bool {
    drop.is(&["NOT_SPECIFIED", "DEV_READY"])
        && (drop.within(&["dev_forward_skb", "veth_xmit"]) || drop.within(BRIDGE))
}

/// veth and bridges hand packets over themselves. They refuse them all if the other end is down, and
/// large ones if the other end takes smaller ones only.
fn not_forwarded(window: &Window, findings: &mut Findings) {
    for drop in window.missed().filter(|drop| is_at_end(drop)) {
        let same = window.missed().filter(|other| is_at_end(other) && other.entity == drop.entity);
        let least = same.map(|other| other.amount.least).min().unwrap_or(0);
        let end = if drop.within(BRIDGE) { "a port of a bridge" } else { "the other end of a link" };
        let found = if least > SMALL {
            let after = format!(" of {} bytes and more dropped", drop.amount.least);
            let title = Title::counting(format!("{end} takes smaller packets only: "), "packet", after);
            Conclusion::of_drop(Code::LinkMtuMismatch, drop, title)
        } else {
            let title = Title::counting(format!("{end} is down: "), "packet", " dropped");
            Conclusion::of_drop(Code::LinkDown, drop, title)
        };
        findings.add(found.severity(outage(window, &drop.flow)).with_affected(window));
    }
}

fn no_carrier(window: &Window, findings: &mut Findings) {
    for drop in window.missed().filter(|drop| drop.is(&["QDISC_DROP"])) {
        if window.rise(drop.entity, counter::QDISC_DROPS) > 0 {
            continue;
        }
        let before = "a link has no carrier, or is down: ";
        let title = Title::counting(before, "packet", " dropped on the way out");
        let mut found = Conclusion::of_drop(Code::LinkDown, drop, title).severity(Severity::Critical);
        if let Some(amount) = window.counter(drop.entity, counter::DEVICE_TX_DROPS) {
            found = found.rose("the device's tx_dropped", amount);
        }
        // Asked for by all that it cannot send to.
        let suffers = |what: &What| {
            what.is_silence()
                || what.is_retransmit()
                || matches!(what, What::SocketError { .. } | What::Closed { error: 1.. })
        };
        let own = window.of(suffers).filter(|(key, _)| key.entity == drop.entity);
        findings.add(found.flows(own.map(|(key, _)| key.flow)).with_affected(window));
    }
}

/// Spanning tree, or a person, keeps a port from forwarding (a reason since 6.14). It is meant to
/// where there are two routes, so multicast that it stops is a fault only if somebody waits for the
/// answer.
fn blocked_port(window: &Window, findings: &mut Findings) {
    let is_missed = |drop: &Dropped| window.of(What::is_unresolved).any(|(key, _)| asks_for(drop, &key.flow));
    let blocked = window.dropped_for(&["BRIDGE_INGRESS_STP_STATE"]);
    for drop in blocked.filter(|drop| !drop.is_multicast || is_missed(drop)) {
        let before = "a port of a bridge does not forward (its spanning-tree state): ";
        let title = Title::counting(before, "packet", " dropped");
        let found = Conclusion::of_drop(Code::LinkDown, drop, title).confidence(Confidence::Certain);
        findings.add(found.severity(outage(window, &drop.flow)).with_affected(window));
    }
}

/// A frame for another host is normal on a flooded or promiscuous link, unless its packet is for us.
fn wrong_mac(window: &Window, findings: &mut Findings) {
    let others = window.dropped_for(&["OTHERHOST"]);
    for drop in others.filter(|drop| window.owns(drop.entity, drop.flow.destination())) {
        let before = format!(
            "frames with packets for {} carry another link-layer address: the sender's neighbour entry is wrong; ",
            drop.flow.destination()
        );
        let found =
            Conclusion::of_drop(Code::WrongDestinationMac, drop, Title::counting(before, "packet", ""));
        let found = found.confidence(Confidence::Certain).severity(outage(window, &drop.flow));
        findings.add(found.with_affected(window));
    }
}
