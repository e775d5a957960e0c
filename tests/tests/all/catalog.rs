//! Promise: every metric and every event is described, and the names that are a contract with users
//! of the original exporter are among them.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use inspector_tests::agent::{Agent, Settings, binary};
use inspector_tests::golden;
use inspector_tests::plugins::workspace;
use serde_json::Value;

fn golden(name: &str) -> PathBuf {
    workspace().join("tests/golden").join(name)
}

/// What `inspector list NOUN -o json` says of a running agent.
fn list(agent: &Agent, noun: &str) -> Result<Vec<Value>> {
    let output = Command::new(binary()?)
        .args(["list", noun, "-o", "json", "-e", &agent.events.to_string()])
        .output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(serde_json::from_slice::<Value>(&output.stdout)?.as_array().context("a list")?.clone())
}

fn text<'a>(value: &'a Value, key: &str) -> Result<&'a str> {
    value[key].as_str().with_context(|| format!("{key} of {value}"))
}

/// An agent with every built-in analyzer, also those that are off unless asked for.
fn agent() -> Result<Agent> {
    Agent::start(&Settings { config: "plugins.disabled = []".to_owned(), ..Settings::default() })
}

#[test]
fn every_metric_and_event_of_the_built_in_analyzers_is_in_the_golden_files() -> Result<()> {
    let agent = agent()?;
    let mut metrics = String::new();
    for metric in list(&agent, "metric")? {
        let labels: Vec<_> =
            metric["labels"].as_array().context("labels")?.iter().filter_map(Value::as_str).collect();
        metrics += &format!(
            "{} {} {{{}}} {}\n    {}\n",
            text(&metric, "name")?,
            text(&metric, "kind")?,
            labels.join(","),
            text(&metric, "plugin")?,
            text(&metric, "help")?
        );
    }
    let mut events: Vec<String> = Vec::new();
    for event in list(&agent, "event")? {
        let (kind, plugin, help) = (text(&event, "type")?, text(&event, "plugin")?, text(&event, "help")?);
        events.push(format!("{kind} {plugin}\n    {help}\n"));
    }
    events.sort();
    golden::check(&golden("metrics.txt"), metrics.as_bytes())?;
    golden::check(&golden("events.txt"), events.concat().as_bytes())
}

#[test]
fn every_name_of_the_contract_is_there_or_is_a_known_exception() -> Result<()> {
    let agent = agent()?;
    let page = inspector_tests::http::get(agent.web, "/metrics", "")?;
    let own =
        page.body.lines().filter_map(|line| line.strip_prefix("# TYPE ")).map(first_word).collect::<Vec<_>>();
    let of = |kind: &str, names: Vec<String>| {
        names.into_iter().map(|name| format!("{kind} {name}")).collect::<Vec<_>>()
    };
    let mut there: BTreeSet<String> = of("metric", own).into_iter().collect();
    for metric in list(&agent, "metric")? {
        there.insert(format!("metric {}", text(&metric, "name")?));
    }
    for event in list(&agent, "event")? {
        there.insert(format!("event {}", text(&event, "type")?));
    }
    let mut contract = names("metrics.txt", "metric ")?;
    contract.append(&mut names("events.txt", "event ")?);
    let exceptions = names("exceptions.txt", "")?;
    let missing: Vec<_> = contract.difference(&there).filter(|name| !exceptions.contains(*name)).collect();
    ensure!(missing.is_empty(), "names of the contract that no analyzer declares: {missing:#?}");
    let stale: Vec<_> =
        exceptions.iter().filter(|name| there.contains(*name) || !contract.contains(*name)).collect();
    ensure!(stale.is_empty(), "no exceptions any more, remove them from exceptions.txt: {stale:#?}");
    Ok(())
}

fn first_word(line: &str) -> String {
    line.split(' ').next().unwrap_or_default().to_owned()
}

/// The lines of a file of `tests/contract`, each behind `kind`; what stands behind a `#` is a reason.
fn names(file: &str, kind: &str) -> Result<BTreeSet<String>> {
    let path = workspace().join("tests/contract").join(file);
    let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
    Ok(lines.filter(|line| !line.is_empty()).map(|line| format!("{kind}{line}")).collect())
}
