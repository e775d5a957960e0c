//! How the demo prints: steps, titles, and what the product said, for people.

use std::io::{IsTerminal as _, Write as _};
use std::time::Instant;

use anyhow::Result;

/// Whether to print for a terminal.
#[derive(Clone, Copy)]
pub struct Style {
    is_terminal: bool,
    colour: bool,
}

impl Style {
    /// Of standard output.
    pub fn of_stdout() -> Self {
        let is_terminal = std::io::stdout().is_terminal();
        Self { is_terminal, colour: is_terminal && std::env::var_os("NO_COLOR").is_none() }
    }

    /// The text in bold, where there are colours.
    pub fn bold(self, text: &str) -> String {
        if self.colour { format!("\x1b[1m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// Runs a step and prints one line about it: on a terminal also while it runs.
    pub fn step<T>(self, what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
        if self.is_terminal {
            print!("  ....  {what}\r");
            std::io::stdout().flush()?;
        }
        let start = Instant::now();
        let done = work();
        let mark = if done.is_ok() { "ok" } else { "FAIL" };
        println!("  {mark:<4}  {what} ({:.1} s)", start.elapsed().as_secs_f64());
        done
    }

    /// A command and what it printed.
    pub fn command(self, command: &str, output: &str) {
        println!("\n  {}", self.bold(&format!("$ {command}")));
        for line in output.trim_end().lines() {
            println!("{}", format!("  {line}").trim_end());
        }
    }
}
