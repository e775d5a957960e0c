//! Buffers, windows and memory of sockets.

use inspector_sdk::EntityId;

use crate::counters::{counter, gauge};
use crate::fact::{Amount, What};
use crate::finding::{Conclusion, Findings, INFO, WARNING, plural, total};
use crate::rules::Rule;
use crate::view::View;

/// errno of a socket whose own receive buffer is full.
const ENOMEM: u32 = 12;
/// A transfer may close its window for a moment; one that stays closed is probed again.
const PROBED: u64 = 2;
/// Data that is not touched for so long is not being read.
const STILL_NS: u64 = 1_000_000_000;
/// Reasons for which a receiver drops the probe of its closed window.
const PROBES: [&str; 5] =
    ["TCP_OLD_SEQUENCE", "TCP_OLD_DATA", "TCP_ZEROWINDOW", "TCP_INVALID_SEQUENCE", "TCP_OVERWINDOW"];

/// The rules.
pub const RULES: &[Rule] = &[
    Rule { name: "a limit of memory for sockets", judge: memory },
    Rule { name: "a receive buffer is full", judge: receive_buffer },
    Rule { name: "a receiver does not read", judge: zero_window },
    Rule { name: "a send buffer is full", judge: send_buffer },
];

fn memory(view: &View, findings: &mut Findings) {
    for d in view.drops.iter().filter(|d| d.is(&["PROTO_MEM", "TCP_OFO_QUEUE_PRUNE", "NOMEM"])) {
        let title = format!(
            "the memory limit of the protocol or of the cgroup is reached: {} dropped",
            total("packet")
        );
        findings.add(Conclusion::of_drop("socket-memory-pressure", d, title).confidence(93).felt_by(view));
    }
    for (key, amount) in view.of(|what| matches!(what, What::MemoryRefused | What::UdpRefused { error: 105 }))
    {
        let title = format!(
            "the memory limit of the protocol or of the cgroup is reached: refused {}",
            total("time")
        );
        let found = Conclusion::new("socket-memory-pressure", key.entity, *amount, title)
            .confidence(90)
            .flow(key.flow);
        findings.add(
            found
                .because("event", format!("a socket got no memory, {}", key.flow.show()), amount.last)
                .felt_by(view),
        );
    }
    for (entity, amount) in view.risen(counter::MEMORY_PRESSURE) {
        let title = "TCP's memory is under pressure".to_owned();
        findings.add(
            Conclusion::new("socket-memory-pressure", entity, amount, title)
                .confidence(85)
                .rose("TCPMemoryPressures", amount),
        );
    }
}

fn receive_buffer(view: &View, findings: &mut Findings) {
    for d in view.drops.iter().filter(|d| d.is(&["SOCKET_RCVBUFF", "SOCKET_BACKLOG"])) {
        let title =
            format!("an application reads too slowly for its receive buffer: {} dropped", total("packet"));
        findings
            .add(Conclusion::of_drop("socket-receive-buffer-full", d, title).confidence(93).felt_by(view));
    }
    for (key, amount) in view.of(|what| *what == What::UdpRefused { error: ENOMEM }) {
        let title =
            format!("an application reads too slowly for its receive buffer: {} dropped", total("datagram"));
        let found = Conclusion::new("socket-receive-buffer-full", key.entity, *amount, title)
            .confidence(93)
            .flow(key.flow);
        let waiting = format!("{} bytes wait at the socket, {}", amount.most, key.flow.show());
        let found = found.because("event", waiting, amount.last);
        let is_told = findings.has(&["socket-receive-buffer-full"], key.entity);
        findings.add(if is_told { found.again() } else { found });
    }
    for (entity, amount) in view.risen(counter::UDP_RECEIVE_FULL) {
        if !findings.has(&["socket-receive-buffer-full", "socket-memory-pressure"], entity) {
            let title = format!(
                "an application reads too slowly for its receive buffer: {} dropped",
                total("datagram")
            );
            findings.add(
                Conclusion::new("socket-receive-buffer-full", entity, amount, title)
                    .rose("UdpRcvbufErrors", amount),
            );
        }
    }
}

