//! Queues and tables of TCP that are full: accept queue, SYN queue, local ports, TIME-WAIT.

use inspector_sdk::analyzer::Role;
use inspector_sdk::{EntityId, Severity};

use crate::codes::Code;
use crate::confidence::Confidence;
use crate::counters::counter;
use crate::evidence::Kind;
use crate::fact::{Flow, What};
use crate::finding::Conclusion;
use crate::findings::Findings;
use crate::rules::Rule;
use crate::title::{Title, plural};
use crate::window::Window;

/// SYN-ACKs retransmitted, or cookies, before it is called a flood.
const FLOOD: u64 = 50;
/// Listening ports that are looked at.
const PORTS: usize = 4;

/// The rules.
pub const RULES: &[Rule] = &[
    Rule::new("an accept queue is full", accept_queue)
        .finds(&[Code::AcceptQueueOverflow])
        .after(&[Code::FirewallDrop]),
    Rule::new("a SYN queue is full", syn_queue).finds(&[Code::SynQueueOverflow]).after(&[Code::FirewallDrop]),
    Rule::new("no local port is left", local_ports).finds(&[Code::LocalPortExhaustion]),
    Rule::new("TIME-WAIT sockets are at their limit", time_wait).finds(&[Code::TimeWaitOverflow]),
];

/// No packet is dropped with an event, so the counter says it, and the clients' SYNs say whose.
fn accept_queue(window: &Window, findings: &mut Findings) {
    for (entity, amount) in window.risen(counter::LISTEN_OVERFLOWS) {
        let title = Title::counting(
            "an accept queue is full: the application accepts too slowly or its backlog is too small; ",
            "connection attempt",
            " turned away",
        );
        let found = Conclusion::new(Code::AcceptQueueOverflow, entity, amount, title)
            .severity(Severity::Critical)
            .confidence(Confidence::Certain)
            .rose("TcpExtListenOverflows", amount);
        findings.add(clients(window, findings, found).with_affected(window));
    }
}

/// Adds the conversations of those who try to connect to an entity, but for those of which it is known
/// why they cannot: a firewall that drops the SYNs for one port does not fill the queue of another. A
/// full queue of one kind goes with one of the other, with the same clients.
pub fn clients(window: &Window, findings: &Findings, mut found: Conclusion) -> Conclusion {
    let entity = found.at;
    let mut ports = Vec::new();
    let is_unexplained = |flow: &Flow| !findings.explain_but(Code::FULL_QUEUES, flow);
    for (key, _) in window.of(What::is_silence).filter(|(key, _)| is_unexplained(&key.flow)) {
        let to = key.flow.destination();
        if window.owns(entity, to) && (!window.is_shared(to) || window.observed(entity, &key.flow)) {
            found = found.flow(key.flow);
            ports.push(key.flow.dport);
        }
    }
    for (key, _) in window.of(|what| *what == What::SynAckRetransmit).filter(|(key, _)| key.entity == entity)
    {
        found = found.flow(key.flow);
        ports.push(key.flow.sport);
    }
    ports.sort_unstable();
    ports.dedup();
    let port = |found: Conclusion, port: u16| found.check("listeners", &[("port", port.to_string())]);
    ports.into_iter().take(PORTS).fold(found, port)
}

fn syn_queue(window: &Window, findings: &mut Findings) {
    for found in window.entities().into_iter().filter_map(|entity| full_syn_queue(window, entity)) {
        findings.add(clients(window, findings, found).with_affected(window));
    }
}

fn full_syn_queue(window: &Window, entity: EntityId) -> Option<Conclusion> {
    let cookies = window.counter(entity, counter::SYNCOOKIES_SENT);
    let full = window.counter(entity, counter::REQUEST_QUEUE_FULL);
    let drops = window.counter(entity, counter::LISTEN_DROPS);
    let overflows = window.rise(entity, counter::LISTEN_OVERFLOWS);
    let unexplained = drops.filter(|drops| drops.count > overflows);
    let amount = cookies.or(full).or(unexplained)?;
    let retransmits = syn_ack_retransmits(window, entity);
    // A drop of a SYN by a listener has other causes too.
    if cookies.is_none() && full.is_none() && retransmits == 0 {
        return None;
    }
    let title = format!(
        "more half-open connections than the SYN queue holds ({} beyond it): a flood, or clients whose answers get lost",
        amount.count
    );
    let severity = if amount.count >= FLOOD { Severity::Critical } else { Severity::Warning };
    let mut found = Conclusion::new(Code::SynQueueOverflow, entity, amount, title)
        .severity(severity)
        // That the queue is full is certain; whether it is a flood or lost answers is not.
        .confidence(Confidence::Likely);
    let counters =
        [("TcpExtSyncookiesSent", cookies), ("TcpExtTCPReqQFull*", full), ("TcpExtListenDrops", drops)];
    for (name, amount) in counters.into_iter().filter_map(|(name, amount)| Some((name, amount?))) {
        found = found.rose(name, amount);
    }
    if retransmits > 0 {
        let summary = format!("{} sent again without an answer", plural(retransmits, "SYN-ACK"));
        found = found.because(Kind::Event, summary, amount.last);
    }
    Some(if overflows > 0 { found.although("an accept queue was full at the same time") } else { found })
}

fn syn_ack_retransmits(window: &Window, entity: EntityId) -> u64 {
    let all = window.of(|what| *what == What::SynAckRetransmit).filter(|(key, _)| key.entity == entity);
    all.map(|(_, amount)| amount.count).sum()
}

/// `connect` fails before it has a port: the state turns to SYN_SENT and back at once.
fn local_ports(window: &Window, findings: &mut Findings) {
    let is_portless = |what: &What| matches!(what, What::ConnectFailed { error: 0, portless: true, .. });
    for (key, amount) in window.of(is_portless) {
        let to = key.flow.destination();
        let title =
            Title::counting(format!("no local port is left for {to}: "), "connect", " failed at once");
        let summary = format!("connects without a local port, {}", key.flow.show());
        findings.add(
            Conclusion::new(Code::LocalPortExhaustion, key.entity, *amount, title)
                .severity(Severity::Critical)
                .flow(key.flow)
                .because(Kind::Event, summary, amount.last)
                .on(&key.flow, Role::Cause),
        );
    }
}

fn time_wait(window: &Window, findings: &mut Findings) {
    for (entity, amount) in window.risen(counter::TIME_WAIT_OVERFLOW) {
        let before = "the limit of TIME-WAIT sockets is reached; ";
        let title = Title::counting(before, "connection", " closed without it");
        let found = Conclusion::new(Code::TimeWaitOverflow, entity, amount, title);
        findings.add(found.rose("TcpExtTCPTimeWaitOverflow", amount));
    }
}
