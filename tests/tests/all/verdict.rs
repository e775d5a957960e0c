//! Promise: nothing is called healthy that could not be looked at, whatever takes the sight away, and
//! the reason is said once.

use std::net::UdpSocket;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use inspector_tests::agent::{Agent, Settings, binary};
use inspector_tests::lab::{Connection, Family, Pair, faults};
use inspector_tests::nobody::Nobody;
use inspector_tests::plugins::{PluginDir, TestPlugin, built_in};
use inspector_tests::{http, wait};
use serde_json::{Value, json};

/// The reason why a user without privileges sees no events.
const CAUSE: &str = "no CAP_BPF, no CAP_PERFMON";

fn ask(agent: &Agent, question: &Value) -> Result<Value> {
    let response = http::post(agent.events, "/api/v1/diagnose", question)?;
    ensure!(response.status == 200, "{question}: {} {}", response.status, response.body);
    Ok(serde_json::from_str(&response.body)?)
}

fn told(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr))
}

/// In one line, as the text is before it is cut to fit a terminal.
fn unwrapped(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Runs `work` while datagrams come and go on the host: its counters rise, so that there is
/// something to judge by.
fn with_traffic<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    let (one, other) = (UdpSocket::bind("127.0.0.1:0")?, UdpSocket::bind("127.0.0.1:0")?);
    other.set_read_timeout(Some(Duration::from_millis(20)))?;
    let to = other.local_addr()?;
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let is_over = || stopped.try_recv() != Err(std::sync::mpsc::TryRecvError::Empty);
            while !is_over() {
                // What is lost on the way is nobody's loss.
                let _ = one.send_to(b"x", to);
                let _ = other.recv(&mut [0; 8]);
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        let done = work();
        drop(stop);
        done
    })
}

#[test]
fn a_user_without_privileges_is_told_why_nothing_can_be_said_and_told_once() -> Result<()> {
    let nobody = Nobody::get()?;
    let flags = nobody.flags()?;
    let ask = |more: &[&str]| {
        let flags = flags.iter().map(String::as_str);
        let args: Vec<_> =
            ["diagnose", "--for", "2s"].into_iter().chain(flags).chain(more.iter().copied()).collect();
        with_traffic(|| nobody.run(&args))
    };
    let output = ask(&["--fail-on", "critical"])?;
    let (text, log) = told(&output);
    assert_eq!(output.status.code(), Some(4), "{text}{log}");
    assert!(text.starts_with("INCONCLUSIVE: nothing can be said on node "), "{text}");
    let (first, rest) = text.split_once("\n\n").unwrap_or((&text, ""));
    assert!(unwrapped(first).contains("dropped packets"), "{text}");
    assert!(unwrapped(first).contains(CAUSE), "{text}");
    assert!(!unwrapped(rest).contains("CAP_BPF"), "it is said twice:\n{text}");
    let lines: Vec<_> = log.lines().filter(|line| line.contains(CAUSE)).collect();
    assert!(lines.len() == 1 && lines[0].contains("run it as root"), "{log}");

    let output = ask(&["dns", "-o", "json"])?;
    let (json, log) = told(&output);
    assert_eq!(output.status.code(), Some(0), "an answer is an answer: {log}");
    let report: Value = serde_json::from_str(&json)?;
    assert_eq!(report["verdict"], "inconclusive", "{report:#}");
    let doubts = report["doubts"].to_string();
    assert!(doubts.contains("DNS queries, DNS answers are not seen") && doubts.contains(CAUSE), "{doubts}");
    assert_eq!(report["blind_spots"].to_string().matches("CAP_BPF").count(), 1, "{report:#}");
    Ok(())
}

#[test]
fn an_agent_without_privileges_logs_the_cause_once_and_calls_nothing_healthy() -> Result<()> {
    let nobody = Nobody::get()?;
    let agent = Agent::start(&Settings {
        through: Nobody::through(),
        plugin_dirs: vec![nobody.plugins()],
        ..Settings::default()
    });
    let agent = agent.context("the agent of a user without privileges")?;
    let report = with_traffic(|| {
        wait::until("an answer after some traffic", || {
            let report = ask(&agent, &json!({ "window_ms": 1000 })).ok()?;
            let is_idle = report["doubts"].to_string().contains("no traffic");
            (!is_idle).then_some(report)
        })
    })?;
    assert_eq!(report["verdict"], "inconclusive", "{report:#}");
    assert_eq!(agent.api("/api/v1/findings")?["verdict"], "inconclusive");
    let log = agent.log();
    let lines: Vec<_> = log.iter().filter(|line| line.contains("CAP_BPF")).collect();
    assert!(lines.len() == 1 && lines[0].contains("run it as root"), "{lines:#?}");
    Ok(())
}

/// Runs the binary without one capability of root's.
fn without(capability: &str, args: &[&str]) -> Result<Output> {
    let mut command = Command::new("setpriv");
    command.arg(format!("--bounding-set=-{capability}")).arg("--inh-caps=-all").arg(binary()?).args(args);
    Ok(command.env("NO_COLOR", "1").stdin(Stdio::null()).output()?)
}

