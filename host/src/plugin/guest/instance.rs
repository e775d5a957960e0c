//! One running guest: its Store, its exports, and the deadline on every call.
//!
//! A trap poisons the whole Store: an instance that failed once must not be called again, and whoever
//! owns it drops it.

use std::sync::Arc;
use std::time::Duration;

use wasmtime::{Store, Trap};

use super::answer;
use super::bindings::exports::inspector::analyzer::{diagnosis, entity_watch, guest, snapshot, ticker};
use super::bindings::inspector::analyzer::types::Error;
use super::deadline::{Call, Epochs, epochs};
use super::imports::State;
use super::prepare::{Prepared, cause};
use crate::answers::report::Answer;
use crate::entities::EntityId;
use crate::kernel::batch::Batch;
use crate::kernel::table::Snapshot;
use crate::plugin::options::Limits;
use crate::plugin::question::ResolvedQuestion;
use crate::plugin::shared::Shared;
use crate::series::metrics::PluginSeries;
use crate::text::escape::{self, MAX_REASON};

/// Time `init`, `restore`, `save`, `tick` and `diagnosis` may take: they are not on the event path. Some
/// seconds' worth of facts, as of a port to which thousands connect in vain, take `diagnosis` 60 ms in a tick.
const SLOW_CALL: Duration = Duration::from_secs(1);

/// Time more that a call may take for each entity whose tables or names it hands over: work grows with
/// the machine, and so does its bound. `pod-counters` asks for 114 series for an entity that it has never
/// seen, which takes 160 µs on a slow virtual machine; one of a crowded host was seen to take 210 µs.
const PER_ENTITY: Duration = Duration::from_millis(1);

/// How a call into a guest failed; what the guest says of it is cut.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("no answer within {0:?} of CPU time")]
    Deadline(Duration),
    #[error("trap: {0}")]
    Trap(String),
    /// The host's own code failed while it served the guest.
    #[error("the agent panicked: {0}")]
    Panic(String),
    /// The guest is intact and said no.
    #[error("{0}")]
    Refused(String),
}

/// A guest that was initialised.
pub(crate) struct Instance {
    store: Store<State>,
    guest: guest::Guest,
    ticker: Option<ticker::Guest>,
    entity_watch: Option<entity_watch::Guest>,
    diagnosis: Option<diagnosis::Guest>,
    snapshot: Option<snapshot::Guest>,
    limits: Limits,
    shared: Arc<Shared>,
    epochs: Arc<Epochs>,
    /// CPU time spent inside the guest.
    pub(crate) busy: Duration,
    /// Calls into the guest.
    pub(crate) calls: u64,
}

impl Instance {
    /// Instantiates and initialises a plugin. `probes` are the granted subscriptions, in the order
    /// of the description.
    pub(super) fn new(
        prepared: &Prepared,
        shared: &Arc<Shared>,
        limits: Limits,
        series: PluginSeries,
        probes: Vec<Option<guest::ProbeInfo>>,
    ) -> Result<Self, Failure> {
        let name: Arc<str> = prepared.description.name.as_str().into();
        let sources = prepared.description.sources.clone();
        let state = State::new(name, Arc::clone(shared), limits, series, sources);
        let mut store = Store::new(prepared.pre.engine(), state);
        store.limiter(|state| &mut state.bounds);
        store.set_hostcall_fuel(State::HOSTCALL_FUEL);
        let slow = slow_call(limits);
        store.epoch_deadline_callback(|store| Ok(store.data().call.at_deadline()));
        store.data_mut().call = Call::begin(slow);
        store.set_epoch_deadline(epochs(slow));
        let running = prepared.epochs.call();
        let instance = prepared.pre.instantiate(&mut store).map_err(|e| failure(&e, slow))?;
        drop(running);
        let exports = &prepared.exports;
        let load = "an export that was found when the component was prepared";
        let mut this = Self {
            guest: exports.guest.load(&mut store, &instance).expect(load),
            ticker: exports.ticker.as_ref().map(|i| i.load(&mut store, &instance).expect(load)),
            entity_watch: exports.entity_watch.as_ref().map(|i| i.load(&mut store, &instance).expect(load)),
            diagnosis: exports.diagnosis.as_ref().map(|i| i.load(&mut store, &instance).expect(load)),
            snapshot: exports.snapshot.as_ref().map(|i| i.load(&mut store, &instance).expect(load)),
            store,
            limits,
            shared: Arc::clone(shared),
            epochs: Arc::clone(&prepared.epochs),
            busy: Duration::ZERO,
            calls: 0,
        };
        let args = guest::InitArgs {
            now: shared.clock.now_ns(),
            node: shared.node.clone(),
            kernel: shared.kernel.clone(),
            probes,
        };
        this.call(slow, args.now, |this| this.guest.call_init(&mut this.store, &args))?
            .map_err(|e| refused("init: ", e))?;
        Ok(this)
    }

