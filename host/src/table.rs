//! One kernel counter table of one entity, as a source read it.
//!
//! A table is rows of `u64` cells under constant column names. A text cell (an interface name)
//! is an index into [`Table::strings`]; which columns hold text is documented by each source.

/// A table as a plugin receives it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Table {
    /// Row-major cells; negative kernel values are in two's complement.
    pub numbers: Vec<u64>,
    /// Text cells, in order of appearance.
    pub strings: Vec<String>,
}
