//! Lines of evidence: what was seen, in words, each once.

use inspector_sdk::analyzer::Evidence;
use inspector_sdk::errno;

use crate::fact::{Amount, Flow, What};
use crate::finding::plural;

/// Lines that one finding has.
pub const LINES: usize = 16;

/// A line, and how often it was found.
#[derive(Debug, Clone)]
pub struct Line {
    /// As it was found last.
    pub evidence: Evidence,
    times: u64,
}

impl Line {
    /// Found for the first time.
    pub fn once(evidence: Evidence) -> Self {
        Self { evidence, times: 1 }
    }

    /// As the contract has it.
    pub fn shown(self) -> Evidence {
        let mut evidence = self.evidence;
        if self.times > 1 {
            evidence.summary.push_str(&format!(" ({} times)", self.times));
        }
        evidence
    }
}

/// Adds a line, unless a person would read the same twice.
pub fn fold(lines: &mut Vec<Line>, line: Line) {
    let is_full = lines.len() >= LINES;
    let reads = |known: &Line| {
        (&known.evidence.kind, &known.evidence.summary) == (&line.evidence.kind, &line.evidence.summary)
    };
    match lines.iter_mut().find(|known| reads(known)) {
        Some(known) => {
            known.times += if known.evidence.at == line.evidence.at { 0 } else { line.times };
            known.evidence.at = known.evidence.at.max(line.evidence.at);
        }
        None if is_full => {}
        None => lines.push(line),
    }
}

/// What somebody felt, in words.
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
