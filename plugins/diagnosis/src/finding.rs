//! Conclusions on their way to a report: one per code and entity, with what speaks for and against
//! it, and the conversations it explains.
//!
//! Longer than other files, because it is one thing in its three stages: said by a rule, joined with
//! what other rules say of the same, and worded for the contract.

use std::fmt::Display;

use inspector_sdk::analyzer::{Action, Check, Evidence, Finding};
use inspector_sdk::flow::protocol;
use inspector_sdk::{EntityId, Timestamp, attr};

use crate::codes;
use crate::command::Words;
use crate::evidence::{LINES, Line, fold, symptom};
use crate::fact::{Amount, Flow, Key, What};
use crate::view::{Dropped, View};

/// Conversations named in the evidence of one finding.
const SHOWN_FLOWS: usize = 4;
/// Port of DNS.
const DNS: u16 = 53;
/// Conversations that one finding remembers to explain.
const FLOWS: usize = 256;

/// Nothing is wrong, but worth knowing.
pub const INFO: u8 = 0;
/// Something fails.
pub const WARNING: u8 = 1;
/// Nothing of it works.
pub const CRITICAL: u8 = 2;

/// What a rule concludes.
#[derive(Debug, Clone)]
pub struct Conclusion {
    /// Its code.
    pub code: &'static str,
    /// Where the cause sits; 0 = unknown.
    pub at: EntityId,
    /// How bad.
    pub severity: u8,
    /// How sure, 0 to 100.
    pub confidence: u8,
    /// What happened, without where.
    pub title: String,
    /// How often and when.
    pub amount: Amount,
    /// Conversations that suffer.
    pub flows: Vec<Flow>,
    /// Where it is felt.
    pub felt: Vec<EntityId>,
    evidence: Vec<Line>,
    /// What was concluded of other protocols at the same place.
    besides: Vec<Beside>,
    /// Values for the gaps of suggested commands.
    values: Vec<(&'static str, String)>,
    checks: Vec<Check>,
}

/// The same of another protocol: IP's number, the title, how often.
#[derive(Debug, Clone)]
struct Beside {
    proto: u8,
    title: String,
    count: u64,
}

impl Conclusion {
    /// A warning that is sure, until said otherwise.
    pub fn new(code: &'static str, at: EntityId, amount: Amount, title: impl Into<String>) -> Self {
        Self {
            code,
            at,
            severity: WARNING,
            confidence: 90,
            title: title.into(),
            amount,
            flows: Vec::new(),
            felt: Vec::new(),
            evidence: Vec::new(),
            besides: Vec::new(),
            values: Vec::new(),
            checks: Vec::new(),
        }
    }

    /// From packets dropped at one place.
    pub fn of_drop(code: &'static str, dropped: &Dropped, title: impl Into<String>) -> Self {
        Self::new(code, dropped.entity, dropped.amount, title).flow(dropped.flow).drops(dropped)
    }

    /// Says how bad it is.
    #[must_use]
    pub fn severity(mut self, severity: u8) -> Self {
        self.severity = severity;
        self
    }

    /// Says how sure it is.
    #[must_use]
    pub fn confidence(mut self, confidence: u8) -> Self {
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

    /// Adds a line of evidence.
    #[must_use]
    pub fn because(mut self, kind: &str, summary: impl Into<String>, at: Timestamp) -> Self {
        let evidence = Evidence {
            kind: kind.to_owned(),
            summary: summary.into(),
            at: (at > 0).then_some(at),
            attrs: Vec::new(),
        };
        self.evidence.push(Line::once(evidence));
        self
    }

    /// Adds what speaks against it, and how much less sure that makes it.
    #[must_use]
    pub fn although(mut self, summary: impl Into<String>, less: u8) -> Self {
        self.confidence = self.confidence.saturating_sub(less);
        self.because("against", summary, 0)
    }

    /// Adds a fact to the last line of evidence.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Display) -> Self {
        if let Some(last) = self.evidence.last_mut() {
            last.evidence.attrs.push(attr(name, value));
        }
        self
    }

    /// Adds packets that were dropped.
    #[must_use]
    pub fn drops(self, dropped: &Dropped) -> Self {
        let packets = plural(dropped.amount.count, "packet");
        let between =
            if dropped.flow.is_known() { format!(", {}", dropped.flow.show()) } else { String::new() };
        let summary = format!("{packets} dropped in {} ({}){between}", dropped.symbol, dropped.reason);
        self.because("event", summary, dropped.amount.last)
            .with("reason", &dropped.reason)
            .with("location", &dropped.symbol)
            .with("count", dropped.amount.count)
            .with("flow", dropped.flow.canonical())
            .with("role", "cause")
    }

