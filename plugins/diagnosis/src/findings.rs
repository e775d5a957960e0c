//! All conclusions of one judgement, and what later rules ask of earlier ones.

use inspector_sdk::{EntityId, Severity};

use crate::codes::Code;
use crate::fact::{Amount, Flow, Key};
use crate::finding::Conclusion;
use crate::window::Window;

/// All conclusions so far.
#[derive(Debug, Default)]
pub struct Findings {
    conclusions: Vec<Conclusion>,
}

impl Findings {
    /// Adds one; of one code and entity there is one.
    pub fn add(&mut self, conclusion: Conclusion) {
        let is_same = |other: &&mut Conclusion| (other.code, other.at) == (conclusion.code, conclusion.at);
        match self.conclusions.iter_mut().find(is_same) {
            Some(known) => known.merge(conclusion),
            None => self.conclusions.push(conclusion),
        }
    }

    /// Whether a cause is known for what a conversation suffers.
    pub fn explain(&self, flow: &Flow) -> bool {
        self.explain_but(&[], flow)
    }

    /// Whether a cause with another code than these is known for what a conversation suffers.
    pub fn explain_but(&self, codes: &[Code], flow: &Flow) -> bool {
        let others = self.conclusions.iter().filter(|cause| !codes.contains(&cause.code));
        others.flat_map(|cause| &cause.flows).any(|known| known.meets(flow))
    }

    /// Whether a cause is known for a symptom.
    pub fn explain_symptom(&self, key: &Key) -> bool {
        self.conclusions.iter().flat_map(|cause| &cause.flows).any(|known| key.concerns(known))
    }

    /// Adds a symptom to the causes of what a conversation suffers, each of which is at least as bad as
    /// the symptom then; whether there are any.
    pub fn attribute(
        &mut self,
        causes_of: &Flow,
        severity: Severity,
        symptom: (&Key, Amount),
        window: &Window,
    ) -> bool {
        let (key, amount) = symptom;
        let explains = |cause: &&mut Conclusion| cause.flows.iter().any(|known| known.meets(causes_of));
        let mut is_explained = false;
        for cause in self.conclusions.iter_mut().filter(explains) {
            cause.severity = cause.severity.max(severity);
            cause.add_symptom(key, amount, window);
            is_explained = true;
        }
        is_explained
    }

    /// Whether one of these codes was concluded at an entity.
    pub fn has(&self, codes: &[Code], at: EntityId) -> bool {
        self.conclusions.iter().any(|found| codes.contains(&found.code) && found.at == at)
    }

    /// Whether anything was concluded at an entity of what lasted until then.
    pub fn has_any(&self, at: EntityId, since: u64) -> bool {
        self.conclusions.iter().any(|found| found.at == at && found.amount.last >= since)
    }

    /// Takes them out, the worst first.
    pub fn ranked(mut self) -> Vec<Conclusion> {
        use std::cmp::Reverse;
        self.conclusions.sort_by_key(|found| {
            let grave = (Reverse(found.severity), Reverse(found.confidence), Reverse(found.amount.count));
            (grave, found.code.as_str(), found.at)
        });
        self.conclusions
    }
}
