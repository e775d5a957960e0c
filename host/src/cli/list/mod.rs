//! `inspector list`: the state of running agents, as their event servers tell it.

use std::process::ExitCode;

use anyhow::Context as _;
use clap::ValueEnum;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::progress;
use super::shared::{in_words, server_address};
use super::table::Table;
use super::terminal::{self, Style};
use crate::config::address::Address;
use crate::http::client;

mod columns;

/// List what running agents know
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  inspector list probes
  inspector list plugins -e node-1 -e node-2
  inspector list entities -o json | jq '.[].name'

On a terminal that is too narrow, texts are wrapped under their columns; -o wide leaves each row on one
line. -o json is the server's own answer, an array of objects; of several servers, each object says
its node.

Exit status: 0 if every server answered; 1 if not; 2 for wrong usage.")]
pub struct Args {
    /// What to list; the plural will do as well
    #[arg(value_enum)]
    noun: Noun,
    /// Event server to ask, port 19102 if none is given; may be repeated [default: 127.0.0.1:19102]
    #[arg(short = 'e', long = "events", visible_short_alias = 's', visible_alias = "server")]
    #[arg(value_name = "ADDR", value_parser = server_address)]
    servers: Vec<Address>,
    /// How to print it
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Form,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
enum Form {
    /// Aligned columns that fit the terminal
    #[default]
    Text,
    /// Aligned columns, each row on one line
    Wide,
    /// The server's JSON
    Json,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Noun {
    /// Network namespaces and their names
    #[value(alias = "entities")]
    Entity,
    /// Kernel probes, each hook's state and what is lost without it
    #[value(alias = "probes")]
    Probe,
    /// Analyzers, their state and cost
    #[value(alias = "plugins")]
    Plugin,
    /// Metrics that the analyzers declare
    #[value(alias = "metrics")]
    Metric,
    /// Types of events that the analyzers declare
    #[value(alias = "events")]
    Event,
    /// Questions that `diagnose` answers
    #[value(alias = "scenarios")]
    Scenario,
    /// Kernel counter tables that are read
    #[value(alias = "sources")]
    Source,
}

/// What one server answers.
struct Answer {
    node: String,
    items: Value,
}

/// Asks the servers and prints their answers.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let local = [server_address("127.0.0.1")?];
    let servers: Vec<_> = if args.servers.is_empty() { &local[..] } else { &args.servers }
        .iter()
        .map(Address::to_string)
        .collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let waiting =
        |passed: std::time::Duration| format!("waiting for {} ({} s)", servers.join(", "), passed.as_secs());
    let answers = runtime.block_on(progress::shown(waiting, ask_all(&servers, args.noun)));
    let (mut shown, mut status) = (Vec::new(), ExitCode::SUCCESS);
    for (server, answer) in answers {
        match answer {
            Ok(answer) => shown.push(answer),
            Err(why) => {
                terminal::complain(&format!("error: cannot list {} of {server}: {why}", name(args.noun)));
                status = ExitCode::FAILURE;
            }
        }
    }
    match args.output {
        Form::Json if shown.is_empty() => {}
        Form::Json => {
            let all = joined(shown, servers.len() > 1);
            terminal::print_line(&terminal::ascii_json(&format!("{all:#}")))?;
        }
        Form::Text => print(args.noun, shown, servers.len() > 1, Style::of_stdout())?,
        Form::Wide => {
            print(args.noun, shown, servers.len() > 1, Style { width: None, ..Style::of_stdout() })?;
        }
    }
    Ok(status)
}

/// What each server says, in the order in which they were named.
async fn ask_all(servers: &[String], noun: Noun) -> Vec<(String, Result<Answer, String>)> {
    let several = servers.len() > 1;
    let mut asking = JoinSet::new();
    for (at, server) in servers.iter().cloned().enumerate() {
        asking.spawn(async move { (at, ask(&server, noun, several).await.map_err(in_words), server) });
    }
    let mut answers = asking.join_all().await;
    answers.sort_by_key(|(at, _, _)| *at);
    answers.into_iter().map(|(_, answer, server)| (server, answer)).collect()
}

#[derive(Deserialize)]
struct Version {
    node: String,
}

async fn ask(server: &str, noun: Noun, several: bool) -> Result<Answer, client::Error> {
    let items = client::get_json(server, path(noun)).await?;
    let node = match several {
        true => client::get_json::<Version>(server, "/api/v1/version").await?.node,
        false => String::new(),
    };
    Ok(Answer { node, items })
}

/// One array of all answers.
fn joined(answers: Vec<Answer>, several: bool) -> Value {
    if !several {
        return answers.into_iter().next().map_or(Value::Null, |answer| answer.items);
    }
    let mut all = Vec::new();
    for Answer { node, items } in answers {
        for mut item in items.as_array().cloned().unwrap_or_default() {
            if let Some(item) = item.as_object_mut() {
                item.insert("node".to_owned(), json!(node));
            }
            all.push(item);
        }
    }
    all.into()
}

fn print(noun: Noun, answers: Vec<Answer>, several: bool, style: Style) -> anyhow::Result<()> {
    let mut whole: Option<Table> = None;
    for Answer { node, items } in answers {
        let table = table(noun, items)
            .with_context(|| format!("the server answers {} in another form", name(noun)))?;
        let table = if several { table.of("node", &node) } else { table };
        match &mut whole {
            Some(whole) => whole.append(table),
            None => whole = Some(table),
        }
    }
    for line in whole.iter().flat_map(|table| table.lines(style)) {
        terminal::print_line(&line)?;
    }
    Ok(())
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

/// What is listed, in words.
fn name(noun: Noun) -> &'static str {
    match noun {
        Noun::Event => "event types",
        _ => path(noun).trim_start_matches("/api/v1/"),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_noun_may_stand_in_the_plural() {
        for (one, many) in [("entity", "entities"), ("probe", "probes"), ("event", "events")] {
            let noun = |text| Noun::from_str(text, false).map(path);
            assert_eq!(noun(one), noun(many));
            assert!(noun(one).is_ok(), "{one}");
        }
    }

    #[test]
    fn of_several_servers_each_row_says_its_node() {
        let answer = |node: &str| Answer { node: node.to_owned(), items: json!([{ "name": "x" }]) };
        let all = joined(vec![answer("n1"), answer("n2")], true);
        assert_eq!(all, json!([{ "name": "x", "node": "n1" }, { "name": "x", "node": "n2" }]));
        assert_eq!(joined(vec![answer("n1")], false), json!([{ "name": "x" }]));
    }
}
