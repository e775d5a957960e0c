//! Symptoms that no cause here explains: silence, loss, a peer's reset, and drops that no rule knows.

use std::collections::{BTreeMap, BTreeSet};

use inspector_sdk::probes::tcp_retransmit::{WHY_FAST, WHY_LOSS, WHY_RTO};
use inspector_sdk::{EntityId, Timestamp, errno};

use crate::fact::{Amount, ETIMEDOUT, Flow, Key, Segment, What};
use crate::finding::{CRITICAL, Conclusion, Findings, INFO, WARNING, plural, symptom, total};
use crate::rules::Rule;
use crate::rules::firewall::outage;
use crate::rules::link::is_lookup_lost;
use crate::view::{ResetSent, View};

const SYN_SENT: u8 = 2;
const ESTABLISHED: u8 = 1;
/// Segments sent again before it is called loss: a few are the price of a shared network.
const LOSS: u64 = 5;
/// Timeouts in a row on one connection before its peer is called silent; the later ones are minutes
/// apart, so one of them is enough that says the number.
const TIMEOUTS: u64 = 3;
/// Ports of one host that make a scan, and attempts at each that are none.
const MANY_PORTS: usize = 5;
const FEW: u64 = 2;
/// What ICMP errors make of a connect: EACCES, ENONET, EPROTO, ENOPROTOOPT, EOPNOTSUPP, ENETUNREACH,
/// ECONNREFUSED, EHOSTDOWN, EHOSTUNREACH.
const BY_ICMP: [u32; 9] = [13, 64, 71, 92, 95, 101, 111, 112, 113];
/// Lines of evidence for one service.
const SHOWN: usize = 4;

/// Connections that went well, for each attempt without an answer, that make a remark of it.
const MANY: u64 = 10;
/// Time between a reset's sending and its coming, on one node.
const ON_ITS_WAY_NS: u64 = 100_000_000;

/// The rules.
pub const RULES: &[Rule] = &[
    Rule { name: "what nobody answers went to another host", judge: misdirected },
    Rule { name: "a peer does not answer", judge: unresponsive },
    Rule { name: "a peer answers too late", judge: too_late },
    Rule { name: "a router elsewhere says no", judge: refused_elsewhere },
    Rule { name: "segments get lost elsewhere", judge: loss },
    Rule { name: "a peer resets", judge: reset_by_peer },
    Rule { name: "a drop that no rule knows", judge: unexplained },
];

/// What was tried at one service in vain: how often, on which conversations, and how that was seen.
struct Tried {
    amount: Amount,
    flows: Vec<Flow>,
    seen: Vec<(Key, Amount)>,
}

/// By client, address and port.
type Services = BTreeMap<(EntityId, [u8; 16], u16), Tried>;

fn add(services: &mut Services, key: &Key, amount: &Amount) {
    let service = key.flow.of_service();
    let port = if service.dport != 0 { service.dport } else { service.sport };
    let none = || Tried { amount: Amount { count: 0, ..*amount }, flows: Vec::new(), seen: Vec::new() };
    let tried = services.entry((key.entity, key.flow.to, port)).or_insert_with(none);
    tried.amount.add(amount);
    tried.flows.push(key.flow);
    tried.seen.push((*key, *amount));
}

/// Frames for others are normal on a flooded or promiscuous link; not so if nobody answers what is in
/// them, and the host that they should have reached is here and saw nothing.
fn misdirected(view: &View, findings: &mut Findings) {
    for d in view.drops.iter().filter(|d| d.is(&["OTHERHOST"]) && !d.drop.to_many) {
        let meant: Vec<_> = view.owners(d.flow.destination()).collect();
        let is_missed = !meant.is_empty() && meant.iter().all(|owner| !view.saw(*owner, &d.flow));
        let is_symptom = |what: &What| matches!(what, What::Retransmit { .. } | What::ConnectFailed { .. });
        if !is_missed || view.count_on(&d.flow, is_symptom) == 0 || findings.explain(&d.flow) {
            continue;
        }
        let title = format!(
            "packets for {} come here, in frames that are for no address of this host: a forwarding or neighbour entry is out of date; {}",
            d.flow.destination(),
            total("packet")
        );
        let found = Conclusion::of_drop("wrong-destination-mac", d, title);
        findings.add(found.confidence(75).severity(outage(view, &d.flow)).felt_by(view));
    }
}

