//! What people attached to the kernel: tc, XDP, cgroup and socket programs, queueing disciplines.

use std::collections::{BTreeMap, BTreeSet};

use inspector_sdk::probes::tcp_retransmit::{WHY_RTO, WHY_SYN};
use inspector_sdk::protocol::TCP;
use inspector_sdk::{EntityId, Severity};

use crate::codes::Code;
use crate::confidence::Confidence;
use crate::counters::counter;
use crate::evidence::Kind;
use crate::fact::What;
use crate::finding::Conclusion;
use crate::findings::Findings;
use crate::rules::Rule;
use crate::rules::traffic::outage;
use crate::title::Title;
use crate::window::{Dropped, Window};

/// Of so many bytes, one that a queue drops is nothing that TCP would notice.
const SHARE: u64 = 100;

/// The rules.
pub const RULES: &[Rule] = &[
    Rule::new("a tc filter drops packets", tc).finds(&[Code::TcDrop]),
    Rule::new("an XDP program drops packets", xdp).finds(&[Code::XdpDrop]),
    Rule::new("a cgroup program drops packets", cgroup).finds(&[Code::CgroupBpfDrop]),
    Rule::new("a socket's filter drops packets", socket_filter).finds(&[Code::SocketFilterDrop]),
    Rule::new("a queueing discipline drops packets", qdisc).finds(&[Code::QdiscDrop]),
    Rule::new("a device's queue is full", device).finds(&[Code::DeviceQueueFull]),
];

fn dropped_by(window: &Window, code: Code, what: &str, drop: &Dropped) -> Conclusion {
    Conclusion::of_drop(code, drop, Title::counting(format!("{what}: "), "packet", ""))
        .confidence(Confidence::Certain)
        .severity(outage(window, &drop.flow))
}

fn each(
    window: &Window,
    findings: &mut Findings,
    code: Code,
    what: &str,
    is_by_it: impl Fn(&Dropped) -> bool,
) {
    for drop in window.missed().filter(|drop| is_by_it(drop)) {
        findings.add(dropped_by(window, code, what, drop).with_affected(window));
    }
}

fn tc(window: &Window, findings: &mut Findings) {
    each(window, findings, Code::TcDrop, "a traffic-control program or filter drops", |drop| {
        drop.is(&["TC_INGRESS", "TC_EGRESS", "TC_CHAIN_NOTFOUND", "TC_RECLASSIFY_LOOP", "TC_COOKIE_ERROR"])
    });
}

/// Where a program runs on the device's own path, the kernel gives no reason.
fn xdp(window: &Window, findings: &mut Findings) {
    each(window, findings, Code::XdpDrop, "an XDP program drops", |drop| {
        drop.is(&["XDP"]) || (drop.is(&["NOT_SPECIFIED"]) && drop.within(&["xdp"]))
    });
}

/// Programs at the entrance of a socket share a reason with the filter of that socket. TCP sockets
/// seldom have one, and a program on the tree hits more than one port.
fn cgroup(window: &Window, findings: &mut Findings) {
    let what = "a cgroup eBPF program drops";
    each(window, findings, Code::CgroupBpfDrop, what, |drop| drop.is(&["BPF_CGROUP_EGRESS"]));
    let many = of_many_ports(window);
    let is_of_tree = |drop: &&Dropped| drop.flow.proto == TCP || many.contains(&drop.entity);
    for drop in window.missed().filter(|drop| drop.is(&["SOCKET_FILTER"])).filter(is_of_tree) {
        let found = dropped_by(window, Code::CgroupBpfDrop, what, drop);
        let found = found.although("a filter that the socket itself asked for would look the same");
        findings.add(found.with_affected(window));
    }
}

fn socket_filter(window: &Window, findings: &mut Findings) {
    let many = of_many_ports(window);
    let what = "the filter that a socket asked for drops";
    each(window, findings, Code::SocketFilterDrop, what, |drop| {
        drop.is(&["SOCKET_FILTER"]) && drop.flow.proto != TCP && !many.contains(&drop.entity)
    });
}

/// Where programs dropped at more than one port.
fn of_many_ports(window: &Window) -> BTreeSet<EntityId> {
    let mut ports = BTreeMap::<_, BTreeSet<_>>::new();
    for drop in window.dropped_for(&["SOCKET_FILTER"]) {
        ports.entry(drop.entity).or_default().insert((drop.flow.proto, drop.flow.dport));
    }
    ports.into_iter().filter(|(_, ports)| ports.len() > 1).map(|(entity, _)| entity).collect()
}

/// Reasons of queueing disciplines.
const BY_DISCIPLINE: &[&str] = &[
    "QDISC_DROP",
    "QDISC_OVERLIMIT",
    "QDISC_CONGESTED",
    "FQ_BAND_LIMIT",
    "FQ_HORIZON_LIMIT",
    "FQ_FLOW_LIMIT",
    "CAKE_FLOOD",
    "DUALPI2_STEP_DROP",
];

/// A link without carrier drops in the same place, but its discipline counts nothing.
fn qdisc(window: &Window, findings: &mut Findings) {
    let by_discipline = || window.missed().filter(|drop| drop.is(BY_DISCIPLINE));
    let mut bytes = BTreeMap::<_, u64>::new();
    by_discipline().for_each(|drop| *bytes.entry(drop.entity).or_default() += drop.amount.total);
    for drop in by_discipline() {
        let counted = window.counter(drop.entity, counter::QDISC_DROPS);
        if drop.is(&["QDISC_DROP"]) && counted.is_none() {
            continue;
        }
        let title = Title::counting("a queueing discipline is full or polices: ", "packet", " dropped");
        let mut found = Conclusion::of_drop(Code::QdiscDrop, drop, title).confidence(Confidence::Certain);
        if let Some(amount) = counted {
            found = found.rose("the drop counter of the queueing discipline", amount);
        }
        let sent = window.rise(drop.entity, counter::QDISC_SENT);
        let is_timeout = |what: &What| matches!(what, What::Retransmit { why: WHY_SYN | WHY_RTO });
        let is_small = bytes[&drop.entity].saturating_mul(SHARE) < sent;
        if is_small && window.count_on(&drop.flow, is_timeout) == 0 {
            let summary =
                format!("{sent} bytes were sent through it; TCP takes so few drops for a sign to slow down");
            found = found.severity(Severity::Info).because(Kind::Metric, summary, drop.amount.last);
        }
        findings.add(found.with_affected(window));
    }
}

fn device(window: &Window, findings: &mut Findings) {
    let what = "a device's queue is full";
    each(window, findings, Code::DeviceQueueFull, what, |drop| drop.is(&["FULL_RING"]));
}
