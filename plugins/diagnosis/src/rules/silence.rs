//! Symptoms that no cause on this node explains: silence, loss, a peer's reset, and drops that no rule
//! knows.

use std::collections::{BTreeMap, BTreeSet};

use inspector_sdk::analyzer::Role;
use inspector_sdk::errno::{
    self, EACCES, ECONNREFUSED, EHOSTDOWN, EHOSTUNREACH, ENETUNREACH, ENONET, ENOPROTOOPT, EOPNOTSUPP,
    EPROTO, ETIMEDOUT,
};
use inspector_sdk::probes::drop_reason::Class;
use inspector_sdk::probes::tcp_retransmit::{WHY_FAST, WHY_LOSS, WHY_RTO};
use inspector_sdk::tcp::{ESTABLISHED, SYN_SENT};
use inspector_sdk::{EntityId, Severity, Timestamp};

use crate::codes::Code;
use crate::confidence::Confidence;
use crate::evidence::{Kind, symptom};
use crate::fact::{Amount, Flow, Key, Segment, What};
use crate::finding::Conclusion;
use crate::findings::Findings;
use crate::rules::Rule;
use crate::rules::neighbours::is_lookup_lost;
use crate::rules::traffic::outage;
use crate::title::{Title, plural};
use crate::window::{Dropped, ResetSent, Window};

/// Retransmissions before it is called loss: a few are the price of a shared network.
const LOSS: u64 = 5;
/// Timeouts in a row on one connection before its peer is called silent; the later ones are minutes
/// apart, so one of them is enough that says the number.
const TIMEOUTS: u64 = 3;
/// Ports of one host that make a scan, and attempts at each that are none.
const MANY_PORTS: usize = 5;
const FEW: u64 = 2;
/// What ICMP errors make of a connect.
const BY_ICMP: [u32; 9] =
    [EACCES, ENONET, EPROTO, ENOPROTOOPT, EOPNOTSUPP, ENETUNREACH, ECONNREFUSED, EHOSTDOWN, EHOSTUNREACH];
/// Lines of evidence for one service.
const NAMED: usize = 4;
/// Connections that went well, for each attempt without an answer, that make it no fault.
const MANY: u64 = 10;
/// Time between a reset's sending and its coming, on one node.
const ON_ITS_WAY_NS: u64 = 100_000_000;

/// The rules.
pub const RULES: &[Rule] = &[
    Rule::new("what nobody answers went to another host", misdirected).finds(&[Code::WrongDestinationMac]),
    Rule::new("a peer does not answer", unresponsive)
        .finds(&[Code::PeerUnresponsive])
        .after(&[Code::WrongDestinationMac]),
    Rule::new("a peer answers too late", too_late).finds(&[Code::PeerUnresponsive]),
    Rule::new("a router elsewhere refuses", refused_elsewhere).finds(&[Code::PeerUnresponsive]),
    Rule::new("segments get lost elsewhere", loss).finds(&[Code::TcpLoss]).after(&[Code::PeerUnresponsive]),
    Rule::new("a peer resets", reset_by_peer).finds(&[Code::ResetByPeer]),
    Rule::new("a drop that no rule knows", unexplained).finds(&[Code::UnexplainedDrop]).after(&[
        Code::PeerUnresponsive,
        Code::TcpLoss,
        Code::ResetByPeer,
    ]),
];

/// What was tried at one service in vain: how often, and how that showed.
struct Tried<'a> {
    amount: Amount,
    facts: Vec<&'a (Key, Amount)>,
}

/// By client, address and port.
type Services<'a> = BTreeMap<(EntityId, [u8; 16], u16), Tried<'a>>;

fn add<'a>(services: &mut Services<'a>, fact: &'a (Key, Amount)) {
    let (key, amount) = fact;
    let service = key.flow.of_service();
    let port = if service.dport != 0 { service.dport } else { service.sport };
    let none = || Tried { amount: Amount { count: 0, ..*amount }, facts: Vec::new() };
    let tried = services.entry((key.entity, key.flow.to, port)).or_insert_with(none);
    tried.amount.add(amount);
    tried.facts.push(fact);
}

