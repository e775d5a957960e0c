//! Netfilter: rules that drop, rules that refuse, and a full connection-tracking table.

use std::collections::BTreeMap;

use inspector_sdk::EntityId;
use inspector_sdk::flow::TCP;

use crate::counters::{counter, gauge};
use crate::fact::{Flow, Segment, What};
use crate::finding::{CRITICAL, Conclusion, Findings, INFO, WARNING, plural, total};
use crate::rules::Rule;
use crate::view::{Dropped, View};

/// The rules.
pub const RULES: &[Rule] = &[
    Rule { name: "netfilter drops packets", judge: netfilter },
    Rule { name: "a security policy drops packets", judge: policy },
];

/// Ports tried once each that make it a scan.
const MANY_PORTS: usize = 5;

const QUEUES: &[&str] = &["nf_queue", "nfqnl_", "nf_reinject"];

fn netfilter(view: &View, findings: &mut Findings) {
    let strangers = strangers(view);
    for dropped in view.drops.iter().filter(|d| is_by_rule(d) && !d.is_noise) {
        findings.add(if is_table_full(view, dropped) {
            table_full(view, dropped)
        } else {
            match refusal(view, &dropped.flow, dropped) {
                Some(how) => rejected(view, dropped, &how),
                None => dropped_silently(view, dropped, is_background(view, dropped, &strangers)),
            }
        });
    }
}

/// A packet that a rule hands to a program (NFQUEUE) is dropped without a reason of its own if no
/// program takes it.
fn is_by_rule(d: &Dropped) -> bool {
    d.is(&["NETFILTER_DROP"]) || (d.is(&["NOT_SPECIFIED"]) && d.within(QUEUES))
}

/// A full table drops in `nf_hook_slow`, as an old rule does; its own counter tells them apart.
fn is_table_full(view: &View, dropped: &Dropped) -> bool {
    let counted = view.rise(dropped.entity, counter::CONNTRACK_DROP) > 0;
    counted && !dropped.within(&["nft_do_chain"])
}

fn table_full(view: &View, dropped: &Dropped) -> Conclusion {
    let maximum = view.gauge(dropped.entity, gauge::CONNTRACK_MAXIMUM).map_or(0, |g| g.least);
    let entries = view.gauge(dropped.entity, gauge::CONNTRACK_ENTRIES).map_or(0, |g| g.most);
    let title =
        format!("the connection-tracking table is full; {} of new connections dropped", total("packet"));
    let mut found = Conclusion::of_drop("conntrack-full", dropped, title).severity(CRITICAL).confidence(95);
    if let Some(amount) = view.counter(dropped.entity, counter::CONNTRACK_DROP) {
        found = found.rose("the drop counter of connection tracking", amount);
    }
    if maximum > 0 {
        found = found.because("table", format!("{entries} entries of at most {maximum}"), 0);
    }
    found.check("table", &[("source", "conntrack".to_owned())]).felt_by(view)
}

/// How netfilter answered on behalf of the receiver, if it did.
fn refusal(view: &View, flow: &Flow, dropped: &Dropped) -> Option<String> {
    let sent = |what: &What| {
        matches!(what, What::IcmpSent { v6: false, kind: 3, code } if *code != 4)
            || matches!(what, What::IcmpSent { v6: true, kind: 1, .. })
    };
    let by_icmp = view.of(sent).find(|(key, _)| key.entity == dropped.entity && key.flow.meets(flow));
    if let Some((key, amount)) = by_icmp
        && let What::IcmpSent { kind, code, .. } = key.what
    {
        return Some(format!("{} (type {kind}, code {code})", plural(amount.count, "ICMP error")));
    }
    if flow.proto != TCP {
        return None;
    }
    // The stack tells of each reset that it sends; netfilter makes its own and only the counter sees it.
    let stack = view.resets.iter().filter(|r| r.flow.meets(flow)).count();
    let received =
        view.of(|what| matches!(what, What::ResetReceived { .. })).find(|(key, _)| key.concerns(flow));
    if stack == 0 && received.is_some() {
        return Some("resets that no stack here sent".to_owned());
    }
    let told: u64 = view.resets.iter().filter(|r| r.entity == dropped.entity).map(|r| r.amount.count).sum();
    let counted = view.rise(dropped.entity, counter::RESETS_SENT);
    let gives_reasons = view.resets.iter().any(|r| r.reset.reason.is_some());
    let local = view.is_local(flow.source());
    (stack == 0 && !local && gives_reasons && counted > told)
        .then(|| format!("{} that no stack here sent", plural(counted - told, "reset")))
}

