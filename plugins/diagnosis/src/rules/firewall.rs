//! Netfilter: rules that drop, rules that refuse, and a full connection-tracking table.

use std::collections::BTreeMap;

use inspector_sdk::protocol::{self, TCP};
use inspector_sdk::{EntityId, Severity};

use crate::codes::Code;
use crate::confidence::Confidence;
use crate::counters::{counter, gauge};
use crate::evidence::Kind;
use crate::fact::{Flow, Segment, What};
use crate::finding::Conclusion;
use crate::findings::Findings;
use crate::rules::Rule;
use crate::rules::traffic::{describe, outage};
use crate::title::{Title, plural};
use crate::window::{Dropped, Window};

/// Ports tried once each that make it a scan.
const MANY_PORTS: usize = 5;

const QUEUES: &[&str] = &["nf_queue", "nfqnl_", "nf_reinject"];

/// The rules.
pub const RULES: &[Rule] = &[
    Rule::new("netfilter drops packets", netfilter).finds(&[
        Code::FirewallDrop,
        Code::FirewallReject,
        Code::ConntrackFull,
    ]),
    Rule::new("a security policy drops packets", policy).finds(&[Code::FirewallDrop]),
];

fn netfilter(window: &Window, findings: &mut Findings) {
    let strangers = strangers(window);
    for drop in window.missed().filter(|drop| is_by_rule(drop)) {
        findings.add(if is_table_full(window, drop) {
            table_full(window, drop)
        } else {
            match refusal(window, drop) {
                Some(how) => rejected(window, drop, &how),
                None => dropped_silently(window, drop, is_background(window, drop, &strangers)),
            }
        });
    }
}

/// A packet that a rule hands to a program (NFQUEUE) is dropped without a reason of its own if no
/// program takes it.
fn is_by_rule(drop: &Dropped) -> bool {
    drop.is(&["NETFILTER_DROP"]) || (drop.is(&["NOT_SPECIFIED"]) && drop.within(QUEUES))
}

/// A full table drops in `nf_hook_slow`, as an old rule does; its own counter tells them apart.
fn is_table_full(window: &Window, drop: &Dropped) -> bool {
    window.rise(drop.entity, counter::CONNTRACK_DROP) > 0 && !drop.within(&["nft_do_chain"])
}

fn table_full(window: &Window, drop: &Dropped) -> Conclusion {
    let maximum = window.gauge(drop.entity, gauge::CONNTRACK_MAXIMUM).map_or(0, |gauge| gauge.least);
    let entries = window.gauge(drop.entity, gauge::CONNTRACK_ENTRIES).map_or(0, |gauge| gauge.most);
    let before = "the connection-tracking table is full; ";
    let title = Title::counting(before, "packet", " of new connections dropped");
    let mut found = Conclusion::of_drop(Code::ConntrackFull, drop, title)
        .severity(Severity::Critical)
        .confidence(Confidence::Certain);
    if let Some(amount) = window.counter(drop.entity, counter::CONNTRACK_DROP) {
        found = found.rose("the drop counter of connection tracking", amount);
    }
    if maximum > 0 {
        found = found.because(Kind::Table, format!("{entries} entries of at most {maximum}"), 0);
    }
    found.check("table", &[("source", "conntrack".to_owned())]).with_affected(window)
}

/// How netfilter answered on behalf of the receiver, if it did.
fn refusal(window: &Window, drop: &Dropped) -> Option<String> {
    let is_unreachable = |what: &What| what.icmp_error().is_some_and(|error| error.is_unreachable());
    let by_icmp = window
        .on(std::slice::from_ref(&drop.flow), is_unreachable)
        .find(|(key, _)| key.entity == drop.entity && key.flow.meets(&drop.flow));
    if let Some((key, amount)) = by_icmp
        && let What::IcmpSent(error) = key.what
    {
        let errors = plural(amount.count, "ICMP error");
        return Some(format!("{errors} (type {}, code {})", error.kind, error.code));
    }
    if drop.flow.proto == TCP { reset_by_netfilter(window, drop) } else { None }
}

