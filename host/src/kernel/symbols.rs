//! Code addresses of one kernel by name, as compact as the listing of 100 000 functions should be.
//! Nothing here reads a file: `probe/` fills a [`SymbolTable`] from the running kernel, a trace
//! brings the few symbols that its records need.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Debug;

use serde::{Deserialize, Serialize};

/// No function is longer: an address further behind a symbol belongs to something that is not
/// listed, such as a module loaded since.
const LONGEST_FUNCTION: u64 = 256 << 10;

/// A place in the kernel's code.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Symbol {
    /// Name of the function, without the suffixes that compilers add.
    pub name: String,
    /// The module it belongs to, empty for the kernel itself.
    pub module: String,
    /// Bytes from its begin.
    pub offset: u32,
}

/// Where symbols come from: the running kernel, or a trace.
pub trait Symbols: Debug + Send + Sync {
    /// The function that covers an address. Never waits.
    fn at(&self, address: u64) -> Option<Symbol>;

    /// Waits until the first listing was read, if it is being read.
    fn wait(&self) {}

    /// Whether there are none, as where the kernel hides their addresses.
    fn are_hidden(&self) -> bool;
}

impl Symbols for HashMap<u64, Symbol> {
    fn at(&self, address: u64) -> Option<Symbol> {
        self.get(&address).cloned()
    }

    fn are_hidden(&self) -> bool {
        self.is_empty()
    }
}

/// A listing: one string of all names, and where each begins.
#[derive(Debug, Default)]
pub struct SymbolTable {
    names: String,
    modules: Vec<String>,
    /// By address, each once.
    starts: Vec<Start>,
}

#[derive(Debug, Clone, Copy)]
struct Start {
    address: u64,
    name: u32,
    length: u16,
    module: u16,
}

impl SymbolTable {
    /// Symbols in any order; of several at one address the first stays, which is the function's own
    /// name. The module is empty for the kernel itself.
    pub fn of<'a>(listing: impl IntoIterator<Item = (u64, &'a str, &'a str)>) -> Self {
        let mut builder = Builder::default();
        for (address, name, module) in listing {
            builder.push(address, name, module);
        }
        builder.finish()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.starts.len()
    }

    /// Whether the kernel hides its symbols.
    pub fn is_empty(&self) -> bool {
        self.starts.is_empty()
    }
}

impl Symbols for SymbolTable {
    fn at(&self, address: u64) -> Option<Symbol> {
        let after = self.starts.partition_point(|start| start.address <= address);
        let start = self.starts.get(after.checked_sub(1)?)?;
        let offset = address - start.address;
        let name = self.names.get(start.name as usize..)?.get(..usize::from(start.length))?;
        (offset < LONGEST_FUNCTION).then(|| Symbol {
            name: name.to_owned(),
            module: self.modules.get(usize::from(start.module)).cloned().unwrap_or_default(),
            offset: offset as u32,
        })
    }

    fn are_hidden(&self) -> bool {
        self.is_empty()
    }
}

/// Builds a [`SymbolTable`] line by line.
#[derive(Debug, Default)]
pub struct Builder {
    table: SymbolTable,
    modules: BTreeMap<String, u16>,
}

impl Builder {
    /// Adds one symbol; what is beyond four gigabytes of names or 65 535 modules is left out.
    pub fn push(&mut self, address: u64, name: &str, module: &str) {
        let (Ok(at), Ok(length)) = (u32::try_from(self.table.names.len()), u16::try_from(name.len())) else {
            return;
        };
        let Some(module) = self.module(module) else { return };
        self.table.names.push_str(name);
        self.table.starts.push(Start { address, name: at, length, module });
    }

    /// The table, sorted.
    pub fn finish(mut self) -> SymbolTable {
        let table = &mut self.table;
        table.starts.sort_by_key(|start| start.address);
        table.starts.dedup_by_key(|start| start.address);
        table.starts.shrink_to_fit();
        table.names.shrink_to_fit();
        self.table
    }

    fn module(&mut self, name: &str) -> Option<u16> {
        if let Some(number) = self.modules.get(name) {
            return Some(*number);
        }
        let number = u16::try_from(self.table.modules.len()).ok()?;
        self.table.modules.push(name.to_owned());
        self.modules.insert(name.to_owned(), number);
        Some(number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_inside_a_function_has_its_name_module_and_offset() {
        let table = SymbolTable::of([(32, "b", "m"), (16, "a", ""), (16, "alias", "")]);
        let symbol = |name: &str, module: &str, offset| {
            Some(Symbol { name: name.to_owned(), module: module.to_owned(), offset })
        };
        assert_eq!(table.at(20), symbol("a", "", 4));
        assert_eq!(table.at(32), symbol("b", "m", 0));
        assert_eq!(table.at(8), None);
    }

    #[test]
    fn what_lies_far_behind_the_last_function_is_not_part_of_it() {
        let table = SymbolTable::of([(16, "a", "")]);
        assert_eq!(table.at(16 + LONGEST_FUNCTION), None);
    }
}