/// A connect that was not answered is evidence by itself, whether its client goes on waiting or has
/// given up.
fn unresponsive(view: &View, findings: &mut Findings) {
    let silent = unanswered(view, findings);
    let scanned = scanned(view, &silent);
    for ((entity, to, port), tried) in silent {
        let destination = tried.flows[0].destination();
        let title = format!("{destination} port {port} does not answer: {}", total("attempt"));
        let mut found = Conclusion::new("peer-unresponsive", entity, tried.amount, title)
            .severity(urgency(view, &tried))
            .confidence(if view.is_local(destination) { 60 } else { 75 });
        found = tried.evidence(found).because("text", "no drop on this node explains it", 0);
        if scanned.contains(&(entity, to)) {
            found =
                found.severity(INFO).because("text", "many ports of it were tried, each once or twice", 0);
        }
        findings.add(tried.flows.into_iter().fold(found, Conclusion::flow));
    }
}

/// Attempts that nobody answered so far, and that nothing explains.
fn unanswered(view: &View, findings: &Findings) -> Services {
    let mut silent = Services::new();
    let gave_up = |what: &What| what.is_silence() || *what == What::Closed { error: ETIMEDOUT };
    for (key, amount) in view.of(gave_up).filter(|(key, _)| !findings.explain_symptom(key)) {
        let is_lost = is_lookup_lost(view, findings, &key.flow);
        if key.flow.is_known() && !is_lost && answer_in_vain(view, &key.flow).is_none() {
            add(&mut silent, key, amount);
        }
    }
    for (key, amount) in view.of(|what| *what == What::Retransmit { why: WHY_RTO }) {
        if amount.count.max(amount.most) >= TIMEOUTS && !findings.explain(&key.flow) {
            add(&mut silent, key, amount);
        }
    }
    silent
}

/// The answer comes when its client has given up, finds no socket and is reset. Who tries two
/// addresses and takes the faster one wants it so.
fn too_late(view: &View, findings: &mut Findings) {
    let mut late = Services::new();
    for (key, amount) in view.of(What::is_silence).filter(|(key, _)| !findings.explain_symptom(key)) {
        if matches!(key.what, What::ConnectFailed { .. }) && answer_in_vain(view, &key.flow).is_some() {
            add(&mut late, key, amount);
        }
    }
    for ((entity, _, port), tried) in late {
        let destination = tried.flows[0].destination();
        let title = format!(
            "{destination} port {port} answers only after its client has given up: {}",
            total("attempt")
        );
        let is_wanted = goes_elsewhere(view, &tried) || urgency(view, &tried) == INFO;
        let found = Conclusion::new("peer-unresponsive", entity, tried.amount, title)
            .severity(if is_wanted { INFO } else { WARNING })
            .confidence(80);
        let found = tried.evidence(found);
        let at = answer_in_vain(view, &tried.flows[0]).unwrap_or_default();
        let found = found.because("event", "an answer to a connect found nobody waiting for it", at);
        findings.add(tried.flows.into_iter().fold(found, Conclusion::flow));
    }
}

