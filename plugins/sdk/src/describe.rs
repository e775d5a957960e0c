//! Builders for what an analyzer says about itself.
//!
//! They extend the generated records, so a field without a builder is set by its name.

use std::time::Duration;

use inspector_ebpf::Record;

use crate::bindings::inspector::analyzer::manifest::{EventDecl, Predicate, ScenarioDecl, Subscription};
use crate::{Description, MetricDecl};

/// Version of the world in `wit/analyzer.wit`.
pub const WORLD_VERSION: &str = "0.1.0";

/// Series a metric with labels asks for unless it says otherwise: a full node of 110 pods with a few label
/// values each. One without has a series per entity, and asks for all that the plugin may have.
const DEFAULT_SERIES: u32 = 2_000;

impl Description {
    /// An analyzer that wants nothing yet.
    pub fn new(name: &str, version: &str, help: &str) -> Self {
        Self {
            name: name.to_owned(),
            version: version.to_owned(),
            help: help.to_owned(),
            world_version: WORLD_VERSION.to_owned(),
            ..Self::default()
        }
    }

    /// Subscribes to all events of a probe. The analyzer loads also where the kernel lacks it.
    #[must_use]
    pub fn probe<R: Record>(mut self) -> Self {
        self.subscriptions.push(Subscription {
            probe: R::PROBE.to_owned(),
            min_schema: R::SCHEMA,
            required: false,
            filters: Vec::new(),
            sample_one_in: 1,
        });
        self
    }

    /// Wants of the probe named last only events whose integer field compares so (`eq` `ne` `lt`
    /// `le` `gt` `ge` `mask`); the host leaves the others out before they are copied. Repeated, all
    /// must hold.
    #[must_use]
    pub fn only(mut self, field: &str, op: &str, value: u64) -> Self {
        if let Some(subscription) = self.subscriptions.last_mut() {
            subscription.filters.push(Predicate { field: field.to_owned(), op: op.to_owned(), value });
        }
        self
    }

    /// Declares a metric.
    #[must_use]
    pub fn metric(mut self, metric: MetricDecl) -> Self {
        self.metrics.push(metric);
        self
    }

    /// Declares a kind of event.
    #[must_use]
    pub fn event(mut self, kind: &str, help: &str) -> Self {
        self.events.push(EventDecl { kind: kind.to_owned(), help: help.to_owned() });
        self
    }

    /// Answers a question of users under this name, e.g. `latency` (`diagnosis`).
    #[must_use]
    pub fn scenario(mut self, name: &str, help: &str) -> Self {
        self.scenarios.push(ScenarioDecl { name: name.to_owned(), help: help.to_owned() });
        self
    }

    /// Names a source that ticks read, e.g. `snmp`.
    #[must_use]
    pub fn source(mut self, name: &str) -> Self {
        self.sources.push(name.to_owned());
        self
    }

    /// Asks for ticks. At most about 49 days; the contract counts milliseconds in 32 bits.
    #[must_use]
    pub fn tick_every(mut self, interval: Duration) -> Self {
        self.tick_interval_ms = u32::try_from(interval.as_millis()).unwrap_or(u32::MAX);
        self
    }
}

impl MetricDecl {
    /// A counter; its name ends in `_total`.
    pub fn counter(name: &str, help: &str) -> Self {
        Self::of_kind("counter", name, help)
    }

    /// A gauge: the last value set counts.
    pub fn gauge(name: &str, help: &str) -> Self {
        Self::of_kind("gauge", name, help)
    }

    /// A histogram with these upper bounds, ascending.
    pub fn histogram(name: &str, help: &str, buckets: &[f64]) -> Self {
        Self { buckets: buckets.to_vec(), ..Self::of_kind("histogram", name, help) }
    }

    /// A value without a type, for names that must stay exactly as they are. It is set like a
    /// gauge, also where what it shows only ever rises.
    pub fn unknown(name: &str, help: &str) -> Self {
        Self::of_kind("unknown", name, help)
    }

    /// Names its labels, besides `namespace`, `pod` and `node`, which every metric has.
    #[must_use]
    pub fn labels(mut self, names: &[&str]) -> Self {
        self.labels = names.iter().map(|&name| name.to_owned()).collect();
        self.max_series = DEFAULT_SERIES;
        self
    }

    fn of_kind(kind: &str, name: &str, help: &str) -> Self {
        Self { name: name.to_owned(), help: help.to_owned(), kind: kind.to_owned(), ..Self::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::WORLD_VERSION;

    #[test]
    fn the_world_version_is_that_of_the_contract() {
        let contract = include_str!("../../../wit/analyzer.wit");
        assert!(contract.contains(&format!("package inspector:analyzer@{WORLD_VERSION};")));
    }
}
