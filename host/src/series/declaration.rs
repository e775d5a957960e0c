//! What a plugin may declare as a metric: names, labels and buckets that can never make a scrape
//! unreadable. Everything in a declaration was chosen by a guest and is checked here, once.

use serde::{Deserialize, Serialize};

use crate::text::escape;

/// Maximum number of labels a metric may declare.
pub const MAX_LABELS: usize = 10;
/// Maximum number of buckets of a histogram, `+Inf` not counted.
pub const MAX_BUCKETS: usize = 64;
/// Maximum number of metrics of a plugin.
pub const MAX_METRICS: usize = 1024;
/// Maximum bytes of a name; a longer one is refused.
pub const MAX_NAME: usize = 128;
/// Maximum bytes of a help text; a longer one is cut.
pub const MAX_HELP: usize = 512;

/// Labels that the host sets, and the one that a histogram needs.
const RESERVED_LABELS: [&str; 4] = ["namespace", "pod", "node", "le"];
/// Names that the agent itself, the process and Prometheus use.
const RESERVED_PREFIXES: &[&str] = &[
    "inspector_build_info",
    "inspector_entities",
    "inspector_events_total",
    "inspector_gaps",
    "inspector_http_",
    "inspector_kube_",
    "inspector_sink_",
    "inspector_left_out_processes",
    "inspector_lost_total",
    "inspector_plugin_",
    "inspector_probe_",
    "inspector_ready",
    "inspector_runtime_",
    "inspector_source_",
    "process_",
];

/// What `apply` does to a series, and how it is exposed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MetricKind {
    /// Adds; its name ends in `_total`.
    Counter,
    /// Sets.
    Gauge,
    /// Observes into cumulative buckets.
    Histogram,
    /// Sets; exposed untyped under exactly its name.
    Unknown,
}

impl MetricKind {
    /// The kind that the plugin contract calls so.
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "counter" => Some(Self::Counter),
            "gauge" => Some(Self::Gauge),
            "histogram" => Some(Self::Histogram),
            "unknown" => Some(Self::Unknown),
            _ => None,
        }
    }
}

/// One metric of a plugin.
#[derive(Debug, Clone, PartialEq)]
pub struct Decl {
    /// Full name, as it is exposed.
    pub name: String,
    /// What it counts and where that comes from.
    pub help: String,
    /// Unit, if the name ends in it.
    pub unit: Option<String>,
    /// What `apply` does.
    pub kind: MetricKind,
    /// Names of its own labels; namespace, pod and node are added by the host.
    pub labels: Vec<String>,
    /// Upper bounds, ascending; histogram only.
    pub buckets: Vec<f64>,
    /// Label sets it asks for; 0 = as many as the plugin may have.
    pub max_series: u32,
}

/// Why a declaration was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeclError {
    /// Not `[a-zA-Z_:][a-zA-Z0-9_:]*`, or too long.
    #[error("metric {0:?}: not a valid metric name of at most {MAX_NAME} bytes")]
    Name(String),
    /// A counter that does not say so.
    #[error("metric {0}: the name of a counter ends in _total")]
    Counter(String),
    /// The name belongs to the agent itself.
    #[error("metric {0}: the name is reserved for the agent")]
    Reserved(String),
    /// Not a label name, reserved, or there twice.
    #[error("metric {metric}: label {label:?} is invalid, reserved or there twice")]
    Label {
        /// The metric.
        metric: String,
        /// The label.
        label: String,
    },
    /// More than [`MAX_LABELS`].
    #[error("metric {0}: more than {MAX_LABELS} labels")]
    Labels(String),
    /// Buckets that do not ascend, are not finite, are too many, or belong to no histogram.
    #[error("metric {0}: buckets must be 1 to {MAX_BUCKETS} finite ascending bounds of a histogram")]
    Buckets(String),
    /// Another metric is called so, or exposes a sample of that name.
    #[error("metric {name}: the name is taken by {owner}")]
    Taken {
        /// The metric.
        name: String,
        /// Plugin that has it.
        owner: String,
    },
    /// More than [`MAX_METRICS`].
    #[error("more than {MAX_METRICS} metrics")]
    TooMany,
}

