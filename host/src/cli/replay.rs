//! `inspector replay`: runs plugins on a recorded trace, without a kernel and without root.

use std::fmt::Write as _;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use serde_json::json;

use super::moment::{TimeForm, Times};
use super::shared::Output;
use super::terminal::{self, Style};
use super::{diagnose, log, serve, watch};
use crate::agent::replay::{self, Outcome};
use crate::answers::report::Report;
use crate::config::{Config, LogLevel};
use crate::events::event::Event;
use crate::events::event::EventLine;
use crate::events::fold::{Fold, Told};
use crate::tracefile;

/// Run analyzers on a recorded trace: the same events and metrics every time, without root
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  inspector replay fault.trace --plugin-dir target/plugins
  inspector replay fault.trace --time none --all
  inspector replay fault.trace -o json | jq -r 'select(.type) | .message'

Prints the events, then the metrics as they stood at the end, then what the analyzers conclude from
all of it. Time is that of the recording. Text tells one fault in one line and leaves out the normal
course of things, as `inspector watch` does. What cannot be replayed (a damaged part, a plugin that does
not run) is told on standard error.

Exit status: 0 if everything was replayed; 1 if something was left out or nothing could be done.")]
pub struct Args {
    /// Trace, as `inspector record` wrote it
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Folder of analyzers (*.wasm); may be repeated [default: /usr/lib/inspector/plugins]
    #[arg(long = "plugin-dir", value_name = "DIR")]
    plugin_dirs: Vec<PathBuf>,
    /// Configuration file, for the limits of plugins and their cache
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// How to print it: lines of text, or one JSON object per line
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Output,
    /// How to print the time of an event, in text
    #[arg(long, value_enum, default_value_t, value_name = "FORM")]
    time: TimeForm,
    /// Every event on a line of its own, also the normal course of things
    #[arg(short, long)]
    all: bool,
}

/// Replays a file and prints what the plugins say of it.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let mut config = match &args.config {
        Some(file) => serve::read_config(file)?,
        None => {
            let mut config = Config::default();
            // A person who replays a file does not expect others to be written.
            config.plugins.cache_dir = PathBuf::new();
            config
        }
    };
    if !args.plugin_dirs.is_empty() {
        config.plugins.directories.clone_from(&args.plugin_dirs);
    }
    config.log.level = config.log.level.min(LogLevel::Warn);
    log::start(&config.log);
    let file = tracefile::read(&args.file)?;
    let style = Style::of_stdout();
    let mut screen = Screen { args, style, fold: Fold::default(), times: Times::new(args.time) };
    let outcome = replay::run(&file, &config, |event| screen.take(event))
        .with_context(|| format!("cannot replay {}", args.file.display()))??;
    screen.finish()?;
    match args.output {
        Output::Text => print_metrics(&outcome)?,
        Output::Json => outcome.metrics.lines().filter_map(sample).try_for_each(|s| print_json(&s))?,
    }
    if let Some(report) = &outcome.report {
        print_report(report, args.output, style)?;
    }
    for left_out in &outcome.left_out {
        terminal::complain(&format!("left out: {left_out}"));
    }
    Ok(if outcome.left_out.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What prints events, in the time of the recording.
struct Screen<'a> {
    args: &'a Args,
    style: Style,
    fold: Fold,
    times: Times,
}

impl Screen<'_> {
    fn take(&mut self, event: &Event) -> io::Result<()> {
        if self.args.output == Output::Json {
            return terminal::print_line(&terminal::ascii_json(event.json_line().trim_end()));
        }
        if event.is_noise() && !self.args.all {
            return Ok(());
        }
        let at = Duration::from_nanos(event.time_ns);
        self.fold.push(EventLine::of(event), at);
        let lines = if self.args.all { self.fold.rest() } else { self.fold.due(at) };
        self.show(lines)
    }

    fn finish(&mut self) -> io::Result<()> {
        let rest = self.fold.rest();
        self.show(rest)
    }

    fn show(&mut self, lines: Vec<Told>) -> io::Result<()> {
        lines
            .iter()
            .try_for_each(|told| terminal::print_line(&watch::text(told, &mut self.times, self.style)))
    }
}

fn print_metrics(outcome: &Outcome) -> io::Result<()> {
    terminal::print_line("")?;
    outcome.metrics.lines().try_for_each(terminal::print_line)
}

fn print_report(report: &Report, output: Output, style: Style) -> anyhow::Result<()> {
    let shown = match output {
        Output::Text => format!("\n{}", diagnose::text(report, style)),
        Output::Json => terminal::ascii_json(&serde_json::to_string(report)?).into_owned(),
    };
    Ok(terminal::print_line(shown.trim_end())?)
}

fn print_json(value: &serde_json::Value) -> io::Result<()> {
    terminal::print_line(&terminal::ascii_json(&value.to_string()))
}

/// A line `name{label="value",…} number` as JSON; none for a comment.
fn sample(line: &str) -> Option<serde_json::Value> {
    let (name, rest) = line.split_at_checked(line.find(['{', ' '])?)?;
    let mut labels = serde_json::Map::new();
    let mut rest = rest.strip_prefix('{').filter(|_| name != "#")?;
    while !rest.starts_with('}') {
        let (label, text) = rest.trim_start_matches(',').split_once("=\"")?;
        let (value, behind) = unquoted(text)?;
        labels.insert(label.to_owned(), value.into());
        rest = behind;
    }
    // JSON has no infinity: the number stays text then.
    let text = rest.strip_prefix("} ")?;
    let number = text.parse::<f64>().ok().and_then(serde_json::Number::from_f64);
    let value = number.map_or_else(|| text.into(), serde_json::Value::Number);
    Some(json!({ "metric": name, "labels": labels, "value": value }))
}

/// The text up to its closing quote, and what follows.
fn unquoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => match chars.next()?.1 {
                'n' => value.push('\n'),
                other => value.push(other),
            },
            _ => value.write_char(c).ok()?,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_is_json_with_its_labels() {
        let line = r#"x_total{pod="a\"b\\",le="+Inf"} 3"#;
        let expected =
            json!({ "metric": "x_total", "labels": { "pod": "a\"b\\", "le": "+Inf" }, "value": 3.0 });
        assert_eq!(sample(line), Some(expected));
        assert_eq!(sample("# HELP x_total {y} 3"), None);
        assert_eq!(sample(r#"x{a="b"} +Inf"#).expect("a sample")["value"], "+Inf");
    }
}
