//! Everything that can be looked at from outside, in one value that `http/` is given.

use std::sync::Arc;

use crate::entities::Entities;
use crate::events::EventLog;
use crate::exposition::{Format, Identities, LabelNames, encode};
use crate::loss::Loss;
use crate::metrics::Metrics;
use crate::selfmetrics::{self, Process};
use crate::status::Status;

/// The agent's nouns, shared with whoever shows them.
#[derive(Debug)]
pub struct View {
    /// Plugin series.
    pub metrics: Arc<Metrics>,
    /// Recent events.
    pub events: Arc<EventLog>,
    /// Who is who.
    pub entities: Arc<Entities>,
    /// State of every part.
    pub status: Arc<Status>,
    /// What was lost where.
    pub loss: Arc<Loss>,
    /// Name of this node.
    pub node: String,
    /// Revision of the source this agent was built from.
    pub revision: &'static str,
    /// What the labels of entities are called.
    pub labels: LabelNames,
}

impl View {
    /// One complete scrape.
    pub fn scrape(&self, process: &Process, format: Format, capacity: usize) -> Vec<u8> {
        let mut out = Vec::with_capacity(capacity);
        let mut identities = Identities::new(&self.entities, &self.node, &self.labels);
        encode(&mut out, &self.metrics, &mut identities, format);
        selfmetrics::encode(&mut out, self, process, format);
        if format == Format::OpenMetrics {
            out.extend_from_slice(b"# EOF\n");
        }
        out
    }
}