impl Decl {
    /// Checks everything about it that does not depend on other metrics.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn check(&self) -> Result<(), DeclError> {
        let name = || escape::admit(self.name.clone(), MAX_NAME);
        if !is_name(&self.name, ":") || self.base_name().is_empty() {
            return Err(DeclError::Name(name()));
        }
        if self.kind == MetricKind::Counter && !self.name.ends_with("_total") {
            return Err(DeclError::Counter(name()));
        }
        if RESERVED_PREFIXES.iter().any(|prefix| self.name.starts_with(prefix)) {
            return Err(DeclError::Reserved(name()));
        }
        if self.labels.len() > MAX_LABELS {
            return Err(DeclError::Labels(name()));
        }
        for (i, label) in self.labels.iter().enumerate() {
            let reserved = RESERVED_LABELS.contains(&label.as_str()) || label.starts_with("__");
            if !is_name(label, "") || reserved || self.labels[..i].contains(label) {
                return Err(DeclError::Label {
                    metric: name(),
                    label: escape::admit(label.clone(), MAX_NAME),
                });
            }
        }
        if self.buckets_are_fit() { Ok(()) } else { Err(DeclError::Buckets(name())) }
    }

    /// Names of all samples and families that this metric may expose in any format.
    pub fn claims(&self) -> Vec<String> {
        let with = |base: &str, ends: &[&str]| ends.iter().map(|end| format!("{base}{end}")).collect();
        match self.kind {
            MetricKind::Gauge | MetricKind::Unknown => vec![self.name.clone()],
            MetricKind::Histogram => with(&self.name, &["", "_bucket", "_sum", "_count", "_created"]),
            MetricKind::Counter => with(self.base_name(), &["", "_total", "_created"]),
        }
    }

    /// The family's name in OpenMetrics: a counter's without `_total`.
    pub fn base_name(&self) -> &str {
        match self.kind {
            MetricKind::Counter => self.name.strip_suffix("_total").unwrap_or(&self.name),
            _ => &self.name,
        }
    }

    /// Whether values of `other` are values of this one too.
    pub fn is_like(&self, other: &Self) -> bool {
        (&self.name, self.kind, &self.labels, &self.buckets)
            == (&other.name, other.kind, &other.labels, &other.buckets)
    }

    /// Samples that one label set exposes.
    pub fn weight(&self) -> u32 {
        match self.kind {
            MetricKind::Histogram => self.buckets.len() as u32 + 3,
            _ => 1,
        }
    }

    fn buckets_are_fit(&self) -> bool {
        match self.kind {
            MetricKind::Histogram => {
                (1..=MAX_BUCKETS).contains(&self.buckets.len())
                    && self.buckets.iter().all(|bound| bound.is_finite())
                    && self.buckets.is_sorted_by(|a, b| a < b)
            }
            _ => self.buckets.is_empty(),
        }
    }
}

/// Whether `name` is a letter or underscore, then letters, digits and underscores; `extra`
/// characters are allowed anywhere.
fn is_name(name: &str, extra: &str) -> bool {
    name.len() <= MAX_NAME
        && name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_' || extra.contains(c))
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || extra.contains(c))
}

#[cfg(test)]
impl Decl {
    /// A gauge with these labels.
    pub(crate) fn test(name: &str, kind: MetricKind, labels: &[&str]) -> Self {
        let buckets = if kind == MetricKind::Histogram { vec![0.1, 1.0] } else { vec![] };
        Self {
            name: name.to_owned(),
            help: "Help.".to_owned(),
            unit: None,
            kind,
            labels: labels.iter().map(|label| (*label).to_owned()).collect(),
            buckets,
            max_series: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_break_a_scrape_is_refused() {
        let decl = |name, kind, labels: &[&str]| Decl::test(name, kind, labels).check();
        assert_eq!(decl("x", MetricKind::Gauge, &["reason"]), Ok(()));
        assert!(matches!(decl("", MetricKind::Gauge, &[]), Err(DeclError::Name(_))));
        assert!(matches!(decl("a b", MetricKind::Gauge, &[]), Err(DeclError::Name(_))));
        assert!(matches!(decl("x\n# EOF", MetricKind::Gauge, &[]), Err(DeclError::Name(_))));
        assert!(matches!(decl("hits", MetricKind::Counter, &[]), Err(DeclError::Counter(_))));
        assert!(matches!(decl("process_x", MetricKind::Gauge, &[]), Err(DeclError::Reserved(_))));
        for label in ["namespace", "pod", "node", "le", "__x", "a-b", "1a", ""] {
            assert!(
                matches!(decl("x", MetricKind::Gauge, &[label]), Err(DeclError::Label { .. })),
                "{label}"
            );
        }
        assert!(matches!(decl("x", MetricKind::Gauge, &["a", "a"]), Err(DeclError::Label { .. })));
        let eleven = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k"];
        assert!(matches!(decl("x", MetricKind::Gauge, &eleven), Err(DeclError::Labels(_))));
    }

    #[test]
    fn buckets_ascend_and_are_finite() {
        let with = |buckets: &[f64]| {
            let decl = Decl::test("x_seconds", MetricKind::Histogram, &[]);
            Decl { buckets: buckets.to_vec(), ..decl }.check()
        };
        assert_eq!(with(&[0.1, 1.0]), Ok(()));
        for bad in [&[][..], &[1.0, 1.0], &[2.0, 1.0], &[f64::NAN], &[1.0, f64::INFINITY]] {
            assert!(matches!(with(bad), Err(DeclError::Buckets(_))), "{bad:?}");
        }
    }
}
