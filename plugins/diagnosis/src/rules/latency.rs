//! What is slow though nothing is lost.

use inspector_sdk::Severity;

use crate::codes::Code;
use crate::confidence::Confidence;
use crate::counters::{counter, gauge};
use crate::evidence::Kind;
use crate::fact::What;
use crate::finding::Conclusion;
use crate::findings::Findings;
use crate::rules::Rule;
use crate::rules::sockets::stalled;
use crate::title::{Title, plural};
use crate::window::Window;

/// Readings that find a long queue before it is called a fault.
const LONG_READINGS: u64 = 2;
/// Slow soft interrupts in a window before they are called a fault, unless one takes very long: a
/// virtual machine has some of more than 10 ms in the normal course of things.
const SLOW_INTERRUPTS: u64 = 10;
/// Very long.
const VERY_SLOW_MS: u64 = 100;
/// Late reads before they are called a fault: whoever waits for a timer reads late too.
const LATE_READS: u64 = 3;
/// And so long together, in nanoseconds.
const LATE_NS: u64 = 1_000_000_000;
/// One read that is so late is a fault.
const VERY_LATE_MS: u64 = 1_000;
/// Time without a change of what is unread before it is called a fault: some readings in a row.
const UNREAD_NS: u64 = 20_000_000_000;

/// The rules.
pub const RULES: &[Rule] = &[
    Rule::new("soft interrupts of the network wait for the CPU", softirq).finds(&[Code::SoftirqDelay]),
    Rule::new("packets come faster than CPUs take them", softnet).finds(&[Code::SoftnetBacklog]),
    Rule::new("packets wait in a queue", backlog)
        .finds(&[Code::QueueingDelay])
        .after(&[Code::LinkDown, Code::QdiscDrop]),
    Rule::new("data waits for the application", slow_read)
        .finds(&[Code::SocketReadSlow])
        .after(&[Code::ReceiverNotReading, Code::SocketReceiveBufferFull]),
    Rule::new("an application does not read", unread)
        .finds(&[Code::SocketReadSlow])
        .after(&[Code::ReceiverNotReading]),
];

fn softirq(window: &Window, findings: &mut Findings) {
    for (key, amount) in window.of(|what| matches!(what, What::SlowSoftirq { .. })) {
        let how = if key.what == (What::SlowSoftirq { waited: true }) { "waited" } else { "ran" };
        let longest = amount.most / 1_000_000;
        let title = format!("soft interrupts of the network {how} for up to {longest} ms");
        let is_fault = amount.count >= SLOW_INTERRUPTS || longest >= VERY_SLOW_MS;
        let summary = format!("{how} for more than 10 ms, {}", plural(amount.count, "time"));
        let found = Conclusion::new(Code::SoftirqDelay, key.entity, *amount, title);
        findings.add(found.severity(Severity::warning_if(is_fault)).because(
            Kind::Event,
            summary,
            amount.last,
        ));
    }
}

fn softnet(window: &Window, findings: &mut Findings) {
    let title = || Title::counting("packets come faster than the CPUs take them: ", "packet", " dropped");
    for drop in window.dropped_for(&["CPU_BACKLOG"]) {
        let found = Conclusion::of_drop(Code::SoftnetBacklog, drop, title());
        findings.add(found.confidence(Confidence::Certain).with_affected(window));
    }
    for (entity, amount) in window.risen(counter::SOFTNET_DROPPED) {
        let found = Conclusion::new(Code::SoftnetBacklog, entity, amount, title());
        findings.add(found.rose("softnet dropped", amount));
    }
}

/// One reading may have met the one burst of a quiet link; what stands in reading after reading is
/// what everybody behind it waits for. Who sends through the queue takes its delay for loss.
fn backlog(window: &Window, findings: &mut Findings) {
    for (key, amount) in window.of(|what| *what == What::Queued) {
        let entity = key.entity;
        let is_full = window.rise(entity, counter::QDISC_DROPS) > 0;
        if is_full || findings.has(&[Code::LinkDown, Code::QdiscDrop], entity) {
            continue;
        }
        let bytes = window.gauge(entity, gauge::QDISC_BACKLOG).map_or(0, |backlog| backlog.most);
        let time = amount.most / 1_000_000;
        let title = format!("packets wait in the queue of a device: up to {bytes} bytes, some {time} ms");
        let summary = format!("a long queue in {}", plural(amount.count, "reading"));
        let senders = window.of(What::is_retransmit).filter(|(key, _)| key.entity == entity);
        let found = Conclusion::new(Code::QueueingDelay, entity, *amount, title)
            .severity(Severity::warning_if(amount.count >= LONG_READINGS))
            .confidence(Confidence::Likely)
            .because(Kind::Table, summary, amount.last);
        findings.add(found.flows(senders.map(|(key, _)| key.flow)));
    }
}

/// What a program reads late makes an event once it reads; what it does not read at all only stays
/// in the queues of its sockets.
fn unread(window: &Window, findings: &mut Findings) {
    for (entity, unread) in window.gauged(gauge::TCP_UNREAD) {
        let Some(amount) = stalled(window, entity) else { continue };
        if findings.has(&[Code::ReceiverNotReading], entity) {
            continue;
        }
        let seconds = amount.most / 1_000_000_000;
        let title = format!("an application seems not to read: {} bytes waited for {seconds} s", unread.most);
        let summary = format!("the same bytes unread in {}", plural(amount.count, "reading"));
        let found = Conclusion::new(Code::SocketReadSlow, entity, amount, title)
            .severity(Severity::warning_if(amount.most >= UNREAD_NS))
            .confidence(Confidence::Likely);
        findings.add(found.because(Kind::Table, summary, amount.last));
    }
}

fn slow_read(window: &Window, findings: &mut Findings) {
    let better = [Code::ReceiverNotReading, Code::SocketReceiveBufferFull];
    for (key, amount) in window.of(|what| *what == What::SlowRead) {
        if findings.has(&better, key.entity) {
            continue;
        }
        let longest = amount.most / 1_000_000;
        let title = format!("data waited up to {longest} ms for the application to read it");
        let is_often = amount.count >= LATE_READS && amount.total >= LATE_NS;
        let summary = format!("{} late, {}", plural(amount.count, "read"), key.flow.show());
        let found = Conclusion::new(Code::SocketReadSlow, key.entity, *amount, title)
            .severity(Severity::warning_if(is_often || longest >= VERY_LATE_MS))
            .confidence(Confidence::Likely)
            .flow(key.flow)
            .because(Kind::Event, summary, amount.last);
        findings.add(found.with("flow", key.flow.canonical()));
    }
}
