//! Kernel counter tables, read inside each entity's network namespace: one snapshot per interval
//! for all plugins.
//!
//! A source is one line in [`catalog`] and one function. Sources that wait for the same things are
//! read by one thread ([`source_thread`]); one that fails, hangs or is slow costs its own tables and a line
//! in its status, nothing else. This door decides nothing about what the numbers mean.

mod catalog;
mod conntrack;
mod nat;
mod netdev;
mod proc_net;
mod processes;
mod qdisc;
mod rows;
mod source_thread;
mod tcpsummary;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use crate::entities::Entity;
use crate::kernel::table::{Columns, Snapshot};
use crate::status::{SourceState, SourceStatus, Status};

use catalog::{Kind, SOURCES};
use source_thread::{Outcome, Pass, SourceThread};

/// How long a snapshot waits for its threads; what comes later is in the next one.
const PATIENCE: Duration = Duration::from_secs(1);

/// Reads sources for entities.
#[derive(Debug)]
pub struct Reader {
    columns: Arc<Columns>,
    status: Arc<Status>,
    totals: BTreeMap<&'static str, SourceStatus>,
    /// Why a source could not be read, as it was said last; empty if it could.
    said: BTreeMap<&'static str, String>,
    threads: Vec<SourceThread>,
    passes: Receiver<Pass>,
}

impl Reader {
    /// Starts the threads and learns the columns of every source that can be read in the namespace
    /// of the caller. One that cannot has no columns until some namespace yields it (a module may
    /// be loaded later). `proc` is the host's proc file system.
    ///
    /// # Errors
    /// The system has no room for another thread.
    pub fn new(proc: &Path, status: Arc<Status>) -> io::Result<Self> {
        let columns = Arc::new(Columns::default());
        let (done, passes) = channel();
        let mut threads = Vec::new();
        for kind in Kind::ALL {
            threads.push(SourceThread::start(kind, proc, Arc::clone(&columns), done.clone())?);
        }
        let totals = SOURCES.iter().map(|source| (source.name, SourceStatus::idle(source.name))).collect();
        let mut reader = Self { columns, status, totals, said: BTreeMap::new(), threads, passes };
        reader.gather(Instant::now() + PATIENCE);
        // That was a look, not a reading: what it found missing stays said.
        for total in reader.totals.values_mut().filter(|total| total.state == SourceState::Up) {
            *total = SourceStatus::idle(&total.name);
        }
        reader.publish();
        Ok(reader)
    }

    /// Column names by source.
    pub fn columns(&self) -> Arc<Columns> {
        Arc::clone(&self.columns)
    }

    /// Reads the wanted sources of every entity; blocks for at most [`PATIENCE`].
    pub fn read(&mut self, wanted: &BTreeSet<String>, entities: &[Arc<Entity>], now_ns: u64) -> Snapshot {
        // What came too late for the last snapshot.
        self.gather(Instant::now());
        for thread in &mut self.threads {
            thread.ask(wanted, entities);
        }
        self.gather(Instant::now() + PATIENCE);
        self.say();
        let mut snapshot = Snapshot::at(now_ns);
        for thread in &mut self.threads {
            for (source, entity, table) in thread.tables() {
                snapshot.insert(*entity, source, Arc::clone(table));
            }
        }
        self.publish();
        snapshot
    }

    /// Takes the passes that end by `deadline`. A thread that was late before is not waited for.
    fn gather(&mut self, deadline: Instant) {
        loop {
            let left = match self.threads.iter().any(SourceThread::is_awaited) {
                true => deadline.saturating_duration_since(Instant::now()),
                false => Duration::ZERO,
            };
            let Ok(pass) = self.passes.recv_timeout(left) else { break };
            for (source, outcome) in &pass.outcomes {
                self.totals.entry(source).or_default().add(outcome);
            }
            if let Some(thread) = self.threads.iter_mut().find(|thread| thread.kind() == pass.kind) {
                thread.finished(pass);
            }
        }
        for thread in &mut self.threads {
            for source in thread.give_up() {
                self.totals.entry(source).or_default().late();
            }
        }
    }

    /// Tells the log of sources that cannot be read, or can again: one line for each cause, once.
    fn say(&mut self) {
        let mut news = BTreeMap::<&str, Vec<&str>>::new();
        for (name, total) in &self.totals {
            let cause = match total.state {
                SourceState::Failing => total.cause.as_str(),
                // Nothing is known of it now.
                SourceState::Late => continue,
                _ => "",
            };
            let said = self.said.entry(name).or_default();
            if said != cause {
                cause.clone_into(said);
                news.entry(cause).or_default().push(name);
            }
        }
        for (cause, sources) in &news {
            let sources = sources.join(", ");
            match *cause {
                "" => tracing::info!(sources, "read again"),
                cause => tracing::warn!(sources, cause, "cannot be read: its values are missing"),
            }
        }
    }

    fn publish(&self) {
        let mut board = self.status.update();
        board.sources = self.totals.iter().map(|(name, total)| ((*name).to_owned(), total.clone())).collect();
    }
}

impl SourceStatus {
    fn idle(name: &str) -> Self {
        Self { name: name.to_owned(), state: SourceState::Idle, ..Self::default() }
    }

    fn add(&mut self, pass: &Outcome) {
        self.reads += pass.reads;
        self.errors += pass.errors;
        self.last_seconds = pass.seconds;
        self.total_seconds += pass.seconds;
        self.last_error = pass.why();
        pass.cause.clone_into(&mut self.cause);
        (self.entities_read, self.entities_failed) = (pass.reads, pass.errors);
        self.state = match pass {
            Outcome { errors: 1.., .. } => SourceState::Failing,
            Outcome { reads: 0, absent: 1.., .. } => SourceState::Absent,
            _ => SourceState::Up,
        };
    }

    fn late(&mut self) {
        self.late += 1;
        self.state = SourceState::Late;
        self.last_error = format!("not read within {PATIENCE:?}: its values are missing");
        (self.entities_read, self.entities_failed) = (0, 0);
    }
}