    /// Hands over the selected records of a batch.
    pub(crate) fn batch(&mut self, batch: &Batch, lost: u64, words: &[u64]) -> Result<(), Failure> {
        let count = (words.len() / batch.stride_words()) as u32;
        let info = guest::Batch {
            probe: batch.probe.id,
            stride: batch.probe.stride,
            count,
            first_seq: batch.first_seq,
            lost,
            now: batch.now_ns,
        };
        self.call(self.limits.deadline, info.now, |this| {
            this.guest.call_on_batch(&mut this.store, info, words)
        })?
        .map_err(|e| refused("on-batch: ", e))
    }

    /// A new snapshot of the sources is there.
    pub(crate) fn tick(&mut self, snapshot: Arc<Snapshot>) -> Result<(), Failure> {
        let now = snapshot.taken_ns;
        self.show(snapshot);
        if self.ticker.is_none() {
            return Ok(());
        }
        let limit = slow_call(self.limits) + per_entity(self.store.data().snapshot.entities());
        self.call(limit, now, |this| match &this.ticker {
            Some(ticker) => ticker.call_tick(&mut this.store, now),
            None => Ok(()),
        })
    }

    /// From now on the guest reads these tables.
    pub(crate) fn show(&mut self, snapshot: Arc<Snapshot>) {
        self.store.data_mut().snapshot = snapshot;
    }

    /// Asks a question.
    pub(crate) fn diagnose(&mut self, question: &ResolvedQuestion) -> Result<Answer, Failure> {
        let request = diagnosis::Request {
            scenario: question.scenario.clone(),
            entities: question.entities.clone(),
            now: question.now_ns,
            window_ms: u32::try_from(question.window.as_millis()).unwrap_or(u32::MAX),
        };
        let report = self.call(slow_call(self.limits), request.now, |this| match &this.diagnosis {
            Some(diagnosis) => diagnosis.call_run(&mut this.store, &request),
            None => wasmtime::bail!("a scenario is declared only together with this export"),
        })?;
        let report = report.map_err(|e| refused("", e))?;
        Ok(answer::checked(report, &self.shared, &self.store.data().plugin, request.now))
    }

    /// Entities came and went.
    pub(crate) fn entities(&mut self, added: &[EntityId], removed: &[EntityId]) -> Result<(), Failure> {
        if self.entity_watch.is_none() {
            return Ok(());
        }
        let now = self.shared.clock.now_ns();
        let limit = self.limits.deadline + per_entity(added.len() + removed.len());
        self.call(limit, now, |this| {
            let Some(watch) = &this.entity_watch else { return Ok(()) };
            if !added.is_empty() {
                watch.call_added(&mut this.store, added)?;
            }
            if !removed.is_empty() {
                watch.call_removed(&mut this.store, removed)?;
            }
            Ok(())
        })
    }

    /// The guest's state, for its successor; nothing if it keeps none.
    pub(crate) fn save(&mut self) -> Result<Option<Vec<u8>>, Failure> {
        if self.snapshot.is_none() {
            return Ok(None);
        }
        let now = self.shared.clock.now_ns();
        self.call(slow_call(self.limits), now, |this| match &this.snapshot {
            Some(snapshot) => snapshot.call_save(&mut this.store).map(Some),
            None => Ok(None),
        })
    }

    /// Gives the guest the state of its predecessor; it may refuse and start empty.
    pub(super) fn restore(&mut self, from_version: &str, state: &[u8]) -> Result<(), Failure> {
        let now = self.shared.clock.now_ns();
        let answer = self.call(slow_call(self.limits), now, |this| match &this.snapshot {
            Some(snapshot) => snapshot.call_restore(&mut this.store, from_version, state),
            None => Ok(Ok(())),
        })?;
        answer.map_err(|e| refused("restore: ", e))
    }

    /// Bytes of linear memory the guest holds.
    pub(crate) fn memory_bytes(&self) -> u64 {
        self.store.data().bounds.memory_bytes as u64
    }

    /// From now on the guest writes to these series.
    pub(crate) fn set_series(&mut self, series: PluginSeries) {
        self.store.data_mut().series = series;
    }

    fn call<T>(
        &mut self,
        limit: Duration,
        now_ns: u64,
        call: impl FnOnce(&mut Self) -> wasmtime::Result<T>,
    ) -> Result<T, Failure> {
        let begun = Call::begin(limit);
        let state = self.store.data_mut();
        (state.now_ns, state.call) = (now_ns, begun);
        self.store.set_epoch_deadline(epochs(limit));
        let epochs = Arc::clone(&self.epochs);
        let running = epochs.call();
        let answer = call(self);
        self.busy += begun.taken();
        self.calls += 1;
        drop(running);
        answer.map_err(|e| failure(&e, limit))
    }
}

fn per_entity(entities: usize) -> Duration {
    PER_ENTITY * u32::try_from(entities).unwrap_or(u32::MAX)
}

/// What a slow call may take under limits that grant every call more than usual.
fn slow_call(limits: Limits) -> Duration {
    SLOW_CALL.max(limits.deadline)
}

fn refused(call: &str, Error { code, message }: Error) -> Failure {
    Failure::Refused(escape::admit(format!("{call}{code}: {message}"), MAX_REASON))
}

fn failure(error: &wasmtime::Error, limit: Duration) -> Failure {
    match error.downcast_ref::<Trap>() {
        Some(Trap::Interrupt) => Failure::Deadline(limit),
        _ => Failure::Trap(cause(error)),
    }
}