/// Frames for others are normal on a flooded or promiscuous link; not so if nobody answers what is in
/// them, and the host that they should have reached is here and observed nothing.
fn misdirected(window: &Window, findings: &mut Findings) {
    for drop in window.dropped_for(&["OTHERHOST"]).filter(|drop| !drop.is_multicast) {
        let meant: Vec<_> = window.owners(drop.flow.destination()).collect();
        let is_missed = !meant.is_empty() && meant.iter().all(|owner| !window.observed(*owner, &drop.flow));
        let is_symptom = |what: &What| what.is_retransmit() || matches!(what, What::ConnectFailed { .. });
        if !is_missed || window.count_on(&drop.flow, is_symptom) == 0 || findings.explain(&drop.flow) {
            continue;
        }
        let before = format!(
            "packets for {} come here, in frames that are for no address of this host: a forwarding or neighbour entry is out of date; ",
            drop.flow.destination()
        );
        let found =
            Conclusion::of_drop(Code::WrongDestinationMac, drop, Title::counting(before, "packet", ""));
        let found = found.confidence(Confidence::Likely).severity(outage(window, &drop.flow));
        findings.add(found.with_affected(window));
    }
}

/// A connect that was not answered is evidence by itself, whether its client goes on waiting or has
/// given up.
fn unresponsive(window: &Window, findings: &mut Findings) {
    let silent = unanswered(window, findings);
    let scanned = scanned(window, &silent);
    for ((entity, to, port), tried) in silent {
        let destination = tried.destination();
        let before = format!("{destination} port {port} does not answer: ");
        let is_local = window.is_local(destination);
        let mut found = tried
            .conclude(entity, Title::counting(before, "attempt", ""))
            .severity(tried.urgency(window))
            .confidence(if is_local { Confidence::Weak } else { Confidence::Likely })
            .text("no drop on this node explains it");
        if scanned.contains(&(entity, to)) {
            found = found.severity(Severity::Info).text("many ports of it were tried, each once or twice");
        }
        findings.add(found.flows(tried.flows()));
    }
}

/// Attempts that nobody answered so far, and that nothing explains.
fn unanswered<'a>(window: &'a Window, findings: &Findings) -> Services<'a> {
    let mut silent = Services::new();
    let gave_up = |what: &What| what.is_silence() || *what == What::Closed { error: ETIMEDOUT };
    for fact in window.of(gave_up).filter(|(key, _)| !findings.explain_symptom(key)) {
        let (key, _) = fact;
        let is_lost = is_lookup_lost(window, findings, &key.flow);
        if key.flow.is_known() && !is_lost && answer_in_vain(window, &key.flow).is_none() {
            add(&mut silent, fact);
        }
    }
    for fact in window.of(|what| *what == What::Retransmit { why: WHY_RTO }) {
        let (key, amount) = fact;
        if amount.count.max(amount.most) >= TIMEOUTS && !findings.explain(&key.flow) {
            add(&mut silent, fact);
        }
    }
    silent
}

/// The answer comes when its client has given up, finds no socket and is reset. Who tries two
/// addresses and takes the faster one wants it so.
fn too_late(window: &Window, findings: &mut Findings) {
    let mut late = Services::new();
    for fact in window.of(What::is_silence).filter(|(key, _)| !findings.explain_symptom(key)) {
        let (key, _) = fact;
        if matches!(key.what, What::ConnectFailed { .. }) && answer_in_vain(window, &key.flow).is_some() {
            add(&mut late, fact);
        }
    }
    for ((entity, _, port), tried) in late {
        let before =
            format!("{} port {port} answers only after its client has given up: ", tried.destination());
        let is_wanted = tried.goes_elsewhere(window) || tried.urgency(window) == Severity::Info;
        let at = answer_in_vain(window, &tried.flow()).unwrap_or_default();
        let found = tried
            .conclude(entity, Title::counting(before, "attempt", ""))
            .severity(Severity::warning_if(!is_wanted))
            .confidence(Confidence::Likely)
            .because(Kind::Event, "an answer to a connect found nobody waiting for it", at);
        findings.add(found.flows(tried.flows()));
    }
}

