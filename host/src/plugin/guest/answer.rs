//! Makes a guest's report into an [`Answer`]: bounded, escaped, and about entities that exist.
//!
//! A guest may report anything; how much was left out becomes a blind spot of the answer.

use super::bindings::exports::inspector::analyzer::diagnosis as wit;
use super::bindings::inspector::analyzer::types::Attr;
use crate::answers::report::{Action, Answer, Check, Evidence, Finding, Place, Role};
use crate::events::event::{MAX_ATTR_VALUE, MAX_NAME};
use crate::plugin::shared::Shared;
use crate::text::escape::admit;

/// Findings of one answer.
const MAX_FINDINGS: usize = 64;
/// Pieces of evidence of one finding.
const MAX_EVIDENCE: usize = 32;
/// Actions, and checks, of one finding.
const MAX_ACTIONS: usize = 8;
const MAX_CHECKS: usize = 8;
/// Entities of one finding.
const MAX_ENTITIES: usize = 16;
/// Attributes of one piece of evidence, and parameters of one check.
const MAX_ATTRS: usize = 16;
/// Blind spots of one answer.
const MAX_BLIND_SPOTS: usize = 32;
/// Bytes of a title or a sentence, and of a command.
const MAX_TEXT: usize = 512;
const MAX_COMMAND: usize = 1024;
/// Risks that an action may name; anything else needs somebody's approval.
const RISKS: [&str; 2] = ["safe", "disruptive"];
const RISK_UNKNOWN: &str = "needs-approval";

/// See the module; `now_ns` is the time of the question.
pub(super) fn checked(report: wit::Report, shared: &Shared, plugin: &str, now_ns: u64) -> Answer {
    let mut checker = Checker { shared, now_ns, left_out: 0 };
    let findings = checker.some(report.findings, MAX_FINDINGS);
    let findings = findings.into_iter().map(|finding| checker.finding(finding)).collect();
    let spots = checker.some(report.blind_spots, MAX_BLIND_SPOTS);
    let mut blind_spots: Vec<_> = spots.into_iter().map(|spot| admit(spot, MAX_TEXT)).collect();
    if checker.left_out > 0 {
        blind_spots
            .push(format!("analyzer {plugin} said more than it may: {} parts left out", checker.left_out));
    }
    Answer { findings, blind_spots, since_ns: report.since.min(now_ns), seen: report.seen }
}

struct Checker<'a> {
    shared: &'a Shared,
    now_ns: u64,
    left_out: usize,
}

impl Checker<'_> {
    /// The first `max` items.
    fn some<T>(&mut self, mut items: Vec<T>, max: usize) -> Vec<T> {
        self.left_out += items.len().saturating_sub(max);
        items.truncate(max);
        items
    }

    fn finding(&mut self, finding: wit::Finding) -> Finding {
        let last_ns = finding.last_seen.min(self.now_ns);
        let entities = self.some(finding.entities, MAX_ENTITIES);
        let evidence = self.some(finding.evidence, MAX_EVIDENCE);
        let actions = self.some(finding.actions, MAX_ACTIONS);
        let checks = self.some(finding.checks, MAX_CHECKS);
        Finding {
            code: admit(finding.code, MAX_NAME),
            role: Role::of(&finding.role),
            title: admit(finding.title, MAX_TEXT),
            severity: finding.severity.into(),
            confidence: finding.confidence.min(100),
            entities: entities.into_iter().filter_map(|id| place(self.shared, id)).collect(),
            first_ns: finding.first_seen.min(last_ns),
            last_ns,
            count: finding.count,
            evidence: evidence.into_iter().map(|evidence| self.evidence(evidence)).collect(),
            actions: actions.into_iter().map(action).collect(),
            checks: checks.into_iter().map(|check| self.check(check)).collect(),
        }
    }

    fn evidence(&mut self, evidence: wit::Evidence) -> Evidence {
        Evidence {
            kind: admit(evidence.kind, MAX_NAME),
            summary: admit(evidence.summary, MAX_TEXT),
            at_ns: evidence.at.map(|at| at.min(self.now_ns)),
            attrs: self.attrs(evidence.attrs),
        }
    }

    fn check(&mut self, check: wit::Check) -> Check {
        Check { kind: admit(check.kind, MAX_NAME), entity: check.entity, params: self.attrs(check.params) }
    }

    /// No name is there twice, since they become a JSON object.
    fn attrs(&mut self, attrs: Vec<Attr>) -> Vec<(String, String)> {
        let mut known: Vec<(String, String)> = Vec::new();
        for attr in self.some(attrs, MAX_ATTRS) {
            let name = admit(attr.name, MAX_NAME);
            if known.iter().all(|(other, _)| *other != name) {
                known.push((name, admit(attr.value, MAX_ATTR_VALUE)));
            }
        }
        known
    }
}

/// None for an id that nobody has.
fn place(shared: &Shared, id: u32) -> Option<Place> {
    let entity = shared.entities.known(id)?;
    let name = if entity.name.is_empty() { entity.display() } else { entity.name.clone() };
    Some(Place {
        name: admit(name, MAX_ATTR_VALUE),
        kind: entity.kind.as_str().to_owned(),
        namespace: admit(entity.namespace.clone(), MAX_ATTR_VALUE),
        node: shared.node.clone(),
    })
}

fn action(action: wit::Action) -> Action {
    let risk = RISKS.into_iter().find(|risk| *risk == action.risk).unwrap_or(RISK_UNKNOWN);
    // A report is opened in browsers, where other schemes than these run code.
    let is_web = |url: &String| url.starts_with("https://") || url.starts_with("http://");
    Action {
        title: admit(action.title, MAX_TEXT),
        command: action.command.map(|command| admit(command, MAX_COMMAND)),
        risk: risk.to_owned(),
        url: action.url.filter(is_web).map(|url| admit(url, MAX_TEXT)),
    }
}
