//! Aligned columns for people.

use super::terminal::{Colour, Style};
use crate::escape::{cut, visible};

/// At most so many bytes has a cell: a table is for people, and one cell widens every row.
const MAX_CELL: usize = 4096;

/// Rows under a heading. Cells are escaped here, so that no caller can forget it.
#[derive(Debug)]
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table without rows. A column `state` is shown in the colours of [`colour_of_state`].
    pub fn new(headings: &[&str]) -> Self {
        Self { rows: vec![headings.iter().map(|heading| heading.to_uppercase()).collect()] }
    }

    /// Adds a row; it may have fewer cells than there are headings.
    pub fn row<const N: usize>(&mut self, cells: [&str; N]) {
        self.rows.push(cells.iter().map(|cell| shown(cell)).collect());
    }

    /// The lines, cut where the terminal ends.
    pub fn lines(&self, style: Style) -> impl Iterator<Item = String> {
        let columns = self.columns();
        self.rows.iter().map(move |row| line(row, &columns, style))
    }

    fn columns(&self) -> Vec<Column> {
        let (heading, rows) = self.rows.split_first().expect("a table is made with its headings");
        let column = |(at, heading): (usize, &String)| {
            let cells = || rows.iter().filter_map(move |row| row.get(at));
            Column {
                width: cells().chain([heading]).map(|cell| cell.chars().count()).max().unwrap_or(0),
                numbers: cells().all(|cell| is_number(cell)),
                state: heading == "STATE",
            }
        };
        heading.iter().enumerate().map(column).collect()
    }
}

/// Green for what works, red for what does not, yellow for what lies between or waits.
pub fn colour_of_state(state: &str) -> Option<Colour> {
    match state {
        "ok" | "up" | "attached" | "running" => Some(Colour::Green),
        "partial" | "missing" | "backoff" | "late" => Some(Colour::Yellow),
        "down" | "failed" | "failing" | "quarantined" | "refused" => Some(Colour::Red),
        "idle" | "stopped" | "absent" => Some(Colour::Dim),
        _ => None,
    }
}

#[derive(Debug)]
struct Column {
    width: usize,
    /// Only numbers stand below the heading: they are compared at their right end.
    numbers: bool,
    state: bool,
}

impl Column {
    fn pad(&self, cell: &str) -> String {
        // Not by a width of `format!`, which panics above 65 535.
        let blanks = " ".repeat(self.width.saturating_sub(cell.chars().count()));
        if self.numbers { blanks + cell } else { cell.to_owned() + &blanks }
    }
}

fn shown(cell: &str) -> String {
    let whole = visible(cut(cell, MAX_CELL));
    if cell.len() <= MAX_CELL { whole.into_owned() } else { format!("{whole}…") }
}

fn line(row: &[String], columns: &[Column], style: Style) -> String {
    let mut line = String::new();
    let mut room = style.width.unwrap_or(usize::MAX);
    let filled = row.iter().rposition(|cell| !cell.is_empty()).map_or(0, |last| last + 1);
    for (at, (cell, column)) in row[..filled].iter().zip(columns).enumerate() {
        let last = at + 1 == filled;
        let mut text = column.pad(cell);
        if last {
            text.truncate(text.trim_end().len());
        } else {
            text.push_str("  ");
        }
        let length = text.chars().count();
        if length > room || (length == room && !last) {
            let rest: String = text.chars().take(room.saturating_sub(1)).collect();
            return line + &rest + "…";
        }
        room -= length;
        let colour = colour_of_state(cell).filter(|_| column.state);
        line += &colour.map_or_else(|| text.clone(), |colour| style.paint(colour, &text));
    }
    line
}

fn is_number(cell: &str) -> bool {
    cell.is_empty() || cell == "-" || cell.parse::<f64>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(table: &Table, width: Option<usize>) -> Vec<String> {
        table.lines(Style { colour: false, width }).collect()
    }

    #[test]
    fn text_is_aligned_left_and_numbers_right() {
        let mut table = Table::new(&["name", "events", "why"]);
        table.row(["skb-drop", "7", ""]);
        table.row(["x", "1200", "no BTF"]);
        assert_eq!(
            lines(&table, None),
            ["NAME      EVENTS  WHY", "skb-drop       7", "x           1200  no BTF"]
        );
    }

    #[test]
    fn a_line_ends_where_the_terminal_ends() {
        let mut table = Table::new(&["name"]);
        table.row(["0123456789"]);
        assert_eq!(lines(&table, Some(10))[1], "0123456789");
        assert_eq!(lines(&table, Some(5))[1], "0123…");
    }

    #[test]
    fn a_cell_of_a_megabyte_is_cut_and_shown() {
        let mut table = Table::new(&["name", "events", "why"]);
        table.row(["a", "1", &"x".repeat(1 << 20)]);
        table.row(["b", "2", &"\u{1b}".repeat(1 << 20)]);
        table.row(["c", "3", "\u{e9}"]);
        let lines = lines(&table, None);
        assert!(lines[1].ends_with("xx…") && lines[1].len() < 2 * MAX_CELL, "{}", lines[1].len());
        assert_eq!(lines[3], "c          3  \u{e9}");
    }

    #[test]
    fn a_state_is_coloured_and_still_aligned() {
        let mut table = Table::new(&["state", "name"]);
        table.row(["up", "x"]);
        let lines: Vec<_> = table.lines(Style { colour: true, width: Some(80) }).collect();
        assert_eq!(lines, ["STATE  NAME", "\u{1b}[32mup     \u{1b}[0mx"]);
    }

    #[test]
    fn a_cell_cannot_take_over_the_terminal() {
        let mut table = Table::new(&["name"]);
        table.row(["\x1b]0;x\x07\n"]);
        assert_eq!(lines(&table, None)[1], "\\u{1b}]0;x\\u{7}\\n");
    }
}
