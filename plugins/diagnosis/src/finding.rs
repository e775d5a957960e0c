//! Conclusions on their way to a report: one per code and entity, with what speaks for and against
//! it, and the conversations it explains.
//!
//! A rule makes a [`Conclusion`], [`Findings`](crate::findings::Findings) joins it with what other rules
//! conclude of the same, and [`Conclusion::finding`] words it for the contract.

use std::fmt::Display;

use inspector_sdk::analyzer::{Action, Check, Finding, Role};
use inspector_sdk::protocol::{self, DNS_PORT};
use inspector_sdk::{EntityId, Severity, Timestamp, attr};

use crate::codes::{Advice, Code};
use crate::command::Words;
use crate::confidence::Confidence;
use crate::evidence::{Kind, LINES, Line, fold};
use crate::fact::{Amount, Flow, Key, What};
use crate::scenario::Scenario;
use crate::title::{Title, plural};
use crate::window::{Dropped, Window};

/// Conversations that suffer, and checks, named in one finding.
const NAMED: usize = 4;
/// Conversations that one finding remembers to explain.
const FLOWS: usize = 256;

/// What a rule concludes.
#[derive(Debug, Clone)]
pub struct Conclusion {
    /// Its code.
    pub code: Code,
    /// Where the cause sits; 0 = unknown.
    pub at: EntityId,
    /// How bad.
    pub severity: Severity,
    /// How sure.
    pub confidence: Confidence,
    /// What happened, without where.
    pub title: Title,
    /// How often and when.
    pub amount: Amount,
    /// Conversations that suffer.
    pub flows: Vec<Flow>,
    /// Entities that suffer from it elsewhere.
    pub affected: Vec<EntityId>,
    evidence: Vec<Line>,
    /// What was concluded of other protocols at the same place.
    others: Vec<OtherProtocol>,
    /// Values for the gaps of suggested commands.
    values: Vec<(&'static str, String)>,
    checks: Vec<Check>,
}

/// The same of another IP protocol.
#[derive(Debug, Clone)]
struct OtherProtocol {
    proto: u8,
    title: Title,
    count: u64,
}

impl Conclusion {
    /// A warning of which there is strong evidence; a rule changes either.
    pub fn new(code: Code, at: EntityId, amount: Amount, title: impl Into<Title>) -> Self {
        Self {
            code,
            at,
            severity: Severity::Warning,
            confidence: Confidence::Strong,
            title: title.into(),
            amount,
            flows: Vec::new(),
            affected: Vec::new(),
            evidence: Vec::new(),
            others: Vec::new(),
            values: Vec::new(),
            checks: Vec::new(),
        }
    }

    /// From packets dropped at one place.
    pub fn of_drop(code: Code, drop: &Dropped, title: impl Into<Title>) -> Self {
        Self::new(code, drop.entity, drop.amount, title).flow(drop.flow).drops(drop)
    }

    /// Says how bad it is.
    #[must_use]
    pub fn severity(mut self, severity: Severity) -> Self {
        self.severity = severity;
        self
    }

    /// Says how sure it is.
    #[must_use]
    pub fn confidence(mut self, confidence: Confidence) -> Self {
        self.confidence = confidence;
        self
    }

    /// Adds a conversation that suffers.
    #[must_use]
    pub fn flow(mut self, flow: Flow) -> Self {
        if flow.is_known() && self.flows.len() < FLOWS && !self.flows.contains(&flow) {
            self.flows.push(flow);
        }
        self
    }

    /// Adds several.
    #[must_use]
    pub fn flows(self, flows: impl IntoIterator<Item = Flow>) -> Self {
        flows.into_iter().fold(self, Self::flow)
    }

    /// Adds a line of evidence; `at` is 0 if it has no time.
    #[must_use]
    pub fn because(mut self, kind: Kind, summary: impl Into<String>, at: Timestamp) -> Self {
        self.evidence.push(Line::new(kind, summary, at));
        self
    }

    /// Adds an explanation.
    #[must_use]
    pub fn text(self, summary: impl Into<String>) -> Self {
        self.because(Kind::Text, summary, 0)
    }

    /// Adds what speaks against it, which makes it one level less sure.
    #[must_use]
    pub fn although(mut self, reason: impl Into<String>) -> Self {
        self.confidence = self.confidence.lowered();
        self.because(Kind::Against, reason, 0)
    }

