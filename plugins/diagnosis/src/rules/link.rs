//! The wire: MTU, carrier, addresses of frames.

use inspector_sdk::probes::tcp_retransmit::WHY_RTO;

use crate::counters::counter;
use crate::fact::{Flow, What};
use crate::finding::{CRITICAL, Conclusion, Findings, INFO, total};
use crate::rules::Rule;
use crate::rules::firewall::outage;
use crate::rules::neighbours::asks_for;
use crate::view::{Dropped, View};

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
    Rule { name: "a sender is told that its packet is too big", judge: told_too_big },
    Rule { name: "the other end of a link does not take the packet", judge: not_forwarded },
    Rule { name: "a link has no carrier", judge: no_carrier },
    Rule { name: "a port of a bridge is blocked", judge: blocked_port },
    Rule { name: "frames for another link-layer address", judge: wrong_mac },
];

fn too_big(view: &View, findings: &mut Findings) {
    for d in view.drops.iter().filter(|d| d.is(&["PKT_TOO_BIG"])) {
        let size = format!("packets of {} bytes to {}", d.amount.most, d.flow.destination());
        let (packets, lost) = (total("packet"), lost_icmp(view, d));
        if !is_stuck(view, d, lost.is_some()) {
            let title = format!(
                "{size} were too big for the next link, and path MTU discovery is at work: {packets}"
            );
            findings.add(Conclusion::of_drop("packet-too-big", d, title).severity(INFO).felt_by(view));
            continue;
        }
        let title = format!(
            "{size} are too big for the next link, and their sender never learns of it: {packets} dropped"
        );
        let mut found = Conclusion::of_drop("pmtu-blackhole", d, title).severity(CRITICAL).confidence(90);
        if let Some(lost) = lost {
            let summary = format!("a firewall in {} drops ICMP", view.name(lost.entity));
            found = found.because("event", summary, lost.amount.last).confidence(95);
        }
        findings.add(found.felt_by(view));
    }
}

/// The ICMP error about a packet, if it was dropped on its way back.
fn lost_icmp<'a>(view: &'a View, d: &Dropped) -> Option<&'a Dropped> {
    let tells = |i: &&Dropped| matches!(i.flow.proto, ICMPV4 | ICMPV6) && i.flow.to == d.flow.from;
    view.drops.iter().filter(|i| i.is(&["NETFILTER_DROP"])).find(tells)
}

/// It is a black hole if the sender goes on as before: its timer sends the same again and again, or
/// large packets come again and again (of connections that are given up before, or where a tunnel
/// hides the connection), and timers or a lost ICMP error say that nobody learnt.
fn is_stuck(view: &View, d: &Dropped, is_icmp_lost: bool) -> bool {
    let lasts = d.amount.last.saturating_sub(d.amount.first);
    let again = |flow: &Flow| view.count_on(flow, |what| *what == What::Retransmit { why: WHY_RTO });
    let of_service = Flow { sport: 0, ..d.flow };
    (lasts >= STUCK_NS && again(&d.flow) >= 2)
        || ((is_icmp_lost || again(&of_service) >= 2) && goes_on(view, d))
}

/// The same packet often has an ICMP error without a drop of its own, e.g. with IPv6.
fn told_too_big(view: &View, findings: &mut Findings) {
    let is_told = |what: &What| {
        matches!(
            what,
            What::IcmpSent { v6: false, kind: 3, code: 4 } | What::IcmpSent { v6: true, kind: 2, .. }
        )
    };
    let told: Vec<_> = view.of(is_told).filter(|(key, _)| !findings.explain(&key.flow)).collect();
    for (key, amount) in told {
        let to = key.flow.destination();
        let title = format!("packets to {to} were too big for the next link; their sender was told");
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
