//! Writes everything that `/metrics` shows, as Prometheus text 0.0.4 or OpenMetrics 1.0.0.
//!
//! Plugin series have their own encoder, because prometheus-client appends `_total` to names that
//! are a contract, knows only OpenMetrics and is too slow for 100 000 series: here a line is a
//! few copies of text that was escaped when the series was made. Two entities of one name (a
//! tombstone and its successor) are one line each, so a scrape never has a duplicate.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasherDefault, Hasher};
use std::io::Write as _;
use std::sync::Arc;

use crate::declaration::{Decl, MAX_HELP, MetricKind};
use crate::entities::{Entities, EntityId, Kind};
use crate::escape;
use crate::metrics::Metrics;
use crate::series::{Family, Histogram, Series, Value, push_label};

/// A text format that scrapers understand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Prometheus text 0.0.4.
    Text,
    /// OpenMetrics 1.0.0.
    OpenMetrics,
}

impl Format {
    /// The format a scraper prefers by its `Accept` header; text if it does not say.
    pub fn negotiate(accept: &str) -> Self {
        let quality = |kind: &str| {
            let matching = accept.split(',').filter(|range| range.trim().starts_with(kind));
            matching.map(quality_of).fold(0.0, f64::max)
        };
        let open = quality("application/openmetrics-text");
        if open > 0.0 && open >= quality("text/plain") { Self::OpenMetrics } else { Self::Text }
    }

    /// The `Content-Type` of the answer.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// What the labels that the host sets are called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabelNames {
    /// Kubernetes namespace.
    pub namespace: String,
    /// Pod or other name.
    pub pod: String,
    /// Node the agent runs on.
    pub node: String,
}

impl Default for LabelNames {
    fn default() -> Self {
        Self { namespace: "namespace".to_owned(), pod: "pod".to_owned(), node: "node".to_owned() }
    }
}

/// Appends all plugin series, by name.
pub fn encode(out: &mut Vec<u8>, metrics: &Metrics, identities: &mut Identities<'_>, format: Format) {
    for exposed in metrics.exposed() {
        exposed.read(|family| encode_family(out, family, identities, format));
    }
}

/// The host's labels of each entity, looked up once per scrape.
#[derive(Debug)]
pub struct Identities<'a> {
    entities: &'a Entities,
    node: &'a str,
    names: &'a LabelNames,
    by_entity: HashMap<EntityId, Option<u32>, BuildHasherDefault<IdHasher>>,
    /// `{namespace="…",pod="…",node="…"`, and whether several entities are called so.
    known: Vec<Identity>,
    by_labels: HashMap<Arc<str>, u32>,
}

#[derive(Debug)]
struct Identity {
    labels: Arc<str>,
    shared: bool,
}

impl<'a> Identities<'a> {
    /// Nobody is looked up yet.
    pub fn new(entities: &'a Entities, node: &'a str, names: &'a LabelNames) -> Self {
        let (by_entity, known, by_labels) = (HashMap::default(), Vec::new(), HashMap::new());
        Self { entities, node, names, by_entity, known, by_labels }
    }

    /// `None` for an entity that is forgotten: what is left of it is not shown.
    fn number(&mut self, id: EntityId) -> Option<u32> {
        if let Some(number) = self.by_entity.get(&id) {
            return *number;
        }
        let number = self.labels(id).map(|labels| {
            let next = self.known.len() as u32;
            let number = *self.by_labels.entry(Arc::clone(&labels)).or_insert(next);
            match self.known.get_mut(number as usize) {
                Some(identity) => identity.shared = true,
                None => self.known.push(Identity { labels, shared: false }),
            }
            number
        });
        self.by_entity.insert(id, number);
        number
    }

    fn labels(&self, id: EntityId) -> Option<Arc<str>> {
        let entity = if id == 0 { None } else { Some(self.entities.get(id)?) };
        let (namespace, pod) = match &entity {
            None => ("", "unknown"),
            Some(host) if host.kind == Kind::Host => ("", ""),
            Some(entity) => (entity.namespace.as_str(), entity.name.as_str()),
        };
        let mut labels = String::from("{");
        push_label(&mut labels, &self.names.namespace, namespace);
        labels.push(',');
        push_label(&mut labels, &self.names.pod, pod);
        labels.push(',');
        push_label(&mut labels, &self.names.node, self.node);
        Some(labels.into())
    }

    fn identity(&self, number: u32) -> &Identity {
        &self.known[number as usize]
    }
}

fn encode_family(out: &mut Vec<u8>, family: &Family, identities: &mut Identities<'_>, format: Format) {
    if family.series.is_empty() {
        return;
    }
    encode_head(out, &family.decl, format);
    let lines = Lines::new(&family.decl);
    let start = out.len();
    for series in &family.series {
        let Some(number) = identities.number(series.entity) else { continue };
        let identity = identities.identity(number);
        if identity.shared {
            // Rare: begin this family again, with equal series added up.
            out.truncate(start);
            for ((number, labels), (_, value)) in merge(family, identities) {
                lines.push(out, &identities.identity(number).labels, &labels, &value);
            }
            return;
        }
        lines.push(out, &identity.labels, &series.labels, &series.value);
    }
}

/// One value per label set: counters and histograms are added up, of the others the one of the
/// newest entity is taken.
fn merge(
    family: &Family,
    identities: &mut Identities<'_>,
) -> BTreeMap<(u32, Arc<str>), (EntityId, Value)> {
    let mut merged: BTreeMap<(u32, Arc<str>), (EntityId, Value)> = BTreeMap::new();
    for Series { entity, labels, value, .. } in &family.series {
        let Some(number) = identities.number(*entity) else { continue };
        let (newest, sum) = merged
            .entry((number, Arc::clone(labels)))
            .and_modify(|(_, sum)| add(sum, value, family.decl.kind))
            .or_insert_with(|| (*entity, value.clone()));
        if *entity > *newest {
            *newest = *entity;
            if matches!(family.decl.kind, MetricKind::Gauge | MetricKind::Unknown) {
                *sum = value.clone();
            }
        }
    }
    merged
}

