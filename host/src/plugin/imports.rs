//! What a guest may ask the host for: the imports of the contract, and the parts of WASI that are
//! answered without giving anything away. Nothing a guest says is trusted: the nouns it writes to
//! check names, budgets and sizes, and every index is checked here.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use wasmtime::component::{Resource, ResourceTable};
use wasmtime_wasi::cli::{WasiCliCtx, WasiCliCtxView, WasiCliView};
use wasmtime_wasi::filesystem::{WasiFilesystemCtx, WasiFilesystemCtxView, WasiFilesystemView};
use wasmtime_wasi::p2::bindings as wasi;
use wasmtime_wasi::p2::{DynOutputStream, DynPollable};

use super::bindings::inspector::analyzer as wit;
use super::bounds::Bounds;
use super::instance::Call;
use super::stdio::{GuestLog, LogPipe};
use super::{Context, Limits};
use crate::entities::EntityId;
use crate::events::NewEvent;
use crate::metrics::PluginSeries;
use crate::symbols::Symbol;
use crate::table::Snapshot;

/// Text that one call may bring along in strings and lists.
const HOSTCALL_BYTES: usize = 1 << 20;

/// Everything a guest's Store holds.
pub(super) struct State {
    pub(super) table: ResourceTable,
    pub(super) bounds: Bounds,
    pub(super) series: PluginSeries,
    pub(super) now_ns: u64,
    pub(super) call: Call,
    pub(super) snapshot: Arc<Snapshot>,
    cli: WasiCliCtx,
    filesystem: WasiFilesystemCtx,
    plugin: Arc<str>,
    log: GuestLog,
    context: Arc<Context>,
    /// Sources that the plugin's description names.
    sources: Vec<String>,
    random: u64,
}

impl State {
    pub(super) fn new(
        plugin: Arc<str>,
        context: Arc<Context>,
        limits: Limits,
        series: PluginSeries,
        sources: Vec<String>,
    ) -> Self {
        let log = GuestLog::new(Arc::clone(&plugin));
        Self {
            table: ResourceTable::new(),
            bounds: Bounds::new(limits.memory_bytes),
            now_ns: 0,
            call: Call::default(),
            snapshot: Arc::default(),
            // Not a whole `WasiCtx`: that one asks the system for entropy, which nobody is given here and
            // a static binary has only where there is a /dev.
            cli: WasiCliCtx::default(),
            filesystem: WasiFilesystemCtx::default(),
            plugin,
            log,
            context,
            series,
            sources,
            random: 0x9e37_79b9_7f4a_7c15,
        }
    }

    /// What [`wasmtime::Store::set_hostcall_fuel`] is set to.
    pub(super) const HOSTCALL_FUEL: usize = HOSTCALL_BYTES;

    fn declared(&self, source: &str) -> Result<(), wit::types::Error> {
        if self.sources.iter().any(|declared| declared == source) {
            return Ok(());
        }
        Err(error("denied", format!("source {source:?} is not named in the plugin's description")))
    }
}

fn error(code: &str, message: String) -> wit::types::Error {
    wit::types::Error { code: code.to_owned(), message }
}

impl WasiCliView for State {
    fn cli(&mut self) -> WasiCliCtxView<'_> {
        WasiCliCtxView { ctx: &mut self.cli, table: &mut self.table }
    }
}

impl WasiFilesystemView for State {
    fn filesystem(&mut self) -> WasiFilesystemCtxView<'_> {
        WasiFilesystemCtxView { ctx: &mut self.filesystem, table: &mut self.table }
    }
}

impl wit::types::Host for State {}
impl wit::manifest::Host for State {}

impl wit::log::Host for State {
    fn max_level(&mut self) -> u8 {
        self.log.max_level()
    }

    fn write(&mut self, level: u8, message: String) {
        self.log.write(level, &message);
    }
}

impl wit::metrics::Host for State {
    fn series(
        &mut self,
        metric: u32,
        entity: EntityId,
        labels: Vec<String>,
    ) -> Result<u32, wit::types::Error> {
        if entity != 0 && self.context.entities.get(entity).is_none() {
            return Err(error("not-found", format!("there is no entity {entity}")));
        }
        self.series.series(metric, entity, labels).map_err(|e| error(e.code(), e.to_string()))
    }

    fn apply(&mut self, series: Vec<u32>, values: Vec<f64>) -> u32 {
        self.series.apply(&series, &values)
    }

    fn observe(&mut self, series: Vec<u32>, values: Vec<f64>, counts: Vec<u64>) -> u32 {
        self.series.observe(&series, &values, &counts)
    }
}

impl wit::events::Host for State {
    fn emit(&mut self, items: Vec<wit::events::Event>) -> u32 {
        let events = items.into_iter().map(|event| NewEvent {
            time_ns: event.at,
            severity: event.severity.min(2),
            kind: event.kind,
            entity: event.entity,
            message: event.message,
            attrs: event.attrs.into_iter().map(|attr| (attr.name, attr.value)).collect(),
            dedup_key: event.dedup_key,
        });
        let now = self.context.clock.now();
        self.context.events.emit_at(&self.plugin, events.collect(), now)
    }
}

impl wit::entities::Host for State {
    fn get(&mut self, id: EntityId) -> Option<wit::entities::Entity> {
        let entity = self.context.entities.get(id)?;
        Some(wit::entities::Entity {
            id,
            kind: entity.kind.as_str().to_owned(),
            namespace: entity.namespace.clone(),
            name: entity.name.clone(),
            node: self.context.node.clone(),
            netns_cookie: entity.cookie,
            netns_inode: entity.inode,
            ips: entity.ips.iter().map(IpAddr::to_string).collect(),
            since: entity.since_ns,
        })
    }

