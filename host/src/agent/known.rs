//! What a node, or a recording of one, keeps up to date for whoever takes its frames.

use std::sync::Arc;

use crate::entities::Entities;
use crate::loss::Loss;
use crate::peers::Peers;
use crate::status::Status;

/// See the module.
#[derive(Debug, Clone, Default)]
pub(super) struct Known {
    /// Whose network it is.
    pub(super) entities: Arc<Entities>,
    /// Who is at the other end.
    pub(super) peers: Arc<Peers>,
    /// What did not get through.
    pub(super) loss: Arc<Loss>,
    /// The state of every part.
    pub(super) status: Arc<Status>,
}
