//! Runs plugins on the calling thread, one after the other in the order of their names: what a
//! replay needs to give the same output every time. Each is the same `worker` as in the agent,
//! without its thread and without a queue.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::folder;
use super::guest::{PrepareError, Sandbox, SandboxError, prepare};
use super::inbox::{Inbox, Work};
use super::options::Options;
use super::question::ResolvedQuestion;
use super::shared::Shared;
use super::worker::Worker;
use crate::answers::report::AnalyzerReply;
use crate::entities::Changes;
use crate::kernel::batch::Batch;
use crate::kernel::table::Snapshot;
use crate::loss::Stage;

/// A component that does not take part.
#[derive(Debug)]
pub struct Refused {
    /// Its file, or the directory that cannot be read.
    pub path: PathBuf,
    /// Why.
    pub why: String,
}

/// Plugins of one replay.
pub struct Player {
    workers: Vec<Worker>,
    shared: Arc<Shared>,
    /// Owns the thread that counts epochs.
    _sandbox: Sandbox,
}

impl Player {
    /// Starts every component of the directories, and says which ones cannot take part.
    ///
    /// # Errors
    /// The host refuses what wasmtime needs (executable memory).
    pub fn new(options: &Options, shared: Shared) -> Result<(Self, Vec<Refused>), SandboxError> {
        let (sandbox, shared) = (Sandbox::new(options.cache.as_deref())?, Arc::new(shared));
        let (mut workers, mut refused) = (Vec::<Worker>::new(), Vec::new());
        for path in files(options, &mut refused) {
            let file = folder::read(&path).map_err(PrepareError::from);
            let prepared = file.and_then(|file| prepare(&sandbox, &file));
            let worker = prepared.map_err(|e| e.to_string()).and_then(|prepared| {
                let name = prepared.description.name.clone();
                if workers.iter().any(|other| other.name() == name) {
                    return Err(format!("plugin {name} already runs from another file"));
                }
                let inbox = Arc::new(Inbox::new(&name, shared.loss.cell(Stage::Queue, &name)));
                Worker::start(prepared, inbox, Arc::clone(&shared), options.limits)
            });
            match worker {
                Ok(worker) => workers.push(worker),
                Err(why) => refused.push(Refused { path, why }),
            }
        }
        workers.sort_by(|a, b| a.name().cmp(b.name()));
        Ok((Self { workers, shared, _sandbox: sandbox }, refused))
    }

    /// Names of those that run.
    pub fn names(&self) -> Vec<String> {
        self.workers.iter().map(|worker| worker.name().to_owned()).collect()
    }

    /// Hands a batch to each plugin that subscribes to its probe.
    pub fn batch(&mut self, batch: &Arc<Batch>) {
        for worker in &mut self.workers {
            if !worker.wants(batch.probe.id) {
                continue;
            }
            worker.handle(Work::Idle);
            if worker.is_running() {
                worker.handle(Work::Batch(Arc::clone(batch), batch.lost));
            } else {
                worker.miss(batch);
            }
        }
    }

    /// Tells every plugin that a new snapshot is there.
    pub fn tick(&mut self, snapshot: &Arc<Snapshot>) {
        self.each(|| Work::Tick(Arc::clone(snapshot)));
    }

    /// Tells every plugin which entities came and went.
    pub fn entities_changed(&mut self, changes: &Changes) {
        self.each(|| Work::Entities(changes.added.clone(), changes.removed.clone()));
    }

    /// Asks each plugin that answers the question about everything in the last `window`.
    pub fn diagnose(&mut self, scenario: &str, window: Duration) -> Vec<AnalyzerReply> {
        let question = ResolvedQuestion {
            scenario: scenario.to_owned(),
            entities: Vec::new(),
            window,
            now_ns: self.shared.clock.now_ns(),
            snapshot: None,
            deadline: Instant::now(),
        };
        let asked = self.workers.iter_mut().filter(|worker| worker.answers(scenario));
        let reply = |worker: &mut Worker| {
            worker.handle(Work::Idle);
            worker.diagnose(&question)
        };
        asked.map(reply).collect()
    }

    fn each(&mut self, work: impl Fn() -> Work) {
        for worker in &mut self.workers {
            worker.handle(Work::Idle);
            worker.handle(work());
        }
    }
}

/// Every component, each once, by path.
fn files(options: &Options, refused: &mut Vec<Refused>) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    for directory in &options.directories {
        match folder::list(directory) {
            Ok(files) => found.extend(files.into_iter().map(|(path, _)| path)),
            Err(e) => refused.push(Refused { path: directory.clone(), why: e.to_string() }),
        }
    }
    found
}
