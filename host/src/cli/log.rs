//! The agent's own log, on standard error.

use std::io::{self, Write};

use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Layer as _, fmt, registry};

use crate::config::{Log, LogFormat, LogLevel};
use crate::text::escape::visible;

/// Starts logging; to be called once, before anything else logs.
pub fn start(log: &Log) {
    let level = level(log.level);
    // Libraries speak of themselves at every level; a person asked for this agent's words.
    let mut targets =
        Targets::new().with_default(level.min(LevelFilter::WARN)).with_target("inspector", level);
    // What these complain of is told by the agent, once for each cause.
    let detail = if level >= LevelFilter::DEBUG { LevelFilter::WARN } else { LevelFilter::OFF };
    for library in ["kube_client", "kube_runtime"] {
        targets = targets.with_target(library, detail);
    }
    let layer = match log.format {
        LogFormat::Text => fmt::layer().with_ansi(false).with_target(false).with_writer(|| Escaped).boxed(),
        LogFormat::Json => fmt::layer().json().flatten_event(true).with_writer(|| Escaped).boxed(),
    };
    registry().with(layer.with_filter(targets)).init();
}

fn level(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    }
}

/// Standard error, one event one line: names of processes, files and guests' own words are among
/// what is logged, so whatever a terminal would obey is escaped here, once for all callers.
#[derive(Debug)]
struct Escaped;

impl Write for Escaped {
    /// The subscriber writes a whole event, with its line end, at once.
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        // A failure would be reported on standard error, which is what failed: an agent whose log
        // nobody reads any more goes on.
        let _ = io::stderr().lock().write_all(one_line(event).as_bytes());
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn one_line(event: &[u8]) -> String {
    let text = String::from_utf8_lossy(event);
    format!("{}\n", visible(text.strip_suffix('\n').unwrap_or(&text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_forge_a_log_line() {
        let forged = one_line(b"INFO stopped plugin=a\nERROR all is lost\x1b[2J\n");
        assert_eq!(forged, "INFO stopped plugin=a\\nERROR all is lost\\u{1b}[2J\n");
    }
}
