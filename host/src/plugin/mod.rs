//! Runs analyzers in their sandbox (wasmtime): loads every component of the plugins directories,
//! follows their changes while running, and hands each one its batches on a thread of its own.
//!
//! In reading order: [`folder`] opens files, `prepare` compiles and checks them (with `cache`),
//! `worker` runs one plugin from its `inbox` through its `instance`, `player` all of them on one
//! thread for a replay, `look` none of them; `sandbox`, `imports`, `stdio`
//! and `bounds` are what a guest lives in, `filter` its subscriptions, `answer` what it says when
//! it is asked.
//!
//! Whatever one plugin does, the others lose nothing, and a broken file leaves the running version
//! alone.
//!
//! Longer than other files, because it is the door itself: its public types and the one place that
//! decides what a changed file means.

mod answer;
mod bindings;
mod bounds;
mod cache;
mod filter;
pub mod folder;
mod imports;
mod inbox;
mod instance;
mod look;
mod player;
mod prepare;
mod sandbox;
mod stdio;
mod worker;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::batch::Batch;
use crate::clock::Clock;
use crate::entities::{Changes, Entities, EntityId};
use crate::events::EventLog;
use crate::loss::{Loss, Stage};
use crate::metrics::Metrics;
use crate::names::KernelNames;
use crate::report::Answered;
use crate::status::{PluginStatus, Status};
use crate::table::{Columns, Snapshot};

use bindings::exports::inspector::analyzer::diagnosis::Request;
use inbox::Inbox;
pub use look::{Described, Look, look};
pub use player::{Player, Refused};
pub use prepare::Error as PrepareError;
use prepare::Prepared;
use sandbox::{Epochs, Sandbox};
use worker::Inquiry;

/// What one plugin may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Linear memory of all its modules.
    pub memory_bytes: usize,
    /// Time for one batch or one tick.
    pub deadline: Duration,
}

/// Where plugins come from and what they may use.
#[derive(Debug, Clone)]
pub struct Options {
    /// Directories with `*.wasm` components.
    pub directories: Vec<PathBuf>,
    /// Names of plugins that are not run.
    pub disabled: Vec<String>,
    /// Directory for compiled components, made if missing.
    pub cache: Option<PathBuf>,
    /// What each plugin may use.
    pub limits: Limits,
}

/// The nouns that plugins read and write.
#[derive(Debug, Clone)]
pub struct Nouns {
    /// Name of this node.
    pub node: String,
    /// Release of the running kernel.
    pub kernel: String,
    /// What time it is.
    pub clock: Arc<Clock>,
    /// Who is it?
    pub entities: Arc<Entities>,
    /// What the running kernel calls things.
    pub names: Arc<KernelNames>,
    /// Columns of every source.
    pub columns: Arc<Columns>,
    /// Where series go.
    pub metrics: Arc<Metrics>,
    /// Where events go.
    pub events: Arc<EventLog>,
    /// What got lost.
    pub loss: Arc<Loss>,
    /// The state board.
    pub status: Arc<Status>,
}

/// What every plugin thread shares.
struct Context {
    nouns: Nouns,
    epochs: Arc<Epochs>,
}

impl std::ops::Deref for Context {
    type Target = Nouns;

    fn deref(&self) -> &Nouns {
        &self.nouns
    }
}

impl Context {
    fn now_ns(&self) -> u64 {
        self.clock.now_ns()
    }
}

/// The sandbox could not be set up.
#[derive(Debug, thiserror::Error)]
#[error("cannot set up the WebAssembly sandbox: {0}")]
pub struct Error(wasmtime::Error);

/// A file of the plugins directories, as it was last looked at.
struct Known {
    stamp: folder::Stamp,
    /// Name of the plugin that runs from it, if one does.
    plugin: Option<String>,
}

/// One running plugin.
struct Slot {
    inbox: Arc<Inbox>,
    thread: JoinHandle<()>,
    path: PathBuf,
    sha256: String,
    probes: BTreeSet<String>,
    sources: BTreeSet<String>,
}

#[derive(Default)]
struct Loaded {
    files: BTreeMap<PathBuf, Known>,
    slots: BTreeMap<String, Slot>,
}

/// All plugins of this agent.
pub struct Plugins {
    sandbox: Sandbox,
    cache: cache::Cache,
    options: Options,
    context: Arc<Context>,
    loaded: Mutex<Loaded>,
    running: RwLock<Running>,
}

/// Copies of what the slots hold, so that delivering and asking never wait for loading.
#[derive(Default)]
struct Running {
    inboxes: Vec<Arc<Inbox>>,
    sources: BTreeSet<String>,
}

