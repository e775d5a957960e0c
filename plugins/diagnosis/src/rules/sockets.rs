//! Buffers, windows and memory of sockets.

use inspector_sdk::EntityId;

use crate::counters::{counter, gauge};
use crate::fact::{Amount, What};
use crate::finding::{Conclusion, Findings, INFO, WARNING, plural};
use crate::rules::Rule;
use crate::view::View;

/// errno of a socket whose own receive buffer is full.
const ENOMEM: u32 = 12;
/// A transfer may close its window for a moment; one that stays closed is probed.
const PROBES: u64 = 2;

/// The rules.
pub const RULES: &[Rule] = &[
    Rule { name: "a limit of memory for sockets", judge: memory },
    Rule { name: "a receive buffer is full", judge: receive_buffer },
    Rule { name: "a receiver does not read", judge: zero_window },
    Rule { name: "a send buffer is full", judge: send_buffer },
];

fn memory(view: &View, findings: &mut Findings) {
    for d in view.drops.iter().filter(|d| d.is(&["PROTO_MEM"])) {
        let title = format!(
            "the memory limit of the protocol or of the cgroup is reached: {} dropped",
            plural(d.amount.count, "packet")
        );
        findings.add(Conclusion::of_drop("socket-memory-pressure", d, title).confidence(93).felt_by(view));
    }
    for (key, amount) in view.of(|what| matches!(what, What::MemoryRefused | What::UdpRefused { error: 105 }))
    {
        let title = format!(
            "the memory limit of the protocol or of the cgroup is reached: refused {}",
            plural(amount.count, "time")
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
        let title = format!(
            "an application reads too slowly for its receive buffer: {} dropped",
            plural(d.amount.count, "packet")
        );
        findings
            .add(Conclusion::of_drop("socket-receive-buffer-full", d, title).confidence(93).felt_by(view));
    }
    for (key, amount) in view.of(|what| *what == What::UdpRefused { error: ENOMEM }) {
        let title = format!(
            "an application reads too slowly for its receive buffer: {} dropped",
            plural(amount.count, "datagram")
        );
        let found = Conclusion::new("socket-receive-buffer-full", key.entity, *amount, title)
            .confidence(93)
            .flow(key.flow);
        let waiting = format!("{} bytes wait at the socket, {}", amount.most, key.flow.show());
        findings.add(found.because("event", waiting, amount.last));
    }
    for (entity, amount) in view.risen(counter::UDP_RECEIVE_FULL) {
        if !findings.has(&["socket-receive-buffer-full", "socket-memory-pressure"], entity) {
            let title = format!(
                "an application reads too slowly for its receive buffer: {} dropped",
                plural(amount.count, "datagram")
            );
            findings.add(
                Conclusion::new("socket-receive-buffer-full", entity, amount, title)
                    .rose("UdpRcvbufErrors", amount),
            );
        }
    }
}

/// The receiver closes its window, and the sender probes it. Where only one of them is on this
/// node, one of both is enough.
fn zero_window(view: &View, findings: &mut Findings) {
    let probing: Vec<(EntityId, Amount)> = view.risen(counter::WINDOW_PROBES);
    let closed = view.risen(counter::TO_ZERO_WINDOW);
    for (entity, amount) in &closed {
        if findings.has(&["socket-memory-pressure"], *entity) {
            continue;
        }
        let unread = view.gauge(*entity, gauge::TCP_UNREAD).filter(|unread| unread.most > 0);
        let probes: u64 = probing.iter().map(|(_, amount)| amount.count).sum();
        let opened = view.rise(*entity, counter::FROM_ZERO_WINDOW);
        if probes == 0 && (opened >= amount.count || unread.is_none()) {
            continue;
        }
        let title =
            "an application does not read: its receive window is closed and holds up the sender".to_owned();
        let mut found = Conclusion::new("receiver-not-reading", *entity, *amount, title)
            .rose("TCPToZeroWindowAdv", *amount);
        if let Some(unread) = unread {
            found = found.because("table", format!("{} bytes wait to be read", unread.most), unread.last);
        }
        for (sender, probes) in probing.iter().filter(|(_, probes)| probes.count >= PROBES) {
            found = found.because(
                "metric",
                format!("{}: probed a closed window {}", view.name(*sender), plural(probes.count, "time")),
                probes.last,
            );
            if sender != entity && !found.felt.contains(sender) {
                found.felt.push(*sender);
            }
        }
        findings.add(with_slow_flows(view, found, *entity));
    }
    for (sender, probes) in probing.iter().filter(|(_, probes)| probes.count >= PROBES) {
        if closed.is_empty() {
            let title = "a peer does not read: its receive window is closed".to_owned();
            let found = Conclusion::new("receiver-not-reading", *sender, *probes, title).confidence(75);
            findings.add(found.rose("TCPWinProbe", *probes).although("the receiver is not on this node", 0));
        }
    }
}

/// The conversations of which the receiver dropped probes, which are what it holds up.
fn with_slow_flows(view: &View, found: Conclusion, entity: EntityId) -> Conclusion {
    let probes = view.drops.iter().filter(|d| {
        d.entity == entity
            && d.is(&[
                "TCP_OLD_SEQUENCE",
                "TCP_OLD_DATA",
                "TCP_ZEROWINDOW",
                "TCP_INVALID_SEQUENCE",
                "TCP_OVERWINDOW",
            ])
    });
    let slow = view.of(|what| matches!(what, What::SlowSend)).map(|(key, _)| key.flow);
    let flows: Vec<_> = probes.map(|d| d.flow).chain(slow).collect();
    flows.into_iter().fold(found, Conclusion::flow)
}

/// The counter also rises when a queue or device further down refuses.
fn send_buffer(view: &View, findings: &mut Findings) {
    for (entity, amount) in view.risen(counter::UDP_SEND_FULL) {
        if !findings.has(&["qdisc-drop", "link-mtu-mismatch", "link-down"], entity)
            && view.rise(entity, counter::DEVICE_TX_DROPS) == 0
        {
            let title = format!(
                "an application sends faster than its buffer drains: {} refused",
                plural(amount.count, "datagram")
            );
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
