//! Tells Kubernetes of the pods that something is wrong with, if that is configured.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::answers::report::{Finding, Place};
use crate::entities::{Entities, Entity, Kind};
use crate::events::severity::Severity;
use crate::kubernetes::pod_event::{PodEvent, PodEvents};
use crate::kubernetes::told::Options;
use crate::pods::ObjectName;
use crate::status::PodEventsStatus;
use crate::view::View;

/// A finding that was told of a pod is told again as one that was not, after this long.
const FORGOTTEN: Duration = Duration::from_secs(3600);

/// Tells of pods, once there is something to tell.
pub(super) struct PodEventsTeller {
    options: Options,
    told: Told,
    writer: Option<PodEvents>,
}

impl PodEventsTeller {
    /// Nothing is told yet.
    pub(super) fn new(options: Options, view: &View) -> Self {
        view.status.update().pod_events = Some(PodEventsStatus::default());
        Self { options, told: Told::default(), writer: None }
    }

    /// Tells of what was found.
    pub(super) async fn tell(&mut self, findings: &[Finding], view: &View, now: Instant) {
        let events = self.told.choose(findings, &view.node, &view.entities, now);
        if self.writer.is_none() && !events.is_empty() {
            match PodEvents::new(&self.options).await {
                Ok(new) => self.writer = Some(new),
                Err(why) => failed(view, events.len(), why),
            }
        }
        let Some(writer) = &self.writer else { return };
        for event in events {
            match writer.write(event).await {
                Ok(()) => written(view),
                Err(why) => failed(view, 1, why),
            }
        }
    }
}

fn written(view: &View) {
    let mut states = view.status.update();
    let Some(status) = &mut states.pod_events else { return };
    status.written += 1;
    if !std::mem::take(&mut status.reason).is_empty() {
        tracing::info!("Events about pods are written again");
    }
}

/// One line for one cause.
pub(super) fn failed(view: &View, events: usize, why: String) {
    let mut states = view.status.update();
    let Some(status) = &mut states.pod_events else { return };
    status.failed += events as u64;
    if status.reason != why {
        tracing::warn!(why, "Events about pods are not written");
        status.reason = why;
    }
}

/// What was told of whom, and when last.
#[derive(Default)]
struct Told(BTreeMap<(ObjectName, String), Instant>);

impl Told {
    /// One finding for each pod of this node with which something is wrong: the worst that was not told,
    /// or else the one that was told longest ago.
    fn choose(
        &mut self,
        findings: &[Finding],
        node: &str,
        entities: &Entities,
        now: Instant,
    ) -> Vec<PodEvent> {
        self.0.retain(|_, when| now.saturating_duration_since(*when) < FORGOTTEN);
        let wrong = || findings.iter().filter(|finding| finding.severity >= Severity::Warning);
        let pods = wrong().flat_map(|finding| &finding.entities).filter_map(|place| name(place, node));
        let pods: BTreeSet<_> = pods.collect();
        let live = entities.live();
        let mut events = Vec::new();
        for pod in pods {
            let is_pod = |entity: &&Arc<Entity>| {
                entity.kind == Kind::Pod && entity.namespace == pod.namespace && entity.name == pod.name
            };
            let mut named = live.iter().filter(is_pod);
            // Of two of one name, one is about to go: nothing tells which of them it is about.
            let (Some(entity), None) = (named.next(), named.next()) else { continue };
            let is_about = |finding: &&Finding| {
                finding.entities.iter().any(|place| name(place, node).as_ref() == Some(&pod))
            };
            let last = |finding: &&Finding| self.0.get(&(pod.clone(), finding.code.clone())).copied();
            // The first of those that are equal, and findings come with the worst first.
            let Some(finding) = wrong().filter(is_about).min_by_key(last) else { continue };
            let uid = entity.pod_uid.clone();
            self.0.insert((pod.clone(), finding.code.clone()), now);
            events.push(PodEvent { pod, uid, code: finding.code.clone(), note: note(finding) });
        }
        events
    }
}

/// The pod of this node that a place is.
fn name(place: &Place, node: &str) -> Option<ObjectName> {
    let is_ours = place.kind == Kind::Pod.as_str() && place.node == node;
    is_ours.then(|| ObjectName::new(&place.namespace, &place.name)).flatten()
}

/// The title, and what to do first.
fn note(finding: &Finding) -> String {
    let command = finding.actions.iter().find_map(|action| action.command.as_ref());
    match command {
        Some(command) => format!("{}. Try: {command}", finding.title),
        None => finding.title.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entities::DiscoveredNetns;

    fn finding(code: &str, severity: Severity, pods: &[&str]) -> Finding {
        let place = |name: &&str| Place {
            name: (*name).to_owned(),
            kind: "pod".to_owned(),
            namespace: "shop".to_owned(),
            node: "n1".to_owned(),
        };
        Finding { severity, entities: pods.iter().map(place).collect(), ..Finding::test(code) }
    }

    /// Pods by name and uid.
    fn node(pods: &[(&str, &str)]) -> Entities {
        let pod = |(at, (name, uid)): (u64, &(&str, &str))| DiscoveredNetns {
            cookie: at,
            inode: at,
            kind: Kind::Pod,
            namespace: "shop".to_owned(),
            name: (*name).to_owned(),
            pod_uid: (*uid).to_owned(),
            ..DiscoveredNetns::default()
        };
        let entities = Entities::default();
        entities.apply_scan((1..).zip(pods).map(pod).collect(), 1, Instant::now());
        entities
    }

    #[test]
    fn a_pod_is_told_of_one_finding_a_minute_and_of_each_in_turn() {
        let (mut told, entities, now) =
            (Told::default(), node(&[("web", "uid-web"), ("db", "uid-db")]), Instant::now());
        let findings = [
            finding("a", Severity::Critical, &["web", "db"]),
            finding("b", Severity::Warning, &["web"]),
            finding("c", Severity::Info, &["web"]),
            finding("d", Severity::Critical, &["gone"]),
        ];
        let mut minute = |at: u64| {
            let events = told.choose(&findings, "n1", &entities, now + Duration::from_secs(60 * at));
            events.into_iter().map(|event| format!("{} {} {}", event.pod, event.uid, event.code)).collect()
        };
        let minutes: Vec<Vec<String>> = (0..3).map(&mut minute).collect();
        let (db, a, b) = ("shop/db uid-db a", "shop/web uid-web a", "shop/web uid-web b");
        assert_eq!(minutes, [[db, a], [db, b], [db, a]]);
    }

    #[test]
    fn of_two_pods_with_one_name_neither_is_told() {
        let entities = node(&[("web", "uid-web"), ("db", "uid-db"), ("web", "uid-again")]);
        let findings = [finding("a", Severity::Warning, &["web", "db"])];
        let told = Told::default().choose(&findings, "n1", &entities, Instant::now());
        assert_eq!(told.iter().map(|event| event.uid.as_str()).collect::<Vec<_>>(), ["uid-db"]);
    }

    #[test]
    fn pods_of_other_nodes_are_told_of_by_their_own_agent() {
        let findings = [finding("a", Severity::Critical, &["web"])];
        assert_eq!(Told::default().choose(&findings, "n2", &node(&[("web", "uid-web")]), Instant::now()), []);
    }
}
