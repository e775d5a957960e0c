//! Writes what a node gives to a file, without any plugin: records, counter tables, who is who, and what
//! the kernel calls things.
//!
//! One thread writes all of it in one order, which is the order of the replay. When it falls behind, the
//! node is held up as by a slow analyzer: what does not fit a ring meanwhile is counted as lost there, and
//! each batch says so.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use inspector_ebpf::PROBES;

use super::known::Known;
use super::namespaces::SCAN_PAUSE;
use super::node::{self, Node, Unstarted};
use super::options;
use crate::clock::unix_ns;
use crate::config::Config;
use crate::discover;
use crate::entities::{Changes, Entities, EntityId, EntityRow};
use crate::events::filter::is_called;
use crate::frame::{Frame, Take};
use crate::kernel::batch::Batch;
use crate::kernel::table::Snapshot;
use crate::notify::{Notify, Wake};
use crate::privilege;
use crate::status::ProbeState;
use crate::text::similar;
use crate::trace::{self, Entry};
use crate::tracefile::{self, Writer};

/// Frames that wait for the file; beyond them the rings fill.
const WAITING: usize = 64;
/// A stop is noticed within this time.
const STOP: Duration = Duration::from_millis(50);
/// Namespaces and tables are waited for no longer than this: what cannot be read is left out.
const READING: Duration = Duration::from_millis(1200);
/// A crash costs no more than what happened in this time.
const FLUSH: Duration = Duration::from_secs(5);
/// Word 2 of a record begins with its entity.
const ENTITY_WORD: usize = 2;
/// Code of the kernel lies above; what is below is no symbol's address (x86-64 and arm64).
const KERNEL: u64 = 0xffff_8000_0000_0000;

/// What to record.
#[derive(Debug, Clone)]
pub struct Options {
    /// The file.
    pub output: PathBuf,
    /// Probes; all if empty.
    pub probes: BTreeSet<String>,
    /// Names of entities, as `list entity` shows them; all if empty.
    pub entities: BTreeSet<String>,
}

/// How far a recording is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Progress {
    /// Records so far.
    pub records: u64,
    /// Snapshots of counter tables so far.
    pub snapshots: u64,
    /// Entities in the trace.
    pub entities: usize,
    /// Bytes in the file; what is not written yet is not counted.
    pub bytes: u64,
    /// Events that the kernel side could not deliver, by probe.
    pub lost: Vec<(String, String, u64)>,
}

/// Why nothing, or no more, is recorded.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A probe that does not exist.
    #[error("there is no probe {0:?}; there are {known}", known = probe_names().join(", "))]
    NoSuchProbe(String),
    /// An entity that does not exist.
    #[error("there is no entity {asked:?}{hint}; there are {known}", hint = similar::hint(asked, known), known = known.join(", "))]
    NoSuchEntity {
        /// The name that was given.
        asked: String,
        /// The names that there are.
        known: Vec<String>,
    },
    /// Missing privileges, or a kernel that has none of the hooks.
    #[error("no probe can be loaded: {0}")]
    NoProbe(String),
    /// The file.
    #[error(transparent)]
    File(#[from] tracefile::Error),
    /// Nothing can be had of the kernel.
    #[error(transparent)]
    Node(#[from] node::Error),
}

impl Error {
    /// Whether the user named something that does not exist.
    pub fn is_usage(&self) -> bool {
        matches!(self, Self::NoSuchProbe(_) | Self::NoSuchEntity { .. })
    }
}

fn probe_names() -> Vec<&'static str> {
    PROBES.iter().map(|probe| probe.name).collect()
}