/// Asks for two seconds about the host, without one capability.
fn ask_without(capability: &str, more: &[&str]) -> Result<Value> {
    let (dir, cache) = (built_in()?, tempfile::tempdir()?);
    let config = cache.path().join("x.toml");
    std::fs::write(&config, format!("plugins.cache_dir = '{}'\n", cache.path().join("cache").display()))?;
    let (dir, config) = (dir.to_str().context("UTF-8")?, config.to_str().context("UTF-8")?);
    let args = ["diagnose", "--for", "2s", "-o", "json", "--plugin-dir", dir, "--config", config];
    let output = with_traffic(|| without(capability, &[&args[..], more].concat()))?;
    ensure!(output.status.success(), "{}", told(&output).1);
    Ok(serde_json::from_slice(&output.stdout)?)
}

#[test]
fn a_missing_capability_takes_the_questions_that_rest_on_it_and_no_others() -> Result<()> {
    let doubts = |report: &Value| report["doubts"].to_string();
    // Programs on the cgroup tree need one of both, tracepoints neither.
    let neither = "net_admin,-sys_admin";
    let dns = ask_without(neither, &["dns", "--entity", "host"])?;
    assert_eq!(dns["verdict"], "inconclusive", "{dns:#}");
    assert!(doubts(&dns).contains("DNS queries, DNS answers are not seen"), "{dns:#}");
    let reset = wait::until("an answer after some traffic", || {
        let report = ask_without(neither, &["reset", "--entity", "host"]).ok()?;
        (!doubts(&report).contains("no traffic")).then_some(report)
    })?;
    assert_eq!(reset["doubts"], json!([]), "{reset:#}");
    Ok(())
}

#[test]
fn healthy_traffic_is_called_healthy() -> Result<()> {
    let pair = Pair::new()?;
    let agent =
        Agent::start(&Settings { config: "sources.interval = '1s'".to_owned(), ..Settings::default() })?;
    let question = json!({
        "entities": [pair.client.name(), pair.server.name()],
        "window_ms": 2000,
    });
    wait::until("a verdict on healthy traffic", || {
        let mut connection = Connection::open(&pair, Family::V4).ok()?;
        connection.exchange(1000, 1000).and_then(|()| connection.close()).ok()?;
        let report = ask(&agent, &question).ok()?;
        (report["verdict"] == "healthy" && report["doubts"] == json!([])).then_some(())
    })
    .inspect_err(|_| eprintln!("{:#}", ask(&agent, &question).unwrap_or_default()))
}

#[test]
fn an_analyzer_that_does_not_run_and_a_file_that_is_refused_are_in_every_report() -> Result<()> {
    let pair = Pair::new()?;
    let dir = PluginDir::new()?;
    dir.put("concluding.wasm", &TestPlugin::Concluding.wasm()?)?;
    dir.put("trapping.wasm", &TestPlugin::Trapping.wasm()?)?;
    dir.put("garbage.wasm", b"no component")?;
    let agent = Agent::start(&Settings { plugin_dirs: vec![dir.path().to_owned()], ..Settings::default() })?;
    let report = wait::until("both to be named", || {
        let to = pair.server_at(Family::V4, faults::CLOSED_PORT);
        faults::send_udp(&pair.client, to, 1, 8).ok()?;
        let report = ask(&agent, &json!({})).ok()?;
        let spots = report["blind_spots"].to_string();
        (spots.contains("analyzer trapping ") && spots.contains("garbage.wasm is refused: "))
            .then_some(report)
    })?;
    // Neither is asked, so neither casts doubt.
    assert!(!report["doubts"].to_string().contains("trapping"), "{report:#}");
    Ok(())
}

#[test]
fn where_no_analyzer_runs_one_line_says_why() -> Result<()> {
    let dir = PluginDir::new()?;
    let empty = dir.path().to_str().context("UTF-8")?.to_owned();
    let ask = |dir: &str| -> Result<(Option<i32>, String)> {
        let args = ["diagnose", "--for", "1s", "--plugin-dir", dir];
        let output = Command::new(binary()?).args(args).stdin(Stdio::null()).output()?;
        // Progress is no complaint.
        let complaints = told(&output)
            .1
            .lines()
            .filter(|line| !line.starts_with("starting "))
            .collect::<Vec<_>>()
            .join("\n");
        Ok((output.status.code(), complaints))
    };
    let (none, absent) = (ask(&empty)?, ask("/nonexistent/plugins")?);
    dir.put("garbage.wasm", b"no component")?;
    let garbage = ask(&empty)?;
    for ((status, text), why) in [
        (none, "there is none in the plugins folders"),
        (
            absent,
            "cannot read plugins directory /nonexistent/plugins: No such file or directory (os error 2)",
        ),
        (garbage, "garbage.wasm is refused: not a WebAssembly component"),
    ] {
        assert_eq!((status, text.lines().count()), (Some(1), 1), "{text}");
        assert!(text.starts_with("error: no analyzer answers questions: ") && text.contains(why), "{text}");
        assert!(text.contains("--plugin-dir"), "{text}");
    }
    Ok(())
}
