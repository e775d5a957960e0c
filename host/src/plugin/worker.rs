//! The thread of one plugin: feeds it batches, ticks and entity changes, replaces it by a newer
//! version between two batches, and restarts it when it has failed.
//!
//! A trap, a missed deadline or a panic of the host on its behalf costs this plugin its instance and
//! nobody else anything. It starts again from its last saved state when its [`Life`] says so; a plugin
//! in quarantine is out of the scrape until then, or until its file is replaced or touched.
//!
//! Longer than other files, because it is all that the thread of a plugin may do.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::guest::{self, Failure, Instance, Prepared, Saved};
use super::inbox::{Inbox, Patience, Work};
use super::life::{Failures, Life, MAX_FAILURES, Pause};
use super::options::Limits;
use super::question::{PendingQuestion, ResolvedQuestion};
use super::shared::Shared;
use crate::answers::blind_spots::in_words;
use crate::answers::report::{AnalyzerReply, Answer};
use crate::kernel::batch::Batch;
use crate::kernel::table::Snapshot;
use crate::series::declaration::MAX_HELP;
use crate::status::{Scenario, panic_words};
use crate::text::escape;

/// Saved state above this is not kept.
const MAX_STATE: usize = 4 << 20;
/// Time between two updates of its status, unless it fails or is replaced.
const PUBLISH: Duration = Duration::from_millis(200);

/// Tables that are this much older than those before were not overtaken: the clock was set back.
const CLOCK_STEP_NS: u64 = 10_000_000_000;

/// Why a plugin that has used up its budget of series does not show all.
const NO_ROOM: &str = "no room for further series: raise plugins.max_series or plugins.max_series_total";

/// One plugin, with or without the thread that runs it.
pub(super) struct Worker {
    inbox: Arc<Inbox>,
    shared: Arc<Shared>,
    limits: Limits,
    /// The version that runs, or ran last.
    prepared: Box<Prepared>,
    /// Room for the records of a batch of which not all are wanted.
    scratch: Vec<u64>,
    life: Life<Instance>,
    failures: Failures,
    /// State for the next instance.
    saved: Option<Saved>,
    last_tick_ns: u64,
    /// When its status was updated last, and whether there is news since.
    published: Instant,
    dirty: bool,
    /// Events handed to it, and how often it failed, since start.
    events: u64,
    traps: u64,
    /// Calls into and CPU time in instances that are gone.
    past_calls: u64,
    past_busy: Duration,
}

/// Starts a plugin on a thread of its own. Returns when it runs, or why it does not.
pub(super) fn start(
    prepared: Prepared,
    inbox: Arc<Inbox>,
    shared: Arc<Shared>,
    limits: Limits,
) -> Result<JoinHandle<()>, String> {
    let (reply, started) = std::sync::mpsc::sync_channel(1);
    let name = prepared.description.name.clone();
    let body = move || match Worker::start(prepared, inbox, shared, limits) {
        Ok(mut worker) => {
            let _ = reply.send(Ok(()));
            worker.run();
        }
        Err(why) => drop(reply.send(Err(why))),
    };
    let thread =
        thread::Builder::new().name(name).spawn(body).map_err(|e| format!("no thread for it: {e}"))?;
    started.recv().map_err(|_| "its thread ended".to_owned())??;
    Ok(thread)
}

impl Worker {
    /// A plugin that runs, which its status says already.
    ///
    /// # Errors
    /// Why it cannot run, in words.
    pub(super) fn start(
        prepared: Prepared,
        inbox: Arc<Inbox>,
        shared: Arc<Shared>,
        limits: Limits,
    ) -> Result<Self, String> {
        let instance = make(&prepared, &shared, limits, None)?;
        let failures = Failures::none(shared.clock.now());
        let mut worker = Self {
            inbox,
            shared,
            limits,
            prepared: Box::new(prepared),
            scratch: Vec::new(),
            life: Life::Stopped,
            failures,
            saved: None,
            last_tick_ns: 0,
            published: Instant::now(),
            dirty: true,
            events: 0,
            traps: 0,
            past_calls: 0,
            past_busy: Duration::ZERO,
        };
        worker.run_with(instance);
        Ok(worker)
    }

