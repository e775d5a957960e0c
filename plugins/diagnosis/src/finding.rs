//! Conclusions on their way to a report: one per code and entity, with what speaks for and against
//! it, and the conversations it explains.

use std::fmt::Display;

use inspector_sdk::analyzer::{Action, Check, Evidence, Finding};
use inspector_sdk::{EntityId, Timestamp, attr};

use crate::codes;
use crate::fact::{Amount, Flow, Key, What};
use crate::view::{Dropped, View};

/// Conversations named in the evidence of one finding.
const SHOWN_FLOWS: usize = 4;
/// Conversations that one finding remembers to explain.
const FLOWS: usize = 256;
/// Lines of evidence.
const EVIDENCE: usize = 16;

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
    evidence: Vec<Evidence>,
    checks: Vec<Check>,
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
        self.evidence.push(Evidence {
            kind: kind.to_owned(),
            summary: summary.into(),
            at: (at > 0).then_some(at),
            attrs: Vec::new(),
        });
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
            last.attrs.push(attr(name, value));
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
        if !self.felt.contains(&key.entity) {
            self.felt.push(key.entity);
        }
        if self.evidence.len() >= EVIDENCE {
            return;
        }
        let summary = format!("{}: {}", view.name(key.entity), symptom(&key.what, amount.count, &key.flow));
        self.evidence.push(Evidence {
            kind: "event".to_owned(),
            summary,
            at: (amount.last > 0).then_some(amount.last),
            attrs: vec![attr("flow", key.flow.canonical()), attr("role", "symptom")],
        });
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

    /// Takes over another conclusion of the same code and entity.
    fn merge(&mut self, other: Self) {
        self.amount.add(&other.amount);
        self.severity = self.severity.max(other.severity);
        if other.confidence > self.confidence {
            self.confidence = other.confidence;
            self.title = other.title;
        }
        for flow in other.flows {
            if self.flows.len() < FLOWS && !self.flows.contains(&flow) {
                self.flows.push(flow);
            }
        }
        for entity in other.felt {
            if !self.felt.contains(&entity) {
                self.felt.push(entity);
            }
        }
        for line in other.evidence {
            if self.evidence.len() < EVIDENCE && !self.evidence.contains(&line) {
                self.evidence.push(line);
            }
        }
        for check in other.checks {
            if self.checks.len() < SHOWN_FLOWS && !self.checks.contains(&check) {
                self.checks.push(check);
            }
        }
    }

    /// The finding as the contract has it.
    pub fn finding(self, view: &View) -> Finding {
        let inside = view.inside(self.at);
        let action = |advice: &codes::Advice| Action {
            title: advice.title.to_owned(),
            command: (!advice.command.is_empty()).then(|| advice.command.replace("{in}", &inside)),
            risk: advice.risk.to_owned(),
            url: None,
        };
        let actions = codes::find(self.code).map_or(&[][..], |entry| entry.actions).iter().map(action);
        let title = format!("{}: {}", view.name(self.at), self.said());
        let entities = [self.at].into_iter().chain(self.felt).filter(|entity| *entity != 0);
        Finding {
            code: self.code.to_owned(),
            title,
            severity: self.severity,
            confidence: self.confidence,
            entities: entities.collect(),
            first_seen: self.amount.first,
            last_seen: self.amount.last,
            count: self.amount.count,
            evidence: self.evidence,
            actions: actions.collect(),
            checks: self.checks,
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

    /// Whether some cause is known for a symptom.
    pub fn explain_symptom(&self, key: &Key) -> bool {
        self.conclusions.iter().flat_map(|cause| &cause.flows).any(|known| key.concerns(known))
    }

    /// Adds a symptom to the causes of what another conversation suffers; whether there are any.
    pub fn blame(&mut self, causes_of: &Flow, key: &Key, amount: Amount, view: &View) -> bool {
        let explains = |cause: &&mut Conclusion| cause.flows.iter().any(|known| known.meets(causes_of));
        let mut is_blamed = false;
        for cause in self.conclusions.iter_mut().filter(explains) {
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

/// What somebody felt, in words.
fn symptom(what: &What, count: u64, flow: &Flow) -> String {
    use inspector_sdk::errno;
    let flow = flow.show();
    match what {
        What::Retransmit { .. } => format!("sent again {}, {flow}", plural(count, "time")),
        What::ConnectFailed { error: 0, .. } => format!("{} given up, {flow}", plural(count, "connect")),
        What::ConnectFailed { error, .. } => {
            format!("{} failed ({}), {flow}", plural(count, "connect"), errno::name(*error))
        }
        What::ResetReceived { .. } => format!("received {}, {flow}", plural(count, "reset")),
        What::SocketError { error } => {
            format!("was told {} {}, {flow}", errno::name(*error), plural(count, "time"))
        }
        What::Closed { error } => {
            format!("{} ended with {}, {flow}", plural(count, "connection"), errno::name(*error))
        }
        _ => flow,
    }
}
