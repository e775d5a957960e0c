//! The trait that makes an analyzer.

use crate::batch::Batch;
pub use crate::bindings::diagnosis::exports::inspector::analyzer::diagnosis::{
    Action, Check, Evidence, Finding, Report, Request,
};
use crate::probes::Record;
use crate::{Description, EntityId, Error, InitArgs, Timestamp};

/// Whether this node delivers a probe. What only it would show is not zero where it is missing, but
/// not known, and must not be shown.
pub fn is_granted<R: Record>(args: &InitArgs) -> bool {
    args.probes.iter().flatten().any(|probe| probe.name == R::PROBE)
}

/// The part that a finding, or a line of its evidence, plays for the conversations that it names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It is what they suffer from.
    Cause,
    /// It is what they suffer; the cause may be elsewhere.
    Symptom,
}

impl Role {
    /// As the contract has it: `role` of a finding, and the attribute `role` of evidence.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cause => "cause",
            Self::Symptom => "symptom",
        }
    }
}

/// An analyzer: one state, fed by the host through the hooks below.
///
/// `describe` and `init` are mandatory. `on_batch` is always exported; every other hook is called
/// only if [`export!`](crate::export!) lists it, under the name that its line gives in brackets.
///
/// Calls never overlap. There is no clock, file or network: time is an argument, so that a replay
/// of the same input gives the same output. A panic costs the analyzer its state and is reported.
pub trait Analyzer: Sized + 'static {
    /// What it is and wants. Pure: the host calls it in a throw-away instance without imports.
    fn describe() -> Description;

    /// Builds the state; called once, before every other hook.
    ///
    /// # Errors
    /// What it cannot work without; the analyzer then does not run.
    fn init(args: &InitArgs) -> Result<Self, Error>;

    /// Takes the next events of one subscribed probe.
    ///
    /// # Errors
    /// A batch it cannot use; counted and logged by the host, and the analyzer goes on.
    fn on_batch(&mut self, batch: &Batch<'_>) -> Result<(), Error> {
        let _ = batch;
        Ok(())
    }

    /// Once per [`Description::tick_every`] (`ticker`).
    fn tick(&mut self, now: Timestamp) {
        let _ = now;
    }

    /// Entities that got a name, or another one (`entity_watch`).
    fn added(&mut self, ids: &[EntityId]) {
        let _ = ids;
    }

    /// Entities that vanished: drop what is kept for them (`entity_watch`). Series are forgotten
    /// by the SDK.
    fn removed(&mut self, ids: &[EntityId]) {
        let _ = ids;
    }

    /// Answers a question of a user (`diagnosis`).
    ///
    /// # Errors
    /// A scenario it does not know.
    fn diagnose(&mut self, request: &Request) -> Result<Report, Error> {
        Err(Error::new("not-found", format!("no scenario {:?}", request.scenario)))
    }

    /// State to carry over a reload or a restart (`snapshot`).
    fn save(&self) -> Vec<u8> {
        Vec::new()
    }

    /// Takes over what [`Analyzer::save`] of version `from_version` returned (`snapshot`).
    ///
    /// # Errors
    /// Bytes it cannot read; it then goes on empty.
    fn restore(&mut self, from_version: &str, state: &[u8]) -> Result<(), Error> {
        let _ = (from_version, state);
        Ok(())
    }
}

impl Error {
    /// An error with a machine-readable code (`denied`, `quota`, `not-found`, `invalid`).
    pub fn new(code: &str, message: impl Into<String>) -> Self {
        Self { code: code.to_owned(), message: message.into() }
    }
}
