//! `inspector explain`: what a drop or reset reason of the kernel means, and what to do about it.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use serde_json::json;

use super::serve;
use super::shared::{Output, WRONG_USAGE, read_text};
use super::table::Table;
use super::terminal::{self, Colour, Style};
use crate::config::Config;
use crate::kernel::advice::{self, Advice, Class, Found, Kind};
use crate::kernel::names::Reasons;
use crate::probe;
use crate::text::similar;

/// Columns of text where the terminal does not tell.
const WIDTH: usize = 100;

/// Explain a drop or reset reason: what it means, whether it is normal, what to check and change
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  inspector explain NO_SOCKET
  inspector explain listen                     every reason with this in its name
  inspector explain                            the list of all reasons

Exit status: 0; 2 if nothing is known of the reason.")]
pub struct Args {
    /// Name, or a part of it, in upper or lower case; all reasons if there is none
    #[arg(value_name = "REASON", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    reason: Option<String>,
    /// File of texts that come before the built-in ones
    #[arg(long, value_name = "FILE")]
    advice: Option<PathBuf>,
    /// Configuration file, for its file of texts
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// How to print it
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Output,
}

/// Prints the texts of a reason, or the list of all.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let advice = advice(args)?;
    let reasons = probe::kernel_reasons();
    let found = match &args.reason {
        Some(asked) => advice.find(asked),
        None => advice.all().collect(),
    };
    match (&args.reason, args.output) {
        (_, Output::Json) => {
            let found: Vec<_> = found.iter().map(|found| as_json(found, &reasons)).collect();
            terminal::print_line(&terminal::ascii_json(&format!("{:#}", json!(found))))?;
        }
        (None, Output::Text) => list(&found)?,
        (Some(_), Output::Text) => {
            let blocks: Vec<_> =
                found.iter().map(|found| block(found, &reasons, Style::of_stdout())).collect();
            if !blocks.is_empty() {
                terminal::print_line(&blocks.join("\n\n"))?;
            }
        }
    }
    match &args.reason {
        Some(asked) if found.is_empty() => Ok(unknown(asked, &advice, &reasons)),
        _ => Ok(ExitCode::SUCCESS),
    }
}

fn advice(args: &Args) -> anyhow::Result<Advice> {
    let config = args.config.as_deref().map_or_else(|| Ok(Config::default()), serve::read_config)?;
    let file: &Path = args.advice.as_deref().unwrap_or(&config.advice.file);
    if file.as_os_str().is_empty() {
        return Ok(Advice::built_in());
    }
    let name = file.display().to_string();
    let text = read_text(file).with_context(|| format!("cannot read {name}"))?;
    Ok(Advice::built_in().under(Advice::parse(&name, &text)?))
}

/// What can be said of a reason without a text; a failure if nothing.
fn unknown(asked: &str, advice: &Advice, reasons: &Reasons) -> ExitCode {
    let name = advice::plain(asked);
    let here: Vec<_> = [Kind::Drop, Kind::Reset]
        .into_iter()
        .filter_map(|kind| {
            Some(format!("{} reason {} of this kernel", kind.as_str(), number(kind, &name, reasons)?))
        })
        .collect();
    let subsystem = advice.subsystem(asked).map(|subsystem| subsystem.means.clone());
    let known: Vec<_> = here.into_iter().chain(subsystem).collect();
    if known.is_empty() {
        let names: Vec<_> = advice.all().map(|found| found.name.to_owned()).collect();
        terminal::complain(&format!(
            "{name}: no such reason is known to this version, nor to this kernel{}; `inspector explain` lists all",
            similar::hint(&name, &names)
        ));
        return ExitCode::from(WRONG_USAGE);
    }
    terminal::complain(&format!(
        "{name}: a reason that is newer than this version, which has no text for it. Known of it: {}. \
         The location of the event names the function that gave it.",
        known.join("; ").trim_end_matches('.')
    ));
    ExitCode::SUCCESS
}

fn list(found: &[Found<'_>]) -> std::io::Result<()> {
    let mut table = Table::new(&["kind", "reason", "class", "means"]);
    for Found { kind, name, text } in found {
        table.row([kind.as_str(), name, &text.class.to_string(), &text.means]);
    }
    table.lines(Style::of_stdout()).try_for_each(|line| terminal::print_line(&line))
}

fn block(found: &Found<'_>, reasons: &Reasons, style: Style) -> String {
    let Found { kind, name, text } = found;
    let colour = match text.class {
        Class::Benign => Colour::Green,
        Class::Suspicious => Colour::Yellow,
        Class::Fault => Colour::Red,
    };
    let here = match number(*kind, name, reasons) {
        Some(number) => format!("{} reason {number} of this kernel", kind.as_str()),
        None => format!("{} reason, not of this kernel", kind.as_str()),
    };
    let class = style.paint(colour, &text.class.to_string());
    let mut lines = vec![format!("{name}  {class}  ({here})")];
    let width = style.width.unwrap_or(WIDTH).clamp(40, WIDTH);
    for (part, said) in
        [("means", &text.means), ("normal", &text.normal), ("check", &text.check), ("change", &text.change)]
    {
        for (at, line) in terminal::wrap(said, width - 10).into_iter().enumerate() {
            lines.push(format!("  {:<8}{line}", if at == 0 { part } else { "" }));
        }
    }
    lines.join("\n")
}

fn as_json(found: &Found<'_>, reasons: &Reasons) -> serde_json::Value {
    let Found { kind, name, text } = found;
    json!({
        "kind": kind, "reason": name, "number": number(*kind, name, reasons), "class": text.class,
        "means": text.means, "normal": text.normal, "check": text.check, "change": text.change,
    })
}

/// What the running kernel numbers it.
fn number(kind: Kind, name: &str, reasons: &Reasons) -> Option<u32> {
    let names = match kind {
        Kind::Drop => &reasons.drop,
        Kind::Reset => &reasons.reset,
    };
    names.iter().find(|(_, known)| *known == name).map(|(number, _)| *number)
}
