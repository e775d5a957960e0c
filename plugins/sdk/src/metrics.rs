//! Metrics: one handle per declared metric, updated by entity and labels.
//!
//! Updating per event is cheap: a series is interned once, repeated updates of it inside a hook
//! become one, and all updates leave in one call when the hook returns.

use std::hash::Hash;

use crate::series::{Family, Rows};
use crate::{EntityId, Error};

/// What makes two series of one metric different: a key that is cheap to compare, and the label
/// values that it stands for. They are asked for only when a series is new.
pub trait Labels: Clone + Eq + Hash {
    /// One value per declared label.
    fn values(&self) -> Vec<String>;
}

impl Labels for () {
    fn values(&self) -> Vec<String> {
        Vec::new()
    }
}

impl Labels for &'static str {
    fn values(&self) -> Vec<String> {
        vec![(*self).to_owned()]
    }
}

impl Labels for String {
    fn values(&self) -> Vec<String> {
        vec![self.clone()]
    }
}

impl<const N: usize> Labels for [&'static str; N] {
    fn values(&self) -> Vec<String> {
        self.iter().map(|&value| value.to_owned()).collect()
    }
}

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
