//! Series numbers and updates on their way to the host.
//!
//! A family maps an entity and its labels to the host's series number; [`Rows`] do it for many metrics
//! without labels at once. Nothing here outlives its entity: when the host reports it gone its series
//! are forgotten, and when the host refuses an update every family starts afresh.

use std::cell::RefCell;
use std::collections::hash_map::Entry;

use crate::host::metrics;
use crate::labels::Labels;
use crate::map::Map;
use crate::{EntityId, Error, MetricDecl};

/// So many updates leave before the hook returns, so that a hook cannot grow without end.
pub(crate) const PENDING: usize = 8_192;

/// Vanished entities remembered for families not used since; beyond it all start afresh.
const VANISHED: usize = 1_024;

/// Series that one family keeps; more are forgotten and asked for again. It bounds an analyzer
/// that does not export `entity_watch`, and so is never told what vanished.
const SERIES: usize = 65_536;

/// The same for entities in [`Rows`].
const ROWS: usize = 16_384;

/// The series of one metric.
#[derive(Debug)]
pub(crate) struct Family<L> {
    /// Index in the description's metrics.
    metric: u32,
    known: Map<(EntityId, L), Series>,
    age: Age,
}

#[derive(Debug)]
pub(crate) struct Series {
    id: u32,
    /// The round in which `at` is its position among the pending updates.
    round: u64,
    at: usize,
}

impl<L: Labels> Family<L> {
    pub(crate) fn declared(name: &str, kinds: &[&str]) -> Result<Self, Error> {
        WORLD.with_borrow(|world| {
            Ok(Self { metric: world.metric(name, kinds)?, known: Map::default(), age: world.age() })
        })
    }

    pub(crate) fn update(
        &mut self,
        entity: EntityId,
        labels: L,
        how: impl FnOnce(&mut Series, &mut Pending),
    ) {
        WORLD.with_borrow_mut(|world| {
            self.age.forget(world, &mut self.known, SERIES, |(entity, _)| *entity);
            let key = (entity, labels);
            if let Some(series) = self.known.get_mut(&key) {
                how(series, &mut world.pending);
            } else if let Ok(id) = metrics::series(self.metric, entity, &key.1.values()) {
                // A series that the host refuses is counted there, and asked for again next time.
                let series = self.known.entry(key).or_insert(Series { id, round: 0, at: 0 });
                how(series, &mut world.pending);
            }
            if world.pending.len() >= PENDING {
                world.flush();
            }
        });
    }
}

/// The series of several metrics without labels that are set together, by entity: one look-up for all
/// of them, and a tenth of the memory that a [`Family`] each would take.
#[derive(Debug)]
pub(crate) struct Rows {
    /// Indexes in the description's metrics.
    metrics: Vec<u32>,
    known: Map<EntityId, Row>,
    age: Age,
}

/// Series of one entity, one per metric.
#[derive(Debug)]
struct Row {
    /// None where the host has no room for a series.
    ids: Box<[Option<u32>]>,
    /// What was sent last; not a number before that.
    last: Box<[f64]>,
    /// There was nothing to set last time.
    missed: bool,
}

impl Rows {
    pub(crate) fn declared(names: &[String], kinds: &[&str]) -> Result<Self, Error> {
        WORLD.with_borrow(|world| {
            let metrics = names.iter().map(|name| world.metric(name, kinds)).collect::<Result<_, _>>()?;
            Ok(Self { metrics, known: Map::default(), age: world.age() })
        })
    }

    /// Sets every metric to its value and sends those that changed.
    pub(crate) fn set(&mut self, entity: EntityId, values: impl Iterator<Item = f64>) {
        WORLD.with_borrow_mut(|world| {
            self.age.forget(world, &mut self.known, ROWS, |entity| *entity);
            let row = match self.known.entry(entity) {
                Entry::Occupied(row) => row.into_mut(),
                Entry::Vacant(place) => match Row::intern(&self.metrics, entity) {
                    Some(row) => place.insert(row),
                    None => return,
                },
            };
            row.set(values, &mut world.pending);
            if row.is_partial() {
                self.known.remove(&entity);
            }
            if world.pending.len() >= PENDING {
                world.flush();
            }
        });
    }

    /// Takes every value back, of an entity that has any, if it was missed the last time already.
    pub(crate) fn miss(&mut self, entity: EntityId) {
        WORLD.with_borrow_mut(|world| {
            self.age.forget(world, &mut self.known, ROWS, |entity| *entity);
            if let Some(row) = self.known.get_mut(&entity)
                && std::mem::replace(&mut row.missed, true)
            {
                row.clear(&mut world.pending);
            }
        });
    }
}

impl Row {
    /// None if the host refuses the first series already: without room for one there is none for all.
    fn intern(metrics: &[u32], entity: EntityId) -> Option<Self> {
        let id = |metric: &u32| metrics::series(*metric, entity, &[]).ok();
        let first = metrics.first().and_then(id)?;
        let ids = [Some(first)].into_iter().chain(metrics[1..].iter().map(id));
        Some(Self { ids: ids.collect(), last: vec![f64::NAN; metrics.len()].into(), missed: false })
    }

    fn set(&mut self, values: impl Iterator<Item = f64>, pending: &mut Pending) {
        self.missed = false;
        for ((id, last), value) in self.ids.iter().zip(&mut self.last).zip(values) {
            if let Some(id) = id
                && *last != value
            {
                *last = value;
                pending.push(*id, value);
            }
        }
    }