/// A question for all plugins that answer it.
#[derive(Debug, Clone)]
pub struct Question {
    /// The question's name.
    pub scenario: String,
    /// Who is asked about; empty = everybody.
    pub entities: Vec<EntityId>,
    /// How far to look back.
    pub window: Duration,
    /// When it is asked, nanoseconds since the Unix epoch.
    pub now_ns: u64,
    /// Tables as of now, if they could be read.
    pub snapshot: Option<Arc<Snapshot>>,
    /// Whoever has not answered by then is not waited for.
    pub deadline: Instant,
}

impl Plugins {
    /// Sets up the sandbox; [`Plugins::scan`] loads what there is.
    ///
    /// # Errors
    /// The host refuses what wasmtime needs (executable memory).
    pub fn new(options: Options, nouns: Nouns) -> Result<Self, Error> {
        let sandbox = Sandbox::new().map_err(Error)?;
        let cache = cache::Cache::new(options.cache.as_deref());
        let context = Arc::new(Context { nouns, epochs: Arc::clone(&sandbox.epochs) });
        Ok(Self { sandbox, cache, options, context, loaded: Mutex::default(), running: RwLock::default() })
    }

    /// Looks at the directories and follows what changed: starts, replaces and stops plugins.
    /// `load_probes` is told all probes that are wanted before a plugin is asked to start, and
    /// again once the rest is gone. Blocking; one call at a time.
    pub fn scan(&self, load_probes: &dyn Fn(&BTreeSet<String>)) {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        let mut present = BTreeMap::new();
        for directory in &self.options.directories {
            match folder::list(directory) {
                Ok(files) => present.extend(files),
                Err(e) => self.unreadable(directory, &e, &loaded, &mut present),
            }
        }
        self.stop_vanished(&mut loaded, &present);
        let changed: Vec<_> = present
            .iter()
            .filter(|(path, stamp)| loaded.files.get(*path).is_none_or(|known| known.stamp != **stamp))
            .collect();
        let mut ready = Vec::new();
        for (path, stamp) in changed {
            let plugin = loaded.files.get(path).and_then(|known| known.plugin.clone());
            loaded.files.insert(path.clone(), Known { stamp: *stamp, plugin: plugin.clone() });
            // Without a look inside, if its file is called so.
            if self.is_disabled(&folder::stem(path)) {
                self.show_disabled(path, folder::stem(path));
                continue;
            }
            match self.prepare(path, &loaded) {
                Ok(Some(prepared)) if self.is_disabled(&prepared.description.name) => {
                    self.show_disabled(path, prepared.description.name);
                }
                Ok(Some(prepared)) => ready.push(prepared),
                Ok(None) => {}
                Err(e) => self.refuse(path, plugin.as_deref(), &e.to_string()),
            }
        }
        // Of two new files with the same plugin, the one that has its name wins.
        ready.sort_by_key(|prepared| folder::stem(&prepared.path) != prepared.description.name);
        let coming = ready.iter().flat_map(probes_of);
        load_probes(&loaded.slots.values().flat_map(|slot| slot.probes.clone()).chain(coming).collect());
        for prepared in ready {
            self.start_or_replace(&mut loaded, prepared);
        }
        load_probes(&loaded.slots.values().flat_map(|slot| slot.probes.clone()).collect());
        let inboxes = loaded.slots.values().map(|slot| Arc::clone(&slot.inbox)).collect();
        let sources = loaded.slots.values().flat_map(|slot| slot.sources.clone()).collect();
        *self.running.write().unwrap_or_else(PoisonError::into_inner) = Running { inboxes, sources };
    }

    /// Puts a batch into the inbox of each plugin that subscribes to its probe. Never blocks on a
    /// plugin.
    pub fn deliver(&self, batch: &Arc<Batch>) {
        for inbox in &self.running().inboxes {
            inbox.push(batch);
        }
    }

    /// Tells every plugin that a new snapshot is there.
    pub fn tick(&self, snapshot: &Arc<Snapshot>) {
        for inbox in &self.running().inboxes {
            inbox.tick(snapshot);
        }
    }

    /// Tells every plugin which entities came and went.
    pub fn entities_changed(&self, changes: &Changes) {
        for inbox in &self.running().inboxes {
            inbox.entities(changes);
        }
    }

    /// Sources that the running plugins read.
    pub fn sources(&self) -> BTreeSet<String> {
        self.running().sources.clone()
    }

