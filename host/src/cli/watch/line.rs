//! One line of a server's event stream.

use serde::Deserialize;

use crate::cli::moment::Times;
use crate::cli::terminal::{Colour, Style, ascii_json};
use crate::events::event::EventLine;
use crate::events::fold::Told;
use crate::events::severity::Severity;
use crate::text::escape::visible;

/// An event, and the line as the server wrote it.
#[derive(Debug)]
pub struct Event {
    line: String,
    /// What the line says.
    pub fields: EventLine,
}

/// What a line of the stream can be.
#[derive(Debug)]
pub enum Line {
    /// Nothing happened for a while; the connection lives.
    KeepAlive,
    /// So many events were dropped before this client could read them.
    Lost(u64),
    /// Something happened.
    Event(Box<Event>),
}

#[derive(Deserialize)]
struct Lost {
    lost: u64,
}

impl Line {
    /// Reads a line.
    ///
    /// # Errors
    ///
    /// If it is no line of an event stream.
    pub fn read(line: String) -> Result<Self, serde_json::Error> {
        if line.trim().is_empty() {
            return Ok(Self::KeepAlive);
        }
        // In this order, because nearly every line is an event.
        match serde_json::from_str(&line) {
            Ok(fields) => Ok(Self::Event(Box::new(Event { line, fields }))),
            Err(err) => serde_json::from_str(&line).map(|Lost { lost }| Self::Lost(lost)).map_err(|_| err),
        }
    }
}

impl Event {
    /// For programs: the server's own JSON, with fields that this version does not know.
    pub fn json(&self) -> String {
        ascii_json(self.line.trim()).into_owned()
    }
}

/// A line for people: its time, the level in its colour, the rest as it is.
pub fn text(told: &Told, times: &mut Times, style: Style) -> String {
    let text = told.text();
    let colour = match told.event.severity {
        Severity::Info => Colour::Green,
        Severity::Warning => Colour::Yellow,
        Severity::Critical => Colour::Red,
    };
    let line = match text.split_once(' ') {
        Some((level, rest)) => format!("{} {rest}", style.paint(colour, level)),
        None => text,
    };
    match times.text(&told.event.time) {
        Some(time) => format!("{} {line}", style.paint(Colour::Dim, &visible(&time))),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::cli::moment::TimeForm;
    use crate::events::fold::Fold;

    const EVENT: &str = r#"{"time":"2023-02-03T09:01:03.402118044Z","level":"WARN","source":"tcp",
        "msg":"TCPRESET_NOSOCK","meta":"","event":"","seq":7,"type":"TCPRESET_NOSOCK","severity":1,"count":1,
        "message":"10.0.0.1:80 -> \u001b[2J","new":"\u009b","attrs":{},"entity":{"id":1,"kind":"netns",
        "namespace":"","name":"web","node":"n1","netns":4026532417,"cookie":9}}"#;

    fn event() -> Box<Event> {
        match Line::read(EVENT.replace('\n', "")).expect("an event") {
            Line::Event(event) => event,
            other => panic!("{other:?}"),
        }
    }

    fn shown(event: EventLine, form: TimeForm, style: Style) -> String {
        let mut fold = Fold::default();
        fold.push(event, Duration::ZERO);
        text(&fold.rest()[0], &mut Times::new(form), style)
    }

    #[test]
    fn an_event_is_one_line_that_a_terminal_does_not_obey() {
        let plain =
            "WARN TCPRESET_NOSOCK Namespace= Pod=web Node=n1 Netns=4026532417 10.0.0.1:80 -> \\u{1b}[2J";
        assert_eq!(shown(event().fields, TimeForm::None, Style::PLAIN), plain);
        let coloured = shown(event().fields, TimeForm::None, Style { colour: true, width: None });
        assert_eq!(coloured, plain.replace("WARN", "\u{1b}[33mWARN\u{1b}[0m"));
        let hostile = EventLine { time: "\u{1b}c".to_owned(), ..event().fields };
        assert!(!shown(hostile, TimeForm::Utc, Style::PLAIN).contains('\u{1b}'));
    }

    #[test]
    fn the_time_stands_first() {
        let line = shown(event().fields, TimeForm::Utc, Style::PLAIN);
        assert!(line.starts_with("2023-02-03T09:01:03.402Z WARN TCPRESET_NOSOCK Namespace="), "{line}");
    }

    #[test]
    fn a_field_that_this_version_does_not_know_stays_in_the_json() {
        assert!(event().json().contains(r#""new":"\u009b""#), "{}", event().json());
    }

    #[test]
    fn loss_and_silence_are_told_apart_from_events_and_from_nonsense() {
        assert!(matches!(Line::read(String::new()), Ok(Line::KeepAlive)));
        assert!(matches!(Line::read(r#"{"lost":12}"#.into()), Ok(Line::Lost(12))));
        for nonsense in ["{}", "\u{1b}c", r#"{"lost":-1}"#, r#"{"seq":1}"#] {
            assert!(Line::read(nonsense.into()).is_err(), "{nonsense}");
        }
    }
}
