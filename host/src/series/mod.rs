//! What analyzers count.
//!
//! In reading order: [`declaration`] is what a plugin declares, [`metrics`] owns all series, [`ids`] are
//! the numbers by which a plugin refers to its own, [`family`] holds the values of one metric.

pub mod choice;
pub mod declaration;
pub mod family;
pub mod ids;
pub mod metrics;