/// The stack reports each reset that it sends; netfilter makes its own, which only the counter includes.
fn reset_by_netfilter(window: &Window, drop: &Dropped) -> Option<String> {
    let flow = &drop.flow;
    if window.resets_on(flow).next().is_some() {
        return None;
    }
    if window.count_on(flow, What::is_reset_received) > 0 {
        return Some("resets that no stack here sent".to_owned());
    }
    let own = window.resets.iter().filter(|reset| reset.entity == drop.entity);
    let reported: u64 = own.map(|reset| reset.amount.count).sum();
    let counted = window.rise(drop.entity, counter::RESETS_SENT);
    let gives_reasons = window.resets.iter().any(|reset| !reset.reason.is_empty());
    (!window.is_local(flow.source()) && gives_reasons && counted > reported)
        .then(|| format!("{} that no stack here sent", plural(counted - reported, "reset")))
}

fn rejected(window: &Window, drop: &Dropped, how: &str) -> Conclusion {
    let title = Title::counting(format!("a firewall rule refuses {}: ", describe(&drop.flow)), "packet", "");
    let found = Conclusion::of_drop(Code::FirewallReject, drop, title).confidence(Confidence::Certain);
    let found = found.because(Kind::Event, format!("answered with {how}"), drop.amount.last);
    with_chains(found, drop).severity(outage(window, &drop.flow)).with_affected(window)
}

/// A dropped reset leaves the other side in its belief, which is concluded where that shows.
fn dropped_silently(window: &Window, drop: &Dropped, is_background: bool) -> Conclusion {
    if drop.segment == Segment::Rst {
        let title = Title::counting("a firewall rule drops resets: ", "packet", "");
        let found = Conclusion::new(Code::FirewallDrop, drop.entity, drop.amount, title).drops(drop);
        return with_chains(found, drop).severity(Severity::Info).confidence(Confidence::Likely);
    }
    let is_queued = drop.within(QUEUES);
    let how = if is_queued { "hands to a program that takes nothing" } else { "drops" };
    let title = Title::counting(format!("a firewall rule {how} {}: ", describe(&drop.flow)), "packet", "");
    let mut found = Conclusion::of_drop(Code::FirewallDrop, drop, title).confidence(Confidence::Certain);
    if is_queued {
        found = found.text("/proc/net/netfilter/nfnetlink_queue lists the queues that are served");
    }
    let found = with_chains(found, drop).severity(outage(window, &drop.flow)).with_affected(window);
    if is_background {
        return found.severity(Severity::Info).text("strangers try many ports, each once");
    }
    found
}

/// Packets from elsewhere that came once and were not retransmitted, as they would be if somebody missed
/// the answer: how many, by where they were dropped and the port that they were for.
type Strangers = BTreeMap<EntityId, BTreeMap<u16, usize>>;

fn strangers(window: &Window) -> Strangers {
    let mut strangers = Strangers::new();
    for drop in window.drops.iter().filter(|drop| is_stranger(window, drop)) {
        *strangers.entry(drop.entity).or_default().entry(drop.flow.dport).or_default() += 1;
    }
    strangers
}

fn is_stranger(window: &Window, drop: &Dropped) -> bool {
    drop.amount.count == 1
        && matches!(drop.segment, Segment::Syn | Segment::None)
        && drop.is(&["NETFILTER_DROP"])
        && !window.is_local(drop.flow.source())
}

/// What everybody meets who has a public address: strangers at one port after the other, and no more
/// of them at this one than at others.
fn is_background(window: &Window, drop: &Dropped, strangers: &Strangers) -> bool {
    let Some(ports) = strangers.get(&drop.entity) else { return false };
    let at_it = ports.get(&drop.flow.dport).copied().unwrap_or(0);
    is_stranger(window, drop) && ports.len() >= MANY_PORTS && at_it < ports.len()
}

fn with_chains(found: Conclusion, drop: &Dropped) -> Conclusion {
    let Flow { proto, dport, .. } = drop.flow;
    found.check(
        "netfilter",
        &[
            ("saddr", drop.flow.source().to_string()),
            ("daddr", drop.flow.destination().to_string()),
            ("proto", protocol::name(proto)),
            ("dport", dport.to_string()),
        ],
    )
}

/// Policies of other subsystems than netfilter, for the same ends.
fn policy(window: &Window, findings: &mut Findings) {
    for (reason, what) in [("XFRM_POLICY", "an IPsec policy"), ("SECURITY_HOOK", "a security module")] {
        for drop in window.dropped_for(&[reason]) {
            let title = Title::counting(format!("{what} drops {}: ", describe(&drop.flow)), "packet", "");
            let found = Conclusion::of_drop(Code::FirewallDrop, drop, title);
            findings.add(found.severity(outage(window, &drop.flow)).with_affected(window));
        }
    }
}
