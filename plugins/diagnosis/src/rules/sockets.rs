//! Buffers, windows and memory of sockets.

use inspector_sdk::analyzer::Role;
use inspector_sdk::errno::{ENOBUFS, ENOMEM};
use inspector_sdk::{EntityId, Severity};

use crate::codes::Code;
use crate::confidence::Confidence;
use crate::counters::{counter, gauge};
use crate::evidence::Kind;
use crate::fact::{Amount, What};
use crate::finding::Conclusion;
use crate::findings::Findings;
use crate::rules::Rule;
use crate::title::{Title, plural};
use crate::window::{Dropped, Window};

/// A transfer may close its window for a moment; one that stays closed is probed more than once.
const PROBED: u64 = 2;
/// Data that is not touched for so long is not being read.
const STILL_NS: u64 = 1_000_000_000;
/// Sends that wait before it is called a fault.
const SLOW_SENDS: u64 = 3;
/// Reasons for which a receiver drops the probe of its closed window.
const PROBES: [&str; 5] =
    ["TCP_OLD_SEQUENCE", "TCP_OLD_DATA", "TCP_ZEROWINDOW", "TCP_INVALID_SEQUENCE", "TCP_OVERWINDOW"];

/// The rules.
pub const RULES: &[Rule] = &[
    Rule::new("a limit of memory for sockets", memory).finds(&[Code::SocketMemoryPressure]),
    Rule::new("a receive buffer is full", receive_buffer)
        .finds(&[Code::SocketReceiveBufferFull])
        .after(&[Code::SocketMemoryPressure]),
    Rule::new("a receiver does not read", zero_window)
        .finds(&[Code::ReceiverNotReading])
        .after(&[Code::SocketMemoryPressure]),
    Rule::new("a send buffer is full", send_buffer).finds(&[Code::SocketSendBufferFull]).after(&[
        Code::QdiscDrop,
        Code::LinkMtuMismatch,
        Code::LinkDown,
        Code::ReceiverNotReading,
    ]),
];

fn memory(window: &Window, findings: &mut Findings) {
    let limit = "the memory limit of the protocol or of the cgroup is reached: ";
    for drop in window.dropped_for(&["PROTO_MEM", "TCP_OFO_QUEUE_PRUNE", "NOMEM"]) {
        let title = Title::counting(limit, "packet", " dropped");
        let found = Conclusion::of_drop(Code::SocketMemoryPressure, drop, title);
        findings.add(found.confidence(Confidence::Certain).with_affected(window));
    }
    let is_refusal = |what: &What| matches!(what, What::MemoryRefused | What::UdpRefused { error: ENOBUFS });
    for (key, amount) in window.of(is_refusal) {
        let title = Title::counting(format!("{limit}refused "), "time", "");
        let summary = format!("a socket got no memory, {}", key.flow.show());
        let found = Conclusion::new(Code::SocketMemoryPressure, key.entity, *amount, title).flow(key.flow);
        findings.add(found.because(Kind::Event, summary, amount.last).with_affected(window));
    }
    for (entity, amount) in window.risen(counter::MEMORY_PRESSURE) {
        let title = "TCP's memory is under pressure";
        let found = Conclusion::new(Code::SocketMemoryPressure, entity, amount, title);
        findings.add(found.rose("TCPMemoryPressures", amount));
    }
}

fn receive_buffer(window: &Window, findings: &mut Findings) {
    let slow = "an application reads too slowly for its receive buffer: ";
    for drop in window.dropped_for(&["SOCKET_RCVBUFF", "SOCKET_BACKLOG"]) {
        let title = Title::counting(slow, "packet", " dropped");
        let found = Conclusion::of_drop(Code::SocketReceiveBufferFull, drop, title);
        findings.add(found.confidence(Confidence::Certain).with_affected(window));
    }
    for (key, amount) in window.of(|what| *what == What::UdpRefused { error: ENOMEM }) {
        let waiting = format!("{} bytes wait at the socket, {}", amount.most, key.flow.show());
        let title = Title::counting(slow, "datagram", " dropped");
        let found = Conclusion::new(Code::SocketReceiveBufferFull, key.entity, *amount, title)
            .confidence(Confidence::Certain)
            .flow(key.flow)
            .because(Kind::Event, waiting, amount.last);
        let is_counted = findings.has(&[Code::SocketReceiveBufferFull], key.entity);
        findings.add(if is_counted { found.counted_elsewhere() } else { found });
    }
    for (entity, amount) in window.risen(counter::UDP_RECEIVE_FULL) {
        if !findings.has(&[Code::SocketReceiveBufferFull, Code::SocketMemoryPressure], entity) {
            let title = Title::counting(slow, "datagram", " dropped");
            let found = Conclusion::new(Code::SocketReceiveBufferFull, entity, amount, title);
            findings.add(found.rose("UdpRcvbufErrors", amount));
        }
    }
}

