//! Findings as events: that one begins, and that it is over, so that whoever keeps events has the whole story.

use std::collections::BTreeMap;

use crate::answers::blind_spots::NO_ANSWER;
use crate::answers::report::{Finding, Place, Report};
use crate::clock::unix_ns;
use crate::entities::{Entities, EntityId, Kind};
use crate::events::event::NewEvent;
use crate::events::log::EventType;
use crate::events::severity::Severity;
use crate::view::View;

/// Who says it, as the source of events.
const SOURCE: &str = "diagnose";
const BEGINS: &str = "FINDING";
const ENDS: &str = "FINDING_END";
/// A finding that is not there twice in a row is over: a fault that comes and goes is one.
const MISSED: u32 = 2;

/// Those that were told, by code and place.
#[derive(Debug, Default)]
pub(super) struct Findings(BTreeMap<(String, String), Known>);

#[derive(Debug)]
struct Known {
    severity: Severity,
    title: String,
    entity: EntityId,
    missed: u32,
}

impl Findings {
    /// None yet.
    pub(super) fn new(view: &View) -> Self {
        let types = [
            (BEGINS, "something is wrong, or has become worse: the cause, with its first evidence"),
            (ENDS, "what was wrong has not been seen for two minutes"),
        ];
        let declared = types.map(|(kind, help)| EventType {
            plugin: SOURCE.to_owned(),
            kind: kind.to_owned(),
            help: help.to_owned(),
        });
        view.events.declare(SOURCE, declared.into());
        Self::default()
    }

    /// Emits what is new about those that people have to do something about. What is not found where an analyzer
    /// did not answer is not over.
    pub(super) fn tell(&mut self, report: &Report, view: &View) {
        let Report { findings, doubts, .. } = report;
        if doubts.iter().any(|doubt| doubt.contains(NO_ANSWER)) {
            return;
        }
        let events = self.news(findings, &view.entities, unix_ns());
        if !events.is_empty() {
            view.events.emit(SOURCE, events);
        }
    }

    fn news(&mut self, findings: &[Finding], entities: &Entities, now_ns: u64) -> Vec<NewEvent> {
        let mut events = Vec::new();
        self.0.values_mut().for_each(|known| known.missed += 1);
        for finding in findings.iter().filter(|finding| finding.severity >= Severity::Warning) {
            let place = finding.entities.first().map_or_else(String::new, Place::display);
            let known = self.0.entry((finding.code.clone(), place)).or_insert_with(|| Known {
                severity: Severity::Info,
                title: String::new(),
                entity: finding.entities.first().map_or(0, |place| id(place, entities)),
                missed: 0,
            });
            known.missed = 0;
            if finding.severity > known.severity {
                events.push(begins(finding, known.entity, now_ns));
            }
            known.severity = finding.severity;
            known.title.clone_from(&finding.title);
        }
        let is_over = |known: &Known| known.missed >= MISSED;
        for ((code, place), known) in self.0.iter().filter(|(_, known)| is_over(known)) {
            events.push(NewEvent {
                time_ns: now_ns,
                kind: ENDS.to_owned(),
                entity: known.entity,
                message: format!("{code}: over: {}", known.title),
                attrs: attrs(&[("code", code), ("place", place)]),
                ..NewEvent::default()
            });
        }
        self.0.retain(|_, known| !is_over(known));
        events
    }
}

fn begins(finding: &Finding, entity: EntityId, now_ns: u64) -> NewEvent {
    let confidence = finding.confidence.to_string();
    let places: Vec<_> = finding.entities.iter().map(Place::display).collect();
    let evidence = finding.evidence.first().map_or("", |line| line.summary.as_str());
    let command = finding.actions.iter().find_map(|action| action.command.as_deref()).unwrap_or_default();
    NewEvent {
        time_ns: now_ns,
        severity: finding.severity,
        kind: BEGINS.to_owned(),
        entity,
        message: format!("{}: {}", finding.code, finding.title),
        attrs: attrs(&[
            ("code", &finding.code),
            ("confidence", &confidence),
            ("entities", &places.join(", ")),
            ("evidence", evidence),
            ("command", command),
        ]),
        ..NewEvent::default()
    }
}

fn attrs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    let known = pairs.iter().filter(|(_, value)| !value.is_empty());
    known.map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// The live entity that a place is; 0 if there is none, or more than one.
fn id(place: &Place, entities: &Entities) -> EntityId {
    let live = entities.live();
    let mut named = live.iter().filter(|entity| {
        entity.kind.as_str() == place.kind
            && (entity.kind == Kind::Host || entity.namespace == place.namespace && entity.name == place.name)
    });
    match (named.next(), named.next()) {
        (Some(entity), None) => entity.id,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(code: &str, severity: Severity) -> Finding {
        Finding { severity, title: format!("{code} is so"), ..Finding::test(code) }
    }

    #[test]
    fn a_finding_is_told_as_it_begins_gets_worse_and_ends() {
        let (mut findings, entities) = (Findings::default(), Entities::default());
        let (warning, critical) = (Severity::Warning, Severity::Critical);
        let minutes = [
            vec![finding("a", warning), finding("remark", Severity::Info)],
            vec![finding("a", warning), finding("b", warning)],
            vec![finding("a", critical)],
            vec![finding("b", warning)],
            vec![finding("b", warning)],
            vec![],
            vec![],
        ];
        let told: Vec<Vec<String>> = minutes
            .iter()
            .map(|minute| {
                let events = findings.news(minute, &entities, 1);
                let code = |event: &NewEvent| event.attrs[0].1.clone();
                events
                    .iter()
                    .map(|event| format!("{} {} {}", event.kind, code(event), event.severity.level()))
                    .collect()
            })
            .collect();
        let nothing: Vec<String> = Vec::new();
        assert_eq!(
            told,
            [
                vec!["FINDING a WARN".to_owned()],
                vec!["FINDING b WARN".to_owned()],
                vec!["FINDING a ERROR".to_owned()],
                nothing.clone(),
                vec!["FINDING_END a INFO".to_owned()],
                nothing,
                vec!["FINDING_END b INFO".to_owned()],
            ]
        );
    }
}
