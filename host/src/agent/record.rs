//! Takes down what the kernel side delivers, without any plugin: records, counter tables, who is
//! who, and what the kernel calls things.
//!
//! One thread does it all in one order, which is the order of the replay. It falls behind as the
//! reader of the rings would: what does not fit a ring meanwhile is counted as lost there, and each
//! batch says so.
//!
//! Longer than other files, because a recording is one loop over one state.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use inspector_ebpf::PROBES;

use super::namespaces::{SCAN_PAUSE, YOUNG, calmer};
use super::{gaps, kernel_release, now_ns, probe_options};
use crate::config::Config;
use crate::discover::{self, Places};
use crate::entities::{Changes, Entities, EntityId, EntityRow};
use crate::events::filter::is_called;
use crate::kernel::batch::Batch;
use crate::kernel::names::KernelNames;
use crate::loss::Loss;
use crate::notify::{Notify, Wake};
use crate::privilege;
use crate::probe::{self, Probes};
use crate::source;
use crate::status::{ProbeState, Status};
use crate::text::similar;
use crate::trace::{self, Entry};
use crate::tracefile::{self, Writer};

/// Batches that wait for the file; beyond them the rings fill.
const WAITING: usize = 64;
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
    /// The reader of the rings could not be started.
    #[error(transparent)]
    Probes(#[from] probe::Error),
    /// The thread that ends the probes.
    #[error("cannot start a thread: {0}")]
    Thread(#[from] std::io::Error),
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
    let (sender, batches) = sync_channel(WAITING);
    let kernel_side = KernelSide::default();
    let probes = start(config, &wanted, sender, &kernel_side)?;
    // Not before there is something to write: the file may be a good trace already.
    let mut recorder = Recorder::new(config, options, kernel_side)?;
    recorder.begin(config, &wanted)?;
    tell(&recorder.progress());
    let mut told = Instant::now();
    while stop.wait(Duration::ZERO) != Wake::Closed {
        recorder.step(&batches)?;
        if told.elapsed() >= Duration::from_secs(1) {
            told = Instant::now();
            tell(&recorder.progress());
        }
    }
    // Ending the probes delivers their last records, which somebody has to take.
    let ending = thread::Builder::new().name("ending".to_owned()).spawn(move || drop(probes))?;
    while let Ok(batch) = batches.recv() {
        recorder.batch(&batch)?;
    }
    let _ = ending.join();
    recorder.end()
}

/// Before anything is loaded or written. What cannot be looked at now cannot be named later either.
fn check_entities(config: &Config, wanted: &BTreeSet<String>) -> Result<(), Error> {
    if wanted.is_empty() {
        return Ok(());
    }
    let entities = Entities::default();
    let places = Places { proc: config.paths.procfs.clone(), netns: config.paths.netns.clone() };
    if let Ok(scan) = discover::scan(&places) {
        entities.seen(scan.sightings, now_ns(), Instant::now());
    }
    let live = entities.live();
    let nobody = wanted.iter().find(|name| !live.iter().any(|who| is_called(who, name)));
    nobody.map_or(Ok(()), |asked| {
        let known = live.iter().map(|who| who.display()).collect();
        Err(Error::NoSuchEntity { asked: asked.clone(), known })
    })
}

fn start(
    config: &Config,
    wanted: &BTreeSet<String>,
    sender: SyncSender<Arc<Batch>>,
    kernel_side: &KernelSide,
) -> Result<Probes, Error> {
    // A recorder that has ended takes nothing more.
    let sink = move |batch| drop(sender.send(batch));
    let KernelSide { entities, loss, status } = kernel_side;
    let probes = Probes::start(
        probe_options(config),
        Arc::clone(entities),
        Arc::clone(loss),
        Arc::clone(status),
        sink,
    )?;
    probes.set_wanted(wanted);
    let board = status.snapshot();
    let is_up = |name: &String| board.probes.get(name).is_some_and(|probe| probe.state != ProbeState::Down);
    if !wanted.iter().any(is_up) {
        let reasons: BTreeSet<_> = board.probes.values().map(|probe| probe.reason.clone()).collect();
        return Err(Error::NoProbe(reasons.into_iter().collect::<Vec<_>>().join("; ")));
    }
    Ok(probes)
}

/// What the probes write to besides their records.
#[derive(Default)]
struct KernelSide {
    entities: Arc<Entities>,
    loss: Arc<Loss>,
    status: Arc<Status>,
}

struct Recorder {
    options: Options,
    writer: Writer,
    entities: Arc<Entities>,
    loss: Arc<Loss>,
    status: Arc<Status>,
    names: KernelNames,
    places: Places,
    tables: source::Reader,
    /// Sources whose columns are in the trace: those that could be read when it began.
    sources: BTreeSet<String>,
    interval: Duration,
    /// Rows in the trace as they were written last.
    written: BTreeMap<EntityId, EntityRow>,
    /// Addresses that have been looked up.
    addresses: BTreeSet<u64>,
    /// Lost records of batches that were left out whole, by probe.
    untold: BTreeMap<&'static str, u64>,
    progress: Progress,
    scanned: Instant,
    /// The next scan comes so long after the last one.
    patience: Duration,
    read: Instant,
    flushed: Instant,
}

impl Recorder {
    fn new(config: &Config, options: &Options, kernel_side: KernelSide) -> Result<Self, Error> {
        let KernelSide { entities, loss, status } = kernel_side;
        let now = Instant::now();
        Ok(Self {
            options: options.clone(),
            writer: Writer::create(&options.output)?,
            entities,
            loss,
            names: probe::kernel_names(),
            places: Places { proc: config.paths.procfs.clone(), netns: config.paths.netns.clone() },
            tables: source::Reader::new(&config.paths.procfs, Arc::clone(&status))?,
            sources: BTreeSet::new(),
            status,
            interval: config.sources.interval,
            written: BTreeMap::new(),
            addresses: BTreeSet::new(),
            untold: BTreeMap::new(),
            progress: Progress::default(),
            scanned: now,
            patience: YOUNG,
            // The first tables are read at once.
            read: now.checked_sub(config.sources.interval).unwrap_or(now),
            flushed: now,
        })
    }

    fn begin(&mut self, config: &Config, wanted: &BTreeSet<String>) -> Result<(), Error> {
        gaps::tell_of_symbols(&self.status, &*self.names.symbols);
        // Before the trace begins: what is younger than it counts from 0.
        let found = self.look();
        let board = self.status.snapshot();
        let probes = board.probes.values().filter(|probe| wanted.contains(&probe.name));
        let columns = self.tables.columns().all();
        self.sources = columns.iter().map(|(source, _)| (*source).to_owned()).collect();
        self.writer.push(&Entry::Start(Box::new(trace::Start {
            agent: env!("CARGO_PKG_VERSION").to_owned(),
            node: config.node.name.clone(),
            kernel: kernel_release(),
            at_ns: now_ns(),
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
            reasons: self.names.reasons.clone(),
        })))?;
        self.writer.flush()?;
        self.write_entities(found)
    }

    /// Waits for the next batch or for what is due before.
    fn step(&mut self, batches: &Receiver<Arc<Batch>>) -> Result<(), Error> {
        // Short enough that a stop is noticed at once.
        match batches.recv_timeout(SCAN_PAUSE) {
            Ok(batch) => self.batch(&batch)?,
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
        }
        if self.scanned.elapsed() >= self.patience {
            self.scan()?;
        }
        if self.read.elapsed() >= self.interval {
            self.read = Instant::now();
            self.read_tables()?;
        }
        if self.flushed.elapsed() >= FLUSH {
            self.flushed = Instant::now();
            self.writer.flush()?;
        }
        Ok(())
    }

    fn scan(&mut self) -> Result<(), Error> {
        let found = self.look();
        self.write_entities(found)
    }

    /// Looks for namespaces; what came and went is still to be written.
    fn look(&mut self) -> Changes {
        self.scanned = Instant::now();
        let changes = match discover::scan(&self.places) {
            Ok(scan) => {
                gaps::tell_of_scan(&self.status, &scan);
                self.entities.seen(scan.sightings, now_ns(), self.scanned)
            }
            Err(error) => {
                tracing::error!(path = %self.places.proc.display(), %error, "cannot look for namespaces");
                Changes::default()
            }
        };
        self.patience = if changes.added.is_empty() { calmer(self.patience) } else { YOUNG };
        changes
    }

    /// Writes the rows that are not in the trace as they are now.
    fn write_entities(&mut self, changes: Changes) -> Result<(), Error> {
        let (own, rows) = (&self.options.entities, self.entities.rows());
        let rows = rows.into_iter().filter(|row| is_wanted(own, row));
        let news: Vec<_> = rows.filter(|row| self.written.get(&row.entity.id) != Some(row)).collect();
        let known = |id: &EntityId| self.written.contains_key(id);
        let forgotten: Vec<_> = changes.forgotten.into_iter().filter(known).collect();
        let removed: Vec<_> = changes.removed.into_iter().filter(known).collect();
        self.written.extend(news.iter().map(|row| (row.entity.id, row.clone())));
        let added: Vec<_> = changes.added.into_iter().filter(|id| self.written.contains_key(id)).collect();
        forgotten.iter().for_each(|id| drop(self.written.remove(id)));
        if news.is_empty() && removed.is_empty() && forgotten.is_empty() {
            return Ok(());
        }
        let rows = news.iter().map(entity).collect();
        let entities = trace::Entities { at_ns: now_ns(), rows, added, removed, forgotten };
        Ok(self.writer.push(&Entry::Entities(entities))?)
    }

    fn read_tables(&mut self) -> Result<(), Error> {
        let mut live = self.entities.live();
        live.retain(|entity| self.written.contains_key(&entity.id));
        let snapshot = self.tables.read(&self.sources, &live, now_ns());
        let table = |(source, entity, table): (&str, EntityId, &crate::kernel::table::Table)| trace::Table {
            source: source.to_owned(),
            entity,
            numbers: table.numbers.clone(),
            strings: table.strings.clone(),
        };
        let tables = snapshot.all().into_iter().map(table).collect();
        self.progress.snapshots += 1;
        Ok(self.writer.push(&Entry::Tables(trace::Tables { at_ns: snapshot.taken_ns, tables }))?)
    }

    fn batch(&mut self, batch: &Batch) -> Result<(), Error> {
        // A namespace that is as young as its first record gets its name before it, if it has one.
        if batch.records().any(|record| !self.written.contains_key(&entity_of(record)))
            && (!self.options.entities.is_empty() || self.entities.take_unnamed())
            && self.scanned.elapsed() >= SCAN_PAUSE
        {
            self.scan()?;
        }
        self.write_entities(Changes::default())?;
        let is_wanted = |record: &&[u64]| {
            self.options.entities.is_empty() || self.written.contains_key(&entity_of(record))
        };
        let words: Vec<u64> = batch.records().filter(is_wanted).flatten().copied().collect();
        let untold = self.untold.entry(batch.probe.name).or_default();
        *untold += batch.lost;
        if words.is_empty() {
            return Ok(());
        }
        let lost = std::mem::take(untold);
        self.write_symbols(&words)?;
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

    /// Any word may be the address of code: which field is one, only plugins know.
    fn write_symbols(&mut self, words: &[u64]) -> Result<(), Error> {
        let new = words.iter().filter(|word| **word >= KERNEL && self.addresses.insert(**word));
        let named: Vec<_> = new.filter_map(|word| Some((*word, self.names.symbol_at(*word)?))).collect();
        if named.is_empty() {
            return Ok(());
        }
        Ok(self.writer.push(&Entry::Symbols(named))?)
    }

    fn progress(&self) -> Progress {
        let lost = self.loss.all().into_iter().filter(|(_, _, count)| *count > 0);
        let lost = lost.map(|(stage, name, count)| (stage.as_str().to_owned(), name, count)).collect();
        let (entities, bytes) = (self.written.len(), self.writer.bytes());
        Progress { entities, bytes, lost, ..self.progress.clone() }
    }

    fn end(mut self) -> Result<Progress, Error> {
        // The last state of the counters: a fault that makes no event shows there only.
        self.scan()?;
        self.read_tables()?;
        let Progress { records, lost, .. } = self.progress();
        self.writer.push(&Entry::End(trace::End { at_ns: now_ns(), records, lost }))?;
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
