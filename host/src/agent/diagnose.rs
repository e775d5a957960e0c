//! Answers a question of a user from what the agent knows: reads the tables, asks the plugins,
//! and says what could not be seen.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::on_demand::OnDemand;
use super::{Core, Error, confirm, now_ns};
use crate::answers::blind_spots::{self, Asked};
use crate::answers::question::{MAX_ENTITIES, Question, Refusal};
use crate::answers::report::{AnalyzerReply, BlindSpot, Report, seen};
use crate::config::Config;
use crate::entities::{EntityId, EntityRow};
use crate::kernel::table::{Columns, Snapshot};
use crate::loss::History;
use crate::notify::{Notify, Wake};
use crate::plugin::{Plugins, ResolvedQuestion};
use crate::status::{PluginStatus, States};
use crate::view::View;

/// An answer is there within this time, without a confirmation.
const ANSWER: Duration = Duration::from_secs(2);
/// Of which reading may take so much: a lane is waited for one second, and may have just begun.
const READING: Duration = Duration::from_millis(1200);

/// What answering needs; the server that asks may outlive the rest of the agent.
pub(super) struct Desk {
    view: Arc<View>,
    plugins: Arc<Plugins>,
    columns: Arc<Columns>,
    /// The table of entities, brought up to date by [`super::namespaces`].
    pub(super) scans: OnDemand<()>,
    /// The kernel's tables, read by [`super::tables`].
    pub(super) tables: OnDemand<Arc<Snapshot>>,
    /// Marked whenever tables are read.
    pub(super) losses: History,
}

impl Desk {
    /// `unknown` asks for a scan of namespaces, `wanted` for a reading of tables.
    pub(super) fn new(
        view: Arc<View>,
        plugins: Arc<Plugins>,
        columns: Arc<Columns>,
        unknown: Arc<Notify>,
        wanted: Arc<Notify>,
    ) -> Self {
        let (scans, tables) = (OnDemand::new(unknown), OnDemand::new(wanted));
        Self { view, plugins, columns, scans, tables, losses: History::default() }
    }

    /// Answers a question; blocks for at most [`ANSWER`], or a little longer on a busy machine, and
    /// for five seconds more if it is to be confirmed.
    ///
    /// # Errors
    /// It names what does not exist.
    pub(super) fn answer(&self, question: &Question) -> Result<Report, Refusal> {
        let begun = Instant::now();
        let AskedAbout { ids, gone } = self.check(question)?;
        let mut spots: Vec<_> = gone.into_iter().map(BlindSpot::detail).collect();
        let (scan, tables) = (self.scans.ask(), self.tables.ask());
        if scan.until(begun + READING).is_none() {
            let late = "namespaces could not be read in time: their addresses are some seconds old";
            spots.push(BlindSpot::detail(late.to_owned()));
        }
        let snapshot = tables.until(begun + READING);
        if snapshot.is_none() {
            let late = "counter tables could not be read in time: what they show is some seconds old";
            spots.push(BlindSpot::detail(late.to_owned()));
        }
        let now_ns = now_ns();
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
        let mut report = Report { entities: question.entities.clone(), ..report };
        if question.confirm {
            confirm::confirm(&mut report, &self.view, &self.tables, &self.columns);
        }
        Ok(report)
    }

    /// What it names has to exist.
    fn check(&self, question: &Question) -> Result<AskedAbout, Refusal> {
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
        let lost = self.losses.since(now_ns.saturating_sub(window_ns), &self.view.loss);
        let mut spots = blind_spots::of_states(&board, &asked);
        spots.extend(blind_spots::of_loss(&lost, &asked, seen(answers)));
        spots.extend(blind_spots::of_analyzers(answers, question.window(), now_ns));
        spots
    }

    fn entities(&self, names: &[String]) -> Result<AskedAbout, Refusal> {
        if names.len() > MAX_ENTITIES {
            return Err(Refusal::TooMany(names.len()));
        }
        let rows = self.view.entities.rows();
        let mut asked_about = AskedAbout::default();
        for name in names {
            let of_name: Vec<_> = rows.iter().filter(|row| is_called(row, name)).collect();
            let live: Vec<_> = of_name.iter().filter(|row| row.live).map(|row| row.entity.id).collect();
            let Some(last) = of_name.last() else {
                let live = rows.iter().filter(|row| row.live);
                let known = live.map(|row| row.entity.display()).collect();
                return Err(Refusal::Entity { asked: name.clone(), known });
            };
            if live.is_empty() {
                // The youngest of those that were called so.
                asked_about.ids.push(last.entity.id);
                let name = last.entity.display();
                asked_about.gone.push(format!("{name} is gone: only what was seen of it before is known"));
            }
            asked_about.ids.extend(live);
        }
        Ok(asked_about)
    }
}

#[derive(Default)]
struct AskedAbout {
    ids: Vec<EntityId>,
    /// A sentence for each that vanished.
    gone: Vec<String>,
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

/// Diagnoses without an agent: starts one in this process, without servers, lets it look for as long as
/// `time` or until `stop` is closed, and asks it. Blocking. `begun` is called when it begins to look,
/// which it does with all analyzers there are.
///
/// # Errors
/// The agent cannot start. That the question cannot be answered is the inner error.
pub fn once(
    config: &Config,
    question: &Question,
    time: Duration,
    stop: &Notify,
    begun: impl FnOnce(),
) -> Result<Result<Report, Refusal>, Error> {
    let mut core = Core::start(config, super::view(config))?;
    let desk = Arc::clone(&core.desk);
    // An error is the end of the thread: what it has not started is missing from the answer.
    let _ = core.loaded.take().map(oneshot::Receiver::blocking_recv);
    begun();
    // Wrong names need not be waited for.
    let refused = desk.check(question).err();
    let answer = match refused {
        Some(refusal) => Err(refusal),
        None => {
            let end = Instant::now() + time;
            while stop.wait(end.saturating_duration_since(Instant::now())) == Wake::Notified {}
            desk.answer(question)
        }
    };
    core.stop();
    Ok(answer)
}
