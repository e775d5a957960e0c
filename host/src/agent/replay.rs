//! Gives the frames of a recording to analyzers, in the order and in the time of the recording, with
//! the same sandbox as in an agent. Everything happens on the calling thread, so that the same trace and
//! the same plugins give the same output.
//!
//! Three things differ from the day of the recording: a batch is handed over as soon as it is
//! there, however long a plugin would wait for more; nothing is lost in a queue, since there is none; and
//! a call may take [`DEADLINE`], so that a busy machine changes nothing.
//!
//! Longer than other files, because it turns every kind of entry back into a frame.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use inspector_ebpf::PROBES;

use super::analysis::Analysis;
use super::known::Known;
use super::options;
use crate::answers::blind_spots::{self, Asked};
use crate::answers::question::SCENARIO;
use crate::answers::report::{Report, seen};
use crate::clock::Clock;
use crate::config::Config;
use crate::entities::{Changes, Entity, EntityRow};
use crate::events::event::Event;
use crate::events::log::EventLog;
use crate::events::throttle;
use crate::frame::{Frame, Take};
use crate::kernel::batch::Batch;
use crate::kernel::names::KernelNames;
use crate::kernel::symbols::Symbol;
use crate::kernel::table::{Columns, Snapshot, Table};
use crate::plugin::{self, Player, Shared};
use crate::series::metrics::Metrics;
use crate::status::{ProbeState, ProbeStatus};
use crate::trace::{self, Damage, Entry, Frames, NoTrace};
use crate::view::exposition::{Format, encode};
use crate::view::identity::{Identities, LabelNames};

/// A plugin that takes longer is stuck.
const DEADLINE: Duration = Duration::from_secs(30);
/// As in the agent: folded events are let out at least this often.
const FLUSH_NS: u64 = 1_000_000_000;
/// A damaged time must not make the clock tick for years.
const LONGEST_PAUSE_NS: u64 = 24 * 3600 * 1_000_000_000;
/// No agent has more sources.
const MAX_SOURCES: usize = 256;

/// Why nothing is replayed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another file.
    #[error(transparent)]
    NoTrace(#[from] NoTrace),
    /// No WebAssembly, no analyzers.
    #[error(transparent)]
    Plugins(#[from] plugin::Error),
    /// None of the components runs.
    #[error("no analyzer runs{}", .0.iter().map(|why| format!("; {why}")).collect::<String>())]
    NoPlugin(Vec<String>),
}

/// What came out, beside the events.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Series of all plugins, as Prometheus text.
    pub metrics: String,
    /// What the plugins conclude from all of it; none if no plugin answers [`SCENARIO`].
    pub report: Option<Report>,
    /// What could not be replayed, in words; empty if all was.
    pub left_out: Vec<String>,
    /// Plugins that ran, by name.
    pub plugins: Vec<String>,
    /// Records handed to plugins.
    pub records: u64,
}

/// Replays a trace; `show` gets every event as it is emitted.
///
/// # Errors
/// See [`Error`]; an error of `show` ends it too.
pub fn run(
    file: &[u8],
    config: &Config,
    mut show: impl FnMut(&Event) -> std::io::Result<()>,
) -> Result<std::io::Result<Outcome>, Error> {
    let mut frames = Frames::of(file)?.peekable();
    let start = match frames.peek() {
        Some(Ok(entries)) => match entries.first() {
            Some(Entry::Start(start)) => Some(start.as_ref().clone()),
            _ => None,
        },
        _ => None,
    };
    let symbols = all_symbols(file)?;
    let mut replay = Replay::new(config, start.unwrap_or_else(unknown_start), symbols)?;
    let mut ended = false;
    for frame in frames {
        match frame {
            Ok(entries) => {
                for entry in entries {
                    ended |= matches!(entry, Entry::End(_));
                    replay.play(entry);
                    if let Err(closed) = replay.show(&mut show) {
                        return Ok(Err(closed));
                    }
                }
            }
            Err(damage) => replay.damaged(&damage),
        }
    }
    if !ended {
        replay.left_out.push("the recording has no end: it was cut short".to_owned());
    }
    replay.diagnose();
    replay.finish();
    if let Err(closed) = replay.show(&mut show) {
        return Ok(Err(closed));
    }
    Ok(Ok(replay.outcome()))
}

/// What is believed of a trace whose first frame is damaged: every probe was there.
fn unknown_start() -> trace::Start {
    let up = |name: &str| trace::Probe {
        name: name.to_owned(),
        state: ProbeState::Up.into(),
        reason: String::new(),
    };
    let probes = PROBES.iter().map(|probe| up(probe.name)).collect();
    trace::Start { node: "unknown".to_owned(), probes, ..trace::Start::default() }
}

/// Addresses mean the same all through one boot of a kernel.
fn all_symbols(file: &[u8]) -> Result<std::collections::HashMap<u64, Symbol>, Error> {
    let entries = Frames::of(file)?.flatten().flatten();
    let symbols = entries.filter_map(|entry| match entry {
        Entry::Symbols(symbols) => Some(symbols),
        _ => None,
    });
    Ok(symbols.flatten().collect())
}

