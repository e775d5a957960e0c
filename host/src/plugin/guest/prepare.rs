//! From a component file to something that can run: compiled, described, checked. Happens off the
//! event path; nothing here touches a running plugin.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use wasmtime::component::{Component, InstancePre, Linker};
use wasmtime::{Engine, Store};

use super::bindings::exports::inspector::analyzer::{diagnosis, entity_watch, guest, snapshot, ticker};
use super::bindings::inspector::analyzer::manifest::{Description, EventDecl, MetricDecl, ScenarioDecl};
use super::bounds::Bounds;
use super::deadline::{Call, Epochs, epochs};
use super::filter::Selection;
use super::imports::State;
use super::sandbox::{Sandbox, foreign_imports};
use crate::events::event::MAX_NAME;
use crate::plugin::folder;
use crate::series::declaration::MAX_HELP;
use crate::series::metrics::{Decl, MetricKind};
use crate::text::escape::{self, MAX_REASON, cut};

/// The contract this host speaks; a plugin of the same major and minor version is understood.
const WORLD: &str = "0.1.0";

/// CPU time a throw-away instance has to describe itself.
const DESCRIBE: Duration = Duration::from_millis(200);
/// Memory a throw-away instance has.
const DESCRIBE_MEMORY: usize = 16 << 20;
/// Scenarios of one plugin.
const MAX_SCENARIOS: usize = 32;
/// Types of events of one plugin.
const MAX_EVENT_TYPES: usize = 256;

/// Why a component cannot become a plugin.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It could not be read safely.
    #[error(transparent)]
    File(#[from] folder::Error),
    /// Machine code, which is never run.
    #[error("precompiled code: only .wasm components are loaded")]
    Precompiled,
    /// A core module.
    #[error("a core WebAssembly module, not a component: build it with --target wasm32-wasip2")]
    CoreModule,
    /// Neither.
    #[error("not a WebAssembly component: {0}")]
    Corrupt(String),
    /// It wants more than an analyzer gets.
    #[error("imports {0}, which analyzers are not given")]
    Imports(String),
    /// It does not export `inspector:analyzer/guest`.
    #[error("not an analyzer: {0}")]
    World(String),
    /// `describe` trapped or took too long.
    #[error("describe failed: {0}")]
    Describe(String),
    /// Compiling it is more than wasmtime can do.
    #[error("the agent panicked while compiling it: {0}")]
    Panic(String),
    /// Its description makes no sense.
    #[error("bad description: {0}")]
    Description(String),
}

/// A checked plugin, ready to be instantiated.
pub(crate) struct Prepared {
    pub(crate) path: PathBuf,
    pub(crate) sha256: String,
    pub(crate) description: Description,
    pub(crate) selections: Vec<Selection>,
    pub(crate) metrics: Vec<Decl>,
    pub(super) pre: InstancePre<State>,
    pub(super) exports: Exports,
    pub(super) epochs: Arc<Epochs>,
}

/// Where a component keeps the exports it has.
pub(super) struct Exports {
    pub(super) guest: guest::GuestIndices,
    pub(super) ticker: Option<ticker::GuestIndices>,
    pub(super) entity_watch: Option<entity_watch::GuestIndices>,
    pub(super) diagnosis: Option<diagnosis::GuestIndices>,
    pub(super) snapshot: Option<snapshot::GuestIndices>,
}

/// Compiles, describes and checks one component.
pub(crate) fn prepare(sandbox: &Sandbox, file: &folder::Component) -> Result<Prepared, Error> {
    let component = compile(sandbox, file)?;
    let foreign = foreign_imports(&sandbox.engine, &component);
    if !foreign.is_empty() {
        return Err(Error::Imports(escape::admit(foreign.join(", "), MAX_REASON)));
    }
    let pre = sandbox.linker.instantiate_pre(&component).map_err(|e| Error::World(cause(&e)))?;
    let guest = guest::GuestIndices::new(&pre).map_err(|e| Error::World(cause(&e)))?;
    let description = describe(sandbox, &component)?;
    let senseless = |why| Error::Description(escape::admit(why, MAX_REASON));
    let metrics = check(&description).map_err(senseless)?;
    let selections = Selection::of(&description.subscriptions).map_err(senseless)?;
    let exports = Exports {
        guest,
        ticker: ticker::GuestIndices::new(&pre).ok(),
        entity_watch: entity_watch::GuestIndices::new(&pre).ok(),
        diagnosis: diagnosis::GuestIndices::new(&pre).ok(),
        snapshot: snapshot::GuestIndices::new(&pre).ok(),
    };
    if let (None, Some(scenario)) = (&exports.diagnosis, description.scenarios.first()) {
        let name = &scenario.name;
        return Err(Error::Description(format!("scenario {name} is declared and diagnosis not exported")));
    }
    Ok(Prepared {
        path: file.path.clone(),
        sha256: file.sha256.clone(),
        description,
        selections,
        metrics,
        pre,
        exports,
        epochs: Arc::clone(&sandbox.epochs),
    })
}