    /// Adds a counter that rose.
    #[must_use]
    pub fn rose(self, name: &str, amount: Amount) -> Self {
        self.because("metric", format!("{name} rose by {}", amount.count), amount.last)
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

    /// Adds whom it makes suffer: those who sent again, gave up or were reset on its conversations.
    #[must_use]
    pub fn felt_by(mut self, view: &View) -> Self {
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
        let suffers = view.of(is_symptom).filter(|(key, _)| self.flows.iter().any(|flow| key.concerns(flow)));
        let suffers: Vec<_> = suffers.filter(|(key, _)| key.entity != self.at && key.entity != 0).collect();
        for (key, amount) in suffers.into_iter().take(SHOWN_FLOWS) {
            self.suffers(key, *amount, view);
        }
        self
    }

    fn suffers(&mut self, key: &Key, amount: Amount, view: &View) {
        if key.entity != self.at && !self.felt.contains(&key.entity) {
            self.felt.push(key.entity);
        }
        if self.evidence.len() >= LINES {
            return;
        }
        let summary = format!("{}: {}", view.name(key.entity), symptom(&key.what, &amount, &key.flow));
        let evidence = Evidence {
            kind: "event".to_owned(),
            summary,
            at: (amount.last > 0).then_some(amount.last),
            attrs: vec![attr("flow", key.flow.canonical()), attr("role", "symptom")],
        };
        self.evidence.push(Line::once(evidence));
    }

    /// Whether it is an answer to a scenario's question. Names are a question of their own: whatever stops
    /// packets is an answer to it if these are DNS's, and none if they are known to be others.
    pub fn answers(&self, scenario: &str) -> bool {
        let is_of_names = |flow: &Flow| [flow.sport, flow.dport].contains(&DNS);
        match scenario {
            "dns" if self.flows.iter().any(is_of_names) => true,
            "dns" if !self.flows.is_empty() && !self.code.starts_with("dns-") => false,
            _ => codes::answers(self.code, scenario),
        }
    }

    /// What happened, with how often.
    pub fn said(&self) -> String {
        filled(&self.title, self.amount.count)
    }

    /// It tells again of what another conclusion has counted.
    #[must_use]
    pub fn again(mut self) -> Self {
        self.amount.count = 0;
        self
    }

    /// The protocol that it is about; 0 = none or not known.
    fn proto(&self) -> u8 {
        self.flows.first().map_or(0, |flow| flow.proto)
    }

    /// Takes over another conclusion of the same code and entity.
    fn merge(&mut self, mut other: Self) {
        if ![0, self.proto()].contains(&other.proto()) && self.proto() != 0 {
            if (other.severity, other.confidence) > (self.severity, self.confidence) {
                std::mem::swap(self, &mut other);
            }
            other.stand_beside(self);
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
        other.besides.into_iter().for_each(|beside| self.beside(beside));
        other.evidence.into_iter().for_each(|line| fold(&mut self.evidence, line));
        join(&mut self.flows, other.flows, FLOWS);
        join(&mut self.felt, other.felt, usize::MAX);
        join(&mut self.checks, other.checks, SHOWN_FLOWS);
    }

    /// Makes it a remark on a conclusion about another protocol, whose title and number are its own.
    fn stand_beside(&mut self, main: &mut Self) {
        let (proto, title, count) = (self.proto(), std::mem::take(&mut self.title), self.amount.count);
        main.beside(Beside { proto, title, count });
        let name = protocol(proto);
        for line in self.evidence.iter_mut().filter(|line| line.evidence.kind != "against") {
            line.evidence.summary.insert_str(0, &format!("{name}: "));
        }
    }

    fn beside(&mut self, other: Beside) {
        match self.besides.iter_mut().find(|known| known.proto == other.proto) {
            Some(known) => known.count += other.count,
            None => self.besides.push(other),
        }
    }

    /// The finding as the contract has it.
    pub fn finding(mut self, view: &View) -> Finding {
        let title = format!("{}: {}", view.name(self.at), self.said());
        let actions = self.actions(view);
        for beside in std::mem::take(&mut self.besides) {
            self = self.because("text", format!("also: {}", filled(&beside.title, beside.count)), 0);
        }
        let entities = [self.at].into_iter().chain(self.felt).filter(|entity| *entity != 0);
        let mut evidence = Vec::new();
        self.evidence.into_iter().for_each(|line| fold(&mut evidence, line));
        Finding {
            code: self.code.to_owned(),
            title,
            severity: self.severity,
            confidence: self.confidence,
            entities: entities.collect(),
            first_seen: self.amount.first,
            last_seen: self.amount.last,
            count: self.amount.count,
            evidence: evidence.into_iter().map(Line::shown).collect(),
            actions,
            checks: self.checks,
        }
    }

    fn actions(&self, view: &View) -> Vec<Action> {
        let mut values = self.values.clone();
        if let Some(flow) = self.flows.first() {
            values.push(("source", flow.source().to_string()));
            values.push(("destination", flow.destination().to_string()));
        }
        let words = Words { inside: view.inside(self.at), values };
        let action = |advice: &codes::Advice| Action {
            title: advice.title.to_owned(),
            command: (!advice.command.is_empty()).then(|| words.fill(advice.command)),
            risk: advice.risk.to_owned(),
            url: None,
        };
        codes::find(self.code).map_or(&[][..], |entry| entry.actions).iter().map(action).collect()
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

/// All conclusions so far.
#[derive(Debug, Default)]
pub struct Findings {
    conclusions: Vec<Conclusion>,
}

impl Findings {
    /// Adds one; of one code and entity there is one.
    pub fn add(&mut self, conclusion: Conclusion) {
        let same = |other: &&mut Conclusion| (other.code, other.at) == (conclusion.code, conclusion.at);
        match self.conclusions.iter_mut().find(same) {
            Some(known) => known.merge(conclusion),
            None => self.conclusions.push(conclusion),
        }
    }

    /// Whether some cause is known for what a conversation suffers.
    pub fn explain(&self, flow: &Flow) -> bool {
        self.conclusions.iter().flat_map(|cause| &cause.flows).any(|known| known.meets(flow))
    }

    /// Whether a cause is known for a conversation that has none of these codes.
    pub fn explain_but(&self, codes: &[&str], flow: &Flow) -> bool {
        let others = self.conclusions.iter().filter(|cause| !codes.contains(&cause.code));
        others.flat_map(|cause| &cause.flows).any(|known| known.meets(flow))
    }

    /// Whether some cause is known for a symptom.
    pub fn explain_symptom(&self, key: &Key) -> bool {
        self.conclusions.iter().flat_map(|cause| &cause.flows).any(|known| key.concerns(known))
    }

    /// Adds a symptom to the causes of what another conversation suffers; whether there are any.
    pub fn blame(&mut self, causes_of: &Flow, key: &Key, amount: Amount, view: &View) -> bool {
        self.blame_for(0, causes_of, key, amount, view)
    }

    /// As [`Findings::blame`], where what is suffered makes the cause at least so bad.
    pub fn blame_for(
        &mut self,
        severity: u8,
        causes_of: &Flow,
        key: &Key,
        amount: Amount,
        view: &View,
    ) -> bool {
        let explains = |cause: &&mut Conclusion| cause.flows.iter().any(|known| known.meets(causes_of));
        let mut is_blamed = false;
        for cause in self.conclusions.iter_mut().filter(explains) {
            cause.severity = cause.severity.max(severity);
            cause.suffers(key, amount, view);
            is_blamed = true;
        }
        is_blamed
    }

    /// Whether one of these codes was concluded at an entity.
    pub fn has(&self, codes: &[&str], at: EntityId) -> bool {
        self.conclusions.iter().any(|found| codes.contains(&found.code) && found.at == at)
    }

    /// Drops a code at an entity: another one explains it.
    pub fn withdraw(&mut self, code: &str, at: EntityId) {
        self.conclusions.retain(|found| found.code != code || found.at != at);
    }

    /// All of them.
    pub fn all(&self) -> &[Conclusion] {
        &self.conclusions
    }

    /// Takes them out, the worst first.
    pub fn ranked(mut self) -> Vec<Conclusion> {
        let rank = |c: &Conclusion| {
            use std::cmp::Reverse;
            (Reverse(c.severity), Reverse(c.confidence), Reverse(c.amount.count), c.code, c.at)
        };
        self.conclusions.sort_by_key(rank);
        self.conclusions
    }
}

/// `3 packets`, `1 packet`, `2 queries`.
pub fn plural(count: u64, noun: &str) -> String {
    match (count, noun.strip_suffix('y')) {
        (1, _) => format!("1 {noun}"),
        (_, Some(stem)) => format!("{count} {stem}ies"),
        _ => format!("{count} {noun}s"),
    }
}

/// In a title: how often in all, which is known when all of it was found.
pub fn total(noun: &str) -> String {
    format!("\0{noun}\0")
}

/// The title with its total.
fn filled(title: &str, count: u64) -> String {
    let mut parts = title.splitn(3, '\0');
    match (parts.next(), parts.next(), parts.next()) {
        (Some(before), Some(noun), Some(after)) => format!("{before}{}{after}", plural(count, noun)),
        _ => title.to_owned(),
    }
}