/// A recording that is being replayed, and the analyzers that take it, in the time of the recording.
struct Replay {
    clock: Arc<Clock>,
    known: Known,
    events: Arc<EventLog>,
    node: String,
    analysis: Analysis<Mutex<Player>>,
    /// Names of the analyzers that run.
    plugins: Vec<String>,
    cursor: crate::events::log::Cursor,
    /// When the trace begins.
    start_ns: u64,
    report: Option<Report>,
    /// When folded events are let out next.
    flush_ns: u64,
    /// Names of sources live as long as the process; there are few.
    sources: BTreeMap<String, &'static str>,
    /// Records of probes that this version does not know.
    unknown: BTreeMap<String, u64>,
    left_out: Vec<String>,
    records: u64,
}

impl Replay {
    fn new(
        config: &Config,
        start: trace::Start,
        symbols: std::collections::HashMap<u64, Symbol>,
    ) -> Result<Self, Error> {
        let clock = Arc::new(Clock::of_replay());
        clock.advance(start.at_ns);
        let known = Known::default();
        known.status.update().probes = probes_of(&start);
        let Known { entities, loss, status, .. } = known.clone();
        let metrics =
            Arc::new(Metrics::new(options::budget(config), Arc::clone(&entities), Arc::clone(&loss)));
        let limits = options::event_limits(config);
        let events =
            Arc::new(EventLog::new(limits, Arc::clone(&entities).into(), Arc::clone(&loss), &start.node));
        let mut sources = BTreeMap::new();
        let all_columns = Columns::default();
        for (name, columns) in &start.columns {
            if let Some(source) = intern(&mut sources, name) {
                all_columns.learn(source, columns);
            }
        }
        let shared = Shared {
            node: start.node.clone(),
            kernel: start.kernel.clone(),
            clock: Arc::clone(&clock),
            entities,
            names: Arc::new(KernelNames { reasons: start.reasons, symbols: Arc::new(symbols) }),
            columns: Arc::new(all_columns),
            metrics: Arc::clone(&metrics),
            events: Arc::clone(&events),
            loss,
            status,
        };
        let options = options::plugins(config);
        let limits = plugin::Limits { deadline: DEADLINE, ..options.limits };
        let (player, refused) = Player::new(&plugin::Options { limits, ..options }, shared)?;
        let left_out: Vec<_> =
            refused.iter().map(|refused| format!("{}: {}", refused.path.display(), refused.why)).collect();
        let plugins = player.names();
        if plugins.is_empty() {
            return Err(Error::NoPlugin(left_out));
        }
        Ok(Self {
            clock,
            known,
            cursor: events.oldest(),
            events,
            node: start.node,
            analysis: Analysis { analyzers: Arc::new(Mutex::new(player)), metrics },
            plugins,
            start_ns: start.at_ns,
            report: None,
            flush_ns: start.at_ns.saturating_add(FLUSH_NS),
            sources,
            unknown: BTreeMap::new(),
            left_out,
            records: 0,
        })
    }

    fn play(&mut self, entry: Entry) {
        match entry {
            Entry::Start(_) | Entry::Symbols(_) => {}
            Entry::Entities(entities) => self.entities(entities),
            Entry::Batch(batch) => self.batch(batch),
            Entry::Tables(tables) => self.tables(tables),
            Entry::End(end) => self.advance(end.at_ns),
        }
    }

    fn entities(&mut self, entities: trace::Entities) {
        self.advance(entities.at_ns);
        let rows = entities.rows.into_iter().map(entity_row).collect();
        self.known.entities.replay(rows, &entities.forgotten, self.clock.now());
        let (added, removed, forgotten) = (entities.added, entities.removed, entities.forgotten);
        self.analysis.take(Frame::Entities(Changes { added, removed, forgotten }));
    }

    fn batch(&mut self, batch: trace::Batch) {
        self.advance(batch.now_ns);
        let recorded = (usize::from(batch.stride) / 8).max(1);
        let count = batch.words.len() / recorded;
        let Some(probe) = PROBES.iter().find(|probe| probe.name == batch.probe) else {
            *self.unknown.entry(batch.probe).or_default() += count as u64;
            return;
        };
        let stride = usize::from(probe.stride) / 8;
        // Fields are only ever appended: an older record lacks the last ones, a newer one has more.
        let mut words = Vec::with_capacity(count.saturating_mul(stride));
        for record in batch.words.chunks_exact(recorded) {
            words.extend(record.iter().copied().chain(std::iter::repeat(0)).take(stride));
        }
        self.records += count as u64;
        let (first_seq, lost, now_ns) = (batch.first_seq, batch.lost, batch.now_ns);
        let batch = Batch { probe, count: count as u32, first_seq, lost, now_ns, words };
        self.analysis.take(Frame::Batch(Arc::new(batch)));
    }

    fn tables(&mut self, tables: trace::Tables) {
        self.advance(tables.at_ns);
        let mut snapshot = Snapshot::at(tables.at_ns);
        for trace::Table { source, entity, numbers, strings } in tables.tables {
            match intern(&mut self.sources, &source) {
                Some(source) => snapshot.insert(entity, source, Table { numbers, strings }),
                None => *self.unknown.entry("more sources than an agent has".to_owned()).or_default() += 1,
            }
        }
        self.analysis.take(Frame::Tables(Arc::new(snapshot)));
    }

