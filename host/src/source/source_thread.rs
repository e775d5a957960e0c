//! One thread reads those sources that wait for the same things.
//!
//! A lock that somebody holds in the kernel stops one of the threads and not the others. They do not wait
//! for each other and are never ended: one that hangs stays, and is used again once it answers. Between
//! two passes each returns to the host's namespace, so that it keeps no deleted one alive.

use std::cell::OnceCell;
use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};

use super::catalog::{Kind, Read, Source};
use super::processes::Processes;
use crate::entities::{self, Entity, EntityId};
use crate::kernel::table::{Columns, Table};
use crate::netns;

/// How many times as long as a pass took a heavy thread rests after it: so it takes 1 % of a CPU.
const REST: u32 = 99;

/// A table with its source and entity.
pub(super) type Row = (&'static str, EntityId, Arc<Table>);

/// What one pass of a thread over all entities brought.
#[derive(Debug)]
pub(super) struct Pass {
    pub(super) kind: Kind,
    pub(super) tables: Vec<Row>,
    pub(super) outcomes: Vec<(&'static str, Outcome)>,
    /// CPU time it took.
    pub(super) cpu: Duration,
}

/// How one source fared in a pass.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// Tables read.
    pub(super) reads: u64,
    /// Tables that could not be read.
    pub(super) errors: u64,
    /// Namespaces that do not have it.
    pub(super) absent: u64,
    /// Time that reading took.
    pub(super) seconds: f64,
    /// The last error, or why it is absent; empty if all were read. The same cause has the same words.
    pub(super) cause: String,
    /// The first entity whose table could not be read, if there is one.
    pub(super) failed: String,
}

impl Outcome {
    /// What could not be read and why; empty if all were read.
    pub(super) fn why(&self) -> String {
        match self.errors {
            _ if self.failed.is_empty() => self.cause.clone(),
            1 => format!("{}: {}", self.failed, self.cause),
            errors => format!("{} and {} more: {}", self.failed, errors - 1, self.cause),
        }
    }
}

struct Request {
    wanted: Vec<&'static Source>,
    entities: Arc<[Arc<Entity>]>,
}

/// The thread as its reader sees it: what it is asked for, and what it read.
#[derive(Debug)]
pub(super) struct SourceThread {
    kind: Kind,
    requests: SyncSender<Request>,
    state: State,
    /// Sources of the request that it works on.
    asked: Vec<&'static str>,
    /// What it read last; stands while the thread rests.
    latest: Vec<Row>,
    /// That is in no snapshot yet.
    is_new: bool,
    rests_until: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Idle,
    /// Works, and is waited for.
    Asked,
    /// Works, and is not waited for any more.
    Late,
}

impl SourceThread {
    /// Starts the thread, which first learns the columns in the caller's namespace.
    pub(super) fn start(
        kind: Kind,
        proc: &Path,
        columns: Arc<Columns>,
        done: Sender<Pass>,
    ) -> io::Result<Self> {
        let (requests, received) = sync_channel(1);
        let worker = Worker { kind, proc: proc.to_owned(), columns };
        thread::Builder::new().name(kind.name().to_owned()).spawn(move || worker.run(&received, &done))?;
        let asked = kind.sources().map(|source| source.name).collect();
        Ok(Self {
            kind,
            requests,
            state: State::Asked,
            asked,
            latest: Vec::new(),
            is_new: false,
            rests_until: Instant::now(),
        })
    }

    pub(super) fn kind(&self) -> Kind {
        self.kind
    }

    /// Sends it through all entities, unless it still works, rests, or has nothing to read.
    pub(super) fn ask(&mut self, wanted: &BTreeSet<String>, entities: &[Arc<Entity>]) {
        let wanted: Vec<_> = self.kind.sources().filter(|source| wanted.contains(source.name)).collect();
        if self.state != State::Idle || Instant::now() < self.rests_until || wanted.is_empty() {
            return;
        }
        self.asked = wanted.iter().map(|source| source.name).collect();
        if self.requests.try_send(Request { wanted, entities: entities.into() }).is_ok() {
            self.state = State::Asked;
        }
    }

    pub(super) fn is_awaited(&self) -> bool {
        self.state == State::Asked
    }

    pub(super) fn finished(&mut self, pass: Pass) {
        self.state = State::Idle;
        self.latest = pass.tables;
        self.is_new = true;
        if self.kind.is_heavy() {
            self.rests_until = Instant::now() + pass.cpu * REST;
        }
    }

    /// Does not wait for it any more: the sources it owes.
    pub(super) fn give_up(&mut self) -> &[&'static str] {
        if self.state != State::Asked {
            return &[];
        }
        self.state = State::Late;
        &self.asked
    }

    /// What belongs into a snapshot: what it read last. Of a thread that is late each pass belongs into
    /// one, so that a slow one gets through; what a hanging one read before is worth nothing now.
    pub(super) fn tables(&mut self) -> &[Row] {
        let is_new = std::mem::take(&mut self.is_new);
        if self.state == State::Late && !is_new {
            self.latest.clear();
        }
        &self.latest
    }
}

/// What runs on the thread.
struct Worker {
    kind: Kind,
    proc: PathBuf,
    columns: Arc<Columns>,
}

impl Worker {
    fn run(&self, requests: &Receiver<Request>, done: &Sender<Pass>) {
        if done.send(self.learn()).is_err() {
            return;
        }
        // Ends when the reader is dropped.
        while let Ok(request) = requests.recv() {
            let pass = self.pass(&request);
            netns::leave();
            if done.send(pass).is_err() {
                return;
            }
        }
    }

    /// Reads each source once where the thread is.
    fn learn(&self) -> Pass {
        let here = netns::here().unwrap_or(0);
        let sources: Vec<_> = self.kind.sources().collect();
        let mut pass = Pass::of(self.kind, &sources);
        let processes = OnceCell::new();
        for (source, at) in sources.iter().zip(0..) {
            pass.add(at, self.read(source, here, &processes, 0), None);
        }
        pass.tables.clear();
        pass
    }

    fn pass(&self, request: &Request) -> Pass {
        let begun = cpu_time();
        let mut pass = Pass::of(self.kind, &request.wanted);
        let processes = OnceCell::new();
        for entity in &*request.entities {
            let wanted = || {
                let here = |(_, source): &(usize, &&Source)| {
                    !source.host_only || entity.kind == entities::Kind::Host
                };
                request.wanted.iter().enumerate().filter(here)
            };
            match netns::enter(&entity.path) {
                Ok((cookie, inode)) if cookie == entity.cookie => {
                    for (at, source) in wanted() {
                        pass.add(at, self.read(source, inode, &processes, entity.id), Some(entity));
                    }
                }
                // The path leads to a younger namespace by now, or nowhere: the next scan knows.
                Ok(_) => {}
                Err(e) if netns::gone(&e) => {}
                Err(e) => wanted().for_each(|(at, _)| pass.add(at, Reading::refused(&e), Some(entity))),
            }
        }
        pass.cpu = cpu_time().saturating_sub(begun);
        pass
    }

    fn read(
        &self,
        source: &Source,
        netns: u64,
        processes: &OnceCell<io::Result<Processes>>,
        entity: EntityId,
    ) -> Reading {
        let start = Instant::now();
        let rows = match source.read {
            Read::Inside(read) => read(),
            Read::Processes(read) => match processes.get_or_init(|| Processes::list(&self.proc)) {
                Ok(processes) => read(processes, netns),
                Err(e) => Err(io::Error::new(e.kind(), format!("{}: {e}", self.proc.display()))),
            },
        };
        let table = rows.map(|rows| {
            let columns = self.columns.learn(source.name, &rows.columns);
            (source.name, entity, Arc::new(rows.table(&columns)))
        });
        Reading { table, seconds: start.elapsed().as_secs_f64() }
    }
}

/// One source in one namespace.
struct Reading {
    table: io::Result<Row>,
    seconds: f64,
}

impl Reading {
    /// The namespace could not be entered.
    fn refused(e: &io::Error) -> Self {
        Self { table: Err(io::Error::new(e.kind(), netns::refusal(e))), seconds: 0.0 }
    }
}

impl Pass {
    fn of(kind: Kind, sources: &[&'static Source]) -> Self {
        let outcomes = sources.iter().map(|source| (source.name, Outcome::default())).collect();
        Self { kind, tables: Vec::new(), outcomes, cpu: Duration::ZERO }
    }

    fn add(&mut self, at: usize, reading: Reading, entity: Option<&Entity>) {
        let (_, outcome) = &mut self.outcomes[at];
        outcome.seconds += reading.seconds;
        match reading.table {
            Ok(row) => {
                outcome.reads += 1;
                self.tables.push(row);
            }
            Err(e) => {
                let absent = e.kind() == io::ErrorKind::NotFound;
                outcome.absent += u64::from(absent);
                outcome.errors += u64::from(!absent);
                // What somebody lacks is said only where nobody is refused it.
                if !absent || outcome.errors == 0 {
                    outcome.cause = e.to_string();
                }
                if !absent && outcome.failed.is_empty() {
                    outcome.failed = entity.map(Entity::display).unwrap_or_default();
                }
            }
        }
    }
}

/// CPU time of the calling thread.
fn cpu_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pods::NamedBy;

    fn refused() -> Reading {
        Reading { table: Err(io::Error::new(io::ErrorKind::PermissionDenied, "no ptrace")), seconds: 0.0 }
    }

    fn absent() -> Reading {
        Reading { table: Err(io::Error::new(io::ErrorKind::NotFound, "no module")), seconds: 0.0 }
    }

    fn entity(name: &str) -> Entity {
        let listed = entities::Listed::from(entities::Unentered {
            kind: entities::Kind::Netns,
            namespace: String::new(),
            named_by: NamedBy::Netns,
            name: name.to_owned(),
            inode: 7,
            pids: vec![],
            cgroup: String::new(),
            why: String::new(),
        });
        listed.entity
    }

    #[test]
    fn a_refusal_is_told_with_one_entity_and_a_count_and_its_cause_without() {
        let sources: Vec<_> = Kind::Conntrack.sources().collect();
        let mut pass = Pass::of(Kind::Conntrack, &sources);
        pass.add(0, refused(), Some(&entity("web")));
        assert_eq!(pass.outcomes[0].1.why(), "web: no ptrace");
        pass.add(0, refused(), Some(&entity("db")));
        pass.add(0, absent(), Some(&entity("old")));
        let outcome = &pass.outcomes[0].1;
        assert_eq!(outcome.why(), "web and 1 more: no ptrace");
        assert_eq!((outcome.cause.as_str(), outcome.errors, outcome.absent), ("no ptrace", 2, 1));
    }

    /// A source thread that is played by the test, with what it is asked for.
    fn thread() -> (SourceThread, Receiver<Request>) {
        let (requests, received) = sync_channel(1);
        let (state, asked, latest, rests_until) = (State::Idle, Vec::new(), Vec::new(), Instant::now());
        (
            SourceThread { kind: Kind::Files, requests, state, asked, latest, is_new: false, rests_until },
            received,
        )
    }

    fn finish(thread: &mut SourceThread) {
        let mut pass = Pass::of(Kind::Files, &[]);
        pass.tables.push(("snmp", 1, Arc::default()));
        thread.finished(pass);
    }

    #[test]
    fn a_thread_that_is_always_late_gets_every_pass_into_a_snapshot_and_one_that_hangs_nothing() {
        let (mut thread, requests) = thread();
        let wanted = BTreeSet::from(["snmp".to_owned()]);
        thread.ask(&wanted, &[]);
        assert_eq!(thread.give_up(), ["snmp"]);
        assert!(thread.tables().is_empty());
        for _ in 0..3 {
            requests.try_recv().expect("it was asked");
            finish(&mut thread);
            thread.ask(&wanted, &[]);
            assert_eq!(thread.give_up(), ["snmp"], "late again");
            assert_eq!(thread.tables().len(), 1);
        }
        // It hangs.
        thread.ask(&wanted, &[]);
        assert!(thread.give_up().is_empty() && thread.tables().is_empty());
    }

    #[test]
    fn what_a_resting_thread_read_stands() {
        let (mut thread, _requests) = thread();
        finish(&mut thread);
        assert_eq!((thread.tables().len(), thread.tables().len()), (1, 1));
    }
}
