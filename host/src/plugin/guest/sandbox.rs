//! The wasmtime engine, the linker, and where compiled components are kept.
//!
//! A guest gets the imports of the contract, and of WASI what `std` links against with nothing
//! granted: no files, no sockets, no environment, no real clock and no entropy, so that a replay
//! is deterministic. Nothing here runs precompiled code from outside ([`super::cache`] reads only
//! what this program wrote).

use std::path::Path;
use std::sync::Arc;

use wasmtime::component::{Component, HasSelf, Linker, ResourceTable};
use wasmtime::{Config, Engine};
use wasmtime_wasi::cli::{WasiCli, WasiCliView as _};
use wasmtime_wasi::filesystem::{WasiFilesystem, WasiFilesystemView as _};
use wasmtime_wasi::p2::bindings as wasi;

use super::bindings::FullAnalyzer;
use super::cache::Cache;
use super::deadline::Epochs;
use super::imports::State;
use crate::plugin::folder;

/// Interfaces a component may import; anything else is refused with its name.
const GRANTED: &[&str] =
    &["inspector:analyzer/", "wasi:cli/", "wasi:clocks/", "wasi:filesystem/", "wasi:io/", "wasi:random/"];

/// The sandbox could not be set up.
#[derive(Debug, thiserror::Error)]
#[error("cannot set up the WebAssembly sandbox: {0}")]
pub struct Error(wasmtime::Error);

/// Where all guests live.
pub(crate) struct Sandbox {
    pub(super) engine: Engine,
    pub(super) linker: Linker<State>,
    pub(super) cache: Cache,
    pub(super) epochs: Arc<Epochs>,
}

impl Sandbox {
    /// With a directory for compiled components, if there is to be one.
    ///
    /// # Errors
    /// The host refuses what wasmtime needs (executable memory).
    pub(crate) fn new(cache: Option<&Path>) -> Result<Self, Error> {
        let engine = engine().map_err(Error)?;
        let linker = linker(&engine).map_err(Error)?;
        let epochs = Epochs::start(&engine);
        Ok(Self { engine, linker, cache: Cache::new(cache), epochs })
    }

    /// Whether a component was compiled before, so that it starts at once.
    pub(crate) fn has_compiled(&self, file: &folder::Component) -> bool {
        self.cache.has(&self.engine, file)
    }
}

/// Imports outside of what is granted, e.g. `wasi:sockets/tcp@0.2.6`.
pub(super) fn foreign_imports(engine: &Engine, component: &Component) -> Vec<String> {
    let imports = component.component_type();
    let names = imports.imports(engine).map(|(name, _)| name.to_owned());
    names.filter(|name| !GRANTED.iter().any(|granted| name.starts_with(granted))).collect()
}

fn engine() -> wasmtime::Result<Engine> {
    let mut config = Config::new();
    config.epoch_interruption(true);
    // Measured: a synchronous call takes 170 ns without, 600 with.
    config.concurrency_support(false);
    Engine::new(&config).or_else(|_| {
        // A sandboxed host may refuse 4 GiB of address space per memory.
        tracing::warn!("no room for 4 GiB address reservations: analyzers pay for bounds checks");
        config.memory_reservation(0).memory_guard_size(0);
        Engine::new(&config)
    })
}

struct HasTable;

impl wasmtime::component::HasData for HasTable {
    type Data<'a> = &'a mut ResourceTable;
}

fn linker(engine: &Engine) -> wasmtime::Result<Linker<State>> {
    let mut linker = Linker::new(engine);
    let l = &mut linker;
    FullAnalyzer::add_to_linker::<_, HasSelf<State>>(l, |state| state)?;

    wasi::io::error::add_to_linker::<State, HasTable>(l, |state| &mut state.table)?;
    wasi::sync::io::poll::add_to_linker::<State, HasTable>(l, |state| &mut state.table)?;
    wasi::sync::io::streams::add_to_linker::<State, HasTable>(l, |state| &mut state.table)?;
    wasi::cli::exit::add_to_linker::<State, WasiCli>(l, State::cli)?;
    wasi::cli::environment::add_to_linker::<State, WasiCli>(l, State::cli)?;
    wasi::cli::stdin::add_to_linker::<State, WasiCli>(l, State::cli)?;
    wasi::cli::stdout::add_to_linker::<State, HasSelf<State>>(l, |state| state)?;
    wasi::cli::stderr::add_to_linker::<State, HasSelf<State>>(l, |state| state)?;
    wasi::cli::terminal_input::add_to_linker::<State, WasiCli>(l, State::cli)?;
    wasi::cli::terminal_output::add_to_linker::<State, WasiCli>(l, State::cli)?;
    wasi::cli::terminal_stdin::add_to_linker::<State, WasiCli>(l, State::cli)?;
    wasi::cli::terminal_stdout::add_to_linker::<State, WasiCli>(l, State::cli)?;
    wasi::cli::terminal_stderr::add_to_linker::<State, WasiCli>(l, State::cli)?;
    wasi::filesystem::preopens::add_to_linker::<State, WasiFilesystem>(l, State::filesystem)?;
    wasi::sync::filesystem::types::add_to_linker::<State, WasiFilesystem>(l, State::filesystem)?;
    wasi::clocks::monotonic_clock::add_to_linker::<State, HasSelf<State>>(l, |state| state)?;
    wasi::clocks::wall_clock::add_to_linker::<State, HasSelf<State>>(l, |state| state)?;
    wasi::random::random::add_to_linker::<State, HasSelf<State>>(l, |state| state)?;
    wasi::random::insecure::add_to_linker::<State, HasSelf<State>>(l, |state| state)?;
    wasi::random::insecure_seed::add_to_linker::<State, HasSelf<State>>(l, |state| state)?;
    Ok(linker)
}
