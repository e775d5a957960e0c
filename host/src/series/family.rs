//! One metric and the values of its label sets.
//!
//! Label values are escaped once, here, when a series is made; `exposition` only copies them. Which
//! series there may be is decided in `series`.

use std::collections::HashMap;
use std::sync::Arc;

use crate::entities::EntityId;
use crate::series::declaration::{Decl, MetricKind};
use crate::text::escape;

/// Maximum bytes of a label value; a longer one is cut.
pub const MAX_LABEL_VALUE: usize = 128;

/// One metric and its series.
#[derive(Debug)]
pub(crate) struct Family {
    pub(crate) decl: Arc<Decl>,
    /// Live handles that declare it.
    pub(crate) users: u32,
    pub(crate) series: Vec<Series>,
    pub(crate) by_labels: HashMap<(EntityId, Arc<str>), u32>,
}

#[derive(Debug)]
pub(crate) struct Series {
    pub(crate) slot: u32,
    pub(crate) entity: EntityId,
    /// `,name="value"` for every declared label, escaped.
    pub(crate) labels: Arc<str>,
    pub(crate) value: Value,
}

#[derive(Debug, Clone)]
pub(crate) enum Value {
    Number(f64),
    Histogram(Box<Histogram>),
}

#[derive(Debug, Clone)]
pub(crate) struct Histogram {
    /// Per bucket, not cumulative; the last one is `+Inf`.
    pub(crate) counts: Box<[u64]>,
    pub(crate) sum: f64,
}

/// Why an update changed nothing.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// The series went away with its entity; normal, the plugin asks for a new id.
    Stale,
    /// Negative, infinite or not a number, where that makes no sense.
    Value,
}

impl Family {
    pub(crate) fn new(decl: &Decl) -> Self {
        Self { decl: Arc::new(decl.clone()), users: 0, series: Vec::new(), by_labels: HashMap::new() }
    }

    /// Observes a value `times` times in the histogram at an index.
    pub(crate) fn observe(&mut self, index: usize, value: f64, times: u64) -> Result<(), Refused> {
        let Value::Histogram(histogram) = &mut self.series[index].value else { return Err(Refused::Value) };
        let sum = histogram.sum + value * times as f64;
        if !sum.is_finite() {
            return Err(Refused::Value);
        }
        let bucket = &mut histogram.counts[self.decl.buckets.partition_point(|bound| *bound < value)];
        *bucket = bucket.saturating_add(times);
        histogram.sum = sum;
        Ok(())
    }

    /// Updates the series at an index.
    pub(crate) fn update(&mut self, index: usize, value: f64) -> Result<(), Refused> {
        match (&mut self.series[index].value, self.decl.kind) {
            (Value::Number(total), MetricKind::Counter) if value >= 0.0 && (*total + value).is_finite() => {
                *total += value;
            }
            (Value::Number(last), MetricKind::Gauge | MetricKind::Unknown) => *last = value,
            (Value::Histogram(_), _) => return self.observe(index, value, 1),
            _ => return Err(Refused::Value),
        }
        Ok(())
    }

    pub(crate) fn zero(&self) -> Value {
        match self.decl.kind {
            MetricKind::Histogram => {
                let counts = vec![0; self.decl.buckets.len() + 1].into_boxed_slice();
                Value::Histogram(Box::new(Histogram { counts, sum: 0.0 }))
            }
            _ => Value::Number(0.0),
        }
    }
}

/// Appends `name="value"`; the value is cut, and no character of it can end it early.
pub(crate) fn push_label(text: &mut String, name: &str, value: &str) {
    text.push_str(name);
    text.push_str("=\"");
    for c in escape::admit(value.to_owned(), MAX_LABEL_VALUE).chars() {
        match c {
            '\\' => text.push_str("\\\\"),
            '"' => text.push_str("\\\""),
            // `escape` has left no line feed, the third character that the formats escape.
            c => text.push(c),
        }
    }
    text.push('"');
}
