//! `inspector list`: the state of running agents, as their event servers tell it.

use std::process::ExitCode;

use clap::ValueEnum;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::cluster::{self, ClusterArgs, Found};
use super::crowd;
use super::shared::{in_words, or_this_node, server_address};
use super::table::Table;
use super::terminal::{self, Style};
use crate::config::address::Address;
use crate::http::client;
use crate::http::reach::Server;
use crate::text::cause;

mod columns;

/// List what running agents know
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  inspector list probes
  inspector list plugins -e node-1 -e node-2
  inspector list entities -o json | jq '.[].name'
  inspector list probes --all-nodes                of every node of the cluster
  inspector list entities --context prod --node node-7

On a terminal that is too narrow, texts are wrapped under their columns; -o wide leaves each row on
one line. -o json is the server's own answer, an array of objects; of several servers, and of a
cluster, each object says its node.

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
    /// Ask only the agent of this node of the cluster; may be repeated
    #[arg(long = "node", value_name = "NAME", group = "cluster", help_heading = "Kubernetes")]
    nodes: Vec<String>,
    #[command(flatten)]
    cluster: ClusterArgs,
}

impl Args {
    /// Called through kubectl, the cluster is meant unless servers are named.
    pub fn through_kubectl(&mut self) {
        if self.servers.is_empty() {
            self.cluster.mean_all_nodes();
        }
    }

    fn is_about_cluster(&self) -> bool {
        self.cluster.is_given() || !self.nodes.is_empty()
    }

    async fn whom(&self) -> anyhow::Result<Found> {
        if self.is_about_cluster() {
            return Ok(cluster::find(&self.cluster.agents().await?, &self.nodes).await?);
        }
        Ok(Found { servers: or_this_node(self.servers.clone())?, absent: Vec::new() })
    }
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
    /// Where events are sent, and how many wait for it or are lost
    #[value(alias = "sinks")]
    Sink,
}

/// What one server answers.
struct Answer {
    node: String,
    items: Value,
}

/// Asks the servers and prints their answers. One that does not answer, or nonsense, costs the others
/// nothing.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let several = args.servers.len() > 1 || args.is_about_cluster();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (answers, mut failed) = runtime.block_on(async {
        let Found { servers, absent } = args.whom().await?;
        let ask = |server| async move { ask(&server, args.noun, several).await.map_err(in_words) };
        anyhow::Ok((crowd::each(&servers, ask).await, absent))
    })?;
    let (mut lists, mut whole) = (Vec::new(), None::<Table>);
    for (server, answer) in answers {
        let added = answer.and_then(|answer| match args.output {
            Form::Json => listed(args.noun, answer, several).map(|list| lists.push(list)),
            Form::Text | Form::Wide => rows(args.noun, answer, several).map(|rows| match &mut whole {
                Some(whole) => whole.append(rows),
                None => whole = Some(rows),
            }),
        });
        failed.extend(added.err().map(|why| (server.name().to_string(), why)));
    }
    let status = if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    // Whoever reads the others' rows has to know whose are missing.
    let most = if lists.is_empty() && whole.is_none() { crowd::FEW } else { usize::MAX };
    for (servers, why) in crowd::grouped(failed, most) {
        terminal::complain(&format!("error: cannot list {} of {servers}: {why}", name(args.noun)));
    }
    if !lists.is_empty() {
        terminal::print_line(&terminal::ascii_json(&format!("{:#}", joined(lists))))?;
    }
    let style = Style::of_stdout();
    let style = if args.output == Form::Wide { Style { width: None, ..style } } else { style };
    for line in whole.iter().flat_map(|table| table.lines(style)) {
        terminal::print_line(&line)?;
    }
    Ok(status)
}

#[derive(Deserialize)]
struct Version {
    node: String,
}

async fn ask(server: &Server, noun: Noun, several: bool) -> Result<Answer, client::Error> {
    let items = client::get_json(server, path(noun)).await?;
    let node = match server.node() {
        Some(node) => node.to_owned(),
        None if several => client::get_json::<Version>(server, "/api/v1/version").await?.node,
        None => String::new(),
    };
    Ok(Answer { node, items })
}

/// The answer for programs: as it came of one server, of several with the node in each object.
fn listed(noun: Noun, answer: Answer, several: bool) -> Result<Value, String> {
    let Answer { node, mut items } = answer;
    if !several {
        return Ok(items);
    }
    for item in items.as_array_mut().ok_or_else(|| in_another_form(noun))? {
        if let Some(item) = item.as_object_mut() {
            item.insert("node".to_owned(), json!(node));
        }
    }
    Ok(items)
}

/// One array of all answers.
fn joined(mut lists: Vec<Value>) -> Value {
    if lists.len() < 2 {
        return lists.pop().unwrap_or_default();
    }
    lists
        .into_iter()
        .flat_map(|list| if let Value::Array(items) = list { items } else { vec![list] })
        .collect()
}

/// The answer for people.
fn rows(noun: Noun, answer: Answer, several: bool) -> Result<Table, String> {
    let Answer { node, items } = answer;
    let rows =
        table(noun, items).map_err(|why| format!("{}: {}", in_another_form(noun), cause::chain(&why)))?;
    Ok(if several { rows.of("node", &node) } else { rows })
}

fn in_another_form(noun: Noun) -> String {
    format!("the server answers {} in another form", name(noun))
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
        Noun::Sink => "/api/v1/sinks",
    }
}

/// What is listed, in words.
fn name(noun: Noun) -> &'static str {
    match noun {
        Noun::Event => "event types",
        _ => path(noun).trim_start_matches("/api/v1/"),
    }
}

fn table(noun: Noun, answer: Value) -> Result<Table, serde_json::Error> {
    Ok(match noun {
        Noun::Entity => columns::entities(&read(answer)?),
        Noun::Probe => columns::probes(&read(answer)?),
        Noun::Plugin => columns::plugins(&read(answer)?),
        Noun::Metric => columns::metrics(&read(answer)?),
        Noun::Event => columns::event_types(&read(answer)?),
        Noun::Scenario => columns::scenarios(&read(answer)?),
        Noun::Source => columns::sources(&read(answer)?),
        Noun::Sink => columns::sinks(&read(answer)?),
    })
}

fn read<T: DeserializeOwned>(answer: Value) -> Result<Vec<T>, serde_json::Error> {
    serde_json::from_value(answer)
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
        let listed = |node, several| listed(Noun::Probe, answer(node), several).expect("an array");
        let all = joined(vec![listed("n1", true), listed("n2", true)]);
        assert_eq!(all, json!([{ "name": "x", "node": "n1" }, { "name": "x", "node": "n2" }]));
        assert_eq!(joined(vec![listed("n1", false)]), json!([{ "name": "x" }]));
    }

    #[test]
    fn an_answer_of_another_form_is_refused_by_itself() {
        let odd = || Answer { node: "n1".to_owned(), items: json!({ "a": 1 }) };
        let why = listed(Noun::Probe, odd(), true).expect_err("no array");
        assert_eq!(why, "the server answers probes in another form");
        assert!(rows(Noun::Probe, odd(), true).expect_err("no array").starts_with(&why));
    }
}
