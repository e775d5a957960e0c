//! What is slow though nothing is lost.

use crate::counters::{counter, gauge};
use crate::fact::What;
use crate::finding::{Conclusion, Findings, INFO, WARNING, plural, total};
use crate::rules::Rule;
use crate::rules::sockets::stalled;
use crate::view::View;

/// Readings that find a long queue before it is called a fault.
const LONG_READINGS: u64 = 2;
/// Slow soft interrupts in a window before they are called a fault, unless one takes very long: a
/// virtual machine has some of more than 10 ms in the normal course of things.
const SLOW_TURNS: u64 = 10;
/// Very long.
const VERY_SLOW_MS: u64 = 100;
/// Late reads before they are called a fault: whoever waits for a timer reads late too.
const LATE_READS: u64 = 3;
/// And so long together, in nanoseconds.
const LATE_NS: u64 = 1_000_000_000;
/// Time without a change of what is unread before it is called a fault: some readings in a row.
const UNREAD_NS: u64 = 20_000_000_000;

/// The rules.
pub const RULES: &[Rule] = &[
    Rule { name: "soft interrupts of the network wait for the CPU", judge: softirq },
    Rule { name: "packets come faster than CPUs take them", judge: softnet },
    Rule { name: "packets wait in a queue", judge: backlog },
    Rule { name: "data waits for the application", judge: slow_read },
    Rule { name: "an application does not read", judge: unread },
];

fn softirq(view: &View, findings: &mut Findings) {
    for (key, amount) in view.of(|what| matches!(what, What::SlowSoftirq { .. })) {
        let waited = key.what == What::SlowSoftirq { waited: true };
        let what = if waited { "waited" } else { "ran" };
        let longest = amount.most / 1_000_000;
        let title = format!("soft interrupts of the network {what} for up to {longest} ms");
        let found = Conclusion::new("softirq-delay", key.entity, *amount, title).confidence(85);
        let severity = if amount.count >= SLOW_TURNS || longest >= VERY_SLOW_MS { WARNING } else { INFO };
        let times = plural(amount.count, "time");
        findings.add(found.severity(severity).because(
            "event",
            format!("{what} for more than 10 ms, {times}"),
            amount.last,
        ));
    }
}

fn softnet(view: &View, findings: &mut Findings) {
    for d in view.drops.iter().filter(|d| d.is(&["CPU_BACKLOG"])) {
        let title = format!("packets come faster than the CPUs take them: {} dropped", total("packet"));
        findings.add(Conclusion::of_drop("softnet-backlog", d, title).confidence(93).felt_by(view));
    }
    for (entity, amount) in view.risen(counter::SOFTNET_DROPPED) {
        let title = format!("packets come faster than the CPUs take them: {} dropped", total("packet"));
        findings
            .add(Conclusion::new("softnet-backlog", entity, amount, title).rose("softnet dropped", amount));
    }
}

/// Adds who sends through a queue and takes its delay for loss.
fn senders(view: &View, found: Conclusion) -> Conclusion {
    let at = found.at;
    let again = view.of(|what| matches!(what, What::Retransmit { .. })).filter(|(key, _)| key.entity == at);
    again.into_iter().fold(found, |found, (key, _)| found.flow(key.flow))
}

/// One reading may have met the one burst of a quiet link; what stands in reading after reading is
/// what everybody behind it waits for.
fn backlog(view: &View, findings: &mut Findings) {
    for (key, amount) in view.of(|what| *what == What::Queued) {
        let entity = key.entity;
        if view.rise(entity, counter::QDISC_DROPS) > 0 || findings.has(&["link-down", "qdisc-drop"], entity) {
            continue;
        }
        let bytes = view.gauge(entity, gauge::QDISC_BACKLOG).map_or(0, |backlog| backlog.most);
        let time = amount.most / 1_000_000;
        let title = format!("packets wait in the queue of a device: up to {bytes} bytes, some {time} ms");
        let severity = if amount.count >= LONG_READINGS { WARNING } else { INFO };
        let found =
            Conclusion::new("queueing-delay", entity, *amount, title).severity(severity).confidence(82);
        let summary = format!("a long queue in {}", plural(amount.count, "reading"));
        findings.add(senders(view, found.because("table", summary, amount.last)));
    }
}

/// What a program reads late makes an event once it reads; what it does not read at all only stays
/// in the queues of its sockets.
fn unread(view: &View, findings: &mut Findings) {
    for (entity, unread) in view.gauged(gauge::TCP_UNREAD) {
        let Some(amount) = stalled(view, entity) else { continue };
        if findings.has(&["receiver-not-reading"], entity) {
            continue;
        }
        let seconds = amount.most / 1_000_000_000;
        let title = format!("an application seems not to read: {} bytes waited for {seconds} s", unread.most);
        let severity = if amount.most >= UNREAD_NS { WARNING } else { INFO };
        let found =
            Conclusion::new("socket-read-slow", entity, amount, title).severity(severity).confidence(70);
        let readings = plural(amount.count, "reading");
        findings.add(found.because("table", format!("the same bytes unread in {readings}"), amount.last));
    }
}

fn slow_read(view: &View, findings: &mut Findings) {
    for (key, amount) in view.of(|what| *what == What::SlowRead) {
        if findings.has(&["receiver-not-reading", "socket-receive-buffer-full"], key.entity) {
            continue;
        }
        let longest = amount.most / 1_000_000;
        let title = format!("data waited up to {longest} ms for the application to read it");
        let is_often = amount.count >= LATE_READS && amount.total >= LATE_NS;
        let severity = if is_often || longest >= 1_000 { WARNING } else { INFO };
        let found = Conclusion::new("socket-read-slow", key.entity, *amount, title)
            .severity(severity)
            .confidence(80)
            .flow(key.flow);
        let summary = format!("{} late, {}", plural(amount.count, "read"), key.flow.show());
        findings.add(found.because("event", summary, amount.last).with("flow", key.flow.canonical()));
    }
}