    /// Adds a fact for programs to the last line of evidence.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Display) -> Self {
        if let Some(last) = self.evidence.last_mut() {
            last.attr(name, value);
        }
        self
    }

    /// Says which conversation the last line of evidence is about, and the part that it plays in it.
    #[must_use]
    pub fn on(mut self, flow: &Flow, role: Role) -> Self {
        if let Some(last) = self.evidence.last_mut() {
            last.on_flow(flow, role);
        }
        self
    }

    /// Adds packets that were dropped.
    #[must_use]
    pub fn drops(self, drop: &Dropped) -> Self {
        let packets = plural(drop.amount.count, "packet");
        let between = if drop.flow.is_known() { format!(", {}", drop.flow.show()) } else { String::new() };
        let summary = format!("{packets} dropped in {} ({}){between}", drop.symbol.name, drop.reason);
        self.because(Kind::Event, summary, drop.amount.last)
            .with("reason", &drop.reason)
            .with("location", &drop.symbol.name)
            .with("count", drop.amount.count)
            .on(&drop.flow, Role::Cause)
    }

    /// Adds a counter that rose.
    #[must_use]
    pub fn rose(self, name: &str, amount: Amount) -> Self {
        self.because(Kind::Metric, format!("{name} rose by {}", amount.count), amount.last)
            .with("count", amount.count)
    }

    /// Says what a gap of its commands is filled with; the first value counts.
    #[must_use]
    pub fn value(mut self, gap: &'static str, value: impl Display) -> Self {
        if self.values.iter().all(|(known, _)| *known != gap) {
            self.values.push((gap, value.to_string()));
        }
        self
    }

    /// Asks for something to be looked at.
    #[must_use]
    pub fn check(mut self, kind: &str, params: &[(&str, String)]) -> Self {
        let params = params.iter().map(|(name, value)| attr(name, value)).collect();
        self.checks.push(Check { kind: kind.to_owned(), entity: self.at, params });
        self
    }

    /// Adds those who retransmitted, gave up or were reset on its conversations.
    #[must_use]
    pub fn with_affected(mut self, window: &Window) -> Self {
        let is_symptom = |what: &What| {
            matches!(
                what,
                What::Retransmit { .. }
                    | What::ConnectFailed { .. }
                    | What::ResetReceived { .. }
                    | What::SocketError { .. }
                    | What::Closed { error: 1.. }
            )
        };
        let suffers = window.on(&self.flows, is_symptom);
        let suffers: Vec<_> = suffers.filter(|(key, _)| key.entity != self.at && key.entity != 0).collect();
        for (key, amount) in suffers.into_iter().take(NAMED) {
            self.add_symptom(key, *amount, window);
        }
        self
    }

    /// Adds what an entity suffers from it.
    pub fn add_symptom(&mut self, key: &Key, amount: Amount, window: &Window) {
        if key.entity != self.at && !self.affected.contains(&key.entity) {
            self.affected.push(key.entity);
        }
        if self.evidence.len() < LINES {
            let name = window.name(key.entity);
            self.evidence.push(Line::symptom(&name, &key.what, &amount, &key.flow));
        }
    }

    /// It reports what another conclusion has counted already.
    #[must_use]
    pub fn counted_elsewhere(mut self) -> Self {
        self.amount.count = 0;
        self
    }

    /// Whether it is an answer to a scenario's question. Names are a question of their own: whatever stops
    /// packets is an answer to it if these are DNS's, and none if they are known to be others.
    pub fn answers(&self, scenario: Scenario) -> bool {
        let is_dns = |flow: &Flow| [flow.sport, flow.dport].contains(&DNS_PORT);
        match scenario {
            Scenario::Dns if self.flows.iter().any(is_dns) => true,
            Scenario::Dns if !self.flows.is_empty() && !self.code.is_of_names() => false,
            _ => self.code.answers(scenario),
        }
    }

    /// What happened, with how often.
    pub fn text_of_title(&self) -> String {
        self.title.with_count(self.amount.count)
    }

    /// The IP protocol that it is about; 0 = none or not known.
    fn proto(&self) -> u8 {
        self.flows.first().map_or(0, |flow| flow.proto)
    }

