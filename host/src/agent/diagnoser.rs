//! Answers a question of a user from what the agent knows: reads the tables, asks the plugins,
//! and says what could not be seen.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::node::Node;
use super::{confirm, host_ports};
use crate::answers::blind_spots::{self, Asked};
use crate::answers::host_pods;
use crate::answers::policies;
use crate::answers::question::{MAX_ENTITIES, Question, Refusal};
use crate::answers::report::{AnalyzerReply, BlindSpot, Finding, Report, seen};
use crate::answers::services::{self, Names};
use crate::clock::unix_ns;
use crate::entities::{EntityId, EntityRow, Kind, Unentered};
use crate::kernel::table::Snapshot;
use crate::plugin::{Plugins, ResolvedQuestion};
use crate::status::{PluginStatus, States};
use crate::view::View;

/// An answer is there within this time, without a confirmation.
const ANSWER: Duration = Duration::from_secs(2);
/// Of which reading may take this much: a source thread is waited for one second, and may have just begun.
const READING: Duration = Duration::from_millis(1200);

/// What answering needs; the server that asks may outlive the rest of the agent.
pub(super) struct Diagnoser {
    pub(super) view: Arc<View>,
    pub(super) plugins: Arc<Plugins>,
    pub(super) node: Arc<Node>,
    pub(super) procfs: PathBuf,
}

impl Diagnoser {
    /// Answers a question; blocks for at most [`ANSWER`], or a little longer on a busy machine, and
    /// for five seconds more if it is to be confirmed.
    ///
    /// # Errors
    /// It names what does not exist.
    pub(super) fn answer(&self, question: &Question) -> Result<Report, Refusal> {
        let begun = Instant::now();
        let ResolvedEntities { ids, notes } = self.check(question)?;
        let mut spots: Vec<_> = notes.into_iter().map(BlindSpot::detail).collect();
        let (scan, tables) = (self.node.scan(), self.node.read_tables());
        if scan.until(begun + READING).is_none() {
            let late = "namespaces could not be read in time: their addresses are some seconds old";
            spots.push(BlindSpot::detail(late.to_owned()));
        }
        let snapshot = tables.until(begun + READING);
        if snapshot.is_none() {
            let late = "counter tables could not be read in time: what they show is some seconds old";
            spots.push(BlindSpot::detail(late.to_owned()));
        }
        let now_ns = unix_ns();
        let answers = self.plugins.diagnose(ResolvedQuestion {
            scenario: question.scenario.clone(),
            entities: ids.clone(),
            window: question.window(),
            now_ns,
            snapshot: snapshot.clone(),
            deadline: begun + ANSWER,
        });
        let lacks = |source: &str| is_lacking(source, &ids, snapshot.as_deref());
        spots.extend(self.blind_spots(question, &answers, &lacks, now_ns));
        let node = &self.view.node;
        let report = Report::of_node(&question.scenario, node, question.window(), now_ns, answers, spots);
        let entities = &self.view.entities;
        let is_node = |ip| entities.owner(ip).is_some_and(|owner| owner.kind == Kind::Host);
        let names = Names { peers: &self.view.peers, is_node: &is_node, pod: &|ip| entities.pod_at(ip) };
        let mut findings = services::explain(report.findings, &names);
        let unnamed = self.name_host_pods(&mut findings, &is_node);
        let mut report = Report { entities: question.entities.clone(), findings, ..report };
        report.blind_spots.extend(unnamed);
        if question.confirm {
            confirm::confirm(&mut report, &self.view, &self.node);
            report.findings = policies::explain(report.findings);
        }
        Ok(report)
    }

    /// What it names has to exist.
    pub(super) fn check(&self, question: &Question) -> Result<ResolvedEntities, Refusal> {
        let board = self.view.status.snapshot();
        if board.answering(&question.scenario).next().is_none() {
            // Who answers it may be about to start.
            if !board.plugins_seen {
                return Err(Refusal::Starting(board.unready()));
            }
            let mut known: Vec<_> = board.scenarios().into_iter().map(|row| row.name).collect();
            known.dedup();
            if known.is_empty() {
                return Err(Refusal::NoAnalyzer { whys: why_none_answers(&board) });
            }
            return Err(Refusal::Scenario { asked: question.scenario.clone(), known });
        }
        if question.window_ms == 0 {
            return Err(Refusal::NoWindow);
        }
        self.entities(&question.entities)
    }