    /// Moves the time on, letting out what was folded as the agent does once a second.
    fn advance(&mut self, to_ns: u64) {
        if to_ns.saturating_sub(self.clock.now_ns()) > LONGEST_PAUSE_NS {
            self.flush_ns = to_ns;
        }
        while self.flush_ns <= to_ns {
            self.clock.advance(self.flush_ns);
            self.events.flush(self.clock.now());
            self.flush_ns = self.flush_ns.saturating_add(FLUSH_NS);
            if self.flush_ns == u64::MAX {
                break;
            }
        }
        self.clock.advance(to_ns);
    }

    /// Asks the usual question about the whole trace.
    fn diagnose(&mut self) {
        let now_ns = self.clock.now_ns();
        let window = Duration::from_nanos(now_ns.saturating_sub(self.start_ns));
        let mut player = self.analysis.analyzers.lock().unwrap_or_else(PoisonError::into_inner);
        let answers = player.diagnose(SCENARIO, window);
        drop(player);
        if answers.is_empty() {
            return;
        }
        let board = self.known.status.snapshot();
        let analyzers: Vec<_> = board.answering(SCENARIO).collect();
        let asked = Asked { scenario: SCENARIO, analyzers: &analyzers, lacks: &|_| true };
        let mut spots = blind_spots::of_states(&board, &asked);
        spots.extend(blind_spots::of_loss(&self.known.loss.all(), &asked, seen(&answers)));
        spots.extend(blind_spots::of_analyzers(&answers, window, now_ns));
        self.report = Some(Report::of_node(SCENARIO, &self.node, window, now_ns, answers, spots));
    }

    fn finish(&mut self) {
        let window = throttle::WINDOW.as_nanos() as u64;
        self.advance(self.clock.now_ns().saturating_add(window + FLUSH_NS));
        for (name, count) in std::mem::take(&mut self.unknown) {
            self.left_out.push(format!("{count} records of {name:?}, which this version does not know"));
        }
        let lost = self.known.loss.all().into_iter().filter(|(_, _, count)| *count > 0);
        let lost =
            lost.map(|(stage, name, count)| format!("{count} lost at stage {} of {name}", stage.as_str()));
        self.left_out.extend(lost);
    }

    fn show(&mut self, show: &mut impl FnMut(&Event) -> std::io::Result<()>) -> std::io::Result<()> {
        let read = self.events.read(&mut self.cursor, usize::MAX);
        read.events.iter().try_for_each(|event| show(event))
    }

    fn damaged(&mut self, damage: &Damage) {
        self.left_out.push(damage.to_string());
    }

    fn outcome(self) -> Outcome {
        let labels = LabelNames::default();
        let mut identities = Identities::new(&self.known.entities, &self.node, &labels);
        let mut metrics = Vec::new();
        encode(&mut metrics, &self.analysis.metrics, &mut identities, Format::Text);
        Outcome {
            metrics: String::from_utf8_lossy(&metrics).into_owned(),
            report: self.report,
            left_out: self.left_out,
            plugins: self.plugins,
            records: self.records,
        }
    }
}

/// The name of a source as the tables want it.
fn intern(known: &mut BTreeMap<String, &'static str>, name: &str) -> Option<&'static str> {
    if let Some(known) = known.get(name) {
        return Some(known);
    }
    if known.len() >= MAX_SOURCES {
        return None;
    }
    let leaked: &'static str = Box::leak(name.to_owned().into_boxed_str());
    known.insert(name.to_owned(), leaked);
    Some(leaked)
}

/// Every probe as it was; one that was left out of the recording is as good as down.
fn probes_of(start: &trace::Start) -> BTreeMap<String, ProbeStatus> {
    let left_out = PROBES.iter().filter(|probe| start.probes.iter().all(|known| known.name != probe.name));
    let left_out = left_out.map(|probe| probe_status(probe.name, ProbeState::Down, "it was not recorded"));
    let recorded =
        start.probes.iter().map(|probe| probe_status(&probe.name, probe.state.clone().into(), &probe.reason));
    left_out.chain(recorded).map(|probe| (probe.name.clone(), probe)).collect()
}

fn probe_status(name: &str, state: ProbeState, reason: &str) -> ProbeStatus {
    let schema = PROBES.iter().find(|known| known.name == name).map_or(0, |known| known.schema);
    ProbeStatus { name: name.to_owned(), state, reason: reason.to_owned(), schema, ..ProbeStatus::default() }
}

fn entity_row(e: trace::Entity) -> EntityRow {
    let entity = Entity {
        id: e.id,
        kind: e.kind,
        namespace: e.namespace,
        name: e.name,
        cookie: e.cookie,
        inode: e.inode,
        ips: e.ips,
        since_ns: e.since_ns,
        ..Entity::default()
    };
    EntityRow { entity: Arc::new(entity), live: e.live }
}
