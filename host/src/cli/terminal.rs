//! What is safe and readable on a terminal: whole lines, colours, width.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::{self, IsTerminal as _, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::text::escape::visible;

/// Colours that mean something, the same in every command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Colour {
    /// It works.
    Green,
    /// It needs attention.
    Yellow,
    /// It does not work.
    Red,
    /// Less important than the rest.
    Dim,
}

/// Whether and how standard output is decorated; plain text is [`Style::PLAIN`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Style {
    /// Colours are wanted.
    pub colour: bool,
    /// Columns of the terminal; none where lines must not be cut.
    pub width: Option<usize>,
}

impl Style {
    /// For files, pipes and tests.
    pub const PLAIN: Self = Self { colour: false, width: None };

    /// What suits standard output: decoration only on a terminal, no colour with `NO_COLOR`.
    pub fn of_stdout() -> Self {
        if !io::stdout().is_terminal() {
            return Self::PLAIN;
        }
        let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
            || std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let width = terminal_size::terminal_size().map(|(width, _)| usize::from(width.0));
        Self { colour: !plain, width }
    }

    /// The text in a colour, or as it is.
    pub fn paint(self, colour: Colour, text: &str) -> String {
        let code = match colour {
            Colour::Green => 32,
            Colour::Yellow => 33,
            Colour::Red => 31,
            Colour::Dim => 2,
        };
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// Lines of at most so many characters, but for longer words.
pub fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let line = lines.last_mut().expect("there is always one");
        if !line.is_empty() && line.chars().count() + 1 + word.chars().count() > width {
            lines.push(word.to_owned());
        } else {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines
}

/// JSON text in printable ASCII, the same JSON: what a terminal could obey can only stand inside of
/// strings, where JSON has its own escapes.
pub fn ascii_json(json: &str) -> Cow<'_, str> {
    let plain = |c| matches!(c, ' '..='~' | '\n');
    if json.chars().all(plain) {
        return Cow::Borrowed(json);
    }
    let mut ascii = String::with_capacity(json.len() + 16);
    for c in json.chars() {
        if plain(c) {
            ascii.push(c);
            continue;
        }
        for unit in c.encode_utf16(&mut [0; 2]) {
            write!(ascii, "\\u{unit:04x}").expect("writing to a String cannot fail");
        }
    }
    Cow::Owned(ascii)
}

/// Prints a line to standard output.
///
/// # Errors
///
/// If nobody reads any more.
pub fn print_line(line: &str) -> io::Result<()> {
    // One write for the whole line, so that another process' lines are not mixed into it.
    io::stdout().lock().write_all(format!("{line}\n").as_bytes())
}

/// Whether nobody can read standard output any more, so that a command that has nothing to print
/// need not wait for its next line to find out.
pub fn is_output_closed() -> bool {
    has_no_reader(io::stdout().as_fd())
}

/// Says something to the person at the terminal, on standard error.
pub fn complain(text: &str) {
    // Nothing is left to be told where standard error is closed.
    let _ = writeln!(io::stderr().lock(), "{}", visible(text));
}

fn has_no_reader(output: BorrowedFd<'_>) -> bool {
    // The write end of a pipe without readers is in error; asking for nothing asks for that only.
    let mut fds = [PollFd::new(output, PollFlags::empty())];
    poll(&mut fds, PollTimeout::ZERO).is_ok() && fds[0].revents().is_some_and(|found| !found.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_texts_are_wrapped_between_words() {
        assert_eq!(wrap("aa bb cc dddddddd e", 5), ["aa bb", "cc", "dddddddd", "e"]);
    }

    #[test]
    fn json_for_the_terminal_is_the_same_json() {
        let value = serde_json::json!({ "name": "a\u{9b}2J\u{7f}\u{202e}\u{1b} \u{1f980}" });
        let text = value.to_string();
        let ascii = ascii_json(&text);
        assert!(ascii.chars().all(|c| matches!(c, ' '..='~')), "{ascii}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&ascii).expect("JSON"), value);
    }

    #[test]
    fn a_pipe_that_nobody_reads_any_more_is_noticed_without_writing() -> io::Result<()> {
        let (reader, writer) = io::pipe()?;
        assert!(!has_no_reader(writer.as_fd()));
        drop(reader);
        assert!(has_no_reader(writer.as_fd()));
        Ok(())
    }

    #[test]
    fn nothing_is_painted_without_a_terminal() {
        assert_eq!(Style::PLAIN.paint(Colour::Red, "x"), "x");
    }
}