fn compile(sandbox: &Sandbox, file: &folder::Component) -> Result<Component, Error> {
    // Layer 1 in the version field of the preamble is a component, layer 0 a core module.
    match file.bytes.get(..8) {
        Some([0, b'a', b's', b'm', _, _, 1, 0]) => {}
        Some([0, b'a', b's', b'm', _, _, 0, 0]) => return Err(Error::CoreModule),
        _ if Engine::detect_precompiled(&file.bytes).is_some() => return Err(Error::Precompiled),
        _ => return Err(Error::Corrupt("the file does not begin like one".into())),
    }
    sandbox.cache.component(&sandbox.engine, file).map_err(|e| Error::Corrupt(cause(&e)))
}

/// Asks a throw-away instance in which every import traps: a description is pure.
fn describe(sandbox: &Sandbox, component: &Component) -> Result<Description, Error> {
    let failed = |e: wasmtime::Error| Error::Describe(cause(&e));
    let mut linker = Linker::<Bounds>::new(&sandbox.engine);
    linker.define_unknown_imports_as_traps(component).map_err(failed)?;
    let pre = linker.instantiate_pre(component).map_err(failed)?;
    let mut store = Store::new(&sandbox.engine, Bounds::new(DESCRIBE_MEMORY));
    store.limiter(|bounds| bounds);
    store.set_hostcall_fuel(State::HOSTCALL_FUEL);
    let call = Call::begin(DESCRIBE);
    store.epoch_deadline_callback(move |_| Ok(call.at_deadline()));
    store.set_epoch_deadline(epochs(DESCRIBE));
    let _running = sandbox.epochs.call();
    let instance = pre.instantiate(&mut store).map_err(failed)?;
    let guest = guest::GuestIndices::new(&pre).and_then(|indices| indices.load(&mut store, &instance));
    guest.map_err(failed)?.call_describe(&mut store).map_err(failed)
}

/// The innermost reason of a wasmtime error in one line, cut: the outer ones are back-traces, and a
/// component names its imports as it likes.
pub(super) fn cause(error: &wasmtime::Error) -> String {
    let text = error.root_cause().to_string();
    escape::admit(text.lines().next().unwrap_or("").to_owned(), MAX_REASON)
}

/// Checks what does not depend on this node, and translates the metrics.
fn check(description: &Description) -> Result<Vec<Decl>, String> {
    check_name("name", &description.name)?;
    if description.version.is_empty()
        || description.version.len() > 64
        || description.version.contains(char::is_control)
    {
        return Err(format!("version {:?} is empty, too long or not printable", description.version));
    }
    let minor = |version: &str| version.split('.').take(2).map(str::to_owned).collect::<Vec<_>>();
    if minor(&description.world_version) != minor(WORLD) {
        return Err(format!("made for contract {}, this host speaks {WORLD}", description.world_version));
    }
    let probes = description.subscriptions.iter().map(|subscription| &subscription.probe);
    probes.chain(&description.sources).try_for_each(|name| check_name("probe or source", name))?;
    check_scenarios(&description.scenarios)?;
    check_event_types(&description.events)?;
    description.metrics.iter().map(decl).collect()
}

fn check_scenarios(scenarios: &[ScenarioDecl]) -> Result<(), String> {
    if scenarios.len() > MAX_SCENARIOS {
        return Err(format!("more than {MAX_SCENARIOS} scenarios"));
    }
    for (at, scenario) in scenarios.iter().enumerate() {
        check_name("scenario", &scenario.name)?;
        if scenarios[..at].iter().any(|other| other.name == scenario.name) {
            return Err(format!("scenario {} is declared twice", scenario.name));
        }
    }
    Ok(())
}

fn check_event_types(types: &[EventDecl]) -> Result<(), String> {
    if types.len() > MAX_EVENT_TYPES {
        return Err(format!("more than {MAX_EVENT_TYPES} types of events"));
    }
    match types.iter().find(|declared| declared.kind.len() > MAX_NAME) {
        Some(long) => {
            Err(format!("event type {:?}: longer than {MAX_NAME} bytes", cut(&long.kind, MAX_NAME)))
        }
        None => Ok(()),
    }
}

fn check_name(what: &str, name: &str) -> Result<(), String> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if name.is_empty() || name.len() > 64 || !name.chars().all(plain) {
        return Err(format!("{what} {name:?}: use at most 64 of a-z, 0-9 and -"));
    }
    Ok(())
}

fn decl(metric: &MetricDecl) -> Result<Decl, String> {
    let kind = match metric.kind.as_str() {
        "counter" => MetricKind::Counter,
        "gauge" => MetricKind::Gauge,
        "histogram" => MetricKind::Histogram,
        "unknown" => MetricKind::Unknown,
        other => {
            return Err(format!(
                "metric {}: kind {other:?} is not counter, gauge, histogram or unknown",
                metric.name
            ));
        }
    };
    Ok(Decl {
        name: metric.name.clone(),
        help: escape::admit(metric.help.clone(), MAX_HELP),
        unit: metric.unit.clone(),
        kind,
        labels: metric.labels.clone(),
        buckets: metric.buckets.clone(),
        max_series: metric.max_series,
    })
}
