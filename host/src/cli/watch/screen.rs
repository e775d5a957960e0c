//! Prints events in one of the forms, as many as are wanted.

use std::io;
use std::time::Instant;

use super::line::{self, Event};
use crate::cli::moment::{TimeForm, Times};
use crate::cli::terminal::{self, Style};
use crate::events::fold::{Fold, Told};

/// How events are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// The server's lines.
    Json,
    /// Text, a line for each event.
    Events,
    /// Text, a line for each fault.
    Faults,
}

/// Standard output.
#[derive(Debug)]
pub struct Screen {
    form: Form,
    fold: Fold,
    times: Times,
    style: Style,
    started: Instant,
    /// Lines that may still be printed.
    left: u64,
}

impl Screen {
    /// Prints at most so many lines.
    pub fn new(form: Form, time: TimeForm, lines: Option<u64>) -> Self {
        Self {
            form,
            fold: Fold::default(),
            times: Times::new(time),
            style: Style::of_stdout(),
            started: Instant::now(),
            left: lines.unwrap_or(u64::MAX),
        }
    }

    /// Prints an event, or lets it wait for others of its fault.
    ///
    /// # Errors
    /// If nobody reads any more; so in all of these.
    pub fn take(&mut self, event: Event) -> io::Result<()> {
        if self.form == Form::Json {
            return self.print(&event.json());
        }
        self.fold.push(event.fields, self.started.elapsed());
        if self.form == Form::Faults { self.show_due() } else { self.finish() }
    }

    /// Prints what has waited long enough.
    ///
    /// # Errors
    /// See [`Screen::take`].
    pub fn show_due(&mut self) -> io::Result<()> {
        let due = self.fold.due(self.started.elapsed());
        self.show(due)
    }

    /// Prints what still waits.
    ///
    /// # Errors
    /// See [`Screen::take`].
    pub fn finish(&mut self) -> io::Result<()> {
        let rest = self.fold.rest();
        self.show(rest)
    }

    /// Whether something waits.
    pub fn is_waiting(&self) -> bool {
        !self.fold.is_empty()
    }

    /// Whether all lines that are wanted were printed.
    pub fn is_full(&self) -> bool {
        self.left == 0
    }

    fn show(&mut self, lines: Vec<Told>) -> io::Result<()> {
        for told in lines {
            let line = line::text(&told, &mut self.times, self.style);
            self.print(&line)?;
        }
        Ok(())
    }

    fn print(&mut self, line: &str) -> io::Result<()> {
        if self.is_full() {
            return Ok(());
        }
        self.left -= 1;
        terminal::print_line(line)
    }
}
