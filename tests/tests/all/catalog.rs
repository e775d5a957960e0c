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

#[test]
fn every_metric_and_event_of_the_built_in_analyzers_is_in_the_golden_files() -> Result<()> {
    let agent = Agent::start(&Settings::default())?;
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
    let agent = Agent::start(&Settings::default())?;
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
    let contract = names("contract.txt")?;
    let exceptions = names("exceptions.txt")?;
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

/// The lines of a file but comments; what stands behind a `#` is the reason.
fn names(file: &str) -> Result<BTreeSet<String>> {
    let text = std::fs::read_to_string(golden(file)).with_context(|| file.to_owned())?;
    let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
    Ok(lines.filter(|line| !line.is_empty()).map(str::to_owned).collect())
}