/// Records until `stop` is closed; blocking. `tell` hears when it has begun,
/// and then of the progress about once a second.
///
/// # Errors
/// See [`Error`]. What was written by then is a trace that can be replayed.
pub fn run(
    config: &Config,
    options: &Options,
    stop: &Notify,
    mut tell: impl FnMut(&Progress),
) -> Result<Progress, Error> {
    let known = probe_names();
    if let Some(unknown) = options.probes.iter().find(|name| !known.contains(&name.as_str())) {
        return Err(Error::NoSuchProbe(unknown.clone()));
    }
    // Here and not by each probe: it is said once, and no empty file is left.
    if let Some(missing) = privilege::missing_for_probes() {
        return Err(Error::NoProbe(missing));
    }
    let all = || known.iter().map(|name| (*name).to_owned()).collect();
    check_entities(config, &options.entities)?;
    let wanted: BTreeSet<String> = if options.probes.is_empty() { all() } else { options.probes.clone() };
    let (sender, frames) = sync_channel(WAITING);
    let node = start(config, &wanted, sender)?;
    // Not before there is something to write: the file may be a good trace already.
    let mut recorder = Recorder::new(options, node)?;
    recorder.begin(config, &wanted)?;
    tell(&recorder.progress());
    let mut told = Instant::now();
    while stop.wait(Duration::ZERO) != Wake::Closed {
        recorder.step(&frames)?;
        if told.elapsed() >= Duration::from_secs(1) {
            told = Instant::now();
            tell(&recorder.progress());
        }
    }
    recorder.end(&frames)
}

/// Hands frames over to the thread that writes.
struct Queue(SyncSender<Frame>);

impl Take for Queue {
    fn take(&self, frame: Frame) {
        // A recorder that has ended takes nothing more.
        drop(self.0.send(frame));
    }
}

/// Before anything is loaded or written. What cannot be looked at now cannot be named later either.
fn check_entities(config: &Config, wanted: &BTreeSet<String>) -> Result<(), Error> {
    if wanted.is_empty() {
        return Ok(());
    }
    let entities = Entities::default();
    if let Ok(scan) = discover::scan(&options::places(config), &mut discover::Pods::default()) {
        entities.apply_scan(scan.namespaces, unix_ns(), Instant::now());
    }
    let live = entities.live();
    let nobody = wanted.iter().find(|name| !live.iter().any(|who| is_called(who, name)));
    nobody.map_or(Ok(()), |asked| {
        let known = live.iter().map(|who| who.display()).collect();
        Err(Error::NoSuchEntity { asked: asked.clone(), known })
    })
}

/// Starts the node with all sources that can be read, and loads the probes.
fn start(config: &Config, wanted: &BTreeSet<String>, sender: SyncSender<Frame>) -> Result<Node, Error> {
    let unstarted = Unstarted::new(config, Known::default())?;
    let sources: BTreeSet<String> =
        unstarted.columns().all().iter().map(|(source, _)| (*source).to_owned()).collect();
    let node = unstarted.start(config, Arc::new(Queue(sender)), move || sources.clone(), Arc::default())?;
    node.want_probes(wanted);
    let board = node.known.status.snapshot();
    let is_up = |name: &String| board.probes.get(name).is_some_and(|probe| probe.state != ProbeState::Down);
    if !wanted.iter().any(is_up) {
        let reasons: BTreeSet<_> = board.probes.values().map(|probe| probe.reason.clone()).collect();
        return Err(Error::NoProbe(reasons.into_iter().collect::<Vec<_>>().join("; ")));
    }
    node.wait_for_symbols();
    Ok(node)
}

struct Recorder {
    options: Options,
    writer: Writer,
    node: Arc<Node>,
    /// Rows in the trace as they were written last.
    written: BTreeMap<EntityId, EntityRow>,
    /// Addresses that have been looked up.
    addresses: BTreeSet<u64>,
    /// Records that were lost before batches that are left out whole, by probe; the next batch of that
    /// probe tells of them.
    lost: BTreeMap<&'static str, u64>,
    progress: Progress,
    scanned: Instant,
    flushed: Instant,
}

impl Recorder {
    fn new(options: &Options, node: Node) -> Result<Self, Error> {
        let now = Instant::now();
        Ok(Self {
            options: options.clone(),
            writer: Writer::create(&options.output)?,
            node: Arc::new(node),
            written: BTreeMap::new(),
            addresses: BTreeSet::new(),
            lost: BTreeMap::new(),
            progress: Progress::default(),
            scanned: now,
            flushed: now,
        })
    }

