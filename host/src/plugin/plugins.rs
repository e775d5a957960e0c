//! All plugins of this agent.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::guest::SandboxError;
use super::loader::{LoadProbes, Loader};
use super::options::Options;
use super::question::ResolvedQuestion;
use super::running::Running;
use super::shared::Shared;
use crate::answers::report::AnalyzerReply;
use crate::entities::Changes;
use crate::kernel::batch::Batch;
use crate::kernel::table::Snapshot;
use crate::notify::Notify;

/// See the module.
pub struct Plugins {
    running: Arc<Running>,
    loader: Mutex<Loader>,
    shared: Arc<Shared>,
    /// Nothing is begun any more.
    closing: AtomicBool,
}

impl Plugins {
    /// Sets up the sandbox; [`Plugins::scan`] loads what there is. `sources_wanted` is notified when
    /// [`Plugins::sources`] has one more.
    ///
    /// # Errors
    /// The host refuses what wasmtime needs (executable memory).
    pub fn new(options: Options, shared: Shared, sources_wanted: Arc<Notify>) -> Result<Self, SandboxError> {
        let (running, shared) = (Arc::<Running>::default(), Arc::new(shared));
        let loader = Loader::new(options, Arc::clone(&shared), Arc::clone(&running), sources_wanted)?;
        Ok(Self { running, loader: Mutex::new(loader), shared, closing: AtomicBool::new(false) })
    }

    /// Looks at the directories and follows what changed: starts, replaces and stops plugins.
    /// `load_probes` is told all probes that are wanted before a plugin is asked to start, and
    /// again once the rest is gone. Blocking; one call at a time.
    pub fn scan(&self, load_probes: LoadProbes<'_>) {
        self.loader().scan(load_probes, &self.closing);
    }

    /// Puts a batch into the inbox of each plugin that subscribes to its probe. Never blocks on a
    /// plugin.
    pub fn deliver(&self, batch: &Arc<Batch>) {
        self.running.each(|inbox| inbox.push(batch));
    }

    /// Tells every plugin that a new snapshot is there.
    pub fn tick(&self, snapshot: &Arc<Snapshot>) {
        self.running.each(|inbox| inbox.tick(snapshot));
    }

    /// Tells every plugin which entities came and went.
    pub fn entities_changed(&self, changes: &Changes) {
        self.running.each(|inbox| inbox.entities(changes));
    }

    /// Sources that the running plugins read.
    pub fn sources(&self) -> BTreeSet<String> {
        self.running.sources()
    }

    /// Asks every plugin that answers the question, all at once, and waits until its deadline.
    pub fn diagnose(&self, question: ResolvedQuestion) -> Vec<AnalyzerReply> {
        let states = self.shared.status.snapshot();
        let asked = states.answering(&question.scenario).map(|plugin| plugin.name.clone()).collect();
        self.running.ask(question, asked)
    }

    /// Lets a scan that is under way end after the file that it is at.
    pub fn close(&self) {
        self.closing.store(true, Ordering::Relaxed);
    }

    /// Lets every plugin handle what waits for it, and ends it.
    pub fn stop(&self) {
        self.loader().stop();
    }

    fn loader(&self) -> MutexGuard<'_, Loader> {
        self.loader.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
