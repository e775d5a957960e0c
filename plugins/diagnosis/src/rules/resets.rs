//! Resets: who sent them, and why.

use std::collections::BTreeMap;

use inspector_sdk::Severity;
use inspector_sdk::analyzer::Role;
use inspector_sdk::errno::ETIMEDOUT;
use inspector_sdk::tcp::{CLOSE, ESTABLISHED, FIN_WAIT1, LAST_ACK};

use crate::codes::Code;
use crate::confidence::Confidence;
use crate::evidence::Kind;
use crate::fact::{Flow, Segment, What};
use crate::finding::Conclusion;
use crate::findings::Findings;
use crate::rules::Rule;
use crate::title::{Title, plural};
use crate::window::{Dropped, ResetSent, Window};

/// Connections between two hosts, for each in which data came after the end, that make it no fault.
const MANY: u64 = 5;

/// The rules.
pub const RULES: &[Rule] = &[
    Rule::new("an application resets its connection", by_application).finds(&[Code::ResetByApplication]),
    Rule::new("data comes after the close", after_close).finds(&[Code::ResetAfterClose]),
    Rule::new("keepalive gives up", keepalive).finds(&[Code::ResetKeepaliveTimeout]).after(&[
        Code::FirewallDrop,
        Code::LinkDown,
        Code::NeighbourUnresolved,
    ]),
];

/// `close` with unread data, `SO_LINGER` of 0, an abort, a kill. Kernels before 6.10 give no reason,
/// but a reset that no segment provoked is the application's.
fn by_application(window: &Window, findings: &mut Findings) {
    for reset in window.resets.iter().filter(|reset| is_by_application(reset)) {
        let how = match &*reset.reason {
            "TCP_ABORT_ON_CLOSE" => "closed with data unread, or was killed",
            "TCP_STATE" | "TCP_ABORT_ON_LINGER" => "closed with SO_LINGER 0, or aborted",
            "TCP_ABORT_ON_MEMORY" => "had to be aborted for lack of memory",
            _ => "closed with a reset",
        };
        let title = Title::counting(format!("the application {how}: "), "connection", "");
        let got_through = got_through(window, reset);
        let is_missed = got_through && is_missed(window, reset) && !is_by_client(window, reset);
        let mut found = conclude(Code::ResetByApplication, reset, title)
            .confidence(if reset.reason.is_empty() { Confidence::Likely } else { Confidence::Certain })
            .severity(Severity::warning_if(is_missed))
            .with_affected(window);
        if !got_through {
            // What the peer goes on to suffer is not explained by a reset that it never saw.
            found.flows.clear();
        }
        findings.add(found);
    }
}

/// Whether the peer got a reset, as far as is known.
fn got_through(window: &Window, reset: &ResetSent) -> bool {
    let is_stopped = |drop: &Dropped| drop.segment == Segment::Rst && drop.flow == reset.flow;
    window.count_on(&reset.flow, What::is_reset_received) > 0 || !window.drops.iter().any(is_stopped)
}

/// Whether the peer had not closed too; a peer elsewhere is taken not to have.
fn is_missed(window: &Window, reset: &ResetSent) -> bool {
    let is_established = |what: &What| matches!(what, What::ResetReceived { state: ESTABLISHED });
    window.count_on(&reset.flow, is_established) > 0 || !window.is_local(reset.flow.destination())
}

/// Whether who resets had opened the connection, as far back as is known. Who connects may hang up: a
/// health check, a download that is cancelled.
fn is_by_client(window: &Window, reset: &ResetSent) -> bool {
    let to_service = Flow { sport: 0, ..reset.flow };
    let mut opened = window.on(std::slice::from_ref(&to_service), |what| *what == What::Connected);
    opened.any(|(key, _)| key.entity == reset.entity && key.flow == to_service)
}

fn is_by_application(reset: &ResetSent) -> bool {
    let is_unprovoked = reset.segment == Segment::None && reset.with_socket;
    match &*reset.reason {
        "TCP_ABORT_ON_CLOSE" | "TCP_ABORT_ON_LINGER" | "TCP_ABORT_ON_MEMORY" | "TCP_DISCONNECT_WITH_DATA" => {
            true
        }
        "TCP_STATE" => is_unprovoked,
        "" => is_unprovoked && reset.state == CLOSE,
        _ => false,
    }
}

/// Whether a reset answers what came for a connection that was closed cleanly.
fn is_after_close(reset: &ResetSent) -> bool {
    let is_late =
        reset.segment == Segment::Other && reset.with_socket && (FIN_WAIT1..=LAST_ACK).contains(&reset.state);
    match &*reset.reason {
        "TCP_TIMEWAIT_SOCKET" | "TCP_ABORT_ON_DATA" => true,
        "" | "TCP_STATE" => is_late,
        _ => false,
    }
}

/// Somebody goes on sending to a connection that was closed cleanly.
fn after_close(window: &Window, findings: &mut Findings) {
    let all = || window.resets.iter().filter(|reset| is_after_close(reset));
    let mut resets = BTreeMap::<_, u64>::new();
    all().for_each(|reset| *resets.entry(reset.entity).or_default() += reset.amount.count);
    for reset in all() {
        let before = "data came for connections that were already closed: ";
        let title = Title::counting(before, "segment", " answered with a reset");
        let found = conclude(Code::ResetAfterClose, reset, title).with_affected(window);
        let of_pair = Flow { sport: 0, dport: 0, ..reset.flow };
        let opened = window.count_on(&of_pair, |what| *what == What::Connected);
        findings.add(if is_by_client(window, reset) {
            found.severity(Severity::Info).text("who gives up waiting closes, and the answer still comes")
        } else if opened >= MANY * resets[&reset.entity] {
            found.severity(Severity::Info).text(format!("few of {opened} connections between the two"))
        } else {
            found
        });
    }
}

fn keepalive(window: &Window, findings: &mut Findings) {
    let title = || Title::counting("the peer answered no keepalive any more: ", "connection", " given up");
    for reset in window.resets.iter().filter(|reset| &*reset.reason == "TCP_KEEPALIVE_TIMEOUT") {
        let is_explained = findings.explain(&reset.flow);
        let confidence = if is_explained { Confidence::Strong } else { Confidence::Certain };
        let found = conclude(Code::ResetKeepaliveTimeout, reset, title()).confidence(confidence);
        findings.add(found.with_affected(window));
    }
    // Without reasons: a reset that nothing provoked, on a connection that then ends in a timeout.
    let unprovoked = |reset: &&ResetSent| {
        reset.reason.is_empty() && reset.state == ESTABLISHED && reset.segment == Segment::None
    };
    for reset in window.resets.iter().filter(unprovoked) {
        let is_timeout = |what: &What| {
            matches!(what, What::Closed { error: ETIMEDOUT } | What::SocketError { error: ETIMEDOUT })
        };
        if window.count_on(&reset.flow, is_timeout) > 0 {
            let found = conclude(Code::ResetKeepaliveTimeout, reset, title());
            findings.add(found.confidence(Confidence::Likely).with_affected(window));
        }
    }
}

fn conclude(code: Code, reset: &ResetSent, title: Title) -> Conclusion {
    let reason = if reset.reason.is_empty() { "this kernel gives no reason" } else { &reset.reason };
    let summary = format!("{} sent ({reason}), {}", plural(reset.amount.count, "reset"), reset.flow.show());
    Conclusion::new(code, reset.entity, reset.amount, title)
        .flow(reset.flow)
        .because(Kind::Event, summary, reset.amount.last)
        .with("reason", &reset.reason)
        .on(&reset.flow, Role::Cause)
}
