//! `inspector doctor`: what this kernel and these privileges allow, and what is lost without the
//! rest. Loads nothing and changes nothing.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde_json::json;

use super::table::Table;
use super::terminal::{self, Colour, Style};
use super::{Output, serve};
use crate::config::Config;
use crate::probe::{self, Check};

/// Check what this kernel and these privileges allow, and what is lost without the rest
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit status: 0 if the agent can run, also if it can see less than everything; 1 if not."
)]
pub struct Args {
    /// Configuration file, for its folders
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Folder of analyzers; may be repeated
    #[arg(long = "plugin-dir", value_name = "DIR")]
    plugin_dirs: Vec<PathBuf>,
    /// How to print it
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Output,
}

/// Prints every check and a summary.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let mut config = args.config.as_deref().map_or_else(|| Ok(Config::default()), serve::read_config)?;
    if !args.plugin_dirs.is_empty() {
        config.plugins.directories.clone_from(&args.plugin_dirs);
    }
    // Without the counter tables of its own namespace an agent would show nothing at all.
    let vital = procfs(&config.paths.procfs);
    let able = vital.ok;
    let mut checks = vec![kernel(), vital];
    checks.extend(probe::doctor());
    checks.extend(config.plugins.directories.iter().map(|dir| plugin_dir(dir)));
    match args.output {
        Output::Json => {
            let answer = json!({ "able": able, "checks": checks });
            terminal::print_line(&terminal::ascii_json(&format!("{answer:#}")))?;
        }
        Output::Text => print(&checks, able, Style::of_stdout())?,
    }
    Ok(if able { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn print(checks: &[Check], able: bool, style: Style) -> std::io::Result<()> {
    let mut table = Table::new(&["check", "state", "found", "lost without it"]);
    for check in checks {
        let (state, lost) = if check.ok { ("ok", "") } else { ("missing", check.lost_without.as_str()) };
        table.row([&check.what, state, &check.found, lost]);
    }
    // What is lost stands at the end of its line and is what people came for: it is not cut.
    for line in table.lines(Style { width: None, ..style }) {
        terminal::print_line(&line)?;
    }
    let missing = checks.iter().filter(|check| !check.ok).count();
    let (colour, summary) = match missing {
        _ if !able => (Colour::Red, "The agent cannot run here.".to_owned()),
        0 => (Colour::Green, "The agent can run here and sees everything.".to_owned()),
        _ => (Colour::Yellow, format!("The agent can run here, with less to see: {missing} missing.")),
    };
    terminal::print_line(&format!("\n{}", style.paint(colour, &summary)))
}

fn kernel() -> Check {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let release = release.trim();
    Check {
        what: "kernel".to_owned(),
        ok: at_least(release, (5, 8)),
        found: if release.is_empty() { "unknown".to_owned() } else { release.to_owned() },
        lost_without: "before 5.8: all probes, because there are no ring buffers".to_owned(),
    }
}

/// Whether a release such as `6.12.9-amd64` is a version or a later one.
fn at_least(release: &str, wanted: (u32, u32)) -> bool {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map_while(|part| part.parse().ok());
    numbers.next().zip(numbers.next()).is_some_and(|version: (u32, u32)| version >= wanted)
}

fn procfs(path: &Path) -> Check {
    let snmp = path.join("self/net/snmp");
    let read = fs::read(&snmp);
    Check {
        what: format!("procfs at {}", path.display()),
        ok: read.is_ok(),
        found: read.err().map_or_else(|| "readable".to_owned(), |err| format!("{}: {err}", snmp.display())),
        lost_without: "all metrics of kernel counters; the agent cannot run".to_owned(),
    }
}

fn plugin_dir(path: &Path) -> Check {
    let files = fs::read_dir(path).map(|entries| {
        entries.flatten().filter(|entry| entry.path().extension().is_some_and(|ext| ext == "wasm")).count()
    });
    Check {
        what: format!("plugins in {}", path.display()),
        ok: files.as_ref().is_ok_and(|count| *count > 0),
        found: files.map_or_else(|err| err.to_string(), |count| format!("{count} components")),
        lost_without: "its analyzers; a probe is loaded only while an analyzer wants it".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_release_is_compared_by_its_numbers() {
        assert!(at_least("5.8.0", (5, 8)));
        assert!(at_least("6.1.0-18-amd64", (5, 8)));
        assert!(at_least("10.0", (5, 8)));
        assert!(!at_least("5.7.19", (5, 8)));
        assert!(!at_least("4.19", (5, 8)));
        assert!(!at_least("", (5, 8)));
    }

    #[test]
    fn a_folder_that_is_not_there_is_named_with_the_reason() {
        let check = plugin_dir(Path::new("/nonexistent"));
        assert!(!check.ok);
        assert_eq!(check.what, "plugins in /nonexistent");
        assert!(check.found.contains("No such file"), "{}", check.found);
    }
}
