//! Nobody listens: the wrong port, a service that is gone, a connection that one side has lost.

use std::collections::{BTreeMap, BTreeSet};

use inspector_sdk::analyzer::Role;
use inspector_sdk::icmp::Meaning;
use inspector_sdk::protocol::{DNS_PORT, TCP, UDP};
use inspector_sdk::tcp::{ESTABLISHED, LISTEN};
use inspector_sdk::{EntityId, Severity};

use crate::codes::Code;
use crate::confidence::Confidence;
use crate::evidence::Kind;
use crate::fact::{Amount, Flow, Key, Segment, What};
use crate::finding::Conclusion;
use crate::findings::Findings;
use crate::rules::Rule;
use crate::rules::traffic::{is_for_no_tunnel, is_traceroute};
use crate::title::{Title, plural};
use crate::window::{Dropped, ResetSent, Window};

/// So many connections that went well, for each that did not, make it no fault.
const MANY: u64 = 10;
/// The same where the service is known to have come, or come back, since.
const SOME: u64 = 5;
/// Attempts named in the evidence.
const NAMED: usize = 4;
/// Ports below are a service's.
const PRIVILEGED: u16 = 1_024;

/// The rules.
pub const RULES: &[Rule] = &[
    Rule::new("a connect to a port where nobody listens", closed_tcp_port).finds(&[Code::PortNotListening]),
    Rule::new("datagrams to a port where nobody listens", closed_udp_port).finds(&[Code::PortNotListening]),
    Rule::new("a segment of a connection that is not known here", lost_connection)
        .finds(&[Code::StaleConnection])
        .after(&[Code::ResetAfterClose, Code::ResetByApplication, Code::PortNotListening]),
];

/// Connects to a service that were refused, as one kind of event shows them.
struct Refused {
    flow: Flow,
    amount: Amount,
    /// What the stack did, for people.
    how: &'static str,
}

/// By entity, address and port.
type Services = BTreeMap<(EntityId, [u8; 16], u16), Vec<Refused>>;

/// The stack answers a SYN for which it has no socket with a reset; kernels before 6.10 do not say
/// so, but drop the SYN with a reason as all do.
fn refused_services(window: &Window) -> Services {
    let resets = window.resets.iter().filter(|reset| !reset.with_socket && reset.segment == Segment::Syn);
    let by_reset = resets.map(|reset| {
        let how = "answered a SYN with a reset (NO_SOCKET)";
        (reset.entity, Refused { flow: reset.flow.back(), amount: reset.amount, how })
    });
    let is_syn = |drop: &&Dropped| drop.flow.proto == TCP && drop.segment == Segment::Syn;
    let by_drop = window.dropped_for(&["NO_SOCKET"]).filter(is_syn).map(|drop| {
        (drop.entity, Refused { flow: drop.flow, amount: drop.amount, how: "dropped a SYN (NO_SOCKET)" })
    });
    let mut services = Services::new();
    for (entity, refused) in by_reset.chain(by_drop) {
        services.entry((entity, refused.flow.to, refused.flow.dport)).or_default().push(refused);
    }
    services
}

/// How often, when. A reset and a drop tell of one packet, so the larger number counts.
fn total(refused: &[Refused]) -> Amount {
    let mut total = refused[0].amount;
    refused.iter().skip(1).for_each(|other| total.add(&other.amount));
    let of_kind = |how: &str| -> u64 {
        refused.iter().filter(|other| other.how == how).map(|other| other.amount.count).sum()
    };
    total.count = refused.iter().map(|other| of_kind(other.how)).max().unwrap_or(0);
    total
}

/// What became of other connects to a service and its host.
struct Others {
    /// Connections to the service that went well.
    accepted: u64,
    /// They did so after it had refused.
    is_back: bool,
    /// One refusal among many connections that went well.
    is_stray: bool,
}

