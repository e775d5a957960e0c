//! Where plugins come from, and what each may use.

use std::path::PathBuf;
use std::time::Duration;

/// What one plugin may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Linear memory of all its modules.
    pub memory_bytes: usize,
    /// CPU time for one batch.
    pub deadline: Duration,
}

/// Where plugins come from and what they may use.
#[derive(Debug, Clone)]
pub struct Options {
    /// Directories with `*.wasm` components.
    pub directories: Vec<PathBuf>,
    /// Names of plugins that are not run.
    pub disabled: Vec<String>,
    /// Directory for compiled components, made if missing.
    pub cache: Option<PathBuf>,
    /// What each plugin may use.
    pub limits: Limits,
}