    /// Asks every plugin that answers the question, all at once, and waits until the deadline.
    /// One that does not run, refuses, fails or is late costs its own answer only.
    pub fn diagnose(&self, question: &Question) -> Vec<Answered> {
        let board = self.context.status.snapshot();
        let mut waited_for: BTreeSet<_> =
            board.answering(&question.scenario).map(|plugin| plugin.name.clone()).collect();
        let (reply, answers) = std::sync::mpsc::sync_channel(waited_for.len());
        let mut answered: Vec<Answered> = Vec::new();
        for inbox in &self.running().inboxes {
            if !waited_for.contains(inbox.plugin()) {
                continue;
            }
            let request =
                request(&question.scenario, question.entities.clone(), question.window, question.now_ns);
            let (snapshot, deadline) = (question.snapshot.clone(), question.deadline);
            if !inbox.inquire(Inquiry { request, snapshot, deadline, reply: reply.clone() }) {
                answered.push(unanswered(inbox.plugin(), "too many questions wait for it"));
            }
        }
        drop(reply);
        for known in &answered {
            waited_for.remove(&known.analyzer);
        }
        // Ends early when the last one has answered, or has gone without an answer.
        while let Ok(answer) =
            answers.recv_timeout(question.deadline.saturating_duration_since(Instant::now()))
        {
            waited_for.remove(&answer.analyzer);
            answered.push(answer);
        }
        let late = if Instant::now() < question.deadline { "it does not run" } else { "not in time" };
        answered.extend(waited_for.iter().map(|plugin| unanswered(plugin, late)));
        answered.sort_by(|a, b| a.analyzer.cmp(&b.analyzer));
        answered
    }

    /// Lets every plugin digest what waits for it, and ends it.
    pub fn stop(&self) {
        let slots = std::mem::take(&mut self.loaded.lock().unwrap_or_else(PoisonError::into_inner).slots);
        self.running.write().unwrap_or_else(PoisonError::into_inner).inboxes.clear();
        for slot in slots.values() {
            slot.inbox.stop();
        }
        for slot in slots.into_values() {
            let _ = slot.thread.join();
        }
    }

    fn running(&self) -> std::sync::RwLockReadGuard<'_, Running> {
        self.running.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// An unreadable directory is no reason to stop what runs from it.
    fn unreadable(
        &self,
        directory: &Path,
        error: &folder::Error,
        loaded: &Loaded,
        present: &mut BTreeMap<PathBuf, folder::Stamp>,
    ) {
        tracing::error!(error = %error, "no plugins are loaded from there");
        let key = directory.display().to_string();
        let status = PluginStatus {
            name: key.clone(),
            file: key.clone(),
            state: "refused".into(),
            reason: error.to_string(),
            ..PluginStatus::default()
        };
        self.context.status.update().plugins.insert(key, status);
        let kept = loaded.files.iter().filter(|(path, _)| path.parent() == Some(directory));
        present.extend(kept.map(|(path, known)| (path.clone(), known.stamp)));
    }

    fn stop_vanished(&self, loaded: &mut Loaded, present: &BTreeMap<PathBuf, folder::Stamp>) {
        let vanished: Vec<_> =
            loaded.files.keys().filter(|path| !present.contains_key(*path)).cloned().collect();
        if !vanished.is_empty() {
            // What was refused may have been so for the sake of what is gone: look again.
            loaded.files.retain(|path, known| known.plugin.is_some() || !present.contains_key(path));
        }
        for path in vanished {
            let plugin = loaded.files.remove(&path).and_then(|known| known.plugin);
            let mut board = self.context.status.update();
            board.plugins.retain(|_, status| has_run(status) || Path::new(&status.file) != path);
            let Some(slot) = plugin.as_ref().and_then(|plugin| loaded.slots.remove(plugin)) else { continue };
            drop(board);
            let plugin = plugin.unwrap_or_default();
            slot.inbox.stop();
            let _ = slot.thread.join();
            self.context.metrics.unregister(&plugin);
            self.context.events.forget(&plugin);
            self.context.status.update().plugins.remove(&plugin);
            tracing::info!(plugin, file = %path.display(), "plugin stopped: its file is gone");
        }
    }

    /// Nothing if exactly these bytes run already.
    fn prepare(&self, path: &Path, loaded: &Loaded) -> Result<Option<Prepared>, PrepareError> {
        let file = folder::read(path)?;
        if loaded.slots.values().any(|slot| slot.path == path && slot.sha256 == file.sha256) {
            return Ok(None);
        }
        prepare::prepare(&self.sandbox, &self.cache, &file).map(Some)
    }