    fn run(&mut self) {
        loop {
            let work = match (&self.life, self.dirty) {
                (Life::Running(_), false) => self.inbox.next(self.patience(), None),
                (Life::Running(_), true) => self.inbox.next(self.patience(), Some(self.published + PUBLISH)),
                (waiting, _) => self.inbox.next_control(waiting.until()),
            };
            if !self.handle(work) {
                break;
            }
            if self.published.elapsed() >= PUBLISH {
                self.publish();
            }
        }
        self.drop_instance(Life::Stopped);
        self.publish();
    }

    /// Does one thing; false if it was the last.
    pub(super) fn handle(&mut self, work: Work) -> bool {
        // Whatever it leaves behind goes with the instance.
        let done = catch_unwind(AssertUnwindSafe(|| self.work(work)));
        done.unwrap_or_else(|panic| {
            self.failed(&Failure::Panic(panic_words(&*panic)));
            true
        })
    }

    fn work(&mut self, work: Work) -> bool {
        match work {
            Work::Batch(batch, lost) => self.batch(&batch, lost),
            Work::Tick(snapshot) => self.tick(snapshot),
            Work::Entities(added, removed) => {
                self.call(|instance| instance.entities(&added, &removed));
            }
            Work::Question(pending) => self.answer(pending),
            Work::Replace(prepared, reply) => drop(reply.send(self.replace(prepared))),
            Work::Idle => self.restart_if_due(),
            Work::Stop => return false,
        }
        true
    }

    /// Its name.
    pub(super) fn name(&self) -> &str {
        &self.prepared.description.name
    }

    /// Whether it answers a question.
    pub(super) fn answers(&self, scenario: &str) -> bool {
        self.prepared.description.scenarios.iter().any(|known| known.name == scenario)
    }

    /// Whether it can take something in.
    pub(super) fn is_running(&self) -> bool {
        matches!(self.life, Life::Running(_))
    }

    /// Counts a batch that came while it did not run.
    pub(super) fn miss(&self, batch: &Batch) {
        self.inbox.count_lost(u64::from(batch.count));
    }

    /// Whether it is subscribed to a probe.
    pub(super) fn wants(&self, probe_id: u16) -> bool {
        self.prepared.selections.iter().any(|selection| selection.probe.id == probe_id)
    }

    fn patience(&self) -> Patience {
        let description = &self.prepared.description;
        Patience {
            events: description.batch_max_events.max(1) as usize,
            wait: Duration::from_millis(description.batch_max_wait_ms.into()),
        }
    }

    fn batch(&mut self, batch: &Batch, lost: u64) {
        let Some(selection) = self.prepared.selections.iter_mut().find(|s| s.probe.id == batch.probe.id)
        else {
            return;
        };
        let mut scratch = std::mem::take(&mut self.scratch);
        let words = selection.select(batch, &mut scratch);
        let count = u64::from(batch.count);
        self.events += count;
        self.dirty = true;
        // What was lost is news also where nothing else is.
        if (!words.is_empty() || lost > 0) && !self.call(|instance| instance.batch(batch, lost, words)) {
            self.events -= count;
            self.inbox.count_lost(count);
        }
        self.scratch = scratch;
    }

    fn tick(&mut self, snapshot: Arc<Snapshot>) {
        let interval_ns = u64::from(self.prepared.description.tick_interval_ms) * 1_000_000;
        // Half an interval of grace, since ticks come in multiples of the host's own.
        let due = self.last_tick_ns + interval_ns / 2 <= snapshot.taken_ns;
        if interval_ns == 0 || !(due || self.is_of_another_clock(snapshot.taken_ns)) {
            return;
        }
        self.last_tick_ns = snapshot.taken_ns;
        self.dirty = true;
        self.call(|instance| instance.tick(snapshot));
        self.save();
    }