/// An ICMP error ends a connect at once, with an error and no reset.
fn refused_elsewhere(window: &Window, findings: &mut Findings) {
    let mut refused = BTreeMap::<u32, Services>::new();
    for fact in window.of(|what| matches!(what, What::ConnectFailed { .. })) {
        let (key, _) = fact;
        let What::ConnectFailed { error, .. } = key.what else { continue };
        // Of a storm not each reset is reported.
        let service = Flow { sport: 0, ..key.flow };
        let is_by_reset = || window.count_on(&service, What::is_reset_received) > 0;
        let is_explained = || findings.explain_symptom(key) || findings.explain(&service);
        if BY_ICMP.contains(&error) && key.flow.is_known() && !is_explained() && !is_by_reset() {
            add(refused.entry(error).or_default(), fact);
        }
    }
    for (error, services) in refused {
        for ((entity, _, port), tried) in services {
            let before = format!("{} port {port} cannot be reached: ", tried.destination());
            let title = Title::counting(before, "connect", format!(" failed with {}", errno::name(error)));
            let found = tried
                .conclude(entity, title)
                .severity(tried.urgency(window))
                .confidence(Confidence::Likely)
                .text("an ICMP error says so that nothing on this node sent");
            findings.add(found.flows(tried.flows()));
        }
    }
}

impl Tried<'_> {
    /// The first of its conversations.
    fn flow(&self) -> Flow {
        self.facts[0].0.flow
    }

    fn flows(&self) -> Vec<Flow> {
        self.facts.iter().map(|(key, _)| key.flow).collect()
    }

    fn destination(&self) -> std::net::IpAddr {
        self.flow().destination()
    }

    fn conclude(&self, entity: EntityId, title: Title) -> Conclusion {
        let found = Conclusion::new(Code::PeerUnresponsive, entity, self.amount, title);
        self.facts.iter().take(NAMED).fold(found, |found, (key, amount)| {
            let summary = symptom(&key.what, amount, &key.flow);
            found.because(Kind::Event, summary, amount.last).on(&key.flow, Role::Symptom)
        })
    }

    /// How bad it is that a service does not answer, by how many connections to it go well.
    fn urgency(&self, window: &Window) -> Severity {
        let service = self.flow().of_service();
        let opened = window.on(std::slice::from_ref(&service), |what| *what == What::Connected);
        let opened: Vec<_> =
            opened.filter(|(key, _)| key.flow.meets(&service)).map(|(_, amount)| amount).collect();
        let well: u64 = opened.iter().map(|amount| amount.count).sum();
        let is_over = opened.iter().map(|amount| amount.last).max() > Some(self.amount.last);
        match well {
            0 if self.goes_elsewhere(window) => Severity::Warning,
            0 => Severity::Critical,
            _ if is_over && well >= MANY * self.amount.count => Severity::Info,
            _ => Severity::Warning,
        }
    }

    /// Whether the client reaches the same port of other addresses as often as it tried this one in vain.
    fn goes_elsewhere(&self, window: &Window) -> bool {
        let (tried, _) = self.facts[0];
        let opened = window.of(|what| *what == What::Connected).filter(|(other, _)| {
            (other.entity, other.flow.dport) == (tried.entity, tried.flow.dport)
                && other.flow.to != tried.flow.to
        });
        opened.map(|(_, amount)| amount.count).sum::<u64>() >= self.amount.count
    }
}

/// When the answer to a connect came whose client had given up.
fn answer_in_vain(window: &Window, flow: &Flow) -> Option<Timestamp> {
    let is_dropped = |drop: &&Dropped| drop.segment == Segment::SynAck && drop.is(&["NO_SOCKET"]);
    let is_refused = |reset: &&ResetSent| !reset.with_socket && reset.segment == Segment::SynAck;
    let dropped = window.drops_on(flow).filter(is_dropped).map(|drop| drop.amount.last);
    let refused = window.resets_on(flow).filter(is_refused).map(|reset| reset.amount.last);
    dropped.chain(refused).next()
}

/// Hosts of which many ports were tried, none with insistence, and that answer at others: whoever
/// looks for what is open meets silence.
fn scanned(window: &Window, silent: &Services) -> BTreeSet<(EntityId, [u8; 16])> {
    let mut ports = BTreeMap::<_, usize>::new();
    for ((entity, to, _), _) in silent.iter().filter(|(_, tried)| tried.amount.count <= FEW) {
        *ports.entry((*entity, *to)).or_default() += 1;
    }
    let answers = |(entity, to): &(EntityId, [u8; 16])| {
        let is_answer = |what: &What| *what == What::Connected || what.is_reset_received();
        window.of(is_answer).any(|(key, _)| key.entity == *entity && key.flow.to == *to)
    };
    let many = ports.into_iter().filter(|(host, ports)| *ports >= MANY_PORTS && answers(host));
    many.map(|(host, _)| host).collect()
}