    fn start_or_replace(&self, loaded: &mut Loaded, prepared: Prepared) {
        let (path, name) = (prepared.path.clone(), prepared.description.name.clone());
        let before = loaded.files.get(&path).and_then(|known| known.plugin.clone());
        if let Some(other) = loaded.slots.get(&name).filter(|slot| slot.path != path) {
            let why = format!("plugin {name} already runs from {}", other.path.display());
            return self.refuse(&path, before.as_deref(), &why);
        }
        if let Some(before) = before.as_ref().filter(|before| **before != name) {
            let why = format!("it is called {name} now: remove the file first to replace {before}");
            return self.refuse(&path, Some(before), &why);
        }
        let (probes, sources) = (probes_of(&prepared).collect(), sources_of(&prepared));
        let (sha256, version) = (prepared.sha256.clone(), prepared.description.version.clone());
        let started = match loaded.slots.get_mut(&name) {
            Some(slot) => {
                let (reply, answer) = std::sync::mpsc::sync_channel(1);
                slot.inbox.replace(prepared, reply);
                answer.recv().unwrap_or_else(|_| Err("the plugin's thread has ended".into())).map(|()| {
                    (slot.probes, slot.sources, slot.sha256) = (probes, sources, sha256);
                })
            }
            None => {
                let inbox = Arc::new(Inbox::new(&name, self.context.loss.cell(Stage::Queue, &name)));
                // Before the plugin can be seen to run: from then on it misses no event. Until it
                // subscribes the inbox takes in nothing, and the end of the scan removes the inbox
                // of a plugin that did not start.
                let mut running = self.running.write().unwrap_or_else(PoisonError::into_inner);
                running.inboxes.push(Arc::clone(&inbox));
                drop(running);
                let (own, context) = (Arc::clone(&inbox), Arc::clone(&self.context));
                worker::start(prepared, own, context, self.options.limits).map(|thread| {
                    tracing::info!(plugin = name, version, file = %path.display(), "plugin started");
                    let slot = Slot { inbox, thread, path: path.clone(), sha256, probes, sources };
                    loaded.slots.insert(name.clone(), slot);
                })
            }
        };
        match started {
            Ok(()) => {
                if let Some(known) = loaded.files.get_mut(&path) {
                    known.plugin = Some(name.clone());
                }
                let mut board = self.context.status.update();
                // What an earlier, refused version of the file left there.
                board.plugins.retain(|_, status| status.name == name || Path::new(&status.file) != path);
                if let Some(status) = board.plugins.get_mut(&name) {
                    status.rejected.clear();
                }
            }
            Err(why) => self.refuse(&path, before.as_deref(), &why),
        }
    }

    fn is_disabled(&self, plugin: &str) -> bool {
        self.options.disabled.iter().any(|disabled| disabled == plugin)
    }

    fn show_disabled(&self, path: &Path, plugin: String) {
        tracing::info!(plugin, file = %path.display(), "plugin not run: it is disabled");
        let status = PluginStatus {
            name: plugin.clone(),
            file: path.display().to_string(),
            state: "disabled".into(),
            reason: "plugins.disabled names it".into(),
            ..PluginStatus::default()
        };
        self.context.status.update().plugins.insert(plugin, status);
    }

    /// Says why a file is not used, beside the version that goes on, if there is one.
    fn refuse(&self, path: &Path, running: Option<&str>, why: &str) {
        let file = path.display();
        let mut board = self.context.status.update();
        let stem = folder::stem(path);
        // A plugin of this name may run from another file: its status is not to be overwritten.
        let homonym =
            board.plugins.get(&stem).filter(|status| status.file != file.to_string() && has_run(status));
        let running = running.map(str::to_owned).or_else(|| homonym.map(|status| status.name.clone()));
        match running.and_then(|running| board.plugins.get_mut(&running)) {
            Some(status) => {
                why.clone_into(&mut status.rejected);
                tracing::warn!(file = %file, running = status.version, error = why, "new plugin file refused, the running version stays");
            }
            None => {
                tracing::warn!(file = %file, error = why, "plugin file refused");
                let status = PluginStatus {
                    name: stem.clone(),
                    file: file.to_string(),
                    state: "refused".into(),
                    reason: why.to_owned(),
                    ..PluginStatus::default()
                };
                board.plugins.insert(stem, status);
            }
        }
    }
}

/// Whether a plugin is or was running, as opposed to a file that was not used.
fn has_run(status: &PluginStatus) -> bool {
    status.state != "refused" && status.state != "disabled"
}

/// Lets every other thread go before the calling one, for compiling off the event path.
pub fn lower_priority() {
    // SAFETY: plain numbers; 0 means the calling thread, and Linux keeps a nice value per thread.
    let _ = unsafe { nix::libc::setpriority(nix::libc::PRIO_PROCESS, 0, 10) };
}

fn unanswered(plugin: &str, why: &str) -> Answered {
    Answered { analyzer: plugin.to_owned(), answer: Err(why.to_owned()) }
}

/// A question as guests read it.
fn request(scenario: &str, entities: Vec<EntityId>, window: Duration, now_ns: u64) -> Request {
    Request {
        scenario: scenario.to_owned(),
        entities,
        now: now_ns,
        window_ms: u32::try_from(window.as_millis()).unwrap_or(u32::MAX),
        params: Vec::new(),
    }
}

fn probes_of(prepared: &Prepared) -> impl Iterator<Item = String> {
    prepared.selections.iter().map(|selection| selection.probe.name.to_owned())
}

fn sources_of(prepared: &Prepared) -> BTreeSet<String> {
    let description = &prepared.description;
    description.sources.iter().cloned().collect()
}
