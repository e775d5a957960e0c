//! A question on its way to the analyzers: everything that it names is found already.

use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant};

use crate::answers::report::AnalyzerReply;
use crate::entities::EntityId;
use crate::kernel::table::Snapshot;

/// A question for all plugins that answer it.
#[derive(Debug, Clone)]
pub struct ResolvedQuestion {
    /// The question's name.
    pub scenario: String,
    /// Who is asked about; empty = everybody.
    pub entities: Vec<EntityId>,
    /// How far to look back.
    pub window: Duration,
    /// When it is asked, nanoseconds since the Unix epoch.
    pub now_ns: u64,
    /// Tables as of now, if they could be read; a guest is shown them before it is asked.
    pub snapshot: Option<Arc<Snapshot>>,
    /// Whoever has not answered by then is not waited for.
    pub deadline: Instant,
}

/// A question that waits for one plugin, and who waits for the answer.
pub(super) struct PendingQuestion {
    /// Shared by all plugins that are asked.
    pub(super) question: Arc<ResolvedQuestion>,
    /// Where the answer goes.
    pub(super) reply: SyncSender<AnalyzerReply>,
}