/// An ICMP error ends a connect at once, with an error and no reset.
fn refused_elsewhere(view: &View, findings: &mut Findings) {
    let mut refused = BTreeMap::<u32, Services>::new();
    for (key, amount) in view.of(|what| matches!(what, What::ConnectFailed { .. })) {
        let What::ConnectFailed { error, .. } = key.what else { continue };
        // Of a storm not each reset is told.
        let service = Flow { sport: 0, ..key.flow };
        let is_by_reset = || view.count_on(&service, |what| matches!(what, What::ResetReceived { .. })) > 0;
        let is_explained = || findings.explain_symptom(key) || findings.explain(&service);
        if BY_ICMP.contains(&error) && key.flow.is_known() && !is_explained() && !is_by_reset() {
            add(refused.entry(error).or_default(), key, amount);
        }
    }
    let refused =
        refused.into_iter().flat_map(|(error, services)| services.into_iter().map(move |s| (error, s)));
    for (error, ((entity, _, port), tried)) in refused.collect::<Vec<_>>() {
        let (destination, name) = (tried.flows[0].destination(), errno::name(error));
        let failed = total("connect");
        let title = format!("{destination} port {port} cannot be reached: {failed} failed with {name}");
        let found = Conclusion::new("peer-unresponsive", entity, tried.amount, title)
            .severity(urgency(view, &tried))
            .confidence(80);
        let found = tried.evidence(found);
        let found = found.because("text", "an ICMP error says so that nothing on this node sent", 0);
        findings.add(tried.flows.into_iter().fold(found, Conclusion::flow));
    }
}

impl Tried {
    fn evidence(&self, found: Conclusion) -> Conclusion {
        self.seen.iter().take(SHOWN).fold(found, |found, (key, amount)| {
            found
                .because("event", symptom(&key.what, amount, &key.flow), amount.last)
                .with("flow", key.flow.canonical())
                .with("role", "symptom")
        })
    }
}

/// How bad it is that a service does not answer, by how many connections to it go well.
fn urgency(view: &View, tried: &Tried) -> u8 {
    let service = tried.flows[0].of_service();
    let opened = view.of(|what| *what == What::Connected);
    let opened: Vec<_> = opened.filter(|(key, _)| key.flow.meets(&service)).map(|(_, a)| a).collect();
    let well: u64 = opened.iter().map(|amount| amount.count).sum();
    let is_over = opened.iter().map(|amount| amount.last).max() > Some(tried.amount.last);
    match well {
        0 if goes_elsewhere(view, tried) => WARNING,
        0 => CRITICAL,
        _ if is_over && well >= MANY * tried.amount.count => INFO,
        _ => WARNING,
    }
}

/// Whether the client reaches the same port of other addresses as often as it tried this one in vain.
fn goes_elsewhere(view: &View, tried: &Tried) -> bool {
    let (key, _) = tried.seen[0];
    let opened = view.of(|what| *what == What::Connected).filter(|(other, _)| {
        (other.entity, other.flow.dport) == (key.entity, key.flow.dport) && other.flow.to != key.flow.to
    });
    opened.map(|(_, amount)| amount.count).sum::<u64>() >= tried.amount.count
}

/// When the answer to a connect came whose client had given up.
fn answer_in_vain(view: &View, flow: &Flow) -> Option<Timestamp> {
    let dropped = view.drops.iter().filter(|d| d.is(&["NO_SOCKET"]) && d.drop.segment == Segment::SynAck);
    let refused = view.resets.iter().filter(|r| !r.reset.with_socket && r.reset.segment == Segment::SynAck);
    let dropped = dropped.filter(|d| d.flow.meets(flow)).map(|d| d.amount.last);
    dropped.chain(refused.filter(|r| r.flow.meets(flow)).map(|r| r.amount.last)).next()
}

/// Hosts of which many ports were tried, none with insistence, and that answer at others: whoever
/// looks for what is open meets silence.
fn scanned(view: &View, silent: &Services) -> BTreeSet<(EntityId, [u8; 16])> {
    let mut ports = BTreeMap::<_, usize>::new();
    for ((entity, to, _), _) in silent.iter().filter(|(_, tried)| tried.amount.count <= FEW) {
        *ports.entry((*entity, *to)).or_default() += 1;
    }
    let answers = |(entity, to): &(EntityId, [u8; 16])| {
        let answered = view.of(|what| matches!(what, What::Connected | What::ResetReceived { .. }));
        answered.into_iter().any(|(key, _)| key.entity == *entity && key.flow.to == *to)
    };
    let many = ports.into_iter().filter(|(host, ports)| *ports >= MANY_PORTS && answers(host));
    many.map(|(host, _)| host).collect()
}

