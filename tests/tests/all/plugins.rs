//! Promise: analyzers come, go and fail while the agent runs, and cost nobody else anything.

use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};
use inspector_tests::agent::{Agent, Settings};
use inspector_tests::lab::{Family, Pair, faults};
use inspector_tests::plugins::{PluginDir, TestPlugin};
use inspector_tests::wait;
use serde_json::Value;

use crate::heavy;

/// Every drop is delivered, however many there are.
const NO_LIMIT: &str =
    "probes.limit_per_second = 10000000\nprobes.limit_burst = 10000000\nprobes.ring_kib = 32768";

fn agent(dir: &PluginDir) -> Result<Agent> {
    Agent::start(&Settings {
        config: NO_LIMIT.to_owned(),
        plugin_dirs: vec![dir.path().to_owned()],
        ..Settings::default()
    })
}

/// The state of a plugin, once it is as wanted.
fn plugin(agent: &Agent, name: &str, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
    wait::until(&format!("the state of {name}"), || {
        let plugins = agent.api("/api/v1/plugins").ok()?;
        plugins.as_array()?.iter().find(|plugin| plugin["name"] == name && wanted(plugin)).cloned()
    })
    .inspect_err(|_| eprintln!("{:#?}", agent.api("/api/v1/plugins")))
}

fn running(version: &str) -> impl Fn(&Value) -> bool {
    move |plugin| plugin["state"] == "running" && plugin["version"] == version
}

/// Drops that the counting plugin has seen in a namespace, in one version or in all.
fn counted(agent: &Agent, pair: &Pair, version: Option<&str>) -> u64 {
    let mut labels = vec![("pod", pair.server.name())];
    labels.extend(version.map(|version| ("version", version)));
    let sum = agent.scrape().ok().and_then(|page| page.sum("inspector_test_drops_total", &labels));
    sum.unwrap_or(0.0) as u64
}

fn wait_for_count(agent: &Agent, pair: &Pair, wanted: u64) -> Result<()> {
    let reached = wait::until(&format!("{wanted} counted drops"), || {
        (counted(agent, pair, None) >= wanted).then_some(())
    });
    reached.inspect_err(|_| eprintln!("{} of {wanted} were counted", counted(agent, pair, None)))?;
    assert_eq!(counted(agent, pair, None), wanted);
    Ok(())
}

fn make_drops(pair: &Pair, n: u64) -> Result<()> {
    faults::send_udp(&pair.client, pair.server_at(Family::V4, faults::CLOSED_PORT), n, 8).map(drop)
}

#[test]
fn a_new_file_is_picked_up_while_the_agent_runs() -> Result<()> {
    let (pair, dir) = (Pair::new()?, PluginDir::new()?);
    let agent = agent(&dir)?;
    dir.put("counting.wasm", &TestPlugin::Counting.wasm()?)?;
    plugin(&agent, "counting", running("1.0.0"))?;
    make_drops(&pair, 10)?;
    wait_for_count(&agent, &pair, 10)
}

#[test]
fn a_removed_file_takes_its_series_along() -> Result<()> {
    let (pair, dir) = (Pair::new()?, PluginDir::new()?);
    dir.put("counting.wasm", &TestPlugin::Counting.wasm()?)?;
    let agent = agent(&dir)?;
    plugin(&agent, "counting", running("1.0.0"))?;
    make_drops(&pair, 10)?;
    wait_for_count(&agent, &pair, 10)?;
    std::fs::remove_file(dir.path().join("counting.wasm"))?;
    wait::until("the series to go", || {
        agent.scrape().ok()?.find("inspector_test_drops_total", &[]).next().is_none().then_some(())
    })?;
    agent.wait_for_log(&["plugin stopped", "counting"])?;
    Ok(())
}

#[test]
fn of_two_files_with_one_plugin_only_one_runs_and_the_other_takes_over() -> Result<()> {
    let (pair, dir) = (Pair::new()?, PluginDir::new()?);
    // First by name, so that only its own name lets the right file win.
    dir.put("another.wasm", &TestPlugin::CountingSecond.wasm()?)?;
    dir.put("counting.wasm", &TestPlugin::Counting.wasm()?)?;
    let agent = agent(&dir)?;
    let state = plugin(&agent, "counting", running("1.0.0"))?;
    assert!(state["file"].as_str().is_some_and(|file| file.ends_with("/counting.wasm")), "{state}");
    agent.wait_for_log(&["refused", "another.wasm", "already runs from"])?;
    make_drops(&pair, 10)?;
    wait_for_count(&agent, &pair, 10)?;
    std::fs::remove_file(dir.path().join("counting.wasm"))?;
    plugin(&agent, "counting", running("2.0.0"))?;
    let all = agent.api("/api/v1/plugins")?;
    assert_eq!(all.as_array().map(Vec::len), Some(1), "{all}");
    Ok(())
}

