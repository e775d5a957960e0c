//! `inspector list`: the state of a running agent, as its event server tells it.

use std::process::ExitCode;

use anyhow::Context as _;
use clap::ValueEnum;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::Output;
use super::table::Table;
use super::terminal::{self, Style};
use crate::address::Address;
use crate::http::client;

mod columns;

/// List what a running agent knows
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  inspector list probe
  inspector list entity -e node-1 -o json | jq '.[].name'")]
pub struct Args {
    /// What to list
    #[arg(value_enum)]
    noun: Noun,
    /// Event server to ask; port 19102 if none is given
    #[arg(short = 'e', long = "events", visible_short_alias = 's', value_name = "ADDR")]
    #[arg(value_parser = super::server_address, default_value = "127.0.0.1:19102")]
    server: Address,
    /// How to print it: aligned columns, or the server's JSON
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Output,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Noun {
    /// Network namespaces and their names
    Entity,
    /// Kernel probes, each hook's state and what is lost without it
    Probe,
    /// Analyzers, their state and cost
    Plugin,
    /// Metrics that the analyzers declare
    Metric,
    /// Types of events that the analyzers declare
    Event,
    /// Questions that `diagnose` answers
    Scenario,
    /// Kernel counter tables that are read
    Source,
}

/// Asks the server and prints its answer.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let server = args.server.to_string();
    let answer: Value = runtime
        .block_on(client::get_json(&server, path(args.noun)))
        .with_context(|| format!("cannot list {} of {server}", path(args.noun)))?;
    match args.output {
        Output::Json => terminal::print_line(&terminal::ascii_json(&format!("{answer:#}")))?,
        Output::Text => {
            let table = table(args.noun, answer)
                .with_context(|| format!("{server} answers {} in another form", path(args.noun)))?;
            for line in table.lines(Style::of_stdout()) {
                terminal::print_line(&line)?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn path(noun: Noun) -> &'static str {
    match noun {
        Noun::Entity => "/api/v1/entities",
        Noun::Probe => "/api/v1/probes",
        Noun::Plugin => "/api/v1/plugins",
        Noun::Metric => "/api/v1/metrics",
        Noun::Event => "/api/v1/event-types",
        Noun::Scenario => "/api/v1/scenarios",
        Noun::Source => "/api/v1/sources",
    }
}

fn table(noun: Noun, answer: Value) -> anyhow::Result<Table> {
    Ok(match noun {
        Noun::Entity => columns::entities(&read(answer)?),
        Noun::Probe => columns::probes(&read(answer)?),
        Noun::Plugin => columns::plugins(&read(answer)?),
        Noun::Metric => columns::metrics(&read(answer)?),
        Noun::Event => columns::event_types(&read(answer)?),
        Noun::Scenario => columns::scenarios(&read(answer)?),
        Noun::Source => columns::sources(&read(answer)?),
    })
}

fn read<T: DeserializeOwned>(answer: Value) -> anyhow::Result<Vec<T>> {
    Ok(serde_json::from_value(answer)?)
}
