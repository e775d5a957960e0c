//! What comes in, whoever gives it: the kernel of this node or a recording of another one.
//!
//! A frame refers to values that its giver and its taker share. Entities are in the table before a frame
//! tells of them; the names behind numbers ([`crate::kernel::names`]) and the counts of loss
//! ([`crate::loss`]) are looked up there. Only what lies behind a file is written out, as
//! [`crate::trace`] says, so in memory no event is copied for it.

use std::sync::Arc;

use crate::entities::Changes;
use crate::kernel::batch::Batch;
use crate::kernel::table::Snapshot;

/// One piece of what comes in.
#[derive(Debug, Clone)]
pub enum Frame {
    /// Entities came, got a name, vanished or were forgotten.
    Entities(Changes),
    /// Records of one probe.
    Batch(Arc<Batch>),
    /// The counter tables of all entities, once per interval.
    Tables(Arc<Snapshot>),
}

/// Takes frames. They come from several threads, those of one kind in their order.
pub trait Take: Send + Sync {
    /// Takes one. Blocking it holds up its giver, and what does not fit a ring meanwhile is lost there.
    fn take(&self, frame: Frame);
}