#[test]
fn the_plugins_of_two_files_that_were_exchanged_change_places() -> Result<()> {
    let dir = PluginDir::new()?;
    let concluding = TestPlugin::Concluding.wasm()?;
    dir.put("counting.wasm", &TestPlugin::Counting.wasm()?)?;
    dir.put("concluding.wasm", &concluding)?;
    let agent = agent(&dir)?;
    plugin(&agent, "counting", running("1.0.0"))?;
    plugin(&agent, "concluding", |state| state["state"] == "running")?;
    dir.put("counting.wasm", &concluding)?;
    // Half of the exchange is none.
    plugin(&agent, "counting", |state| running("1.0.0")(state) && state["rejected"] != "")?;
    dir.put("concluding.wasm", &TestPlugin::CountingSecond.wasm()?)?;
    let runs_from = |file: &'static str| {
        move |state: &Value| {
            let path = state["file"].as_str().unwrap_or_default();
            state["state"] == "running" && state["rejected"] == "" && path.ends_with(file)
        }
    };
    plugin(&agent, "concluding", runs_from("/counting.wasm"))?;
    let counting = plugin(&agent, "counting", runs_from("/concluding.wasm"))?;
    assert_eq!(counting["version"], "2.0.0");
    Ok(())
}

#[test]
fn a_broken_replacement_leaves_the_old_version_running() -> Result<()> {
    let (pair, dir) = (Pair::new()?, PluginDir::new()?);
    let good = TestPlugin::Counting.wasm()?;
    dir.put("counting.wasm", &good)?;
    let agent = agent(&dir)?;
    plugin(&agent, "counting", running("1.0.0"))?;
    for (broken, bytes) in
        [("half of it", &good[..good.len() / 2]), ("no wasm", b"#!/bin/sh\n"), ("empty", b"")]
    {
        let lines = agent.log().len();
        dir.put("counting.wasm", bytes)?;
        wait::until(&format!("the refusal ({broken})"), || {
            agent.log()[lines..]
                .iter()
                .any(|line| line.contains("refused") && line.contains("counting"))
                .then_some(())
        })?;
        let state = plugin(&agent, "counting", running("1.0.0"))?;
        assert_ne!(state["rejected"], "", "{broken}");
    }
    make_drops(&pair, 10)?;
    wait_for_count(&agent, &pair, 10)?;
    dir.put("counting.wasm", &TestPlugin::CountingSecond.wasm()?)?;
    plugin(&agent, "counting", |state| running("2.0.0")(state) && state["rejected"] == "")?;
    Ok(())
}

/// Names of the rows of `list plugin`.
fn rows(agent: &Agent) -> Option<Vec<String>> {
    let plugins = agent.api("/api/v1/plugins").ok()?;
    plugins.as_array()?.iter().map(|plugin| Some(plugin["name"].as_str()?.to_owned())).collect()
}

#[test]
fn what_is_said_of_a_file_ends_when_it_is_gone_or_good_again() -> Result<()> {
    let (dir, second) = (PluginDir::new()?, PluginDir::new()?);
    let good = TestPlugin::Counting.wasm()?;
    dir.put("counting.wasm", &good)?;
    let plugin_dirs = vec![dir.path().to_owned(), second.path().to_owned()];
    let agent = Agent::start(&Settings { plugin_dirs, ..Settings::default() })?;
    let rejected = |wanted: bool| {
        plugin(&agent, "counting", |state| running("1.0.0")(state) && (state["rejected"] != "") == wanted)
    };
    // The same bytes again are nothing new, and yet the end of what was wrong.
    for bytes in [&b"broken"[..], &good] {
        dir.put("counting.wasm", bytes)?;
        rejected(bytes != good)?;
    }
    // The same plugin in another directory, and gone from there.
    second.put("counting.wasm", &good)?;
    rejected(true)?;
    std::fs::remove_file(second.path().join("counting.wasm"))?;
    rejected(false)?;
    // A file that never was any good.
    dir.put("other.wasm", b"broken")?;
    wait::until("the row of the broken file", || (rows(&agent)? == ["counting", "other"]).then_some(()))?;
    std::fs::remove_file(dir.path().join("other.wasm"))?;
    wait::until("the row to go", || (rows(&agent)? == ["counting"]).then_some(()))?;
    // A directory that others may write to.
    let mode = |mode| std::fs::set_permissions(second.path(), PermissionsExt::from_mode(mode));
    mode(0o777)?;
    second.put("other.wasm", b"broken")?;
    let path = second.path().display().to_string();
    wait::until("the row of the directory", || rows(&agent)?.contains(&path).then_some(()))?;
    mode(0o755)?;
    std::fs::remove_file(second.path().join("other.wasm"))?;
    wait::until("only what runs", || (rows(&agent)? == ["counting"]).then_some(()))
}

