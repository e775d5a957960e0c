//! The parts of the core that all plugins read and write.

use std::sync::Arc;

use crate::clock::Clock;
use crate::entities::Entities;
use crate::events::log::EventLog;
use crate::kernel::names::KernelNames;
use crate::kernel::table::Columns;
use crate::loss::Loss;
use crate::series::metrics::Metrics;
use crate::status::Status;

/// See the module.
#[derive(Debug, Clone)]
pub struct Shared {
    /// Name of this node.
    pub node: String,
    /// Release of the running kernel.
    pub kernel: String,
    /// What time it is.
    pub clock: Arc<Clock>,
    /// Every network namespace that is known.
    pub entities: Arc<Entities>,
    /// What the running kernel calls things.
    pub names: Arc<KernelNames>,
    /// Columns of every source.
    pub columns: Arc<Columns>,
    /// Where series go.
    pub metrics: Arc<Metrics>,
    /// Where events go.
    pub events: Arc<EventLog>,
    /// What got lost.
    pub loss: Arc<Loss>,
    /// The state of every part of the agent.
    pub status: Arc<Status>,
}