    /// Takes over another conclusion of the same code and entity.
    pub fn merge(&mut self, mut other: Self) {
        if ![0, self.proto()].contains(&other.proto()) && self.proto() != 0 {
            if (other.severity, other.confidence) > (self.severity, self.confidence) {
                std::mem::swap(self, &mut other);
            }
            other.become_other_protocol_of(self);
        } else {
            self.amount.count += other.amount.count;
            if other.confidence > self.confidence {
                self.confidence = other.confidence;
                self.title = other.title;
                self.values.splice(0..0, other.values);
                // The flow that the title names.
                std::mem::swap(&mut self.flows, &mut other.flows);
            }
        }
        other.amount.count = 0;
        self.amount.add(&other.amount);
        self.severity = self.severity.max(other.severity);
        other.others.into_iter().for_each(|of| self.add_other_protocol(of));
        other.evidence.into_iter().for_each(|line| fold(&mut self.evidence, line));
        join(&mut self.flows, other.flows, FLOWS);
        join(&mut self.affected, other.affected, usize::MAX);
        join(&mut self.checks, other.checks, NAMED);
    }

    /// Makes it a line of a conclusion about another protocol, whose title and number are its own.
    fn become_other_protocol_of(&mut self, main: &mut Self) {
        let proto = self.proto();
        main.add_other_protocol(OtherProtocol { proto, title: self.title.clone(), count: self.amount.count });
        let name = format!("{}: ", protocol::name(proto));
        self.evidence
            .iter_mut()
            .filter(|line| line.kind != Kind::Against)
            .for_each(|line| line.prefix(&name));
    }

    fn add_other_protocol(&mut self, other: OtherProtocol) {
        match self.others.iter_mut().find(|known| known.proto == other.proto) {
            Some(known) => known.count += other.count,
            None => self.others.push(other),
        }
    }

    /// The finding as the contract has it.
    pub fn finding(mut self, window: &Window) -> Finding {
        let title = format!("{}: {}", window.name(self.at), self.text_of_title());
        let actions = self.actions(window);
        for other in std::mem::take(&mut self.others) {
            self = self.text(format!("also: {}", other.title.with_count(other.count)));
        }
        let translations = self.translations(window);
        let entities = [self.at].into_iter().chain(self.affected).filter(|entity| *entity != 0);
        let mut evidence = Vec::new();
        self.evidence.into_iter().for_each(|line| fold(&mut evidence, line));
        evidence.truncate(LINES - translations.len());
        evidence.extend(translations);
        Finding {
            code: self.code.as_str().to_owned(),
            role: self.code.role().as_str().to_owned(),
            title,
            severity: self.severity.into(),
            confidence: self.confidence.percent(),
            entities: entities.collect(),
            first_seen: self.amount.first,
            last_seen: self.amount.last,
            count: self.amount.count,
            evidence: evidence.into_iter().map(Line::finish).collect(),
            actions,
            checks: self.checks,
        }
    }

    /// Where its conversations were sent to and where they arrive, if that differs.
    fn translations(&self, window: &Window) -> Vec<Line> {
        let mut ends = Vec::new();
        for (sent, arrives) in self.flows.iter().filter_map(|flow| window.translation(flow)) {
            join(&mut ends, vec![(sent.proto, sent.receiver(), arrives.receiver())], NAMED);
        }
        let line = |(proto, to, at): (u8, String, String)| {
            let proto = protocol::name(proto);
            let summary = format!("connection tracking sends {proto} to {to} on to {at}");
            let mut line = Line::new(Kind::Table, summary, 0);
            line.attr("proto", proto);
            line.attr("sent_to", to);
            line.attr("arrives_at", at);
            line
        };
        ends.into_iter().map(line).collect()
    }

    fn actions(&self, window: &Window) -> Vec<Action> {
        let mut values = self.values.clone();
        if let Some(flow) = self.flows.first() {
            values.push(("source", flow.source().to_string()));
            values.push(("destination", flow.destination().to_string()));
        }
        let words = Words { inside: window.inside(self.at), values };
        let action = |advice: &Advice| Action {
            title: advice.title.to_owned(),
            command: (!advice.command.is_empty()).then(|| words.fill(advice.command)),
            risk: advice.risk.as_str().to_owned(),
            url: None,
        };
        self.code.actions().iter().map(action).collect()
    }
}

/// Adds what is not there yet, up to a limit.
fn join<T: PartialEq>(known: &mut Vec<T>, more: Vec<T>, limit: usize) {
    for item in more {
        if known.len() < limit && !known.contains(&item) {
            known.push(item);
        }
    }
}
