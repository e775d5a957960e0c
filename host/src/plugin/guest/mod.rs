//! What a guest lives in (wasmtime): everything between a component file and one call into it.
//!
//! In reading order: `sandbox` is the engine for all of them; `prepare` compiles a component (with
//! `cache`), lets it describe itself and checks that; `setup` makes an `instance` of it, which is called
//! under a `deadline` and within its `bounds`; `imports` and `wasi` are what it may ask the host for,
//! `stdio` is where its output goes, `filter` what it subscribes to, `answer` what it reports when it is
//! asked. `bindings` is generated.
//!
//! Nothing here decides which plugins run, and nothing outside of this folder names wasmtime.

mod answer;
mod bindings;
mod bounds;
mod cache;
mod deadline;
mod filter;
mod imports;
mod instance;
mod prepare;
mod sandbox;
mod setup;
mod stdio;
mod wasi;

pub use prepare::Error as PrepareError;
pub use sandbox::Error as SandboxError;

pub(super) use instance::{Failure, Instance};
pub(super) use prepare::{Prepared, prepare};
pub(super) use sandbox::Sandbox;
pub(super) use setup::{Saved, declare, start};