fn loss(window: &Window, findings: &mut Findings) {
    let mut lossy = Services::new();
    let is_lost = |what: &What| matches!(what, What::Retransmit { why: WHY_FAST | WHY_LOSS | WHY_RTO });
    for fact in window.of(is_lost).filter(|(key, _)| !findings.explain(&key.flow)) {
        add(&mut lossy, fact);
    }
    for ((entity, ..), tried) in lossy.into_iter().filter(|(_, tried)| tried.amount.count >= LOSS) {
        let (flow, amount) = (tried.flow(), tried.amount);
        let before = format!("segments to {} get lost beyond this node: ", flow.destination());
        let title = Title::counting(before, "segment", " sent again");
        let found = Conclusion::new(Code::TcpLoss, entity, amount, title)
            .confidence(Confidence::Likely)
            .because(Kind::Event, format!("retransmissions, {}", flow.show()), amount.last)
            .on(&flow, Role::Symptom)
            .text("no drop on this node explains it");
        findings.add(found.flows(tried.flows()));
    }
}

fn reset_by_peer(window: &Window, findings: &mut Findings) {
    for (key, amount) in window.of(What::is_reset_received) {
        let What::ResetReceived { state } = key.what else { continue };
        let is_sent_here = window.resets_on(&key.flow).next().is_some();
        if findings.explain_symptom(key) || is_sent_here {
            continue;
        }
        let sent = window.resets.iter().find(|reset| may_be_translated(reset, &key.flow, amount));
        if sent.is_some_and(|sent| findings.attribute(&sent.flow, Severity::Info, (key, *amount), window)) {
            continue;
        }
        let (peer, resets) = (key.flow.destination(), plural(amount.count, "reset"));
        let (title, severity) = match state {
            SYN_SENT => (format!("{peer} refuses connections: {resets}"), Severity::Warning),
            ESTABLISHED => (format!("{peer} resets open connections: {resets}"), Severity::Warning),
            _ => (format!("{peer} resets connections that are closing"), Severity::Info),
        };
        let found = Conclusion::new(Code::ResetByPeer, key.entity, *amount, title)
            .severity(severity)
            .confidence(Confidence::Likely)
            .flow(key.flow)
            .because(Kind::Event, format!("reset received, {}", key.flow.show()), amount.last)
            .on(&key.flow, Role::Symptom);
        findings.add(found.text("nothing on this node sent it"));
    }
}

/// Whether a reset can have been sent to another address and port, which were translated on the way
/// (NAT): it comes from the same end, and at the same time.
fn may_be_translated(sent: &ResetSent, received: &Flow, amount: &Amount) -> bool {
    let (peer, sender) = (received.back(), sent.flow);
    let from = |flow: &Flow| (flow.from, flow.sport, flow.proto);
    let is_within = sent.amount.first <= amount.last.saturating_add(ON_ITS_WAY_NS)
        && amount.first <= sent.amount.last.saturating_add(ON_ITS_WAY_NS);
    from(&peer) == from(&sender) && is_within
}

/// Whether a drop needs no finding by itself: it happens in a healthy network, or only follows from
/// what another finding reports.
fn is_reported_by_others(drop: &Dropped) -> bool {
    let is_known = drop.meaning.is_some_and(|reason| {
        reason.class == Class::Benign || reason.effect_of.is_some() || reason.name == "NO_SOCKET"
    });
    is_known || drop.is_multicast
}

/// Never hidden, though nothing is known of it but the kernel's words.
fn unexplained(window: &Window, findings: &mut Findings) {
    for drop in window.missed().filter(|drop| !is_reported_by_others(drop)) {
        let is_explained = drop.flow.is_known() && findings.explain(&drop.flow);
        let is_beside = findings.has_any(drop.entity, drop.amount.first);
        if is_explained || (is_beside && !drop.is(&["NOT_SPECIFIED"])) {
            continue;
        }
        let packets = plural(drop.amount.count, "packet");
        let title = format!("packets dropped in {} ({}): {packets}", drop.symbol.name, drop.reason);
        let is_missed = drop.flow.is_known() && window.count_on(&drop.flow, What::is_retransmit) > 0;
        let found = Conclusion::of_drop(Code::UnexplainedDrop, drop, title)
            .confidence(Confidence::Weak)
            .severity(Severity::warning_if(is_missed))
            .value("reason", &drop.reason);
        findings.add(found.with_affected(window));
    }
}
