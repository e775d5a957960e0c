//! The thread of one plugin: feeds it batches, ticks and entity changes, replaces it by a newer
//! version between two batches, and picks up the pieces when it fails.
//!
//! A trap, a missed deadline or a panic of the host on its behalf costs this plugin its instance and
//! nobody else anything. It starts again from its last saved state after a pause that doubles, and is
//! quarantined after [`MAX_FAILURES`] within [`FAILURE_WINDOW`]: out of the scrape, until its file is
//! replaced or touched, or a long pause is over, which doubles as well.
//!
//! Longer than other files, because the life of a plugin is one state machine.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::answer;
use super::bindings::exports::inspector::analyzer::diagnosis::Request;
use super::bindings::exports::inspector::analyzer::guest::ProbeInfo;
use super::bindings::inspector::analyzer::manifest::ScenarioDecl;
use super::filter::Selection;
use super::inbox::{Inbox, Patience, Work};
use super::instance::{Failure, Instance};
use super::prepare::Prepared;
use super::{Context, Limits};
use crate::answers::blind_spots::in_words;
use crate::answers::report::{Answer, Answered};
use crate::events::log::EventType;
use crate::kernel::batch::Batch;
use crate::kernel::table::Snapshot;
use crate::series::declaration::MAX_HELP;
use crate::series::metrics::PluginSeries;
use crate::status::{Scenario, panic_words};
use crate::text::escape;

const MAX_FAILURES: usize = 5;
const FAILURE_WINDOW: Duration = Duration::from_secs(600);
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// After its first quarantine a plugin is tried again, …
const FIRST_QUARANTINE: Duration = Duration::from_secs(600);
/// … and after each further one twice as late, but not later than this.
const LONGEST_QUARANTINE: Duration = Duration::from_secs(2 * 3600);
/// Saved state above this is not kept.
const MAX_STATE: usize = 4 << 20;
/// The state board is written at most this often.
const PUBLISH: Duration = Duration::from_millis(200);

/// What is said of a plugin that has used up its budget of series.
const NO_ROOM: &str = "no room for further series: raise plugins.max_series or plugins.max_series_total";

/// Answer to a replacement: whether the new version runs.
pub(super) type Reply = SyncSender<Result<(), String>>;

/// A question, and who waits for the answer.
pub(super) struct Inquiry {
    pub(super) request: Request,
    /// Tables as of now; the guest is shown them first.
    pub(super) snapshot: Option<Arc<Snapshot>>,
    /// Nobody waits any longer than this.
    pub(super) deadline: Instant,
    pub(super) reply: SyncSender<Answered>,
}

struct Saved {
    version: String,
    state: Vec<u8>,
}

pub(super) struct Worker {
    inbox: Arc<Inbox>,
    context: Arc<Context>,
    limits: Limits,
    prepared: Box<Prepared>,
    selections: Vec<Selection>,
    scratch: Vec<u64>,
    instance: Option<Instance>,
    saved: Option<Saved>,
    failures: VecDeque<Instant>,
    /// Quarantines since it last ran well.
    quarantines: u32,
    /// When the instance was made, or the last one there was.
    adopted: Instant,
    retry: Option<Instant>,
    last_tick_ns: u64,
    published: Instant,
    dirty: bool,
    events: u64,
    /// Calls and time of instances that are gone.
    past: (u64, Duration),
}

/// Starts a plugin on a thread of its own. Returns when it runs, or why it does not.
pub(super) fn start(
    prepared: Prepared,
    inbox: Arc<Inbox>,
    context: Arc<Context>,
    limits: Limits,
) -> Result<JoinHandle<()>, String> {
    let (reply, answer) = std::sync::mpsc::sync_channel(1);
    let name = prepared.description.name.clone();
    let body = move || {
        let mut worker = Worker::new(prepared, inbox, context, limits);
        let started = worker.instantiate();
        let failed = started.is_err();
        if !failed {
            // Before anybody hears of it: whoever knows that it runs finds it on the board.
            worker.publish();
        }
        let _ = reply.send(started);
        if !failed {
            worker.run();
        }
    };
    let thread =
        thread::Builder::new().name(name).spawn(body).map_err(|e| format!("no thread for it: {e}"))?;
    answer.recv().map_err(|_| "its thread ended".to_owned())??;
    Ok(thread)
}

