//! `inspector doctor`: what this kernel and these privileges allow, what is lost without the rest, and
//! how to get it. What it claims it tries; what it attaches for that it takes off at once.

mod node;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use inspector_ebpf::Kernel;
use serde_json::json;

use super::serve;
use super::shared::Output;
use super::table::Table;
use super::terminal::{self, Colour, Style};
use crate::config::{self, Config};
use crate::discover::Places;
use crate::probe::{self, Check};

/// Try what this kernel and these privileges allow, and say what is lost without the rest
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
    let config::Paths { procfs, netns, pod_logs, runtimes } = config.paths;
    checks.extend(node::checks(&Places { proc: procfs, netns, pod_logs, runtimes }));
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
    for line in table.lines(style) {
        terminal::print_line(&line)?;
    }
    for line in remedies(checks) {
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

/// A remedy names so many of the checks that it is for.
const NAMED: usize = 4;

/// What to do, once for each remedy, with what it brings.
fn remedies(checks: &[Check]) -> Vec<String> {
    let mut by_remedy = BTreeMap::<&str, Vec<&str>>::new();
    for check in checks.iter().filter(|check| !check.ok && !check.remedy.is_empty()) {
        by_remedy.entry(&check.remedy).or_default().push(&check.what);
    }
    let mut lines = Vec::new();
    for (remedy, brings) in by_remedy {
        let more = brings.len().saturating_sub(NAMED);
        let more = if more > 0 { format!(", and {more} more") } else { String::new() };
        let brings = brings[..brings.len().min(NAMED)].join(", ");
        lines.extend([String::new(), format!("To do: {remedy}"), format!("  for {brings}{more}")]);
    }
    lines
}

fn kernel() -> Check {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let release = if release.is_empty() { "unknown" } else { release.trim() };
    let all = format!("all probes: ring buffers came with {}", Kernel::FLOOR);
    let remedy = format!("Linux {} or later", Kernel::MINIMUM);
    match Kernel::of_release(release) {
        Some(kernel) if kernel >= Kernel::MINIMUM => Check::good("kernel", release),
        Some(kernel) if kernel >= Kernel::FLOOR => {
            Check::bad("kernel", release, "most events of TCP", &remedy)
        }
        _ => Check::bad("kernel", release, &all, &remedy),
    }
}

fn procfs(path: &Path) -> Check {
    let what = format!("procfs at {}", path.display());
    let snmp = path.join("self/net/snmp");
    match fs::read(&snmp) {
        Ok(_) => Check::good(&what, "readable"),
        Err(error) => {
            let found = format!("{}: {error}", snmp.display());
            let remedy = "mount it, and name it with --config ([paths] procfs) if it is elsewhere";
            Check::bad(&what, &found, "all metrics of kernel counters; the agent cannot run", remedy)
        }
    }
}

fn plugin_dir(path: &Path) -> Check {
    let what = format!("plugins in {}", path.display());
    let lost = "its analyzers; a probe is loaded only while an analyzer wants it";
    let is_component = |entry: &fs::DirEntry| entry.path().extension().is_some_and(|ext| ext == "wasm");
    match fs::read_dir(path).map(|entries| entries.flatten().filter(is_component).count()) {
        Ok(0) => Check::bad(&what, "0 components", lost, "name the folder with --plugin-dir"),
        Ok(count) => Check::good(&what, &format!("{count} components")),
        Err(error) => Check::bad(&what, &error.to_string(), lost, "name the folder with --plugin-dir"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_is_not_there_is_named_with_the_reason() {
        let check = plugin_dir(Path::new("/nonexistent"));
        assert!(!check.ok);
        assert_eq!(check.what, "plugins in /nonexistent");
        assert!(check.found.contains("No such file"), "{}", check.found);
    }
}