    /// The clock was set back since the last tick: what is a little older only was overtaken.
    fn is_of_another_clock(&self, taken_ns: u64) -> bool {
        taken_ns + CLOCK_STEP_NS < self.last_tick_ns
    }

    fn answer(&mut self, pending: PendingQuestion) {
        let PendingQuestion { question, reply } = pending;
        // An answer that nobody waits for must not hold up the events.
        if Instant::now() >= question.deadline {
            return;
        }
        let _ = reply.send(self.diagnose(&question));
    }

    /// Asks the guest, which is shown the tables first: a question is a tick out of turn.
    pub(super) fn diagnose(&mut self, question: &ResolvedQuestion) -> AnalyzerReply {
        self.dirty = true;
        // Behind newer tables, older ones would let counters fall, and rise once more.
        let is_news = |snapshot: &Arc<Snapshot>| {
            snapshot.taken_ns >= self.last_tick_ns || self.is_of_another_clock(snapshot.taken_ns)
        };
        if let Some(snapshot) = question.snapshot.clone().filter(is_news) {
            let ticks = self.prepared.description.tick_interval_ms > 0;
            self.last_tick_ns = snapshot.taken_ns;
            self.call(|instance| match ticks {
                true => instance.tick(snapshot),
                false => {
                    instance.show(snapshot);
                    Ok(())
                }
            });
        }
        let answer = self.ask(question).map_err(|why| escape::admit(why, MAX_HELP));
        AnalyzerReply { analyzer: self.name().to_owned(), answer }
    }

    fn ask(&mut self, question: &ResolvedQuestion) -> Result<Answer, String> {
        let Some(instance) = self.life.instance() else {
            return Err(format!("{}: {}", self.life.state(), self.life.why()));
        };
        instance.diagnose(question).map_err(|failure| {
            if !matches!(failure, Failure::Refused(_)) {
                self.failed(&failure);
            }
            failure.to_string()
        })
    }

    /// Keeps the guest's state for the case that it fails later.
    fn save(&mut self) {
        let mut state = None;
        self.call(|instance| {
            state = instance.save()?;
            Ok(())
        });
        if let Some(state) = state.filter(|state| state.len() <= MAX_STATE) {
            self.saved = Some(Saved { version: self.prepared.description.version.clone(), state });
        }
    }

    /// Calls the guest if it runs, and returns whether it still does.
    fn call(&mut self, call: impl FnOnce(&mut Instance) -> Result<(), Failure>) -> bool {
        let Some(instance) = self.life.instance() else { return false };
        match call(instance) {
            Ok(()) => {}
            Err(Failure::Refused(why)) => {
                tracing::warn!(plugin = self.name(), error = why, "the plugin reports an error");
            }
            Err(failure) => self.failed(&failure),
        }
        self.is_running()
    }

    fn restart_if_due(&mut self) {
        if self.life.until().is_none_or(|until| until > self.shared.clock.now()) {
            return;
        }
        match make(&self.prepared, &self.shared, self.limits, self.saved.as_ref()) {
            Ok(instance) => {
                self.failures.restarted(self.shared.clock.now());
                tracing::info!(plugin = self.name(), "plugin runs again");
                self.run_with(instance);
            }
            Err(why) => self.failed(&Failure::Trap(why)),
        }
    }

    /// Swaps in a newer version between two batches; the old one stays if anything fails.
    fn replace(&mut self, prepared: Box<Prepared>) -> Result<(), String> {
        self.save();
        let made = make(&prepared, &self.shared, self.limits, self.saved.as_ref());
        let instance = made.inspect_err(|_| self.keep_old())?;
        let old = std::mem::replace(&mut self.prepared, prepared);
        self.failures = Failures::none(self.shared.clock.now());
        let (old, new) = (&old.description, &self.prepared.description);
        tracing::info!(plugin = new.name, old = old.version, new = new.version, "plugin replaced");
        self.run_with(instance);
        Ok(())
    }

    /// Gives the old version its metrics back after a newer one had declared its own.
    fn keep_old(&mut self) {
        let series = guest::declare(&self.prepared, &self.shared);
        if let (Some(instance), Ok(series)) = (self.life.instance(), series) {
            instance.set_series(series);
        }
    }