/// The receiver closes its window, and the sender probes it. A window that closes and opens again is
/// the normal course of things, so it is a fault only where probes were dropped, or it is still closed.
fn zero_window(window: &Window, findings: &mut Findings) {
    for (entity, amount) in window.risen(counter::TO_ZERO_WINDOW) {
        let probes: Vec<_> = window.dropped_for(&PROBES).filter(|drop| drop.entity == entity).collect();
        let is_pressed = findings.has(&[Code::SocketMemoryPressure], entity);
        if !is_pressed && is_held_up(window, entity, amount, &probes) {
            findings.add(not_reading(window, entity, amount, probes));
        }
    }
    // Where the receiver is on this node, it says more.
    let is_elsewhere = window.risen(counter::TO_ZERO_WINDOW).is_empty();
    let probing = window.risen(counter::WINDOW_PROBES).into_iter();
    for (sender, probes) in probing.filter(|(_, probes)| is_elsewhere && probes.count >= PROBED) {
        let title = "a peer does not read: its receive window is closed";
        let found = Conclusion::new(Code::ReceiverNotReading, sender, probes, title);
        findings.add(found.rose("TCPWinProbe", probes).although("the receiver is not on this node"));
    }
}

/// Whether a closed window holds up its sender. One sender's second probe comes more than half a second
/// after the window was closed.
fn is_held_up(window: &Window, entity: EntityId, closed: Amount, probes: &[&Dropped]) -> bool {
    let is_closed = closed.count > window.rise(entity, counter::FROM_ZERO_WINDOW);
    let is_probed = probes.iter().any(|probe| probe.amount.count >= PROBED);
    is_probed || (is_closed && stalled(window, entity).is_some())
}

fn not_reading(window: &Window, entity: EntityId, closed: Amount, probes: Vec<&Dropped>) -> Conclusion {
    let title = "an application does not read: its receive window is closed and holds up the sender";
    let mut found =
        Conclusion::new(Code::ReceiverNotReading, entity, closed, title).rose("TCPToZeroWindowAdv", closed);
    if let Some(unread) = window.gauge(entity, gauge::TCP_UNREAD).filter(|unread| unread.most > 0) {
        found = found.because(Kind::Table, format!("{} bytes wait to be read", unread.most), unread.last);
    }
    for probe in probes {
        let count = plural(probe.amount.count, "probe");
        let summary = format!("{count} of a closed window, {}", probe.flow.show());
        found = found.flow(probe.flow).because(Kind::Event, summary, probe.amount.last);
        found = found.on(&probe.flow, Role::Cause);
    }
    let to_it = window.of(|what| *what == What::SlowSend);
    let to_it = to_it.filter(|(key, _)| window.owns(entity, key.flow.destination()));
    found.flows(to_it.map(|(key, _)| key.flow)).with_affected(window)
}

/// For how long data seems not to have been touched (the most), if that is long. A transfer in full
/// swing leaves another amount at each reading; requests of one size may leave the same.
pub fn stalled(window: &Window, entity: EntityId) -> Option<Amount> {
    let (_, amount) = window.of(|what| *what == What::Unread).find(|(key, _)| key.entity == entity)?;
    (amount.most >= STILL_NS).then_some(*amount)
}

/// The counter also rises when a queue or device further down refuses.
fn send_buffer(window: &Window, findings: &mut Findings) {
    let below = [Code::QdiscDrop, Code::LinkMtuMismatch, Code::LinkDown];
    for (entity, amount) in window.risen(counter::UDP_SEND_FULL) {
        if !findings.has(&below, entity) && window.rise(entity, counter::DEVICE_TX_DROPS) == 0 {
            let before = "an application sends faster than its buffer drains: ";
            let title = Title::counting(before, "datagram", " refused");
            let found = Conclusion::new(Code::SocketSendBufferFull, entity, amount, title);
            findings.add(found.rose("UdpSndbufErrors", amount));
        }
    }
    for (key, amount) in window.of(|what| *what == What::SlowSend) {
        if findings.explain(&key.flow) {
            continue;
        }
        let most = amount.most / 1_000_000;
        let title = format!("sends waited for room in the send buffer, {most} ms at most");
        let summary = format!("{} slow, {}", plural(amount.count, "send"), key.flow.show());
        let found = Conclusion::new(Code::SocketSendBufferFull, key.entity, *amount, title)
            .severity(Severity::warning_if(amount.count >= SLOW_SENDS))
            .confidence(Confidence::Likely);
        findings.add(found.because(Kind::Event, summary, amount.last));
    }
}
