//! What a guest may hold: the limiter of its Store.

use wasmtime::ResourceLimiter;

const TABLE_ELEMENTS: usize = 20_000;
/// A component consists of several core modules, with an instance and some tables each.
const INSTANCES: usize = 64;
const MEMORIES: usize = 4;

/// Counts the memory of all of a guest's modules together, and refuses more than its share.
#[derive(Debug)]
pub(super) struct Bounds {
    /// Bytes of linear memory in use.
    pub(super) memory_bytes: usize,
    memory_limit: usize,
    table_elements: usize,
}

impl Bounds {
    pub(super) fn new(memory_limit: usize) -> Self {
        Self { memory_bytes: 0, memory_limit, table_elements: 0 }
    }
}

impl ResourceLimiter for Bounds {
    fn memory_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        let total = self.memory_bytes.saturating_add(desired.saturating_sub(current));
        let fits = total <= self.memory_limit;
        if fits {
            self.memory_bytes = total;
        }
        Ok(fits)
    }

    fn table_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        let total = self.table_elements.saturating_add(desired.saturating_sub(current));
        let fits = total <= TABLE_ELEMENTS;
        if fits {
            self.table_elements = total;
        }
        Ok(fits)
    }

    fn instances(&self) -> usize {
        INSTANCES
    }

    fn tables(&self) -> usize {
        INSTANCES
    }

    fn memories(&self) -> usize {
        MEMORIES
    }
}