    /// From any state to running.
    fn run_with(&mut self, instance: Instance) {
        self.drop_instance(Life::Running(Box::new(instance)));
        self.shared.metrics.show(self.name());
        self.inbox.subscribe(self.prepared.selections.iter().map(|selection| selection.probe.id));
        self.publish();
    }

    /// From any state to waiting for a restart.
    fn failed(&mut self, failure: &Failure) {
        let now = self.shared.clock.now();
        self.traps += 1;
        let (plugin, version) = (&self.prepared.description.name, &self.prepared.description.version);
        let life = match self.failures.failed(now) {
            Pause::Backoff(pause) => {
                tracing::error!(plugin, version, error = %failure, pause_ms = pause.as_millis() as u64, "plugin failed, restarting it");
                Life::Backoff { until: now + pause, why: failure.to_string() }
            }
            Pause::Quarantine(pause) => {
                let again =
                    format!("tried again after {}, or when its file is touched or replaced", in_words(pause));
                tracing::error!(plugin, version, error = %failure, "plugin quarantined: it failed {MAX_FAILURES} times; {again}");
                self.inbox.subscribe(std::iter::empty());
                self.shared.metrics.hide(plugin);
                Life::Quarantined { until: now + pause, why: format!("{failure}; {again}") }
            }
        };
        self.drop_instance(life);
        self.publish();
    }

    /// Goes on to the next state; keeps what the instance has cost, if there was one.
    fn drop_instance(&mut self, next: Life<Instance>) {
        if let Life::Running(instance) = std::mem::replace(&mut self.life, next) {
            self.past_calls += instance.calls;
            self.past_busy += instance.busy;
        }
    }

    /// Updates its status.
    fn publish(&mut self) {
        self.published = Instant::now();
        self.dirty = false;
        let description = &self.prepared.description;
        let series = self.shared.metrics.series_count(&description.name);
        let is_full = self.is_running() && self.shared.metrics.is_full(&description.name);
        let instance = self.life.instance();
        let (calls, busy) = instance.as_ref().map_or((0, Duration::ZERO), |now| (now.calls, now.busy));
        let memory_bytes = instance.map_or(0, |instance| instance.memory_bytes());
        let mut states = self.shared.status.update();
        let status = states.plugins.entry(description.name.clone()).or_default();
        if is_full && status.reason.is_empty() {
            let (plugin, why) = (&description.name, NO_ROOM);
            tracing::warn!(plugin, series, why, "the plugin cannot show all that it counts");
        }
        status.name.clone_from(&description.name);
        status.version.clone_from(&description.version);
        status.file = self.prepared.path.display().to_string();
        status.sha256.clone_from(&self.prepared.sha256);
        status.state = self.life.state();
        status.reason = if is_full { NO_ROOM } else { self.life.why() }.to_owned();
        status.probes =
            self.prepared.selections.iter().map(|selection| selection.probe.name.to_owned()).collect();
        status.sources.clone_from(&description.sources);
        status.scenarios =
            description.scenarios.iter().map(|declared| scenario(&declared.name, &declared.help)).collect();
        status.events = self.events;
        status.calls = self.past_calls + calls;
        status.traps = self.traps;
        status.seconds = (self.past_busy + busy).as_secs_f64();
        status.memory_bytes = memory_bytes;
        status.series = series;
    }
}

fn scenario(name: &str, help: &str) -> Scenario {
    Scenario { name: name.to_owned(), help: escape::admit(help.to_owned(), MAX_HELP) }
}

/// An instance that can be called, or why there is none.
fn make(
    prepared: &Prepared,
    shared: &Arc<Shared>,
    limits: Limits,
    saved: Option<&Saved>,
) -> Result<Instance, String> {
    let made = catch_unwind(AssertUnwindSafe(|| guest::start(prepared, shared, limits, saved)));
    made.unwrap_or_else(|panic| Err(Failure::Panic(panic_words(&*panic)).to_string()))
}