fn loss(view: &View, findings: &mut Findings) {
    let mut lossy = Services::new();
    let is_lost = |what: &What| matches!(what, What::Retransmit { why: WHY_FAST | WHY_LOSS | WHY_RTO });
    for (key, amount) in view.of(is_lost).filter(|(key, _)| !findings.explain(&key.flow)) {
        add(&mut lossy, key, amount);
    }
    for ((entity, ..), tried) in lossy.into_iter().filter(|(_, tried)| tried.amount.count >= LOSS) {
        let (flow, amount) = (tried.flows[0], tried.amount);
        let title = format!(
            "segments to {} get lost beyond this node: {} sent again",
            flow.destination(),
            total("segment")
        );
        let found = Conclusion::new("tcp-loss", entity, amount, title).confidence(75);
        let found = found
            .because("event", format!("retransmissions, {}", flow.show()), amount.last)
            .with("flow", flow.canonical())
            .with("role", "symptom")
            .because("text", "no drop on this node explains it", 0);
        findings.add(tried.flows.into_iter().fold(found, Conclusion::flow));
    }
}

fn reset_by_peer(view: &View, findings: &mut Findings) {
    let sent_here = |flow: &Flow| view.resets.iter().any(|r| r.flow.meets(flow));
    for (key, amount) in view.of(|what| matches!(what, What::ResetReceived { .. })) {
        if findings.explain_symptom(key) || sent_here(&key.flow) {
            continue;
        }
        let sent = view.resets.iter().find(|r| may_be_translated(r, &key.flow, amount));
        if sent.is_some_and(|r| findings.blame(&r.flow, key, *amount, view)) {
            continue;
        }
        let What::ResetReceived { state } = key.what else { continue };
        let (title, severity) = match state {
            SYN_SENT => (
                format!("{} refuses connections: {}", key.flow.destination(), plural(amount.count, "reset")),
                WARNING,
            ),
            ESTABLISHED => (
                format!(
                    "{} resets open connections: {}",
                    key.flow.destination(),
                    plural(amount.count, "reset")
                ),
                WARNING,
            ),
            _ => (format!("{} resets connections that are closing", key.flow.destination()), INFO),
        };
        let found = Conclusion::new("reset-by-peer", key.entity, *amount, title)
            .severity(severity)
            .confidence(80)
            .flow(key.flow);
        let found = found
            .because("event", format!("reset received, {}", key.flow.show()), amount.last)
            .with("flow", key.flow.canonical())
            .with("role", "symptom")
            .because("text", "nothing on this node sent it", 0);
        findings.add(found);
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

/// Reasons that follow from something else, or that traffic makes without a fault.
const HARMLESS: [&str; 12] = [
    "SKB_CONSUMED",
    "SOCKET_CLOSE",
    "TCP_RESET",
    "TCP_CLOSE",
    "TCP_OLD_ACK",
    "TCP_FASTOPEN",
    "TCP_ABORT_ON_DATA",
    "TCP_ZEROWINDOW",
    "TCP_OVERWINDOW",
    "TCP_LISTEN_OVERFLOW",
    "UNICAST_IN_L2_MULTICAST",
    "IPV6DISABLED",
];

/// Never hidden, though nothing is known of it but the kernel's words.
fn unexplained(view: &View, findings: &mut Findings) {
    for d in view.drops.iter().filter(|d| !d.is_noise && !d.drop.to_many && !d.is(&HARMLESS)) {
        let is_known = d.flow.is_known() && findings.explain(&d.flow);
        let is_named =
            findings.all().iter().any(|found| found.at == d.entity && found.amount.last >= d.amount.first);
        if is_known || (is_named && !d.is(&["NOT_SPECIFIED"])) || d.is(&["NO_SOCKET"]) {
            continue;
        }
        let title =
            format!("packets dropped in {} ({}): {}", d.symbol, d.reason, plural(d.amount.count, "packet"));
        let found =
            Conclusion::of_drop("unexplained-drop", d, title).confidence(45).value("reason", &d.reason);
        let severity = if d.flow.is_known()
            && view.count_on(&d.flow, |what| matches!(what, What::Retransmit { .. })) > 0
        {
            WARNING
        } else {
            INFO
        };
        findings.add(found.severity(severity).felt_by(view));
    }
}