fn rejected(view: &View, dropped: &Dropped, how: &str) -> Conclusion {
    let title = format!("a firewall rule refuses {}: {}", traffic(&dropped.flow), total("packet"));
    let found = Conclusion::of_drop("firewall-reject", dropped, title).confidence(93);
    let found = found.because("event", format!("answered with {how}"), dropped.amount.last);
    with_chains(found, dropped).severity(outage(view, &dropped.flow)).felt_by(view)
}

/// A reset that does not get through leaves the other side in its belief, which is told where that
/// shows.
fn dropped_silently(view: &View, dropped: &Dropped, is_background: bool) -> Conclusion {
    if dropped.drop.segment == Segment::Rst {
        let title = format!("a firewall rule drops resets: {}", total("packet"));
        let found = Conclusion::new("firewall-drop", dropped.entity, dropped.amount, title);
        return with_chains(found.drops(dropped), dropped).severity(INFO).confidence(80);
    }
    let how = if dropped.within(QUEUES) { "hands to a program that takes nothing" } else { "drops" };
    let title = format!("a firewall rule {how} {}: {}", traffic(&dropped.flow), total("packet"));
    let mut found = Conclusion::of_drop("firewall-drop", dropped, title).confidence(95);
    if dropped.within(QUEUES) {
        found =
            found.because("text", "/proc/net/netfilter/nfnetlink_queue lists the queues that are served", 0);
    }
    let found = with_chains(found, dropped).severity(outage(view, &dropped.flow)).felt_by(view);
    if is_background {
        return found.severity(INFO).because("text", "strangers try many ports, each once", 0);
    }
    found
}

/// Packets from elsewhere that came once and not again, as they would if somebody missed the answer:
/// how many, by where they were dropped and the port that they were for.
type Strangers = BTreeMap<EntityId, BTreeMap<u16, usize>>;

fn strangers(view: &View) -> Strangers {
    let mut strangers = Strangers::new();
    for d in view.drops.iter().filter(|d| is_stranger(view, d)) {
        *strangers.entry(d.entity).or_default().entry(d.flow.dport).or_default() += 1;
    }
    strangers
}

fn is_stranger(view: &View, d: &Dropped) -> bool {
    d.amount.count == 1
        && matches!(d.drop.segment, Segment::Syn | Segment::None)
        && d.is(&["NETFILTER_DROP"])
        && !view.is_local(d.flow.source())
}

/// What everybody meets who has a public address: strangers at one port after the other, and no more
/// of them at this one than at others.
fn is_background(view: &View, dropped: &Dropped, strangers: &Strangers) -> bool {
    let Some(ports) = strangers.get(&dropped.entity) else { return false };
    let at_it = ports.get(&dropped.flow.dport).copied().unwrap_or(0);
    is_stranger(view, dropped) && ports.len() >= MANY_PORTS && at_it < ports.len()
}

fn with_chains(found: Conclusion, dropped: &Dropped) -> Conclusion {
    let flow = dropped.flow;
    found.check(
        "netfilter",
        &[
            ("saddr", flow.source().to_string()),
            ("daddr", flow.destination().to_string()),
            ("proto", inspector_sdk::flow::protocol(flow.proto)),
            ("dport", flow.dport.to_string()),
        ],
    )
}

fn traffic(flow: &Flow) -> String {
    if flow.is_known() {
        format!("{} {}", inspector_sdk::flow::protocol(flow.proto), flow.show())
    } else {
        "traffic".to_owned()
    }
}

/// What is told to drop by other means than netfilter, for the same ends.
fn policy(view: &View, findings: &mut Findings) {
    for (reason, what) in [("XFRM_POLICY", "an IPsec policy"), ("SECURITY_HOOK", "a security module")] {
        for dropped in view.drops.iter().filter(|d| d.is(&[reason])) {
            let title = format!("{what} drops {}: {}", traffic(&dropped.flow), total("packet"));
            let found = Conclusion::of_drop("firewall-drop", dropped, title).confidence(90);
            findings.add(found.severity(outage(view, &dropped.flow)).felt_by(view));
        }
    }
}

/// Critical if somebody tries in vain to connect through it, and nobody succeeds.
pub fn outage(view: &View, flow: &Flow) -> u8 {
    if flow.proto != TCP {
        return WARNING;
    }
    let service = flow.of_service();
    let tries = |what: &What| {
        matches!(what, What::ConnectFailed { .. })
            || matches!(what, What::Retransmit { why } if *why == inspector_sdk::probes::tcp_retransmit::WHY_SYN)
    };
    let succeeds = view.count_on(&service, |what| matches!(what, What::Connected | What::Accepted));
    if succeeds == 0 && view.count_on(flow, tries) > 0 { CRITICAL } else { WARNING }
}
