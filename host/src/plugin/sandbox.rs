//! The wasmtime engine, the linker and the clock that interrupts guests.
//!
//! A guest gets the imports of the contract, and of WASI what `std` links against with nothing
//! granted: no files, no sockets, no environment, no real clock and no entropy, so that a replay
//! is deterministic. Nothing here runs precompiled code from outside ([`super::cache`] reads only
//! what this program wrote).

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::thread::{self, Thread};
use std::time::Duration;

use wasmtime::component::{Component, HasSelf, Linker, ResourceTable};
use wasmtime::{Config, Engine};
use wasmtime_wasi::cli::{WasiCli, WasiCliView as _};
use wasmtime_wasi::filesystem::{WasiFilesystem, WasiFilesystemView as _};
use wasmtime_wasi::p2::bindings as wasi;

use super::bindings::FullAnalyzer;
use super::imports::State;

/// How often a running guest is looked at; deadlines are multiples of it.
pub(super) const EPOCH: Duration = Duration::from_millis(25);

/// Interfaces a component may import; anything else is refused with its name.
const GRANTED: &[&str] =
    &["inspector:analyzer/", "wasi:cli/", "wasi:clocks/", "wasi:filesystem/", "wasi:io/", "wasi:random/"];

/// Where all guests live.
pub(super) struct Sandbox {
    pub(super) engine: Engine,
    pub(super) linker: Linker<State>,
    pub(super) epochs: Arc<Epochs>,
}

impl Sandbox {
    pub(super) fn new() -> wasmtime::Result<Self> {
        let engine = engine()?;
        let linker = linker(&engine)?;
        let epochs = Epochs::start(&engine);
        Ok(Self { engine, linker, epochs })
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

/// The clock of deadlines: counts an epoch each [`EPOCH`] while guests run, and sleeps when none
/// has run for a while, so that an idle agent does not wake up.
#[derive(Debug)]
pub(super) struct Epochs {
    /// Guest calls under way.
    running: AtomicUsize,
    asleep: AtomicBool,
    thread: Thread,
}

/// Epochs without a call after which the clock goes to sleep.
const IDLE_EPOCHS: u32 = 20;

impl Epochs {
    fn start(engine: &Engine) -> Arc<Self> {
        let engine = engine.weak();
        let (send, receive) = std::sync::mpsc::sync_channel::<Weak<Self>>(1);
        let handle = thread::Builder::new()
            .name("epochs".into())
            .spawn(move || {
                let Ok(epochs) = receive.recv() else { return };
                let mut idle = 0;
                while let (Some(engine), Some(epochs)) = (engine.upgrade(), epochs.upgrade()) {
                    engine.increment_epoch();
                    idle = if epochs.running.load(Ordering::SeqCst) == 0 { idle + 1 } else { 0 };
                    drop(engine);
                    if idle < IDLE_EPOCHS {
                        drop(epochs);
                        thread::sleep(EPOCH);
                    } else {
                        epochs.sleep();
                        idle = 0;
                    }
                }
            })
            .expect("a thread can be started while the agent starts");
        let thread = handle.thread().clone();
        let epochs = Arc::new(Self { running: AtomicUsize::new(0), asleep: AtomicBool::new(false), thread });
        send.send(Arc::downgrade(&epochs)).expect("the epoch thread waits for this");
        epochs
    }

    fn sleep(&self) {
        self.asleep.store(true, Ordering::SeqCst);
        // A call that began before it could see the flag is seen here instead.
        if self.running.load(Ordering::SeqCst) == 0 {
            thread::park_timeout(Duration::from_secs(60));
        }
        self.asleep.store(false, Ordering::SeqCst);
    }

    /// Says that a guest call begins; the clock runs until the guard is dropped, and a while on.
    pub(super) fn call(&self) -> Running<'_> {
        self.running.fetch_add(1, Ordering::SeqCst);
        if self.asleep.load(Ordering::SeqCst) {
            self.thread.unpark();
        }
        Running(self)
    }
}

/// A guest call under way.
pub(super) struct Running<'a>(&'a Epochs);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::SeqCst);
    }
}