    /// Writes what has to be known before the first frame. Namespaces that are younger than the trace
    /// count from 0.
    fn begin(&mut self, config: &Config, wanted: &BTreeSet<String>) -> Result<(), Error> {
        let board = self.node.known.status.snapshot();
        let probes = board.probes.values().filter(|probe| wanted.contains(&probe.name));
        let columns = self.node.columns.all();
        self.writer.push(&Entry::Start(Box::new(trace::Start {
            agent: env!("CARGO_PKG_VERSION").to_owned(),
            node: config.node.name.clone(),
            kernel: node::kernel_release(),
            at_ns: unix_ns(),
            probes: probes
                .map(|probe| trace::Probe {
                    name: probe.name.clone(),
                    state: probe.state.to_string(),
                    reason: probe.reason.clone(),
                })
                .collect(),
            columns: columns
                .iter()
                .map(|(source, columns)| ((*source).to_owned(), columns.to_vec()))
                .collect(),
            reasons: self.node.names.reasons.clone(),
        })))?;
        self.writer.flush()?;
        self.entities(Changes::default())
    }

    /// Waits for the next frame or for what is due before.
    fn step(&mut self, frames: &Receiver<Frame>) -> Result<(), Error> {
        match frames.recv_timeout(STOP) {
            Ok(frame) => self.frame(frame)?,
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
        }
        if self.flushed.elapsed() >= FLUSH {
            self.flushed = Instant::now();
            self.writer.flush()?;
        }
        Ok(())
    }

    fn frame(&mut self, frame: Frame) -> Result<(), Error> {
        match frame {
            Frame::Entities(changes) => self.entities(changes),
            Frame::Batch(batch) => self.batch(&batch),
            Frame::Tables(tables) => self.tables(&tables),
        }
    }

    /// Writes the rows that are not in the trace as they are now.
    fn entities(&mut self, changes: Changes) -> Result<(), Error> {
        let (own, rows) = (&self.options.entities, self.node.known.entities.rows());
        let rows = rows.into_iter().filter(|row| is_wanted(own, row));
        let news: Vec<_> = rows.filter(|row| self.written.get(&row.entity.id) != Some(row)).collect();
        let known = |id: &EntityId| self.written.contains_key(id);
        let forgotten: Vec<_> = changes.forgotten.into_iter().filter(known).collect();
        let removed: Vec<_> = changes.removed.into_iter().filter(known).collect();
        self.written.extend(news.iter().map(|row| (row.entity.id, row.clone())));
        let added: Vec<_> = changes.added.into_iter().filter(|id| self.written.contains_key(id)).collect();
        forgotten.iter().for_each(|id| drop(self.written.remove(id)));
        if news.is_empty() && added.is_empty() && removed.is_empty() && forgotten.is_empty() {
            return Ok(());
        }
        let rows = news.iter().map(entity).collect();
        let entities = trace::Entities { at_ns: unix_ns(), rows, added, removed, forgotten };
        Ok(self.writer.push(&Entry::Entities(entities))?)
    }

    fn tables(&mut self, tables: &Snapshot) -> Result<(), Error> {
        let all = tables.all().into_iter().filter(|(_, entity, _)| self.written.contains_key(entity));
        let table = |(source, entity, table): (&str, EntityId, &crate::kernel::table::Table)| trace::Table {
            source: source.to_owned(),
            entity,
            numbers: table.numbers.clone(),
            strings: table.strings.clone(),
        };
        let tables = trace::Tables { at_ns: tables.taken_ns, tables: all.map(table).collect() };
        self.progress.snapshots += 1;
        Ok(self.writer.push(&Entry::Tables(tables))?)
    }

