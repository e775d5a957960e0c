//! `inspector version`: what this binary is.

use std::process::ExitCode;

use super::shared::Output;
use super::terminal;

/// Version and revision, as `--version` prints them.
pub const SHORT: &str = concat!(env!("CARGO_PKG_VERSION"), " (", env!("INSPECTOR_REVISION"), ")");

/// Print version, revision and target of this binary
#[derive(Debug, clap::Args)]
pub struct Args {
    /// How to print it
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Output,
}

/// Prints it.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let version = env!("CARGO_PKG_VERSION");
    let revision = env!("INSPECTOR_REVISION");
    let target = env!("INSPECTOR_TARGET");
    let line = match args.output {
        Output::Text => format!("inspector {version}\nrevision  {revision}\ntarget    {target}"),
        Output::Json => {
            serde_json::json!({ "version": version, "revision": revision, "target": target }).to_string()
        }
    };
    terminal::print_line(&line)?;
    Ok(ExitCode::SUCCESS)
}