impl Others {
    fn of(window: &Window, entity: EntityId, refused: &[Refused], amount: &Amount) -> Self {
        let flow = refused[0].flow;
        let of_service: BTreeSet<_> = refused.iter().map(|one| Flow { sport: 0, ..one.flow }).collect();
        let of_service: Vec<_> = of_service.into_iter().collect();
        let is_met = |key: &Key| of_service.iter().any(|flow| key.flow.meets(flow));
        let went_well = || window.on(&of_service, What::is_open).filter(|(key, _)| is_met(key));
        let accepted = went_well().map(|(_, amount)| amount.count).sum::<u64>();
        let is_later = went_well().map(|(_, amount)| amount.last).max() > Some(amount.last);
        let of_pair = window.count_on(&Flow { sport: 0, dport: 0, ..flow }, What::is_open);
        let of_host = window.of(|what| *what == What::Accepted).filter(|(key, _)| key.entity == entity);
        let of_host: u64 = of_host.map(|(_, amount)| amount.count).sum();
        Self {
            accepted,
            is_back: is_later && accepted >= SOME * amount.count,
            is_stray: amount.count == 1 && (of_pair >= MANY || of_host >= MANY * MANY),
        }
    }

    fn severity(&self) -> Severity {
        match self.accepted {
            _ if self.is_back || self.is_stray => Severity::Info,
            0 => Severity::Critical,
            _ => Severity::Warning,
        }
    }

    fn evidence(&self, mut found: Conclusion, last: u64) -> Conclusion {
        if self.accepted > 0 {
            let connections = plural(self.accepted, "connection");
            found = found.although(format!("{connections} to it in the same time went well"));
        }
        if self.is_back {
            found.because(Kind::Event, "since then connections to it go well", last)
        } else if self.is_stray {
            found.text("one connect among many connections to this host that went well")
        } else {
            found
        }
    }
}

fn closed_tcp_port(window: &Window, findings: &mut Findings) {
    let services = refused_services(window);
    // An entity's closed ports are one finding.
    let mut ports = BTreeMap::<_, Vec<u16>>::new();
    for (entity, address, port) in services.keys().filter(|(_, _, port)| *port != 0) {
        ports.entry((*entity, *address)).or_default().push(*port);
    }
    for ((entity, address, port), refused) in services {
        let amount = total(&refused);
        let others = Others::of(window, entity, &refused, &amount);
        let before = match ports.get(&(entity, address)) {
            Some(ports) => {
                format!("nobody listens on {} of {}; ", named(ports), refused[0].flow.destination())
            }
            None => "nobody listens where connections came for, which were only counted; ".to_owned(),
        };
        let title = Title::counting(before, "connection", " refused");
        let mut found = Conclusion::new(Code::PortNotListening, entity, amount, title)
            .severity(others.severity())
            .confidence(Confidence::Certain);
        for Refused { flow, amount, how } in refused.iter().take(NAMED) {
            let summary = format!("the stack {how}, {}", flow.show());
            found = found.because(Kind::Event, summary, amount.last).on(flow, Role::Cause);
        }
        let found = found.flows(refused.iter().map(|one| one.flow));
        let found = others.evidence(found, amount.last).check("listeners", &[("port", port.to_string())]);
        findings.add(found.with_affected(window));
    }
}

/// Ports in words, the first few.
fn named(ports: &[u16]) -> String {
    let first = ports.iter().take(NAMED).map(u16::to_string).collect::<Vec<_>>().join(", ");
    match ports.len() {
        1 => format!("TCP port {first}"),
        n if n <= NAMED => format!("TCP ports {first}"),
        n => format!("{n} TCP ports ({first}, …)"),
    }
}

/// Whether a datagram comes back from a service: its client has closed its port.
fn is_late_answer(flow: &Flow) -> bool {
    flow.sport == DNS_PORT || (flow.sport != 0 && flow.of_service().dport == 0 && flow.sport < PRIVILEGED)
}