    /// Adds the pods with the host's network that findings are about; or returns why they are not known.
    fn name_host_pods(&self, findings: &mut [Finding], is_host: &dyn Fn(IpAddr) -> bool) -> Option<String> {
        if !findings.iter().any(|finding| host_pods::concerns(finding, is_host)) {
            return None;
        }
        match host_ports::look(&self.view.entities, &self.procfs) {
            Ok(ports) => {
                host_pods::name(findings, is_host, &|proto, port| ports.get(&(proto, port)).cloned());
                None
            }
            Err(error) => Some(format!("pods with the host's network are not told from it: {error}")),
        }
    }

    /// Those of the host as they are now, and those of the analyzers.
    fn blind_spots(
        &self,
        question: &Question,
        answers: &[AnalyzerReply],
        lacks: &dyn Fn(&str) -> bool,
        now_ns: u64,
    ) -> Vec<BlindSpot> {
        let board = self.view.status.snapshot();
        let analyzers: Vec<&PluginStatus> = board.answering(&question.scenario).collect();
        let asked = Asked { scenario: &question.scenario, analyzers: &analyzers, lacks };
        let window_ns = u64::try_from(question.window().as_nanos()).unwrap_or(u64::MAX);
        let lost = self.node.losses.since(now_ns.saturating_sub(window_ns), &self.view.loss);
        let mut spots = blind_spots::of_states(&board, &asked);
        spots.extend(blind_spots::of_loss(&lost, &asked, seen(answers)));
        spots.extend(blind_spots::of_analyzers(answers, question.window(), now_ns));
        spots
    }

    fn entities(&self, names: &[String]) -> Result<ResolvedEntities, Refusal> {
        if names.len() > MAX_ENTITIES {
            return Err(Refusal::TooMany(names.len()));
        }
        let rows = self.view.entities.known_rows();
        let mut resolved = ResolvedEntities::default();
        for name in names {
            let of_name: Vec<_> = rows.iter().filter(|row| is_called(row, name)).collect();
            let live: Vec<_> = of_name.iter().filter(|row| row.live).map(|row| row.entity.id).collect();
            let Some(last) = of_name.last() else {
                // A pod with the network of its node is none of its own.
                if self.view.entities.is_host_pod(name)
                    && let Some(host) = rows.iter().find(|row| row.live && row.entity.kind == Kind::Host)
                {
                    resolved.ids.push(host.entity.id);
                    resolved
                        .notes
                        .push(format!("{name} uses the network of its node: this is about all of it"));
                    continue;
                }
                let unentered = self.view.entities.unentered();
                let called =
                    |of: &&Unentered| of.name == *name || format!("{}/{}", of.namespace, of.name) == *name;
                if let Some(of) = unentered.iter().find(called) {
                    return Err(Refusal::Unentered { asked: name.clone(), why: of.why.clone() });
                }
                let live = rows.iter().filter(|row| row.live);
                let known = live.map(|row| row.entity.display()).collect();
                return Err(Refusal::Entity { asked: name.clone(), known });
            };
            if live.is_empty() {
                // The youngest of those that were called so.
                resolved.ids.push(last.entity.id);
                let name = last.entity.display();
                resolved.notes.push(format!("{name} is gone: only what was seen of it before is known"));
            }
            resolved.ids.extend(live);
        }
        Ok(resolved)
    }
}

/// Whose network a question is about.
#[derive(Default)]
pub(super) struct ResolvedEntities {
    ids: Vec<EntityId>,
    /// A sentence for each of which something else is known than what was asked.
    notes: Vec<String>,
}

/// What became of each plugin that does not run.
fn why_none_answers(board: &States) -> Vec<String> {
    let whys: Vec<_> = board.plugins.values().filter_map(blind_spots::why_idle).collect();
    match (whys.is_empty(), board.plugins.is_empty()) {
        (true, true) => vec!["there is none in the plugins folders".to_owned()],
        (true, false) => vec!["none of those that run declares one".to_owned()],
        _ => whys,
    }
}

/// Whether there is no table of a source for somebody asked about; for some of all, it is taken for
/// granted where the source is not as it should be.
fn is_lacking(source: &str, asked: &[EntityId], snapshot: Option<&Snapshot>) -> bool {
    let is_there = |id: &EntityId| snapshot.is_some_and(|tables| tables.get(*id, source).is_some());
    asked.is_empty() || !asked.iter().all(is_there)
}

fn is_called(row: &EntityRow, name: &str) -> bool {
    !name.is_empty() && (row.entity.name == name || row.entity.display() == name)
}