    fn clear(&mut self, pending: &mut Pending) {
        for (id, last) in self.ids.iter().copied().zip(&mut self.last).filter(|(_, last)| !last.is_nan()) {
            *last = f64::NAN;
            id.into_iter().for_each(|id| pending.push(id, f64::NAN));
        }
    }

    /// Whether a series is missing: then all are asked for again next time.
    fn is_partial(&self) -> bool {
        self.ids.iter().any(Option::is_none)
    }
}

/// State of the world as of a handle's last update, see [`World`].
#[derive(Debug, Clone, Copy)]
struct Age {
    epoch: u64,
    vanished: usize,
}

impl Age {
    /// Drops what is void by now, and everything where there are `most` already.
    fn forget<K, V>(
        &mut self,
        world: &World,
        known: &mut Map<K, V>,
        most: usize,
        entity: impl Fn(&K) -> EntityId,
    ) {
        if self.epoch != world.epoch || known.len() >= most {
            known.clear();
        } else if self.vanished < world.vanished.len() {
            let gone = &world.vanished[self.vanished..];
            known.retain(|key, _| !gone.contains(&entity(key)));
        }
        *self = world.age();
    }
}

thread_local! {
    static WORLD: RefCell<World> = RefCell::new(World::default());
}

/// What all handles share.
#[derive(Debug, Default)]
struct World {
    /// Name and kind of each declared metric.
    declared: Vec<(String, String)>,
    pending: Pending,
    /// Rises when every series number may be void.
    epoch: u64,
    /// Entities that vanished in this epoch.
    vanished: Vec<EntityId>,
}

/// Updates on their way, in the parallel lists of the contract.
#[derive(Debug)]
pub(crate) struct Pending {
    /// Rises with every flush; never 0, the round of a series without a pending update.
    round: u64,
    series: Vec<u32>,
    values: Vec<f64>,
    observed: Observed,
}

/// Values that were observed many times.
#[derive(Debug, Default)]
struct Observed {
    series: Vec<u32>,
    values: Vec<f64>,
    counts: Vec<u64>,
}

impl Default for Pending {
    fn default() -> Self {
        Self { round: 1, series: Vec::new(), values: Vec::new(), observed: Observed::default() }
    }
}

impl Pending {
    pub(crate) fn add(&mut self, series: &mut Series, n: f64) {
        *self.value_of(series) += n;
    }

    pub(crate) fn set(&mut self, series: &mut Series, value: f64) {
        *self.value_of(series) = value;
    }

    pub(crate) fn observe(&mut self, series: &mut Series, value: f64) {
        self.push(series.id, value);
    }

    pub(crate) fn observe_times(&mut self, series: &mut Series, value: f64, times: u64) {
        self.observed.series.push(series.id);
        self.observed.values.push(value);
        self.observed.counts.push(times);
    }

    fn len(&self) -> usize {
        self.values.len() + self.observed.values.len()
    }

    fn push(&mut self, id: u32, value: f64) {
        self.series.push(id);
        self.values.push(value);
    }

    fn value_of(&mut self, series: &mut Series) -> &mut f64 {
        if series.round != self.round {
            (series.round, series.at) = (self.round, self.values.len());
            self.push(series.id, 0.0);
        }
        &mut self.values[series.at]
    }

    /// Sends everything; returns how many the host refused.
    fn send(&mut self) -> u32 {
        let mut refused = 0;
        if !self.series.is_empty() {
            refused += metrics::apply(&self.series, &self.values);
            self.series.clear();
            self.values.clear();
            self.round += 1;
        }
        if !self.observed.series.is_empty() {
            let Observed { series, values, counts } = std::mem::take(&mut self.observed);
            refused += metrics::observe(&series, &values, &counts);
        }
        refused
    }
}

impl World {
    /// Index of a metric that is declared as one of these kinds.
    fn metric(&self, name: &str, kinds: &[&str]) -> Result<u32, Error> {
        let metric = self.declared.iter().position(|(n, kind)| n == name && kinds.contains(&kind.as_str()));
        let missing = || Error::new("invalid", format!("{name} is not a declared {}", kinds.join(" or ")));
        metric.and_then(|index| u32::try_from(index).ok()).ok_or_else(missing)
    }

    fn age(&self) -> Age {
        Age { epoch: self.epoch, vanished: self.vanished.len() }
    }

    fn flush(&mut self) {
        if self.pending.send() > 0 {
            self.start_afresh();
        }
    }

    fn start_afresh(&mut self) {
        self.epoch += 1;
        self.vanished.clear();
    }
}

/// Takes note of the description's metrics, and starts afresh.
pub(crate) fn declare(metrics: &[MetricDecl]) {
    WORLD.with_borrow_mut(|world| {
        world.declared = metrics.iter().map(|metric| (metric.name.clone(), metric.kind.clone())).collect();
        world.start_afresh();
    });
}

/// Sends all pending updates.
pub(crate) fn flush() {
    WORLD.with_borrow_mut(World::flush);
}

/// Forgets the series of entities that vanished; each handle does so at its next update.
pub(crate) fn forget(entities: &[EntityId]) {
    WORLD.with_borrow_mut(|world| {
        world.vanished.extend_from_slice(entities);
        if world.vanished.len() > VANISHED {
            world.start_afresh();
        }
    });
}
