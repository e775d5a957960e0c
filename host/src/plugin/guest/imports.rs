//! What a guest may ask the host for: the imports of the contract.
//!
//! Nothing a guest says is trusted: the parts of the core that it writes to check names, budgets and
//! sizes, and every index is checked here.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use wasmtime::component::ResourceTable;
use wasmtime_wasi::cli::WasiCliCtx;
use wasmtime_wasi::filesystem::WasiFilesystemCtx;

use super::bindings::inspector::analyzer as wit;
use super::bounds::Bounds;
use super::deadline::Call;
use super::stdio::GuestLog;
use crate::entities::EntityId;
use crate::events::event::NewEvent;
use crate::kernel::symbols::Symbol;
use crate::kernel::table::Snapshot;
use crate::plugin::options::Limits;
use crate::plugin::shared::Shared;
use crate::series::metrics::PluginSeries;

/// Text that one call may bring along in strings and lists.
pub(super) const HOSTCALL_BYTES: usize = 1 << 20;

/// Everything a guest's Store holds.
pub(super) struct State {
    pub(super) table: ResourceTable,
    pub(super) bounds: Bounds,
    pub(super) series: PluginSeries,
    pub(super) now_ns: u64,
    pub(super) call: Call,
    pub(super) snapshot: Arc<Snapshot>,
    pub(super) cli: WasiCliCtx,
    pub(super) filesystem: WasiFilesystemCtx,
    pub(super) plugin: Arc<str>,
    pub(super) log: GuestLog,
    shared: Arc<Shared>,
    /// Sources that the plugin's description names.
    sources: Vec<String>,
    pub(super) random: u64,
}

impl State {
    pub(super) fn new(
        plugin: Arc<str>,
        shared: Arc<Shared>,
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
            shared,
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
        if entity != 0 && self.shared.entities.get(entity).is_none() {
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
            severity: event.severity.into(),
            kind: event.kind,
            entity: event.entity,
            message: event.message,
            attrs: event.attrs.into_iter().map(|attr| (attr.name, attr.value)).collect(),
            dedup_key: event.dedup_key,
        });
        let now = self.shared.clock.now();
        self.shared.events.emit_at(&self.plugin, events.collect(), now)
    }
}

impl wit::entities::Host for State {
    fn get(&mut self, id: EntityId) -> Option<wit::entities::Entity> {
        let entity = self.shared.entities.known(id)?;
        Some(wit::entities::Entity {
            id,
            kind: entity.kind.as_str().to_owned(),
            namespace: entity.namespace.clone(),
            name: entity.name.clone(),
            node: self.shared.node.clone(),
            netns_cookie: entity.cookie,
            netns_inode: entity.inode,
            ips: entity.ips.iter().map(IpAddr::to_string).collect(),
            since: entity.since_ns,
        })
    }

    fn by_ip(&mut self, high: u64, low: u64) -> EntityId {
        let bits = (u128::from(high) << 64) | u128::from(low);
        self.shared.entities.by_ip(Ipv6Addr::from_bits(bits).into())
    }

    fn all(&mut self) -> Vec<EntityId> {
        self.shared.entities.live().iter().map(|entity| entity.id).collect()
    }
}

impl wit::kernel::Host for State {
    fn drop_reason(&mut self, code: u32) -> String {
        self.shared.names.drop_reason(code)
    }

    fn reset_reason(&mut self, code: u32) -> String {
        self.shared.names.reset_reason(code)
    }

    fn symbol_at(&mut self, address: u64) -> Option<wit::kernel::Symbol> {
        let symbol = self.shared.names.symbol_at(address)?;
        Some(wit::kernel::Symbol { name: symbol.name, offset: symbol.offset })
    }

    fn locate(&mut self, address: u64) -> Option<wit::kernel::Location> {
        let Symbol { name, module, offset } = self.shared.names.symbol_at(address)?;
        Some(wit::kernel::Location { symbol: name, module, offset })
    }

    fn tcp_state(&mut self, code: u32) -> String {
        self.shared.names.tcp_state(code)
    }

    fn congestion_state(&mut self, code: u32) -> String {
        self.shared.names.congestion_state(code)
    }
}

impl wit::sources::Host for State {
    fn columns(&mut self, source: String) -> Result<Vec<String>, wit::types::Error> {
        self.declared(&source)?;
        let columns = self.shared.columns.get(&source);
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
