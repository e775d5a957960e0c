//! Series numbers and updates on their way to the host.
//!
//! A family maps an entity and its labels to the host's series number; [`Rows`] do it for many metrics
//! without labels at once. Nothing here outlives its entity: when the host reports it gone its series
//! are forgotten, and when the host refuses an update every family starts afresh.

use std::cell::RefCell;
use std::collections::hash_map::Entry;

use crate::host::metrics;
use crate::map::Map;
use crate::metrics::Labels;
use crate::{EntityId, Error, MetricDecl};

/// So many updates leave before the hook returns, so that a hook cannot grow without end.
const PENDING: usize = 8_192;

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::{Counter, Gauge, Gauges, Histogram};
    use crate::testing::host;
    use crate::{Description, MetricDecl};

    fn declared() {
        let description = Description::new("t", "1", "")
            .metric(MetricDecl::gauge("depth", ""))
            .metric(MetricDecl::unknown("width", ""))
            .metric(MetricDecl::counter("seen_total", "").labels(&["what"]))
            .metric(MetricDecl::histogram("seconds", "", &[1.0]));
        host::enter(host::World::default(), &description);
        declare(&description.metrics);
    }

    #[test]
    fn updates_of_one_series_are_interned_once_and_sent_once() {
        declared();
        let mut seen = Counter::<&str>::declared("seen_total").expect("declared");
        for round in 1..=3_u32 {
            (0..10).for_each(|_| seen.add(1, "a", 2));
            flush();
            assert_eq!(host::value("seen_total", 1, &["a"]), Some(f64::from(round) * 20.0));
        }
        assert_eq!(host::metric_calls(), (3, 1));
    }

    #[test]
    fn a_gauge_keeps_its_last_value_and_a_histogram_every_observation() {
        declared();
        let mut depth = Gauge::<()>::declared("depth").expect("declared");
        let mut seconds = Histogram::<()>::declared("seconds").expect("declared");
        for value in [3.0, 1.0] {
            depth.set(1, (), value);
            seconds.observe(1, (), value);
        }
        flush();
        assert_eq!(host::value("depth", 1, &[]), Some(1.0));
        assert_eq!(host::value("seconds", 1, &[]), Some(2.0));
    }

    #[test]
    fn a_gauge_that_is_missed_twice_has_no_value_and_one_that_never_was_is_not_made() {
        declared();
        let mut depth = Gauges::declared(&["depth".to_owned()]).expect("declared");
        depth.set(1, [3.0].into_iter());
        depth.miss(1);
        depth.miss(2);
        flush();
        assert_eq!(host::value("depth", 1, &[]), Some(3.0), "one interval late is not gone");
        depth.miss(1);
        depth.miss(2);
        flush();
        assert!(host::value("depth", 1, &[]).is_some_and(f64::is_nan));
        assert_eq!(host::value("depth", 2, &[]), None);
    }

    #[test]
    fn what_was_observed_many_times_is_one_entry_of_one_call() {
        declared();
        let mut seconds = Histogram::<()>::declared("seconds").expect("declared");
        seconds.observe_times(1, (), 0.5, 1_000_000);
        seconds.observe_times(1, (), 2.0, 3);
        flush();
        assert_eq!(host::value("seconds", 1, &[]), Some(1_000_003.0));
        assert_eq!(host::sum("seconds", 1, &[]), Some(500_006.0));
        assert_eq!(host::metric_calls(), (1, 1));
    }

    fn gauges() -> Gauges {
        let names = ["depth", "width"].map(str::to_owned);
        Gauges::declared(&names).expect("declared")
    }

    #[test]
    fn what_has_not_changed_is_not_sent_again() {
        declared();
        let mut gauges = gauges();
        for values in [[1.0, 2.0], [1.0, 2.0], [1.0, 3.0]] {
            gauges.set(1, values.into_iter());
            flush();
        }
        assert_eq!((host::value("depth", 1, &[]), host::value("width", 1, &[])), (Some(1.0), Some(3.0)));
        assert_eq!(host::metric_calls(), (2, 2));
    }

    #[test]
    fn after_a_refusal_also_what_has_not_changed_is_sent_again() {
        declared();
        let mut gauges = gauges();
        gauges.set(1, [1.0, 2.0].into_iter());
        flush();
        host::void_all_series();
        for width in [3.0, 3.0] {
            gauges.set(1, [1.0, width].into_iter());
            flush();
        }
        assert_eq!((host::value("depth", 1, &[]), host::value("width", 1, &[])), (Some(1.0), Some(3.0)));
    }

    #[test]
    fn an_entity_without_room_costs_one_question_each_time_and_gets_its_series_once_there_is_room() {
        declared();
        let mut gauges = gauges();
        host::set_room(3);
        let mut set = |entity| {
            gauges.set(entity, [1.0, 2.0].into_iter());
            flush();
        };
        [1, 2, 3, 3].into_iter().for_each(&mut set);
        assert_eq!(host::value("depth", 2, &[]), Some(1.0));
        assert_eq!(host::value("width", 2, &[]), None);
        assert_eq!(host::metric_calls().1, 2 + 2 + 1 + 1);
        host::set_room(6);
        [2, 3].into_iter().for_each(&mut set);
        assert_eq!((host::value("width", 2, &[]), host::value("width", 3, &[])), (Some(2.0), Some(2.0)));
    }

    #[test]
    fn a_handle_of_another_kind_or_name_is_refused() {
        declared();
        assert!(Gauge::<()>::declared("seen_total").is_err());
        assert!(Counter::<()>::declared("missing_total").is_err());
    }

    #[test]
    fn the_series_of_a_vanished_entity_are_asked_for_again_and_no_others() {
        declared();
        let mut seen = Counter::<&str>::declared("seen_total").expect("declared");
        let mut both = |n| [1, 2].iter().for_each(|entity| seen.add(*entity, "a", n));
        both(1);
        forget(&[2]);
        both(1);
        assert_eq!(host::metric_calls().1, 3);
    }

    #[test]
    fn after_a_refused_update_every_series_is_asked_for_again() {
        declared();
        let mut seen = Counter::<&str>::declared("seen_total").expect("declared");
        seen.add(1, "a", 1);
        flush();
        host::void_all_series();
        seen.add(1, "a", 1);
        flush();
        assert_eq!(host::value("seen_total", 1, &["a"]), None, "lost with the refusal");
        seen.add(1, "a", 1);
        flush();
        assert_eq!(host::value("seen_total", 1, &["a"]), Some(1.0));
    }

    #[test]
    fn a_hook_that_updates_without_end_does_not_grow_without_end() {
        declared();
        let mut seconds = Histogram::<()>::declared("seconds").expect("declared");
        (0..3 * PENDING).for_each(|_| seconds.observe(1, (), 0.5));
        assert_eq!(host::metric_calls().0, 3);
    }
}
