//! Queues and tables of TCP that are full: accept queue, SYN queue, local ports, TIME-WAIT.

use inspector_sdk::EntityId;

use crate::counters::counter;
use crate::fact::What;
use crate::finding::{CRITICAL, Conclusion, Findings, WARNING, plural, total};
use crate::rules::Rule;
use crate::view::View;

/// SYN-ACKs sent again, or cookies, before it is called a flood.
const FLOOD: u64 = 50;

/// The rules.
pub const RULES: &[Rule] = &[
    Rule { name: "an accept queue is full", judge: accept_queue },
    Rule { name: "a SYN queue is full", judge: syn_queue },
    Rule { name: "no local port is left", judge: local_ports },
    Rule { name: "TIME-WAIT sockets are at their limit", judge: time_wait },
];

/// No packet is dropped with an event, so the counter says it, and the clients' SYNs say whose.
fn accept_queue(view: &View, findings: &mut Findings) {
    for (entity, amount) in view.risen(counter::LISTEN_OVERFLOWS) {
        let title = format!(
            "an accept queue is full: the application accepts too slowly or its backlog is too small; {} turned away",
            total("connection attempt")
        );
        let found =
            Conclusion::new("accept-queue-overflow", entity, amount, title).severity(CRITICAL).confidence(95);
        let found = found.rose("TcpExtListenOverflows", amount);
        let found = clients(view, findings, found, entity);
        findings.add(found.felt_by(view));
    }
}

/// A full queue of one kind goes with one of the other, with the same clients.
const QUEUES: &[&str] = &["accept-queue-overflow", "syn-queue-overflow"];

/// Adds the conversations of those who try to connect to an entity, but for those of which it is known
/// why they cannot: a firewall that drops the SYNs for one port does not fill the queue of another.
pub fn clients(view: &View, findings: &Findings, mut found: Conclusion, entity: EntityId) -> Conclusion {
    let mut ports = Vec::new();
    for (key, _) in view.of(What::is_silence).filter(|(key, _)| !findings.explain_but(QUEUES, &key.flow)) {
        let to = key.flow.destination();
        if view.owns(entity, to) && (!view.is_shared(to) || view.saw(entity, &key.flow)) {
            found = found.flow(key.flow);
            ports.push(key.flow.dport);
        }
    }
    for (key, _) in view.of(|what| *what == What::SynAckAgain).filter(|(key, _)| key.entity == entity) {
        found = found.flow(key.flow);
        ports.push(key.flow.sport);
    }
    ports.sort_unstable();
    ports.dedup();
    for port in ports.into_iter().take(4) {
        found = found.check("listeners", &[("port", port.to_string())]);
    }
    found
}

fn syn_queue(view: &View, findings: &mut Findings) {
    for entity in view.entities() {
        let (cookies, full) = (
            view.counter(entity, counter::SYNCOOKIES_SENT),
            view.counter(entity, counter::REQUEST_QUEUE_FULL),
        );
        let drops = view.counter(entity, counter::LISTEN_DROPS);
        let overflows = view.rise(entity, counter::LISTEN_OVERFLOWS);
        let unexplained = drops.filter(|drops| drops.count > overflows);
        let Some(amount) = cookies.or(full).or(unexplained) else { continue };
        let again: u64 = view
            .of(|what| *what == What::SynAckAgain)
            .filter(|(key, _)| key.entity == entity)
            .map(|(_, a)| a.count)
            .sum();
        // A drop of a SYN by a listener has other causes too.
        if cookies.is_none() && full.is_none() && again == 0 {
            continue;
        }
        let title = format!(
            "more half-open connections than the SYN queue holds ({} beyond it): a flood, or clients whose answers get lost",
            amount.count
        );
        let severity = if amount.count >= FLOOD { CRITICAL } else { WARNING };
        let mut found =
            Conclusion::new("syn-queue-overflow", entity, amount, title).severity(severity).confidence(92);
        for (name, amount) in
            [("TcpExtSyncookiesSent", cookies), ("TcpExtTCPReqQFull*", full), ("TcpExtListenDrops", drops)]
        {
            if let Some(amount) = amount {
                found = found.rose(name, amount);
            }
        }
        if again > 0 {
            found = found.because(
                "event",
                format!("{} sent again without an answer", plural(again, "SYN-ACK")),
                amount.last,
            );
        }
        if overflows > 0 {
            found = found.although("an accept queue was full at the same time", 20);
        }
        let found = clients(view, findings, found, entity);
        findings.add(found.felt_by(view));
    }
}

/// `connect` fails before it has a port: the state turns to SYN_SENT and back at once.
fn local_ports(view: &View, findings: &mut Findings) {
    let is_portless = |what: &What| matches!(what, What::ConnectFailed { error: 0, portless: true, .. });
    for (key, amount) in view.of(is_portless) {
        let title = format!(
            "no local port is left for {}: {} failed at once",
            key.flow.destination(),
            total("connect")
        );
        let found = Conclusion::new("local-port-exhaustion", key.entity, *amount, title)
            .severity(CRITICAL)
            .flow(key.flow);
        let found = found.because(
            "event",
            format!("connects without a local port, {}", key.flow.show()),
            amount.last,
        );
        findings.add(found.with("flow", key.flow.canonical()).with("role", "cause"));
    }
}

fn time_wait(view: &View, findings: &mut Findings) {
    for (entity, amount) in view.risen(counter::TIME_WAIT_OVERFLOW) {
        let title =
            format!("the limit of TIME-WAIT sockets is reached; {} closed without it", total("connection"));
        findings.add(
            Conclusion::new("time-wait-overflow", entity, amount, title)
                .rose("TcpExtTCPTimeWaitOverflow", amount),
        );
    }
}
