//! The host's functions over plain memory, one world per thread.

use std::cell::RefCell;
use std::collections::HashMap;

use crate::{Description, EntityId, Event, Timestamp};

/// Numbers, row by row, and the strings that text cells are indexes into.
pub type Cells = (Vec<u64>, Vec<&'static str>);

/// What the analyzer can ask its host for.
#[derive(Debug, Default)]
pub struct World {
    /// Names of drop reasons.
    pub drop_reasons: HashMap<u32, &'static str>,
    /// Names of reset reasons.
    pub reset_reasons: HashMap<u32, &'static str>,
    /// Symbol and offset of addresses.
    pub symbols: HashMap<u64, (&'static str, u32)>,
    /// Live entities.
    pub entities: Vec<EntityId>,
    /// The one of them that is the node itself.
    pub host: EntityId,
    /// When an entity was first seen; 0 for those not named here. The analyzer starts at 1.
    pub since: HashMap<EntityId, Timestamp>,
    /// Names of entities; `e` and the number for those not named here.
    pub names: HashMap<EntityId, &'static str>,
    /// Addresses of an entity.
    pub ips: HashMap<EntityId, Vec<&'static str>>,
    /// Columns of each source.
    pub columns: HashMap<&'static str, Vec<&'static str>>,
    /// Cells and strings of each source and entity.
    pub tables: HashMap<(&'static str, EntityId), Cells>,
}

#[derive(Debug, Default)]
struct Host {
    world: World,
    /// Name and kind of each declared metric.
    declared: Vec<(String, String)>,
    series: HashMap<(u32, EntityId, Vec<String>), u32>,
    /// Metric and value of each series number.
    values: Vec<(u32, f64)>,
    /// Sum of the observations of each series number that is a histogram.
    sums: HashMap<u32, f64>,
    events: Vec<Event>,
    apply_calls: u32,
    series_calls: u32,
    /// Series that there may be; no limit if there is none.
    room: Option<usize>,
}

thread_local! {
    static HOST: RefCell<Host> = RefCell::default();
}

pub fn enter(world: World, description: &Description) {
    let declared = description.metrics.iter().map(|m| (m.name.clone(), m.kind.clone())).collect();
    HOST.set(Host { world, declared, ..Host::default() });
}

pub fn value(metric: &str, entity: EntityId, labels: &[&str]) -> Option<f64> {
    HOST.with_borrow(|host| Some(host.values[host.find(metric, entity, labels)? as usize].1))
}

pub fn sum(metric: &str, entity: EntityId, labels: &[&str]) -> Option<f64> {
    HOST.with_borrow(|host| host.sums.get(&host.find(metric, entity, labels)?).copied())
}

impl Host {
    fn find(&self, metric: &str, entity: EntityId, labels: &[&str]) -> Option<u32> {
        let metric = self.declared.iter().position(|(name, _)| name == metric)?;
        let labels = labels.iter().map(|&label| label.to_owned()).collect();
        self.series.get(&(u32::try_from(metric).ok()?, entity, labels)).copied()
    }
}

pub fn set_table(source: &'static str, entity: EntityId, cells: Cells) {
    HOST.with_borrow_mut(|host| host.world.tables.insert((source, entity), cells));
}

pub fn remove_table(source: &'static str, entity: EntityId) {
    HOST.with_borrow_mut(|host| host.world.tables.remove(&(source, entity)));
}

pub fn take_events() -> Vec<Event> {
    HOST.with_borrow_mut(|host| std::mem::take(&mut host.events))
}

pub fn metric_calls() -> (u32, u32) {
    HOST.with_borrow(|host| (host.apply_calls, host.series_calls))
}

/// From now on no more than so many series are given out.
#[cfg(test)]
pub fn set_room(series: usize) {
    HOST.with_borrow_mut(|host| host.room = Some(series));
}

/// Forgets all series, as a host does that was told of a new version: old numbers are void.
#[cfg(test)]
pub fn void_all_series() {
    HOST.with_borrow_mut(|host| {
        host.series.clear();
        host.values.clear();
    });
}

pub mod metrics {
    use super::HOST;
    use crate::{EntityId, Error};

    pub fn series(metric: u32, entity: EntityId, labels: &[String]) -> Result<u32, Error> {
        HOST.with_borrow_mut(|host| {
            host.series_calls += 1;
            let next = u32::try_from(host.values.len()).expect("a test has few series");
            let key = (metric, entity, labels.to_vec());
            let is_full = host.room.is_some_and(|room| host.series.len() >= room);
            if is_full && !host.series.contains_key(&key) {
                return Err(Error::new("quota", "no room"));
            }
            let id = *host.series.entry(key).or_insert(next);
            if id == next {
                host.values.push((metric, 0.0));
            }
            Ok(id)
        })
    }

    pub fn observe(series: &[u32], values: &[f64], counts: &[u64]) -> u32 {
        HOST.with_borrow_mut(|host| {
            host.apply_calls += 1;
            let mut refused = 0;
            for ((id, value), count) in series.iter().zip(values).zip(counts) {
                match host.values.get_mut(*id as usize) {
                    Some((_, seen)) => *seen += *count as f64,
                    None => refused += 1,
                }
                *host.sums.entry(*id).or_default() += value * *count as f64;
            }
            refused
        })
    }

    pub fn apply(series: &[u32], values: &[f64]) -> u32 {
        HOST.with_borrow_mut(|host| {
            host.apply_calls += 1;
            let mut refused = 0;
            for (id, value) in series.iter().zip(values) {
                let Some((metric, current)) = host.values.get_mut(*id as usize) else {
                    refused += 1;
                    continue;
                };
                match host.declared[*metric as usize].1.as_str() {
                    "counter" => *current += value,
                    "histogram" => {
                        *current += 1.0;
                        *host.sums.entry(*id).or_default() += value;
                    }
                    _ => *current = *value,
                }
            }
            refused
        })
    }
}

pub mod events {
    use super::HOST;
    use crate::Event;

    pub fn emit(items: &[Event]) -> u32 {
        HOST.with_borrow_mut(|host| host.events.extend_from_slice(items));
        u32::try_from(items.len()).expect("a test has few events")
    }
}

pub mod entities {
    use super::HOST;
    use crate::EntityId;
    use crate::entities::Entity;

    pub fn get(id: EntityId) -> Option<Entity> {
        HOST.with_borrow(|host| {
            let since = host.world.since.get(&id).copied().unwrap_or(0);
            let kind = if id == host.world.host { "host" } else { "netns" };
            let name = host.world.names.get(&id).map_or_else(|| format!("e{id}"), |name| (*name).to_owned());
            let kind = kind.to_owned();
            let live = host.world.entities.contains(&id);
            let ips = host.world.ips.get(&id).into_iter().flatten().map(|&ip| ip.to_owned()).collect();
            live.then(|| Entity { id, kind, name, since, ips, ..Entity::default() })
        })
    }

    pub fn by_ip(_high: u64, _low: u64) -> EntityId {
        0
    }

    pub fn all() -> Vec<EntityId> {
        HOST.with_borrow(|host| host.world.entities.clone())
    }
}

pub mod kernel {
    use super::HOST;
    use crate::kernel::{Location, Symbol};

    pub fn drop_reason(code: u32) -> String {
        HOST.with_borrow(|host| name(host.world.drop_reasons.get(&code), code))
    }

    pub fn reset_reason(code: u32) -> String {
        HOST.with_borrow(|host| name(host.world.reset_reasons.get(&code), code))
    }

    pub fn symbol_at(address: u64) -> Option<Symbol> {
        HOST.with_borrow(|host| {
            let (name, offset) = host.world.symbols.get(&address)?;
            Some(Symbol { name: (*name).to_owned(), offset: *offset })
        })
    }

    pub fn locate(address: u64) -> Option<Location> {
        let Symbol { name, offset } = symbol_at(address)?;
        Some(Location { symbol: name, module: String::new(), offset })
    }

    pub fn tcp_state(code: u32) -> String {
        format!("STATE_{code}")
    }

    pub fn congestion_state(code: u32) -> String {
        format!("STATE_{code}")
    }

    fn name(known: Option<&&str>, code: u32) -> String {
        known.map_or_else(|| format!("REASON_{code}"), |name| (*name).to_owned())
    }
}

pub mod sources {
    use super::HOST;
    use crate::bindings::inspector::analyzer::sources::Table;
    use crate::{EntityId, Error};

    pub fn columns(source: &str) -> Result<Vec<String>, Error> {
        HOST.with_borrow(|host| {
            let columns = host.world.columns.get(source);
            let columns = columns.ok_or_else(|| Error::new("not-found", source))?;
            Ok(columns.iter().map(|&column| column.to_owned()).collect())
        })
    }

    pub fn read(source: &str, entity: EntityId) -> Result<Table, Error> {
        HOST.with_borrow(|host| {
            // The keys are 'static, so the lookup goes by comparison.
            let found = host.world.tables.iter().find(|((name, id), _)| *name == source && *id == entity);
            let (_, (numbers, strings)) = found.ok_or_else(|| Error::new("not-found", source))?;
            let strings = strings.iter().map(|&text| text.to_owned()).collect();
            Ok(Table { numbers: numbers.clone(), strings })
        })
    }
}

pub mod log {
    pub fn max_level() -> u8 {
        3
    }

    pub fn write(level: u8, message: &str) {
        println!("log {level}: {message}");
    }
}
