//! Aligned columns for people.

use super::terminal::{Colour, Style};
use crate::text::escape::{cut, visible};

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

    /// Adds the rows of another table with the same headings. Both have gained a first column by
    /// [`Table::of`].
    pub fn append(&mut self, other: Self) {
        self.rows.extend(other.rows.into_iter().skip(1));
    }

    /// The same table with a first column that says whose rows these are.
    #[must_use]
    pub fn of(mut self, heading: &str, owner: &str) -> Self {
        for (at, row) in self.rows.iter_mut().enumerate() {
            row.insert(0, if at == 0 { heading.to_uppercase() } else { visible(owner).into_owned() });
        }
        self
    }

    /// The lines. On a terminal that is too narrow for them, texts are wrapped under their columns.
    pub fn lines(&self, style: Style) -> impl Iterator<Item = String> {
        let mut columns = self.columns();
        if let Some(room) = style.width {
            fit(&mut columns, room, |column| column.word.max(NARROWEST));
            // Only if that is not enough, words are cut.
            fit(&mut columns, room, |_| NARROWEST);
        }
        self.rows.iter().flat_map(move |row| row_lines(row, &columns, style))
    }

    fn columns(&self) -> Vec<Column> {
        let (heading, rows) = self.rows.split_first().expect("a table is made with its headings");
        let column = |(at, heading): (usize, &String)| {
            let cells = || rows.iter().filter_map(move |row| row.get(at));
            Column {
                width: cells().chain([heading]).map(|cell| cell.chars().count()).max().unwrap_or(0),
                word: cells().map(|cell| longest_word(cell)).max().unwrap_or(0),
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
    /// Length of the longest word in it.
    word: usize,
    /// Only numbers stand below the heading: they are compared at their right end.
    numbers: bool,
    state: bool,
}

impl Column {
    /// Numbers and states stay whole: half of one is another one.
    fn can_wrap(&self, least: usize) -> bool {
        !self.numbers && !self.state && self.width > least
    }
}

/// Columns of text are made no narrower than this; a terminal that has not even that wraps itself.
const NARROWEST: usize = 12;
/// Between two columns.
const GAP: usize = 2;

/// Makes the widest texts narrower, as evenly as needed and down to their `least`, until the row fits.
fn fit(columns: &mut [Column], room: usize, least: impl Fn(&Column) -> usize) {
    let gaps = GAP * columns.len().saturating_sub(1);
    loop {
        let width: usize = columns.iter().map(|column| column.width).sum::<usize>() + gaps;
        let Some(surplus) = width.checked_sub(room).filter(|surplus| *surplus > 0) else { return };
        let mut texts: Vec<_> = columns.iter_mut().filter(|column| column.can_wrap(least(column))).collect();
        texts.sort_by_key(|column| column.width);
        let Some(widest) = texts.pop() else { return };
        // Down to the next one's width, so that the widest two share what is left of it.
        let next = texts.last().map_or(0, |column| column.width).min(widest.width - 1);
        widest.width = (widest.width.saturating_sub(surplus)).max(next).max(least(widest));
    }
}

/// One row, over as many lines as its tallest cell.
fn row_lines(row: &[String], columns: &[Column], style: Style) -> Vec<String> {
    let cells: Vec<_> = row.iter().zip(columns).map(|(cell, column)| wrap(cell, column)).collect();
    let height = cells.iter().map(Vec::len).max().unwrap_or(0);
    let part =
        |at: usize| cells.iter().map(|cell| cell.get(at).map_or("", String::as_str)).collect::<Vec<_>>();
    (0..height).map(|at| line(&part(at), columns, style)).collect()
}

/// The lines of a cell, broken behind blanks and commas; a word that is too long is cut.
fn wrap(cell: &str, column: &Column) -> Vec<String> {
    let (mut lines, mut line, mut used) = (Vec::new(), String::new(), 0);
    for word in cell.split_inclusive([' ', ',']) {
        let length = word.trim_end().chars().count();
        if used + length > column.width && !line.trim().is_empty() {
            lines.push(std::mem::take(&mut line));
            used = 0;
        }
        for c in word.chars() {
            if used >= column.width && c != ' ' {
                lines.push(std::mem::take(&mut line));
                used = 0;
            }
            line.push(c);
            used += 1;
        }
    }
    lines.push(line);
    lines.iter_mut().for_each(|line| line.truncate(line.trim_end().len()));
    lines
}

fn shown(cell: &str) -> String {
    let whole = visible(cut(cell, MAX_CELL));
    if cell.len() <= MAX_CELL { whole.into_owned() } else { format!("{whole}…") }
}

fn line(cells: &[&str], columns: &[Column], style: Style) -> String {
    let mut line = String::new();
    let filled = cells.iter().rposition(|cell| !cell.is_empty()).map_or(0, |last| last + 1);
    for (at, (cell, column)) in cells[..filled].iter().zip(columns).enumerate() {
        let blanks = " ".repeat(column.width.saturating_sub(cell.chars().count()));
        let colour = colour_of_state(cell).filter(|_| column.state);
        let shown = colour.map_or_else(|| (*cell).to_owned(), |colour| style.paint(colour, cell));
        let text = if column.numbers { blanks + &shown } else { shown + &blanks };
        line += if at + 1 == filled { text.trim_end() } else { &text };
        if at + 1 < filled {
            line += &" ".repeat(GAP);
        }
    }
    line
}

/// Blanks in front of a cell keep its first word company.
fn longest_word(cell: &str) -> usize {
    let indent = cell.len() - cell.trim_start().len();
    let words = cell.split_inclusive([' ', ',']).map(|word| word.trim_end().chars().count());
    indent + words.max().unwrap_or(0)
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
    fn a_text_is_wrapped_under_its_column_and_nothing_is_cut() {
        let mut table = Table::new(&["name", "events", "why"]);
        table.row(["skb-drop", "7", "the kernel lacks the hook: drops are not seen"]);
        table.row(["x", "1200", "no BTF"]);
        assert_eq!(
            lines(&table, Some(40)),
            [
                "NAME      EVENTS  WHY",
                "skb-drop       7  the kernel lacks the",
                "                  hook: drops are not",
                "                  seen",
                "x           1200  no BTF",
            ]
        );
        assert_eq!(lines(&table, None)[1], "skb-drop       7  the kernel lacks the hook: drops are not seen");
    }

    #[test]
    fn the_widest_texts_give_way_first_and_a_list_breaks_behind_its_commas() {
        let mut table = Table::new(&["name", "addresses", "help"]);
        table.row(["a-name-of-its-own", "10.0.0.1,10.0.0.2,10.0.0.3", "one two three four five six"]);
        let lines = lines(&table, Some(60));
        assert!(lines.iter().all(|line| line.chars().count() <= 60), "{lines:#?}");
        assert_eq!(lines.len(), 3);
        assert_eq!(lines[1], "a-name-of-its-own  10.0.0.1,10.0.0.2,    one two three four");
        assert_eq!(lines[2], "                   10.0.0.3              five six");
    }

    #[test]
    fn words_stay_whole_as_long_as_there_is_room() {
        let mut table = Table::new(&["name", "why"]);
        table.row(["  kprobe/virtnet_send_command", "this kernel has no kprobes at all"]);
        let lines = lines(&table, Some(50));
        assert_eq!(lines[1], "  kprobe/virtnet_send_command  this kernel has no");
        assert_eq!(lines[2], format!("{}kprobes at all", " ".repeat(31)));
    }

    #[test]
    fn a_word_that_is_too_long_goes_on_in_the_next_line() {
        let mut table = Table::new(&["name"]);
        table.row(["0123456789abcdef"]);
        assert_eq!(lines(&table, Some(12)), ["NAME", "0123456789ab", "cdef"]);
        assert_eq!(lines(&table, Some(16))[1], "0123456789abcdef");
    }

    #[test]
    fn tables_of_several_owners_are_one() {
        let table = |name: &str| {
            let mut table = Table::new(&["name"]);
            table.row([name]);
            table
        };
        let mut both = table("a").of("node", "n1");
        both.append(table("b").of("node", "n2"));
        assert_eq!(lines(&both, None), ["NODE  NAME", "n1    a", "n2    b"]);
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
        assert_eq!(lines, ["STATE  NAME", "\u{1b}[32mup\u{1b}[0m     x"]);
    }

    #[test]
    fn a_cell_cannot_take_over_the_terminal() {
        let mut table = Table::new(&["name"]);
        table.row(["\x1b]0;x\x07\n"]);
        assert_eq!(lines(&table, None)[1], "\\u{1b}]0;x\\u{7}\\n");
    }
}
