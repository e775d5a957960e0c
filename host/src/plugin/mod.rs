//! Runs analyzers in their sandbox (wasmtime): loads every component of the plugins directories,
//! follows their changes while running, and hands each one its batches on a thread of its own.
//!
//! In code a component is a *plugin*; for users it is an *analyzer*.
//!
//! In reading order: [`plugins`] is what the agent sees; `loader` carries out what `catalog` decides of
//! the files that [`folder`] opens; `worker` runs one plugin from its `inbox` through its `life`;
//! `running` delivers to all of them. `player` runs all of them on one thread for a replay, `look` none
//! of them. What a guest lives in is `guest`.
//!
//! Whatever one plugin does, the others lose nothing, and a broken file leaves the running version
//! alone.

mod catalog;
pub mod folder;
mod guest;
mod inbox;
mod life;
mod loader;
mod look;
mod options;
mod player;
mod plugins;
mod question;
mod running;
mod shared;
mod worker;

pub use guest::{PrepareError, SandboxError as Error};
pub use loader::LoadProbes;
pub use look::{Described, Look, look};
pub use options::{Limits, Options};
pub use player::{Player, Refused};
<<<<<<< HEAD
pub use plugins::Plugins;
pub use question::ResolvedQuestion;
pub use shared::Shared;
=======
pub use prepare::Error as PrepareError;
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

/// All plugins of this agent.
pub struct Plugins {
    sandbox: Sandbox,
    cache: cache::Cache,
    options: Options,
    context: Arc<Context>,
    loaded: Mutex<Loaded>,
    running: RwLock<Running>,
    /// Rung when [`Plugins::sources`] has more than before.
    sources_wanted: Arc<Bell>,
    /// Nothing is begun any more.
    closing: AtomicBool,
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
    /// Sets up the sandbox; [`Plugins::scan`] loads what there is. `sources_wanted` is rung when
    /// [`Plugins::sources`] has one more.
    ///
    /// # Errors
    /// The host refuses what wasmtime needs (executable memory).
    pub fn new(options: Options, nouns: Nouns, sources_wanted: Arc<Bell>) -> Result<Self, Error> {
        let sandbox = Sandbox::new().map_err(Error)?;
        let cache = cache::Cache::new(options.cache.as_deref());
        let context = Arc::new(Context { nouns, epochs: Arc::clone(&sandbox.epochs) });
        let (loaded, running, closing) = (Mutex::default(), RwLock::default(), AtomicBool::new(false));
        Ok(Self { sandbox, cache, options, context, loaded, running, sources_wanted, closing })
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

    /// Lets a scan that is under way end after the file that it is at.
    pub fn close(&self) {
        self.closing.store(true, Ordering::Relaxed);
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
    }
}
>>>>>>> wt-plugins
