//! Runs analyzers in their sandbox (wasmtime): loads every component of the plugins directories,
//! follows their changes while running, and hands each one its batches on a thread of its own.
//!
//! In code a component is a *plugin*; for users it is an *analyzer*.
//!
//! In reading order: [`plugins`] is what the agent sees; `loader` carries out what `catalog` decides of
//! the files that [`folder`] opens; `worker` runs one plugin from its `inbox` through its `life`;
//! `running` delivers to all of them. `player` runs all of them on one thread for a replay, `look` none
//! of them. What a guest lives in is `guest`.
//!
//! Whatever one plugin does, the others lose nothing, and a broken file leaves the running version
//! alone.

mod catalog;
pub mod folder;
mod guest;
mod inbox;
mod life;
mod loader;
mod look;
mod options;
mod player;
mod plugins;
mod question;
mod running;
mod shared;
mod worker;

pub use guest::{PrepareError, SandboxError as Error};
pub use loader::LoadProbes;
pub use look::{Described, Look, look};
pub use options::{Limits, Options};
pub use player::{Player, Refused};
pub use plugins::Plugins;
pub use question::ResolvedQuestion;
pub use shared::Shared;