impl Worker {
    /// A plugin that does not run yet.
    pub(super) fn new(prepared: Prepared, inbox: Arc<Inbox>, context: Arc<Context>, limits: Limits) -> Self {
        let adopted = context.clock.now();
        Self {
            inbox,
            context,
            limits,
            selections: prepared.selections.clone(),
            prepared: Box::new(prepared),
            scratch: Vec::new(),
            instance: None,
            saved: None,
            failures: VecDeque::new(),
            quarantines: 0,
            adopted,
            retry: None,
            last_tick_ns: 0,
            published: Instant::now(),
            dirty: true,
            events: 0,
            past: (0, Duration::ZERO),
        }
    }

    fn run(&mut self) {
        loop {
            let work = match (&self.instance, self.dirty) {
                (None, _) => self.inbox.next_control(self.retry),
                (Some(_), false) => self.inbox.next(self.patience(), None),
                (Some(_), true) => self.inbox.next(self.patience(), Some(self.published + PUBLISH)),
            };
            if !self.digest(work) {
                break;
            }
            if self.published.elapsed() >= PUBLISH {
                self.publish();
            }
        }
        self.set_state("stopped", String::new());
    }

    /// Does one thing; false if it was the last.
    pub(super) fn digest(&mut self, work: Work) -> bool {
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
            Work::Entities(added, removed) => self.guarded(|instance| instance.entities(&added, &removed)),
            Work::Diagnose(inquiry) => self.inquiry(*inquiry),
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

    /// What time it is for its guest.
    pub(super) fn now_ns(&self) -> u64 {
        self.context.now_ns()
    }

    /// Whether it has an instance that can take something in.
    pub(super) fn is_running(&self) -> bool {
        self.instance.is_some()
    }

    /// Counts a batch that came while it had no instance.
    pub(super) fn miss(&self, batch: &Batch) {
        self.inbox.spoilt(u64::from(batch.count));
    }

    /// Whether it is subscribed to a probe.
    pub(super) fn wants(&self, probe_id: u16) -> bool {
        self.selections.iter().any(|selection| selection.probe.id == probe_id)
    }

    fn patience(&self) -> Patience {
        let description = &self.prepared.description;
        Patience {
            events: description.batch_max_events.max(1) as usize,
            wait: Duration::from_millis(description.batch_max_wait_ms.into()),
        }
    }

    fn batch(&mut self, batch: &Batch, lost: u64) {
        let Some(selection) = self.selections.iter_mut().find(|s| s.probe.id == batch.probe.id) else {
            return;
        };
        let mut scratch = std::mem::take(&mut self.scratch);
        let words = selection.select(batch, &mut scratch);
        self.events += u64::from(batch.count);
        self.dirty = true;
        let failures = self.failures.len();
        // What was lost is news also where nothing else is.
        if !words.is_empty() || lost > 0 {
            self.guarded(|instance| instance.batch(batch, lost, words));
        }
        if self.instance.is_none() && self.failures.len() > failures {
            self.inbox.spoilt(u64::from(batch.count));
            self.events -= u64::from(batch.count);
        }
        self.scratch = scratch;
    }

    fn tick(&mut self, snapshot: Arc<Snapshot>) {
        let interval_ns = u64::from(self.prepared.description.tick_interval_ms) * 1_000_000;
        // Half an interval of grace, since ticks come in multiples of the host's own.
        let due = self.last_tick_ns + interval_ns / 2 <= snapshot.taken_ns;
        if interval_ns == 0 || !due {
            return;
        }
        self.last_tick_ns = snapshot.taken_ns;
        self.dirty = true;
        self.guarded(|instance| instance.tick(snapshot));
        self.save();
    }

    fn inquiry(&mut self, inquiry: Inquiry) {
        let Inquiry { request, snapshot, deadline, reply } = inquiry;
        // An answer that nobody waits for must not hold up the events.
        if Instant::now() >= deadline {
            return;
        }
        let answer = self.diagnose(&request, snapshot);
        let _ = reply.send(Answered { analyzer: self.name().to_owned(), answer });
    }

    /// Asks the guest, which is shown the tables first: a question is a tick out of turn.
    pub(super) fn diagnose(
        &mut self,
        request: &Request,
        snapshot: Option<Arc<Snapshot>>,
    ) -> Result<Answer, String> {
        self.dirty = true;
        if let Some(snapshot) = snapshot {
            let ticks = self.prepared.description.tick_interval_ms > 0;
            self.last_tick_ns = snapshot.taken_ns;
            self.guarded(|instance| match ticks {
                true => instance.tick(snapshot),
                false => {
                    instance.show(snapshot);
                    Ok(())
                }
            });
        }
        let Some(instance) = &mut self.instance else { return Err(self.why_not_running()) };
        match instance.diagnose(request) {
            Ok(report) => Ok(answer::answer(report, &self.context, self.name(), request.now)),
            Err(Failure::Refused(why)) => Err(escape::admit(why, MAX_HELP)),
            Err(failure) => {
                self.failed(&failure);
                Err(escape::admit(failure.to_string(), MAX_HELP))
            }
        }
    }

    /// As its status says.
    fn why_not_running(&self) -> String {
        let board = self.context.status.update();
        let status = board.plugins.get(self.name()).map(|status| (&status.state, &status.reason));
        let why = status.map_or_else(String::new, |(state, reason)| format!("{state}: {reason}"));
        escape::admit(why, MAX_HELP)
    }

    /// Keeps the guest's state for the case that it fails later.
    fn save(&mut self) {
        let version = self.prepared.description.version.clone();
        let mut state = None;
        self.guarded(|instance| {
            state = instance.save()?;
            Ok(())
        });
        self.saved = state
            .filter(|state| state.len() <= MAX_STATE)
            .map(|state| Saved { version, state })
            .or(self.saved.take());
    }

    /// Calls the guest; whatever it does wrong ends its instance.
    fn guarded(&mut self, call: impl FnOnce(&mut Instance) -> Result<(), Failure>) {
        let Some(instance) = &mut self.instance else { return };
        match call(instance) {
            Ok(()) => {}
            Err(Failure::Refused(why)) => {
                tracing::warn!(
                    plugin = self.prepared.description.name,
                    error = why,
                    "the plugin reports an error"
                );
            }
            Err(failure) => self.failed(&failure),
        }
    }

    fn failed(&mut self, failure: &Failure) {
        let now = self.context.clock.now();
        self.bury();
        self.failures.push_back(now);
        while self.failures.front().is_some_and(|first| now.duration_since(*first) > FAILURE_WINDOW) {
            self.failures.pop_front();
        }
        if now.duration_since(self.adopted) > FAILURE_WINDOW {
            self.quarantines = 0;
        }
        let (plugin, version) = (&self.prepared.description.name, &self.prepared.description.version);
        if let Some(status) = self.context.status.update().plugins.get_mut(plugin) {
            status.traps += 1;
        }
        if self.failures.len() >= MAX_FAILURES {
            let pause = quarantine(self.quarantines);
            let again =
                format!("tried again after {}, or when its file is touched or replaced", in_words(pause));
            tracing::error!(plugin, version, error = %failure, "plugin quarantined: it failed {MAX_FAILURES} times; {again}");
            self.quarantines += 1;
            self.failures.clear();
            self.retry = Some(now + pause);
            self.inbox.subscribe(std::iter::empty());
            self.context.metrics.hide(plugin);
            self.set_state("quarantined", format!("{failure}; {again}"));
        } else {
            let pause = FIRST_PAUSE * 2u32.pow(self.failures.len() as u32 - 1);
            tracing::error!(plugin, version, error = %failure, pause_ms = pause.as_millis() as u64, "plugin failed, restarting it");
            self.retry = Some(now + pause);
            self.set_state("backoff", failure.to_string());
        }
    }

    /// Drops the instance, keeping what it cost.
    fn bury(&mut self) {
        if let Some(instance) = self.instance.take() {
            self.past.0 += instance.calls;
            self.past.1 += instance.busy;
        }
    }

    fn restart_if_due(&mut self) {
        if self.instance.is_some() || self.retry.is_none_or(|retry| retry > self.context.clock.now()) {
            return;
        }
        match self.instantiate() {
            Ok(()) => {
                tracing::info!(plugin = self.prepared.description.name, "plugin runs again");
                self.publish();
            }
            Err(why) => self.failed(&Failure::Trap(why)),
        }
    }

    /// Makes an instance of the current version, with the last saved state.
    pub(super) fn instantiate(&mut self) -> Result<(), String> {
        let instance = self.make(&self.prepared)?;
        self.adopt(instance);
        Ok(())
    }

    fn make(&self, prepared: &Prepared) -> Result<Instance, String> {
        let make = || make(prepared, &self.context, self.limits, self.saved.as_ref());
        let made = catch_unwind(AssertUnwindSafe(make));
        made.unwrap_or_else(|panic| Err(Failure::Panic(panic_words(&*panic)).to_string()))
    }

    fn adopt(&mut self, instance: Instance) {
        self.bury();
        self.instance = Some(instance);
        self.adopted = self.context.clock.now();
        self.retry = None;
        self.context.metrics.show(self.name());
        self.inbox.subscribe(self.selections.iter().map(|selection| selection.probe.id));
    }

    /// Swaps in a newer version between two batches; the old one stays if anything fails.
    fn replace(&mut self, prepared: Box<Prepared>) -> Result<(), String> {
        self.save();
        let made = match self.make(&prepared) {
            Ok(made) => made,
            Err(why) => {
                self.keep_old();
                return Err(why);
            }
        };
        self.selections = prepared.selections.clone();
        let old = std::mem::replace(&mut self.prepared, prepared);
        self.failures.clear();
        self.quarantines = 0;
        self.adopt(made);
        let (old, new) = (&old.description, &self.prepared.description);
        tracing::info!(plugin = new.name, old = old.version, new = new.version, "plugin replaced");
        self.publish();
        Ok(())
    }

    /// Gives the old version its metrics back after a newer one had declared its own.
    fn keep_old(&mut self) {
        declare_events(&self.prepared, &self.context);
        let series = register(&self.prepared, &self.context);
        if let (Some(instance), Ok(series)) = (&mut self.instance, series) {
            instance.set_series(series);
        }
    }

    /// Shows how it does.
    pub(super) fn publish(&mut self) {
        self.published = Instant::now();
        self.dirty = false;
        let Some(instance) = &self.instance else { return };
        let description = &self.prepared.description;
        let series = self.context.metrics.series_count(&description.name);
        let is_full = self.context.metrics.is_full(&description.name);
        let mut board = self.context.status.update();
        let status = board.plugins.entry(description.name.clone()).or_default();
        status.name.clone_from(&description.name);
        status.version.clone_from(&description.version);
        status.file = self.prepared.path.display().to_string();
        status.sha256.clone_from(&self.prepared.sha256);
        "running".clone_into(&mut status.state);
        if is_full && status.reason.is_empty() {
            let (plugin, why) = (&description.name, NO_ROOM);
            tracing::warn!(plugin, series, why, "the plugin cannot show all that it counts");
        }
        if is_full { NO_ROOM } else { "" }.clone_into(&mut status.reason);
        status.probes = self.selections.iter().map(|selection| selection.probe.name.to_owned()).collect();
        status.sources.clone_from(&description.sources);
        status.scenarios = description.scenarios.iter().map(scenario).collect();
        status.events = self.events;
        status.calls = self.past.0 + instance.calls;
        status.seconds = (self.past.1 + instance.busy).as_secs_f64();
        status.memory_bytes = instance.memory_bytes();
        status.series = series;
    }

    fn set_state(&self, state: &str, reason: String) {
        let mut board = self.context.status.update();
        if let Some(status) = board.plugins.get_mut(&self.prepared.description.name) {
            state.clone_into(&mut status.state);
            status.reason = reason;
            status.memory_bytes = 0;
        }
    }
}

/// How long a plugin is left alone that was quarantined so often before.
fn quarantine(before: u32) -> Duration {
    FIRST_QUARANTINE.saturating_mul(2u32.saturating_pow(before)).min(LONGEST_QUARANTINE)
}

/// Instantiates one version: metrics declared, probes granted, state restored.
fn make(
    prepared: &Prepared,
    context: &Arc<Context>,
    limits: Limits,
    saved: Option<&Saved>,
) -> Result<Instance, String> {
    let grants = grants(prepared, context)?;
    let series = register(prepared, context)?;
    declare_events(prepared, context);
    let mut instance = Instance::new(prepared, context, limits, series, grants).map_err(|e| e.to_string())?;
    if let Some(saved) = saved {
        match instance.restore(&saved.version, &saved.state) {
            Ok(()) => {}
            Err(Failure::Refused(why)) => {
                let plugin = &prepared.description.name;
                tracing::info!(plugin, from = saved.version, error = why, "plugin starts empty");
            }
            Err(e) => return Err(e.to_string()),
        }
    }
    // What is there already was announced before this instance existed.
    let live: Vec<_> = context.entities.live().iter().map(|entity| entity.id).collect();
    instance.entities(&live, &[]).map_err(|e| e.to_string())?;
    Ok(instance)
}

fn scenario(declared: &ScenarioDecl) -> Scenario {
    Scenario { name: declared.name.clone(), help: escape::admit(declared.help.clone(), MAX_HELP) }
}

fn register(prepared: &Prepared, context: &Context) -> Result<PluginSeries, String> {
    context.metrics.register(&prepared.description.name, &prepared.metrics).map_err(|e| e.to_string())
}

fn declare_events(prepared: &Prepared, context: &Context) {
    let description = &prepared.description;
    let plugin = &description.name;
    let types = description.events.iter().map(|event| EventType {
        plugin: plugin.clone(),
        kind: event.kind.clone(),
        help: escape::admit(event.help.clone(), MAX_HELP),
    });
    context.events.declare(plugin, types.collect());
}

/// Which subscriptions this node can serve.
fn grants(prepared: &Prepared, context: &Context) -> Result<Vec<Option<ProbeInfo>>, String> {
    let board = context.status.snapshot();
    let grant = |subscription: &super::bindings::inspector::analyzer::manifest::Subscription| {
        let selection = prepared.selections.iter().find(|s| s.probe.name == subscription.probe);
        let status = board.probes.get(&subscription.probe);
        let up = status.is_some_and(|status| status.state == "up" || status.state == "partial");
        let known = selection.filter(|s| up && subscription.min_schema <= s.probe.schema);
        if known.is_none() && subscription.required {
            let why = status.map_or("this agent has no such probe", |status| status.reason.as_str());
            return Err(format!("needs probe {}: {why}", subscription.probe));
        }
        Ok(known.map(|s| ProbeInfo {
            probe: s.probe.id,
            name: s.probe.name.to_owned(),
            schema: s.probe.schema,
            stride: s.probe.stride,
        }))
    };
    prepared.description.subscriptions.iter().map(grant).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_quarantine_is_twice_as_long_as_the_one_before_up_to_two_hours() {
        let minutes = |before| quarantine(before).as_secs() / 60;
        assert_eq!([0, 1, 2, 3, 4, u32::MAX].map(minutes), [10, 20, 40, 80, 120, 120]);
    }
}