    fn by_ip(&mut self, high: u64, low: u64) -> EntityId {
        let bits = (u128::from(high) << 64) | u128::from(low);
        self.context.entities.by_ip(Ipv6Addr::from_bits(bits).into())
    }

    fn all(&mut self) -> Vec<EntityId> {
        self.context.entities.live().iter().map(|entity| entity.id).collect()
    }
}

impl wit::kernel::Host for State {
    fn drop_reason(&mut self, code: u32) -> String {
        self.context.names.drop_reason(code)
    }

    fn reset_reason(&mut self, code: u32) -> String {
        self.context.names.reset_reason(code)
    }

    fn symbol_at(&mut self, address: u64) -> Option<wit::kernel::Symbol> {
        let symbol = self.context.names.symbol_at(address)?;
        Some(wit::kernel::Symbol { name: symbol.name, offset: symbol.offset })
    }

    fn locate(&mut self, address: u64) -> Option<wit::kernel::Location> {
        let Symbol { name, module, offset } = self.context.names.symbol_at(address)?;
        Some(wit::kernel::Location { symbol: name, module, offset })
    }

    fn tcp_state(&mut self, code: u32) -> String {
        self.context.names.tcp_state(code)
    }

    fn congestion_state(&mut self, code: u32) -> String {
        self.context.names.congestion_state(code)
    }
}

impl wit::sources::Host for State {
    fn columns(&mut self, source: String) -> Result<Vec<String>, wit::types::Error> {
        self.declared(&source)?;
        let columns = self.context.columns.get(&source);
        columns
            .map(|columns| columns.to_vec())
            .ok_or_else(|| error("not-found", format!("source {source:?} cannot be read on this node")))
    }

    fn read(&mut self, source: String, entity: EntityId) -> Result<wit::sources::Table, wit::types::Error> {
        self.declared(&source)?;
        let table = self.snapshot.get(entity, &source);
        let table = table.ok_or_else(|| error("not-found", format!("no {source:?} of entity {entity}")))?;
        Ok(wit::sources::Table { numbers: table.numbers.clone(), strings: table.strings.clone() })
    }
}

// WASI: what is printed is logged, time is the argument of the current call, randomness is a fixed
// sequence.

impl State {
    fn log_stream(&mut self) -> wasmtime::Result<Resource<DynOutputStream>> {
        let stream: DynOutputStream = Box::new(LogPipe::new(self.log.clone()));
        Ok(self.table.push(stream)?)
    }
}

impl wasi::cli::stdout::Host for State {
    fn get_stdout(&mut self) -> wasmtime::Result<Resource<DynOutputStream>> {
        self.log_stream()
    }
}

impl wasi::cli::stderr::Host for State {
    fn get_stderr(&mut self) -> wasmtime::Result<Resource<DynOutputStream>> {
        self.log_stream()
    }
}

impl wasi::clocks::wall_clock::Host for State {
    fn now(&mut self) -> wasmtime::Result<wasi::clocks::wall_clock::Datetime> {
        let (seconds, nanoseconds) = (self.now_ns / 1_000_000_000, (self.now_ns % 1_000_000_000) as u32);
        Ok(wasi::clocks::wall_clock::Datetime { seconds, nanoseconds })
    }

    fn resolution(&mut self) -> wasmtime::Result<wasi::clocks::wall_clock::Datetime> {
        Ok(wasi::clocks::wall_clock::Datetime { seconds: 0, nanoseconds: 1 })
    }
}

impl wasi::clocks::monotonic_clock::Host for State {
    fn now(&mut self) -> wasmtime::Result<u64> {
        Ok(self.now_ns)
    }

    fn resolution(&mut self) -> wasmtime::Result<u64> {
        Ok(1)
    }

    fn subscribe_instant(&mut self, _when: u64) -> wasmtime::Result<Resource<DynPollable>> {
        // Waiting inside a host call could not be interrupted.
        wasmtime::bail!("analyzers cannot sleep: use tick")
    }

    fn subscribe_duration(&mut self, _when: u64) -> wasmtime::Result<Resource<DynPollable>> {
        wasmtime::bail!("analyzers cannot sleep: use tick")
    }
}

impl State {
    /// SplitMix64: enough for hash seeds, and the same in every run.
    fn next_random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.random ^ (self.random >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn random_bytes(&mut self, length: u64) -> wasmtime::Result<Vec<u8>> {
        let length = usize::try_from(length).ok().filter(|n| *n <= HOSTCALL_BYTES);
        let Some(length) = length else { wasmtime::bail!("too many random bytes asked for") };
        let mut bytes = Vec::with_capacity(length + 8);
        while bytes.len() < length {
            bytes.extend_from_slice(&self.next_random().to_le_bytes());
        }
        bytes.truncate(length);
        Ok(bytes)
    }
}

impl wasi::random::random::Host for State {
    fn get_random_bytes(&mut self, length: u64) -> wasmtime::Result<Vec<u8>> {
        self.random_bytes(length)
    }

    fn get_random_u64(&mut self) -> wasmtime::Result<u64> {
        Ok(self.next_random())
    }
}

impl wasi::random::insecure::Host for State {
    fn get_insecure_random_bytes(&mut self, length: u64) -> wasmtime::Result<Vec<u8>> {
        self.random_bytes(length)
    }

    fn get_insecure_random_u64(&mut self) -> wasmtime::Result<u64> {
        Ok(self.next_random())
    }
}

impl wasi::random::insecure_seed::Host for State {
    fn insecure_seed(&mut self) -> wasmtime::Result<(u64, u64)> {
        Ok((self.next_random(), self.next_random()))
    }
}
