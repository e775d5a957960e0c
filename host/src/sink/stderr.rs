//! Standard error: events as lines of JSON between those of the agent's own log, for whoever collects the logs of
//! containers anyway.

use std::io::{self, Write as _};

use super::deliver::{Deliver, Outcome};
use crate::events::event::EventLine;

/// Standard error of this process.
#[derive(Debug)]
pub struct Stderr;

impl Deliver for Stderr {
    async fn deliver(&mut self, events: &[EventLine]) -> Outcome {
        let text: String = events.iter().map(EventLine::to_json).collect();
        // Whole lines: the agent's log writes between two batches at most.
        match io::stderr().lock().write_all(text.as_bytes()) {
            Ok(()) => Outcome::Taken,
            Err(error) => Outcome::Later { why: error.to_string(), after: None, answered: false },
        }
    }
}