fn add(sum: &mut Value, value: &Value, kind: MetricKind) {
    match (sum, value) {
        (Value::Number(sum), Value::Number(value)) if kind == MetricKind::Counter => *sum += value,
        (Value::Histogram(sum), Value::Histogram(value)) => {
            sum.counts.iter_mut().zip(&value.counts).for_each(|(sum, count)| *sum += count);
            sum.sum += value.sum;
        }
        _ => {}
    }
}

fn encode_head(out: &mut Vec<u8>, decl: &Decl, format: Format) {
    let (name, kind) = match (format, decl.kind) {
        (Format::Text, MetricKind::Counter) => (decl.name.as_str(), "counter"),
        (Format::Text, MetricKind::Unknown) => (decl.name.as_str(), "untyped"),
        (Format::OpenMetrics, MetricKind::Unknown) => (decl.name.as_str(), "unknown"),
        (Format::OpenMetrics, MetricKind::Counter) => (decl.base_name(), "counter"),
        (_, MetricKind::Gauge) => (decl.name.as_str(), "gauge"),
        (_, MetricKind::Histogram) => (decl.name.as_str(), "histogram"),
    };
    let mut help = escape::admit(decl.help.clone(), MAX_HELP).replace('\\', "\\\\");
    if format == Format::OpenMetrics {
        help = help.replace('"', "\\\"");
    }
    out.extend_from_slice(format!("# HELP {name} {help}\n# TYPE {name} {kind}\n").as_bytes());
    if let (Format::OpenMetrics, Some(unit)) = (format, &decl.unit) {
        // The format demands that the name ends in the unit.
        if name.strip_suffix(unit.as_str()).is_some_and(|rest| rest.ends_with('_')) {
            out.extend_from_slice(format!("# UNIT {name} {unit}\n").as_bytes());
        }
    }
}

/// The parts of a family's lines that are the same in every line.
struct Lines<'a> {
    name: &'a [u8],
    /// Histogram: `,le="…"} ` of each bucket, `+Inf` last.
    bounds: Vec<String>,
}

impl<'a> Lines<'a> {
    fn new(decl: &'a Decl) -> Self {
        let finite = decl.buckets.iter().map(|bound| format!(",le=\"{bound:?}\"}} "));
        let bounds = finite.chain([",le=\"+Inf\"} ".to_owned()]).collect();
        Self { name: decl.name.as_bytes(), bounds }
    }

    fn push(&self, out: &mut Vec<u8>, identity: &str, labels: &str, value: &Value) {
        match value {
            Value::Number(number) => {
                self.sample(out, b"", identity, labels);
                out.extend_from_slice(b"} ");
                push_number(out, *number);
                out.push(b'\n');
            }
            Value::Histogram(histogram) => self.push_histogram(out, identity, labels, histogram),
        }
    }

    fn push_histogram(&self, out: &mut Vec<u8>, identity: &str, labels: &str, histogram: &Histogram) {
        let mut count = 0;
        for (bound, in_bucket) in self.bounds.iter().zip(&histogram.counts) {
            count += in_bucket;
            self.sample(out, b"_bucket", identity, labels);
            out.extend_from_slice(bound.as_bytes());
            push_integer(out, count);
            out.push(b'\n');
        }
        self.sample(out, b"_sum", identity, labels);
        out.extend_from_slice(b"} ");
        push_number(out, histogram.sum);
        out.push(b'\n');
        self.sample(out, b"_count", identity, labels);
        out.extend_from_slice(b"} ");
        push_integer(out, count);
        out.push(b'\n');
    }

    fn sample(&self, out: &mut Vec<u8>, suffix: &[u8], identity: &str, labels: &str) {
        out.extend_from_slice(self.name);
        out.extend_from_slice(suffix);
        out.extend_from_slice(identity.as_bytes());
        out.extend_from_slice(labels.as_bytes());
    }
}

fn push_number(out: &mut Vec<u8>, number: f64) {
    // Whole numbers below 2^53 are exact, and most values are such.
    if number.fract() == 0.0 && number.abs() < 9_007_199_254_740_992.0 {
        if number < 0.0 {
            out.push(b'-');
        }
        return push_integer(out, number.abs() as u64);
    }
    match number {
        f64::INFINITY => out.extend_from_slice(b"+Inf"),
        f64::NEG_INFINITY => out.extend_from_slice(b"-Inf"),
        number => write!(out, "{number:?}").expect("writing to a Vec cannot fail"),
    }
}

fn push_integer(out: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0; 20];
    let mut first = digits.len();
    loop {
        first -= 1;
        digits[first] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            return out.extend_from_slice(&digits[first..]);
        }
    }
}

/// The `q` of a media range; 1 if it has none.
fn quality_of(range: &str) -> f64 {
    let q = range.split(';').find_map(|parameter| parameter.trim().strip_prefix("q="));
    q.map_or(1.0, |q| q.trim().parse().unwrap_or(0.0))
}

/// Spreads consecutive ids. The default hasher's protection against chosen keys costs more than the
/// rest of a line and is not needed: the agent itself assigns ids, and `metrics` takes no others.
#[derive(Debug, Default)]
struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u32(u32::from(*byte));
        }
    }

    fn write_u32(&mut self, id: u32) {
        self.0 = (self.0 ^ u64::from(id)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}