/// The receiver closes its window, and the sender probes it. A window that closes and opens again is
/// the normal course of things, so it is told only where probes were dropped, or it is still closed.
fn zero_window(view: &View, findings: &mut Findings) {
    for (entity, amount) in view.risen(counter::TO_ZERO_WINDOW) {
        let probes: Vec<_> = view.drops.iter().filter(|d| d.entity == entity && d.is(&PROBES)).collect();
        let unread = view.gauge(entity, gauge::TCP_UNREAD).filter(|unread| unread.most > 0);
        let is_closed = amount.count > view.rise(entity, counter::FROM_ZERO_WINDOW);
        // One sender's second probe comes more than half a second after its window was closed.
        let is_probed = probes.iter().any(|probe| probe.amount.count >= PROBED);
        let is_held_up = is_probed || (is_closed && stalled(view, entity).is_some());
        if findings.has(&["socket-memory-pressure"], entity) || !is_held_up {
            continue;
        }
        let title = "an application does not read: its receive window is closed and holds up the sender";
        let mut found =
            Conclusion::new("receiver-not-reading", entity, amount, title).rose("TCPToZeroWindowAdv", amount);
        if let Some(unread) = unread {
            found = found.because("table", format!("{} bytes wait to be read", unread.most), unread.last);
        }
        for probe in probes {
            let summary =
                format!("{} of a closed window, {}", plural(probe.amount.count, "probe"), probe.flow.show());
            found = found.flow(probe.flow).because("event", summary, probe.amount.last);
            found = found.with("flow", probe.flow.canonical()).with("role", "cause");
        }
        for (key, _) in view
            .of(|what| matches!(what, What::SlowSend))
            .filter(|(key, _)| view.owns(entity, key.flow.destination()))
        {
            found = found.flow(key.flow);
        }
        findings.add(found.felt_by(view));
    }
    for (sender, probes) in
        view.risen(counter::WINDOW_PROBES).into_iter().filter(|(_, probes)| probes.count >= PROBED)
    {
        // Where the receiver is on this node, it says more.
        if view.risen(counter::TO_ZERO_WINDOW).is_empty() {
            let title = "a peer does not read: its receive window is closed";
            let found = Conclusion::new("receiver-not-reading", sender, probes, title).confidence(75);
            findings.add(found.rose("TCPWinProbe", probes).although("the receiver is not on this node", 0));
        }
    }
}

/// For how long data seems not to have been touched (the most), if that is long. A transfer in full
/// swing leaves another amount at each reading; requests of one size may leave the same.
pub fn stalled(view: &View, entity: EntityId) -> Option<Amount> {
    let (_, amount) = view.of(|what| *what == What::Unread).find(|(key, _)| key.entity == entity)?;
    (amount.most >= STILL_NS).then_some(*amount)
}

/// The counter also rises when a queue or device further down refuses.
fn send_buffer(view: &View, findings: &mut Findings) {
    for (entity, amount) in view.risen(counter::UDP_SEND_FULL) {
        if !findings.has(&["qdisc-drop", "link-mtu-mismatch", "link-down"], entity)
            && view.rise(entity, counter::DEVICE_TX_DROPS) == 0
        {
            let title =
                format!("an application sends faster than its buffer drains: {} refused", total("datagram"));
            findings.add(
                Conclusion::new("socket-send-buffer-full", entity, amount, title)
                    .rose("UdpSndbufErrors", amount),
            );
        }
    }
    for (key, amount) in view.of(|what| *what == What::SlowSend) {
        if findings.explain(&key.flow) {
            continue;
        }
        let title =
            format!("sends waited for room in the send buffer, {} ms at most", amount.most / 1_000_000);
        let severity = if amount.count >= 3 { WARNING } else { INFO };
        let found = Conclusion::new("socket-send-buffer-full", key.entity, *amount, title)
            .severity(severity)
            .confidence(75);
        findings.add(found.because(
            "event",
            format!("{} slow, {}", plural(amount.count, "send"), key.flow.show()),
            amount.last,
        ));
    }
}