#[test]
fn a_plugin_that_traps_costs_nobody_else_anything() -> Result<()> {
    let _turn = heavy();
    hostile_beside_counting("trapping", TestPlugin::Trapping)
}

#[test]
fn a_plugin_that_never_returns_costs_nobody_else_anything() -> Result<()> {
    let _turn = heavy();
    hostile_beside_counting("looping", TestPlugin::Looping)
}

fn hostile_beside_counting(name: &str, hostile: TestPlugin) -> Result<()> {
    let (pair, dir) = (Pair::new()?, PluginDir::new()?);
    dir.put("counting.wasm", &TestPlugin::Counting.wasm()?)?;
    dir.put(&format!("{name}.wasm"), &hostile.wasm()?)?;
    let agent = agent(&dir)?;
    plugin(&agent, "counting", running("1.0.0"))?;
    let to = pair.server_at(Family::V4, faults::CLOSED_PORT);
    let sent = faults::send_udp_evenly(&pair.client, to, 2000, 1, |sent| sent < 4000)?;
    wait_for_count(&agent, &pair, sent)?;
    // Between two failures it runs again, and nothing is wrong with it then.
    plugin(&agent, name, |state| state["traps"].as_u64() > Some(0) && state["reason"] != "")?;
    let page = agent.scrape()?;
    assert_eq!(
        page.sum("inspector_lost_total", &[("stage", "queue"), ("name", "counting")]).unwrap_or(0.0),
        0.0
    );
    assert!(page.sum("inspector_plugin_traps_total", &[("plugin", name)]) > Some(0.0));
    assert_eq!(page.sum("inspector_plugin_traps_total", &[("plugin", "counting")]), Some(0.0));
    agent.wait_for_log(&["plugin failed", name])?;
    Ok(())
}

#[test]
fn a_replacement_under_ten_thousand_events_per_second_loses_none() -> Result<()> {
    let _turn = heavy();
    let (pair, dir) = (Pair::new()?, PluginDir::new()?);
    dir.put("counting.wasm", &TestPlugin::Counting.wasm()?)?;
    let second = TestPlugin::CountingSecond.wasm()?;
    let agent = agent(&dir)?;
    plugin(&agent, "counting", running("1.0.0"))?;

    let replaced = AtomicBool::new(false);
    let sent = std::thread::scope(|scope| {
        let sender = scope.spawn(|| {
            let to = pair.server_at(Family::V4, faults::CLOSED_PORT);
            let going = |sent| sent < 50_000 || !replaced.load(Ordering::Relaxed);
            faults::send_udp_evenly(&pair.client, to, 10_000, 1, going)
        });
        let swap = || -> Result<()> {
            wait::until("the first version at work", || (counted(&agent, &pair, None) > 5000).then_some(()))?;
            dir.put("counting.wasm", &second)?;
            plugin(&agent, "counting", running("2.0.0"))?;
            wait::until("the second version at work", || {
                (counted(&agent, &pair, Some("2.0.0")) > 5000).then_some(())
            })
        };
        let swapped = swap();
        replaced.store(true, Ordering::Relaxed);
        let sent = sender.join().expect("sending does not panic");
        swapped.and(sent)
    })?;

    wait_for_count(&agent, &pair, sent)?;
    let (first, second) = (counted(&agent, &pair, Some("1.0.0")), counted(&agent, &pair, Some("2.0.0")));
    println!("sent {sent} = version 1.0.0 {first} + version 2.0.0 {second}");
    let page = agent.scrape()?;
    for stage in ["limit", "ring", "queue"] {
        assert_eq!(page.sum("inspector_lost_total", &[("stage", stage)]).unwrap_or(0.0), 0.0, "{stage}");
    }
    let line: Value =
        serde_json::from_str(&agent.wait_for_log(&["plugin replaced"])?).context("a JSON line")?;
    println!("{line}");
    assert_eq!((&line["old"], &line["new"]), (&"1.0.0".into(), &"2.0.0".into()));
    Ok(())
}
