//! The product against its promises, one module each. See `inspector_tests` for the lab and the
//! harness. Tests run as root and in parallel; those that load the whole machine take turns.

mod accounting;
mod advice;
mod bad_input;
mod catalog;
mod churn;
mod clients;
mod cluster;
mod command_line;
mod conclusions;
mod dependencies;
mod deploy;
mod diagnose;
mod documents;
mod entities;
mod freshness;
mod import_rules;
mod kernel_tests;
mod kubernetes;
mod lab;
mod latency;
mod layout;
mod make_targets;
mod network_policies;
mod observer;
mod plugins;
mod pods;
mod privileges;
mod probes;
mod prometheus;
mod readme;
mod replay;
mod scale;
mod services;
mod signals;
mod sinks;
mod sources;
mod start;
mod verdict;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// The turn of a test that keeps a CPU busy for seconds. Two of them at once would measure each
/// other; a failed one does not fail the next.
fn heavy() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}
