//! What people attached to the kernel: tc, XDP, cgroup and socket programs, queueing disciplines.

use std::collections::{BTreeMap, BTreeSet};

use inspector_sdk::EntityId;
use inspector_sdk::flow::TCP;
use inspector_sdk::probes::tcp_retransmit::{WHY_RTO, WHY_SYN};

use crate::counters::counter;
use crate::fact::What;
use crate::finding::{Conclusion, Findings, INFO, total};
use crate::rules::Rule;
use crate::rules::firewall::outage;
use crate::view::{Dropped, View};

/// Of so many bytes, one that a queue drops is nothing that TCP would notice.
const SHARE: u64 = 100;

/// The rules.
pub const RULES: &[Rule] = &[
    Rule { name: "a tc filter drops packets", judge: tc },
    Rule { name: "an XDP program drops packets", judge: xdp },
    Rule { name: "a cgroup program drops packets", judge: cgroup },
    Rule { name: "a socket's filter drops packets", judge: socket_filter },
    Rule { name: "a queueing discipline drops packets", judge: qdisc },
    Rule { name: "a device's queue is full", judge: device },
];

fn each(view: &View, findings: &mut Findings, code: &'static str, what: &str, is: impl Fn(&Dropped) -> bool) {
    for dropped in view.drops.iter().filter(|dropped| !dropped.is_noise && is(dropped)) {
        let title = format!("{what}: {}", total("packet"));
        let found =
            Conclusion::of_drop(code, dropped, title).confidence(95).severity(outage(view, &dropped.flow));
        findings.add(found.felt_by(view));
    }
}

fn tc(view: &View, findings: &mut Findings) {
    each(view, findings, "tc-drop", "a traffic-control program or filter drops", |d| {
        d.is(&["TC_INGRESS", "TC_EGRESS", "TC_CHAIN_NOTFOUND", "TC_RECLASSIFY_LOOP", "TC_COOKIE_ERROR"])
    });
}

/// Where a program runs on the device's own path, the kernel gives no reason.
fn xdp(view: &View, findings: &mut Findings) {
    each(view, findings, "xdp-drop", "an XDP program drops", |d| {
        d.is(&["XDP"]) || (d.is(&["NOT_SPECIFIED"]) && d.within(&["xdp"]))
    });
}

/// Programs at the entrance of a socket share a reason with the filter of that socket. TCP sockets
/// seldom have one, and a program on the tree hits more than one port.
fn cgroup(view: &View, findings: &mut Findings) {
    let what = "a cgroup eBPF program drops";
    each(view, findings, "cgroup-bpf-drop", what, |d| d.is(&["BPF_CGROUP_EGRESS"]));
    let many = of_many_ports(view);
    let at_socket =
        |d: &&Dropped| d.is(&["SOCKET_FILTER"]) && (d.flow.proto == TCP || many.contains(&d.entity));
    for d in view.drops.iter().filter(|d| !d.is_noise).filter(at_socket) {
        let found = Conclusion::of_drop("cgroup-bpf-drop", d, format!("{what}: {}", total("packet")));
        let found = found.confidence(95).severity(outage(view, &d.flow));
        let found = found.although("a filter that the socket itself asked for would look the same", 20);
        findings.add(found.felt_by(view));
    }
}

fn socket_filter(view: &View, findings: &mut Findings) {
    let many = of_many_ports(view);
    each(view, findings, "socket-filter-drop", "the filter that a socket asked for drops", |d| {
        d.is(&["SOCKET_FILTER"]) && d.flow.proto != TCP && !many.contains(&d.entity)
    });
}

/// Where programs dropped at more than one port.
fn of_many_ports(view: &View) -> BTreeSet<EntityId> {
    let mut ports = BTreeMap::<_, BTreeSet<_>>::new();
    for d in view.drops.iter().filter(|d| d.is(&["SOCKET_FILTER"])) {
        ports.entry(d.entity).or_default().insert((d.flow.proto, d.flow.dport));
    }
    ports.into_iter().filter(|(_, ports)| ports.len() > 1).map(|(entity, _)| entity).collect()
}

/// A link without carrier drops in the same place, but its discipline counts nothing.
fn qdisc(view: &View, findings: &mut Findings) {
    let reasons = [
        "QDISC_DROP",
        "QDISC_OVERLIMIT",
        "QDISC_CONGESTED",
        "FQ_BAND_LIMIT",
        "FQ_HORIZON_LIMIT",
        "FQ_FLOW_LIMIT",
        "CAKE_FLOOD",
        "DUALPI2_STEP_DROP",
    ];
    let all = || view.drops.iter().filter(|d| !d.is_noise && d.is(&reasons));
    let mut bytes = BTreeMap::<_, u64>::new();
    all().for_each(|d| *bytes.entry(d.entity).or_default() += d.amount.total);
    for dropped in all() {
        let counted = view.counter(dropped.entity, counter::QDISC_DROPS);
        if dropped.is(&["QDISC_DROP"]) && counted.is_none() {
            continue;
        }
        let title = format!("a queueing discipline is full or polices: {} dropped", total("packet"));
        let mut found = Conclusion::of_drop("qdisc-drop", dropped, title).confidence(95);
        if let Some(amount) = counted {
            found = found.rose("the drop counter of the queueing discipline", amount);
        }
        let sent = view.rise(dropped.entity, counter::QDISC_SENT);
        let again = |what: &What| matches!(what, What::Retransmit { why: WHY_SYN | WHY_RTO });
        if bytes[&dropped.entity].saturating_mul(SHARE) < sent && view.count_on(&dropped.flow, again) == 0 {
            found = found.severity(INFO).because(
                "metric",
                format!("{sent} bytes were sent through it; TCP takes so few drops for a sign to slow down"),
                dropped.amount.last,
            );
        }
        findings.add(found.felt_by(view));
    }
}

fn device(view: &View, findings: &mut Findings) {
    each(view, findings, "device-queue-full", "a device's queue is full", |d| d.is(&["FULL_RING"]));
}
