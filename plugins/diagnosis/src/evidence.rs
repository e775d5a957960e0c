//! Lines of evidence: what was observed, in words, each once.

use inspector_sdk::analyzer::{Evidence, Role};
use inspector_sdk::{Timestamp, attr, errno};

use crate::fact::{Amount, Flow, What};
use crate::title::plural;

/// Lines that one finding has.
pub const LINES: usize = 16;

/// What a line rests on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Something that happened.
    Event,
    /// A counter.
    Metric,
    /// A table of the kernel.
    Table,
    /// An explanation.
    Text,
    /// It speaks against the finding.
    Against,
}

impl Kind {
    /// As the contract has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Event => "event",
            Self::Metric => "metric",
            Self::Table => "table",
            Self::Text => "text",
            Self::Against => "against",
        }
    }
}

/// A line, and how often it was found.
#[derive(Debug, Clone)]
pub struct Line {
    /// What it rests on.
    pub kind: Kind,
    /// As it was found last; its kind is set when it leaves.
    evidence: Evidence,
    times: u64,
}

impl Line {
    /// Found for the first time; `at` is 0 if it has no time.
    pub fn new(kind: Kind, summary: impl Into<String>, at: Timestamp) -> Self {
        let at = (at > 0).then_some(at);
        Self { kind, evidence: Evidence { summary: summary.into(), at, ..Evidence::default() }, times: 1 }
    }

    /// What a conversation suffers.
    pub fn symptom(of: &str, what: &What, amount: &Amount, flow: &Flow) -> Self {
        let mut line = Self::new(Kind::Event, format!("{of}: {}", symptom(what, amount, flow)), amount.last);
        line.on_flow(flow, Role::Symptom);
        line
    }

    /// Adds a fact for programs.
    pub fn attr(&mut self, name: &str, value: impl std::fmt::Display) {
        self.evidence.attrs.push(attr(name, value));
    }

    /// Says which conversation it is about, and the part that it plays in that.
    pub fn on_flow(&mut self, flow: &Flow, role: Role) {
        self.attr("flow", flow.canonical());
        self.attr("role", role.as_str());
    }

    /// Puts something before its text.
    pub fn prefix(&mut self, text: &str) {
        self.evidence.summary.insert_str(0, text);
    }

    /// As the contract has it.
    pub fn finish(self) -> Evidence {
        let mut evidence = self.evidence;
        evidence.kind = self.kind.as_str().to_owned();
        if self.times > 1 {
            evidence.summary.push_str(&format!(" ({} times)", self.times));
        }
        evidence
    }
}

/// Adds a line, unless a person would read the same twice.
pub fn fold(lines: &mut Vec<Line>, line: Line) {
    let is_full = lines.len() >= LINES;
    let is_same = |known: &Line| (known.kind, &known.evidence.summary) == (line.kind, &line.evidence.summary);
    match lines.iter_mut().find(|known| is_same(known)) {
        Some(known) => {
            known.times += if known.evidence.at == line.evidence.at { 0 } else { line.times };
            known.evidence.at = known.evidence.at.max(line.evidence.at);
        }
        None if is_full => {}
        None => lines.push(line),
    }
}

/// What somebody suffered, in words.
pub fn symptom(what: &What, amount: &Amount, flow: &Flow) -> String {
    let (flow, count) = (flow.show(), amount.count);
    match what {
        What::Retransmit { .. } => format!("sent again {}, {flow}", plural(count, "time")),
        What::DnsUnanswered => format!("{} without an answer, {flow}", plural(count, "query")),
        What::ConnectFailed { error: 0, .. } => {
            let waited = amount.most / 1_000_000;
            format!("{} given up after {waited} ms without an answer, {flow}", plural(count, "connect"))
        }
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
