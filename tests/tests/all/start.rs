//! Promise: the agent answers from the first moment on, and is ready when what it ships works.

use anyhow::{Context as _, Result, bail, ensure};
use inspector::status::BUILT_IN;
use inspector_tests::agent::{Agent, Settings};
use inspector_tests::http;
use inspector_tests::lab::{Family, Pair, faults};
use inspector_tests::plugins::{self, PluginDir, TestPlugin};
use inspector_tests::wait;
use serde_json::{Value, json};

/// The answer of `/readyz`: status and text.
fn readyz(agent: &Agent) -> Result<(u16, String)> {
    let answer = http::get(agent.web, "/readyz", "*/*")?;
    Ok((answer.status, answer.body))
}

fn is_ready(agent: &Agent) -> Option<()> {
    readyz(agent).ok().filter(|(status, _)| *status == 200).map(drop)
}

#[test]
fn the_servers_answer_while_analyzers_are_compiled_and_say_what_is_awaited() -> Result<()> {
    // A machine that stands still for seconds may miss the moment.
    for _ in 0..5 {
        let agent = Agent::start_serving(&Settings { is_first: true, ..Settings::default() })?;
        if let Some(plugin) = compiling(&agent)? {
            let question = json!({ "scenario": "node" });
            let answer = http::post(agent.events, "/api/v1/diagnose", &question)?;
            println!("{plugin:#}\n{} {}", answer.status, answer.body);
            wait::until("the agent to be ready", || is_ready(&agent))?;
            agent.wait_for_log(&["\"ready\""])?;
            assert_eq!(http::post(agent.events, "/api/v1/diagnose", &question)?.status, 200);
            ensure!(answer.status == 200 || answer.body.contains("the agent is starting"), "{}", answer.body);
            return Ok(());
        }
    }
    bail!("no analyzer was ever seen being compiled")
}

/// The first plugin that is seen to be compiled, if one is before the agent is ready.
fn compiling(agent: &Agent) -> Result<Option<Value>> {
    assert_eq!(http::get(agent.web, "/healthz", "*/*")?.status, 200);
    wait::until("an analyzer that is compiled, or the end of it", || {
        let (status, why) = readyz(agent).ok()?;
        if status == 200 {
            return Some(None);
        }
        assert!(why.starts_with("not ready\nwaiting: "), "{why}");
        let plugins = agent.api("/api/v1/plugins").ok()?;
        let found = plugins.as_array()?.iter().find(|plugin| plugin["state"] == "compiling")?.clone();
        let awaited = format!("waiting: analyzer {} (compiling, ", found["name"].as_str()?);
        // It may have been compiled between the two looks.
        why.contains(&awaited).then_some(Some(found))
    })
}

#[test]
fn a_plugin_thread_is_not_slowed_down_by_what_compiling_gives_way_to() -> Result<()> {
    let agent = Agent::start(&Settings::default())?;
    let mut seen = 0;
    for task in std::fs::read_dir(format!("/proc/{}/task", agent.pid()))? {
        let stat = std::fs::read_to_string(task?.path().join("stat"))?;
        let (head, rest) = stat.rsplit_once(')').context("a name in brackets")?;
        let name = head.split_once('(').context("a name in brackets")?.1;
        if BUILT_IN.contains(&name) {
            seen += 1;
            assert_eq!(rest.split_whitespace().nth(16), Some("0"), "nice value of {name}: {stat}");
        }
    }
    // `latency` is off, and names of threads are cut at 15 characters, which none of these is.
    assert_eq!(seen, BUILT_IN.len() - 1);
    Ok(())
}

#[test]
fn what_the_agent_calls_built_in_is_what_it_is_shipped_with() -> Result<()> {
    let files = std::fs::read_dir(plugins::built_in()?)?;
    let mut shipped: Vec<_> = files
        .map(|file| Ok(file?.file_name().to_string_lossy().trim_end_matches(".wasm").to_owned()))
        .collect::<Result<_>>()?;
    shipped.sort();
    assert_eq!(shipped, BUILT_IN);
    Ok(())
}

#[test]
fn a_root_without_dev_costs_no_analyzer() -> Result<()> {
    let hide = "mount -t tmpfs none /dev && exec \"$0\" \"$@\"";
    let through = ["unshare", "-m", "sh", "-c", hide].map(str::to_owned).to_vec();
    let agent = Agent::start(&Settings { through, ..Settings::default() })?;
    let states = agent.api("/api/v1/plugins")?;
    for plugin in states.as_array().context("a list")? {
        let expected = if plugin["name"] == "latency" { "disabled" } else { "running" };
        assert_eq!(plugin["state"], expected, "{plugin:#}");
    }
    assert!(!agent.log().iter().any(|line| line.contains("panicked")), "{:#?}", agent.log());
    Ok(())
}

#[test]
fn a_built_in_analyzer_in_quarantine_makes_the_agent_unready_until_its_file_is_touched() -> Result<()> {
    let (pair, dir) = (Pair::new()?, PluginDir::new()?);
    // One that never returns, under the name of a built-in one of the same length.
    dir.put("softirq.wasm", &renamed(TestPlugin::Looping.wasm()?, b"looping", b"softirq"))?;
    dir.put("looping.wasm", &TestPlugin::Looping.wasm()?)?;
    let agent = Agent::start(&Settings { plugin_dirs: vec![dir.path().to_owned()], ..Settings::default() })?;
    wait::until("the agent to be ready", || is_ready(&agent))?;
    let why = wait::until("both to be in quarantine", || {
        faults::send_udp(&pair.client, pair.server_at(Family::V4, faults::CLOSED_PORT), 1, 8).ok()?;
        let quarantined = |name| state(&agent, name).is_some_and(|plugin| plugin["state"] == "quarantined");
        let (status, why) = readyz(&agent).ok()?;
        (quarantined("looping") && quarantined("softirq") && status == 503).then_some(why)
    })?;
    println!("{why}");
    assert!(why.contains("failed: analyzer softirq is quarantined: no answer within"), "{why}");
    assert!(!why.contains("looping"), "nobody else's analyzer counts: {why}");
    assert_eq!(agent.scrape()?.sum("inspector_ready", &[]), Some(0.0));
    std::fs::File::open(dir.path().join("softirq.wasm"))?.set_modified(std::time::SystemTime::now())?;
    wait::until("it to be tried again", || state(&agent, "softirq").filter(|p| p["state"] == "running"))?;
    wait::until("the agent to be ready again", || is_ready(&agent))
}

fn state(agent: &Agent, name: &str) -> Option<Value> {
    agent.api("/api/v1/plugins").ok()?.as_array()?.iter().find(|plugin| plugin["name"] == name).cloned()
}

fn renamed(mut wasm: Vec<u8>, from: &[u8], to: &[u8]) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    let places: Vec<_> = (0..wasm.len() - from.len()).filter(|at| wasm[*at..].starts_with(from)).collect();
    assert!(!places.is_empty());
    for at in places {
        wasm[at..at + to.len()].copy_from_slice(to);
    }
    wasm
}
