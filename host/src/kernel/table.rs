//! Kernel counter tables as sources read them: one [`Snapshot`] per interval serves every plugin.
//!
//! A table is rows of `u64` cells under constant column names. A text cell (an interface name)
//! is an index into [`Table::strings`]; which columns hold text is documented by each source.
//! Nothing here reads anything.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, PoisonError, RwLock};

use crate::entities::EntityId;

/// A table as a plugin receives it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Table {
    /// Row-major cells; negative kernel values are in two's complement.
    pub numbers: Vec<u64>,
    /// Text cells, in order of appearance.
    pub strings: Vec<String>,
}

/// Column names by source. A source's columns stay the same once they are known; those of one that
/// this machine lacks may become known later, when a kernel module is loaded.
#[derive(Debug, Default)]
pub struct Columns {
    known: RwLock<BTreeMap<&'static str, Arc<[String]>>>,
}

impl Columns {
    /// The columns of a source, if it could ever be read.
    pub fn get(&self, source: &str) -> Option<Arc<[String]>> {
        self.known.read().unwrap_or_else(PoisonError::into_inner).get(source).cloned()
    }

    /// Every source whose columns are known, by name.
    pub fn all(&self) -> Vec<(&'static str, Arc<[String]>)> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.iter().map(|(source, columns)| (*source, Arc::clone(columns))).collect()
    }

    /// The columns of a source; `columns` if none are known yet.
    pub fn learn(&self, source: &'static str, columns: &[String]) -> Arc<[String]> {
        if let Some(known) = self.get(source) {
            return known;
        }
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(known.entry(source).or_insert_with(|| columns.into()))
    }
}

/// All tables that were read in one interval.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// Wall clock when reading began, nanoseconds since the Unix epoch.
    pub taken_ns: u64,
    tables: HashMap<&'static str, HashMap<EntityId, Arc<Table>>>,
}

impl Snapshot {
    /// An empty snapshot.
    pub fn at(taken_ns: u64) -> Self {
        Self { taken_ns, tables: HashMap::new() }
    }

    /// Adds the table of one entity.
    pub fn insert(&mut self, entity: EntityId, source: &'static str, table: impl Into<Arc<Table>>) {
        self.tables.entry(source).or_default().insert(entity, table.into());
    }

    /// Every table with its source and entity, by these.
    pub fn all(&self) -> Vec<(&'static str, EntityId, &Table)> {
        let mut all = Vec::new();
        for (source, tables) in &self.tables {
            all.extend(tables.iter().map(|(entity, table)| (*source, *entity, table.as_ref())));
        }
        all.sort_by_key(|(source, entity, _)| (*source, *entity));
        all
    }

    /// How many entities have tables here.
    pub fn entities(&self) -> usize {
        self.tables.values().map(HashMap::len).max().unwrap_or(0)
    }

    /// The table of one entity, if it was read.
    pub fn get(&self, entity: EntityId, source: &str) -> Option<&Table> {
        self.tables.get(source)?.get(&entity).map(Arc::as_ref)
    }
}