/// A datagram that comes back from a service to a closed port was late; multicast is for whoever
/// wants it; traceroute(8) asks where nobody listens on purpose.
fn closed_udp_port(window: &Window, findings: &mut Findings) {
    let is_unicast = |drop: &&Dropped| drop.flow.proto == UDP && !drop.is_multicast;
    for drop in window.dropped_for(&["NO_SOCKET"]).filter(is_unicast) {
        if is_late_answer(&drop.flow) || is_for_no_tunnel(drop) {
            continue;
        }
        let port = drop.flow.dport;
        let before = format!("nobody listens on UDP port {port} of {}; ", drop.flow.destination());
        let title = Title::counting(before, "datagram", " lost");
        let answers =
            window.on(std::slice::from_ref(&drop.flow), |what| what.is_icmp(Meaning::PortUnreachable));
        let answers = answers.filter(|(key, _)| key.flow.meets(&drop.flow));
        let answers = answers.map(|(_, amount)| amount.count).sum::<u64>();
        let mut found =
            Conclusion::of_drop(Code::PortNotListening, drop, title).confidence(Confidence::Likely);
        if answers > 0 {
            let summary = format!("{} sent: port unreachable", plural(answers, "ICMP error"));
            found = found.because(Kind::Event, summary, drop.amount.last).confidence(Confidence::Strong);
        }
        if is_traceroute(&drop.flow) {
            found = found.severity(Severity::Info).although("traceroute(8) uses such ports");
        }
        let found = found.check("listeners", &[("port", port.to_string())]);
        findings.add(found.with_affected(window));
    }
}

/// The stack resets what belongs to no connection that it knows, and a listener resets stray
/// segments. Before 6.10 there is no event for a reset without a socket.
fn lost_connection(window: &Window, findings: &mut Findings) {
    let is_by_reset = |reset: &&ResetSent| {
        let is_unknown = !reset.with_socket && reset.segment == Segment::Other;
        is_unknown || (reset.with_socket && reset.state == LISTEN && reset.segment != Segment::Syn)
    };
    for reset in window.resets.iter().filter(is_by_reset) {
        if !findings.explain(&reset.flow) {
            findings.add(lost(window, reset.entity, reset.flow.back(), reset.amount));
        }
    }
    let is_by_drop = |drop: &&Dropped| {
        drop.flow.proto == TCP && drop.segment == Segment::Other && !drop.within(&["cookie"])
    };
    for drop in window.dropped_for(&["NO_SOCKET"]).filter(is_by_drop) {
        let is_reported = window.resets_on(&drop.flow).next().is_some();
        if !is_reported && !findings.explain(&drop.flow) {
            findings.add(lost(window, drop.entity, drop.flow, drop.amount));
        }
    }
}

/// Worth a warning if the peer believed in the connection.
fn lost(window: &Window, at: EntityId, flow: Flow, amount: Amount) -> Conclusion {
    let is_established = |what: &What| *what == What::ResetReceived { state: ESTABLISHED };
    let peer_believed = window.count_on(&flow, is_established) > 0;
    // The end of a connection that was here a moment ago.
    let mut ended = window.on(std::slice::from_ref(&flow), |what| matches!(what, What::Closed { .. }));
    let ended_here = ended.any(|(key, _)| key.entity == at && key.flow.meets(&flow));
    let after = " of connections that it does not know (any more) answered with a reset";
    let summary = format!("the stack has no connection {}", flow.show());
    let found = Conclusion::new(Code::StaleConnection, at, amount, Title::counting("", "segment", after))
        .flow(flow)
        .confidence(if peer_believed { Confidence::Certain } else { Confidence::Likely })
        .because(Kind::Event, summary, amount.last)
        .on(&flow, Role::Cause);
    let found = if !peer_believed && ended_here {
        found.severity(Severity::Info).although("the connection was closed here shortly before")
    } else {
        found
    };
    found.with_affected(window)
}
