//! Kernel counter tables. An analyzer may read the sources that its description names.

use crate::host::sources;
use crate::{EntityId, Error};

/// A source whose columns are known.
#[derive(Debug, Clone)]
pub struct Source {
    name: String,
    columns: Vec<String>,
}

impl Source {
    /// Asks for the columns, which stay the same while the analyzer lives: do it in `init`.
    ///
    /// # Errors
    /// A source that the description does not name, or that this node does not have.
    pub fn open(name: &str) -> Result<Self, Error> {
        Ok(Self { name: name.to_owned(), columns: sources::columns(name)? })
    }

    /// Position of a column; `None` if this kernel has no such counter.
    pub fn column(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|column| column == name)
    }

    /// The table of one entity, as of this interval.
    ///
    /// # Errors
    /// An entity that vanished, or a table that could not be read.
    pub fn read(&self, entity: EntityId) -> Result<Table, Error> {
        let table = sources::read(&self.name, entity)?;
        Ok(Table { width: self.columns.len().max(1), numbers: table.numbers, strings: table.strings })
    }
}

/// Rows of numbers.
#[derive(Debug, Clone)]
pub struct Table {
    width: usize,
    numbers: Vec<u64>,
    strings: Vec<String>,
}

impl Table {
    /// The rows, each with one cell per column of its source.
    pub fn rows(&self) -> impl Iterator<Item = &[u64]> {
        self.numbers.chunks_exact(self.width)
    }

    /// The text of a text cell.
    pub fn text(&self, cell: u64) -> Option<&str> {
        self.strings.get(usize::try_from(cell).ok()?).map(String::as_str)
    }
}