    fn batch(&mut self, batch: &Batch) -> Result<(), Error> {
        // Where entities were chosen, one without a name may be one of them.
        if !self.options.entities.is_empty()
            && batch.records().any(|record| !self.written.contains_key(&entity_of(record)))
            && self.scanned.elapsed() >= SCAN_PAUSE
        {
            let _: Option<()> = self.node.scan().until(Instant::now() + READING);
            self.scanned = Instant::now();
        }
        self.entities(Changes::default())?;
        let is_wanted = |record: &&[u64]| {
            self.options.entities.is_empty() || self.written.contains_key(&entity_of(record))
        };
        let words: Vec<u64> = batch.records().filter(is_wanted).flatten().copied().collect();
        let lost = self.lost.entry(batch.probe.name).or_default();
        *lost += batch.lost;
        if words.is_empty() {
            return Ok(());
        }
        let lost = std::mem::take(lost);
        self.symbols(&words)?;
        self.progress.records += (words.len() / batch.stride_words()) as u64;
        Ok(self.writer.push(&Entry::Batch(trace::Batch {
            probe: batch.probe.name.to_owned(),
            stride: batch.probe.stride,
            first_seq: batch.first_seq,
            lost,
            now_ns: batch.now_ns,
            words,
        }))?)
    }

    /// Writes the names of addresses. Any word may be one: which field is, only plugins know.
    fn symbols(&mut self, words: &[u64]) -> Result<(), Error> {
        let new = words.iter().filter(|word| **word >= KERNEL && self.addresses.insert(**word));
        let named: Vec<_> = new.filter_map(|word| Some((*word, self.node.names.symbol_at(*word)?))).collect();
        if named.is_empty() {
            return Ok(());
        }
        Ok(self.writer.push(&Entry::Symbols(named))?)
    }

    fn progress(&self) -> Progress {
        let lost = self.node.known.loss.all().into_iter().filter(|(_, _, count)| *count > 0);
        let lost = lost.map(|(stage, name, count)| (stage.as_str().to_owned(), name, count)).collect();
        let (entities, bytes) = (self.written.len(), self.writer.bytes());
        Progress { entities, bytes, lost, ..self.progress.clone() }
    }

    /// Takes what the node still has to give.
    fn end(mut self, frames: &Receiver<Frame>) -> Result<Progress, Error> {
        // Stopping the node delivers its last records, which somebody has to take meanwhile.
        let (node, (done, last)) = (Arc::clone(&self.node), sync_channel(1));
        let ending = thread::Builder::new().name("ending".to_owned()).spawn(move || {
            // The last state of the counters: a fault that makes no event shows there only.
            let _: Option<()> = node.scan().until(Instant::now() + READING);
            let tables = node.read_tables().until(Instant::now() + READING);
            node.stop();
            // The recorder waits for it.
            let _ = done.send(tables);
        });
        ending.map_err(node::Error::Thread)?;
        let tables = loop {
            match last.try_recv() {
                Ok(tables) => break tables,
                Err(_) => self.step(frames)?,
            }
        };
        for frame in frames.try_iter() {
            self.frame(frame)?;
        }
        if let Some(tables) = tables {
            self.tables(&tables)?;
        }
        let Progress { records, lost, .. } = self.progress();
        self.writer.push(&Entry::End(trace::End { at_ns: unix_ns(), records, lost }))?;
        self.writer.flush()?;
        Ok(self.progress())
    }
}

fn entity_of(record: &[u64]) -> EntityId {
    record.get(ENTITY_WORD).map_or(0, |word| *word as u32)
}

fn is_wanted(names: &BTreeSet<String>, row: &EntityRow) -> bool {
    names.is_empty() || names.iter().any(|name| is_called(&row.entity, name))
}

fn entity(row: &EntityRow) -> trace::Entity {
    let e = &row.entity;
    trace::Entity {
        id: e.id,
        kind: e.kind,
        namespace: e.namespace.clone(),
        name: e.name.clone(),
        cookie: e.cookie,
        inode: e.inode,
        ips: e.ips.clone(),
        since_ns: e.since_ns,
        live: row.live,
    }
}
