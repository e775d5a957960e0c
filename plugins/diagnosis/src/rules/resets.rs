//! Resets: who sent them, and why.

use std::collections::BTreeMap;

use crate::fact::{ETIMEDOUT, Flow, Segment, What};
use crate::finding::{Conclusion, Findings, INFO, WARNING, plural, total};
use crate::rules::Rule;
use crate::view::{Dropped, ResetSent, View};

const ESTABLISHED: u8 = 1;
const CLOSE: u8 = 7;

/// Connections between two hosts, for each in which data came after the end, that make a remark of it.
const MANY: u64 = 5;

/// The rules.
pub const RULES: &[Rule] = &[
    Rule { name: "an application resets its connection", judge: by_application },
    Rule { name: "data comes after the close", judge: after_close },
    Rule { name: "keepalive gives up", judge: keepalive },
];

/// `close` with unread data, `SO_LINGER` of 0, an abort, a kill. Kernels before 6.10 give no reason,
/// but a reset that no segment provoked is the application's.
fn by_application(view: &View, findings: &mut Findings) {
    for r in view.resets.iter().filter(|r| is_by_application(r)) {
        let how = match &*r.reason {
            "TCP_ABORT_ON_CLOSE" => "closed with data unread, or was killed",
            "TCP_STATE" | "TCP_ABORT_ON_LINGER" => "closed with SO_LINGER 0, or aborted",
            "TCP_ABORT_ON_MEMORY" => "had to be aborted for lack of memory",
            _ => "closed with a reset",
        };
        let title = format!("the application {how}: {}", total("connection"));
        let found =
            conclude("reset-by-application", r, title).confidence(if r.reason.is_empty() { 80 } else { 93 });
        let established =
            view.count_on(&r.flow, |what| matches!(what, What::ResetReceived { state: ESTABLISHED }));
        let peer_is_here = view.is_local(r.flow.destination());
        let arrived = view.count_on(&r.flow, |what| matches!(what, What::ResetReceived { .. })) > 0;
        let is_stopped = |d: &Dropped| d.drop.segment == Segment::Rst && d.flow == r.flow;
        let got_through = arrived || !view.drops.iter().any(is_stopped);
        // The peer does not miss it if it had closed too; and who connects may hang up: a health check,
        // a download that is cancelled.
        let is_felt = got_through && (established > 0 || !peer_is_here);
        let severity = if is_felt && !is_by_client(view, r) { WARNING } else { INFO };
        let mut found = found.severity(severity).felt_by(view);
        if !got_through {
            // What the peer goes on to suffer is not explained by a reset that it never saw.
            found.flows.clear();
        }
        findings.add(found);
    }
}

/// Whether who resets had opened the connection, as far back as is known.
fn is_by_client(view: &View, r: &ResetSent) -> bool {
    let opened = view.of(|what| *what == What::Connected).filter(|(key, _)| key.entity == r.entity);
    opened.into_iter().any(|(key, _)| key.flow == Flow { sport: 0, ..r.flow })
}

fn is_by_application(r: &ResetSent) -> bool {
    let unprovoked = r.reset.segment == Segment::None && r.reset.with_socket;
    match &*r.reason {
        "TCP_ABORT_ON_CLOSE" | "TCP_ABORT_ON_LINGER" | "TCP_ABORT_ON_MEMORY" | "TCP_DISCONNECT_WITH_DATA" => {
            true
        }
        "TCP_STATE" => unprovoked,
        "" => unprovoked && r.reset.state == CLOSE,
        _ => false,
    }
}

/// Somebody goes on sending to a connection that was closed cleanly.
fn after_close(view: &View, findings: &mut Findings) {
    let closing = |r: &&ResetSent| {
        let late =
            r.reset.segment == Segment::Other && r.reset.with_socket && (4..=9).contains(&r.reset.state);
        matches!(&*r.reason, "TCP_TIMEWAIT_SOCKET" | "TCP_ABORT_ON_DATA")
            || (late && matches!(&*r.reason, "" | "TCP_STATE"))
    };
    let mut resets = BTreeMap::<_, u64>::new();
    let all = || view.resets.iter().filter(closing);
    all().for_each(|r| *resets.entry(r.entity).or_default() += r.amount.count);
    for r in all() {
        let title = format!(
            "data came for connections that were already closed: {} answered with a reset",
            total("segment")
        );
        let found = conclude("reset-after-close", r, title).confidence(85).felt_by(view);
        let opened = view.count_on(&Flow { sport: 0, dport: 0, ..r.flow }, |what| *what == What::Connected);
        let found = if is_by_client(view, r) {
            let text = "who gives up waiting closes, and the answer still comes";
            found.severity(INFO).because("text", text, 0)
        } else if opened >= MANY * resets[&r.entity] {
            found.severity(INFO).because("text", format!("few of {opened} connections between the two"), 0)
        } else {
            found
        };
        findings.add(found);
    }
}

fn keepalive(view: &View, findings: &mut Findings) {
    for r in view.resets.iter().filter(|r| &*r.reason == "TCP_KEEPALIVE_TIMEOUT") {
        let title = format!("the peer answered no keepalive any more: {} given up", total("connection"));
        let explained = findings.explain(&r.flow);
        let found = conclude("reset-keepalive-timeout", r, title).confidence(if explained { 85 } else { 92 });
        findings.add(found.felt_by(view));
    }
    // Without reasons: a reset that nothing provoked, on a connection that then ends in a timeout.
    for r in view
        .resets
        .iter()
        .filter(|r| r.reason.is_empty() && r.reset.state == ESTABLISHED && r.reset.segment == Segment::None)
    {
        let timed_out = view.count_on(&r.flow, |what| {
            matches!(what, What::Closed { error: ETIMEDOUT } | What::SocketError { error: ETIMEDOUT })
        });
        if timed_out > 0 {
            let title = format!("the peer answered no keepalive any more: {} given up", total("connection"));
            findings.add(conclude("reset-keepalive-timeout", r, title).confidence(80).felt_by(view));
        }
    }
}

fn conclude(code: &'static str, r: &ResetSent, title: String) -> Conclusion {
    let reason = if r.reason.is_empty() { "this kernel gives no reason" } else { &r.reason };
    Conclusion::new(code, r.entity, r.amount, title)
        .flow(r.flow)
        .because(
            "event",
            format!("{} sent ({reason}), {}", plural(r.amount.count, "reset"), r.flow.show()),
            r.amount.last,
        )
        .with("reason", &r.reason)
        .with("flow", r.flow.canonical())
        .with("role", "cause")
}
