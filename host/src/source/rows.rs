//! What one read of a source yields, before it becomes a [`Table`].

use std::sync::Arc;

use crate::kernel::table::Table;

/// Parsed rows with the column names of this kernel.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Rows {
    pub(super) columns: Vec<String>,
    /// Row-major, one cell per column.
    pub(super) numbers: Vec<u64>,
    /// Text cells; a text column holds indexes into this list.
    pub(super) strings: Vec<String>,
}

impl Rows {
    /// No rows yet under these columns.
    pub(super) fn under(columns: &[&str]) -> Self {
        Self { columns: columns.iter().map(|&column| column.to_owned()).collect(), ..Self::default() }
    }

    /// One row of these columns.
    pub(super) fn one(columns: &[&str], numbers: Vec<u64>) -> Self {
        Self { numbers, ..Self::under(columns) }
    }

    /// Adds a column and its cell to a table of one row.
    pub(super) fn push(&mut self, column: impl Into<String>, value: u64) {
        self.columns.push(column.into());
        self.numbers.push(value);
    }

    /// The cell that stands for a text.
    pub(super) fn text(&mut self, text: String) -> u64 {
        self.strings.push(text);
        self.strings.len() as u64 - 1
    }

    /// The rows as a table under `columns`; a column this namespace lacks is 0.
    pub(super) fn table(self, columns: &Arc<[String]>) -> Table {
        if *self.columns == **columns {
            return Table { numbers: self.numbers, strings: self.strings };
        }
        let places: Vec<_> = columns.iter().map(|c| self.columns.iter().position(|own| own == c)).collect();
        let rows = self.numbers.chunks_exact(self.columns.len().max(1));
        let numbers = rows.flat_map(|row| places.iter().map(|p| p.map_or(0, |p| row[p]))).collect();
        Table { numbers, strings: self.strings }
    }
}
