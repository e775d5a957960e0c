//! Metrics: one handle per declared metric, updated by entity and labels.
//!
//! Updating per event is cheap: a series is interned once, repeated updates of it inside a hook
//! become one, and all updates leave in one call when the hook returns.

use crate::labels::Labels;
use crate::series::{Family, Rows};
use crate::{EntityId, Error};

/// A counter: only rises.
#[derive(Debug)]
pub struct Counter<L = ()>(Family<L>);

impl<L: Labels> Counter<L> {
    /// The counter of that name in the analyzer's description.
    ///
    /// # Errors
    /// The description declares no such counter.
    pub fn declared(name: &str) -> Result<Self, Error> {
        Family::declared(name, &["counter"]).map(Self)
    }

    /// Adds `n`.
    pub fn add(&mut self, entity: EntityId, labels: L, n: u64) {
        self.0.update(entity, labels, |series, pending| pending.add(series, n as f64));
    }
}

/// A gauge, or a value without a type: the last value set in a hook counts.
#[derive(Debug)]
pub struct Gauge<L = ()>(Family<L>);

impl<L: Labels> Gauge<L> {
    /// The gauge or value without a type of that name in the analyzer's description.
    ///
    /// # Errors
    /// The description declares no such metric.
    pub fn declared(name: &str) -> Result<Self, Error> {
        Family::declared(name, &["gauge", "unknown"]).map(Self)
    }

    /// Sets the value.
    pub fn set(&mut self, entity: EntityId, labels: L, value: f64) {
        self.0.update(entity, labels, |series, pending| pending.set(series, value));
    }
}

/// Gauges, or values without a type, that have no labels and are always set together, such as the
/// columns of a table: what has not changed since the last time costs no update, and a series little
/// memory, so that thousands of entities are no burden.
#[derive(Debug)]
pub struct Gauges(Rows);

impl Gauges {
    /// The gauges or values without a type of these names in the analyzer's description.
    ///
    /// # Errors
    /// The description does not declare one of them.
    pub fn declared(names: &[String]) -> Result<Self, Error> {
        Rows::declared(names, &["gauge", "unknown"]).map(Self)
    }

    /// Sets each to its value, in the order of the names.
    pub fn set(&mut self, entity: EntityId, values: impl Iterator<Item = f64>) {
        self.0.set(entity, values);
    }

    /// There is nothing to set now. From the second time in a row on no values are shown until the next
    /// ones are set: what is not known must not look as if it were, and one interval late is not gone.
    pub fn miss(&mut self, entity: EntityId) {
        self.0.miss(entity);
    }
}

/// A histogram: every observation counts.
#[derive(Debug)]
pub struct Histogram<L = ()>(Family<L>);

impl<L: Labels> Histogram<L> {
    /// The histogram of that name in the analyzer's description.
    ///
    /// # Errors
    /// The description declares no such histogram.
    pub fn declared(name: &str) -> Result<Self, Error> {
        Family::declared(name, &["histogram"]).map(Self)
    }

    /// Adds one observation, in the base unit of the metric.
    pub fn observe(&mut self, entity: EntityId, labels: L, value: f64) {
        self.0.update(entity, labels, |series, pending| pending.observe(series, value));
    }

    /// Adds `times` observations of one value: what a probe has added up in the kernel is one call,
    /// with the mean of what is in one bucket.
    pub fn observe_times(&mut self, entity: EntityId, labels: L, value: f64, times: u64) {
        self.0.update(entity, labels, |series, pending| pending.observe_times(series, value, times));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::series::{PENDING, declare, flush, forget};
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
