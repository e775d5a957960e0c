//! Promise: a question is answered with the cause, its place and how it is known, whatever part of
//! the agent, of the cluster or of the asking is broken.
//!
//! Longer than other files, because its promises are of one path, from the question to each form of the
//! answer.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, ensure};
use inspector_tests::agent::{Agent, Settings, binary};
use inspector_tests::http;
use inspector_tests::lab::{self, Family, Pair, faults};
use inspector_tests::plugins::{PluginDir, TestPlugin, workspace};
use inspector_tests::{golden, wait};
use serde_json::{Value, json};

/// An agent with only these plugins.
fn agent(plugins: &[TestPlugin]) -> Result<(Agent, PluginDir)> {
    let dir = plugin_dir(plugins)?;
    let plugin_dirs = vec![dir.path().to_owned()];
    Ok((Agent::start(&Settings { plugin_dirs, ..Settings::default() })?, dir))
}

fn plugin_dir(plugins: &[TestPlugin]) -> Result<PluginDir> {
    let dir = PluginDir::new()?;
    for plugin in plugins {
        dir.put(&format!("{plugin:?}.wasm").to_lowercase(), &plugin.wasm()?)?;
    }
    Ok(dir)
}

fn ask(agent: &Agent, question: &Value) -> Result<Value> {
    let response = http::post(agent.events, "/api/v1/diagnose", question)?;
    ensure!(response.status == 200, "{question}: {} {}", response.status, response.body);
    Ok(serde_json::from_str(&response.body)?)
}

/// Runs `inspector diagnose`.
fn diagnose(args: &[&str]) -> Result<Output> {
    let mut command = Command::new(binary()?);
    Ok(command.arg("diagnose").args(args).env("NO_COLOR", "1").stdin(Stdio::null()).output()?)
}

fn said(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr))
}

fn make_drops(pair: &Pair, n: u64) -> Result<()> {
    faults::send_udp(&pair.client, pair.server_at(Family::V4, faults::CLOSED_PORT), n, 8).map(drop)
}

/// The finding of the concluding plugin, once it has seen so many drops.
fn explained(agent: &Agent, question: &Value, drops: u64) -> Result<Value> {
    wait::until(&format!("{drops} drops in an answer"), || {
        ask(agent, question).ok().filter(|report| report["findings"][0]["count"] == drops)
    })
}

#[test]
fn a_fault_is_explained_over_http_and_on_the_command_line() -> Result<()> {
    let pair = Pair::new()?;
    let (agent, _dir) = agent(&[TestPlugin::Concluding])?;
    let server = pair.server.name();
    make_drops(&pair, 10)?;
    let question = json!({ "scenario": "loss", "entities": [server], "window_ms": 60_000, "confirm": false });
    let report = explained(&agent, &question, 10)?;
    let finding = &report["findings"][0];
    assert_eq!((&report["verdict"], &report["window_ms"]), (&"degraded".into(), &60_000.into()));
    assert_eq!(finding["code"], "port-not-listening");
    let place = json!({ "name": server, "kind": "netns", "namespace": "", "node": report["node"] });
    assert_eq!(finding["entities"], json!([place]));
    // The plugin never ticks by itself: the counter was read for the question.
    assert_eq!(finding["evidence"][1]["summary"], "Udp.NoPorts is 10");
    assert_eq!(
        report["blind_spots"].as_array().context("a list")?.last(),
        Some(&"it looks at UDP only".into())
    );
    let node = agent.api("/api/v1/findings")?;
    assert_eq!((&node["scenario"], &node["findings"][0]["code"]), (&"node".into(), &finding["code"]));

    let at = agent.events.to_string();
    let asked = |more: &[&str]| diagnose(&[&["loss", "-e", &at, "--entity", server][..], more].concat());
    let (text, _) = said(&asked(&[])?);
    for part in
        ["DEGRADED: 1 warning", "port-not-listening (99 % sure)", server, "$ ss -lun", "it looks at UDP"]
    {
        assert!(text.contains(part), "{part:?} in\n{text}");
    }
    let json: Value = serde_json::from_slice(&asked(&["-o", "json"])?.stdout)?;
    assert_eq!(json["findings"][0]["count"], 10);
    assert!(said(&asked(&["-o", "markdown"])?).0.starts_with("# degraded\n"));
    assert!(said(&asked(&["-o", "html"])?).0.starts_with("<!doctype html>"));
    assert_eq!(asked(&["--fail-on", "warning"])?.status.code(), Some(3));
    // An agent that is younger than a minute cannot tell of all of it.
    let critical = asked(&["--fail-on", "critical", "--last", "1h"])?;
    assert_eq!(critical.status.code(), Some(4), "{}", said(&critical).0);
    // Somebody else's drops are not the client's.
    let client = pair.client.name();
    let idle = diagnose(&["loss", "-e", &at, "--entity", client, "--fail-on", "warning", "--last", "1s"])?;
    let (text, _) = said(&idle);
    let expected = format!("INCONCLUSIVE: nothing can be said for {client} on node ");
    assert!(idle.status.code() == Some(4) && text.starts_with(&expected), "{text}");
    assert!(text.contains("no traffic was seen"), "{text}");

    let listed = Command::new(binary()?).args(["list", "scenario", "-o", "json", "-e", &at]).output()?;
    let listed: Value = serde_json::from_slice(&listed.stdout)?;
    let loss = json!({ "name": "loss", "plugin": "concluding", "help": "where do datagrams get lost?" });
    assert_eq!(listed[0], loss);
    Ok(())
}

#[test]
fn what_a_finding_asks_for_is_looked_at_only_if_the_user_asks_for_that() -> Result<()> {
    let pair = Pair::new()?;
    pair.server
        .nft("table inet t { chain in { type filter hook input priority 0; tcp dport 81 drop; }; }")?;
    let (agent, _dir) = agent(&[TestPlugin::Concluding])?;
    let server = pair.server.name();
    make_drops(&pair, 4)?;
    let plain = explained(&agent, &json!({ "entities": [server] }), 4)?;
    let looked = |report: &Value| -> Vec<String> {
        let evidence = report["findings"][0]["evidence"].as_array().cloned().unwrap_or_default();
        let looked = evidence.iter().filter(|evidence| evidence["kind"] == "table");
        looked.map(|evidence| evidence["summary"].as_str().unwrap_or_default().to_owned()).collect()
    };
    assert_eq!(looked(&plain), [""; 0]);
    let confirmed = looked(&ask(&agent, &json!({ "entities": [server], "confirm": true }))?);
    for fact in [
        format!("listeners of {server}: nothing listens on UDP port 9"),
        format!("table of {server}: Udp.NoPorts=4"),
        format!("moon of {server}: could not be looked at: this version does not know that check"),
    ] {
        assert!(confirmed.contains(&fact), "{fact:?} in {confirmed:#?}");
    }
    let rule = format!("netfilter of {server}: nft: table inet t, chain in: tcp dport 81 drop (handle ");
    assert!(confirmed.iter().any(|fact| fact.starts_with(&rule)), "{rule:?} in {confirmed:#?}");

    // While something happens, a capture has it.
    let done = AtomicBool::new(false);
    let confirmed = std::thread::scope(|scope| {
        let sender = scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                make_drops(&pair, 1)?;
            }
            Ok::<_, anyhow::Error>(())
        });
        let report = ask(&agent, &json!({ "entities": [server], "confirm": true }));
        done.store(true, Ordering::Relaxed);
        sender.join().expect("sending does not panic").and(report)
    })?;
    let confirmed = looked(&confirmed);
    let capture = confirmed.iter().find(|fact| fact.starts_with(&format!("capture of {server}: ")));
    let capture = capture.with_context(|| format!("{confirmed:#?}"))?;
    assert!(capture.contains(" packets of UDP between 10.9.0.1 and 10.9.0.2:9, in "), "{capture}");
    let file = capture.split(", in ").nth(1).and_then(|rest| rest.split(' ').next()).context("a file")?;
    let bytes = std::fs::read(file)?;
    std::fs::remove_file(file)?;
    assert!(
        bytes.starts_with(&0xa1b2_3c4d_u32.to_le_bytes()) && bytes.len() > 24 + 16 + 28,
        "{}",
        bytes.len()
    );
    Ok(())
}

#[test]
fn the_built_in_analyzer_names_cause_and_place_of_a_real_fault() -> Result<()> {
    let pair = Pair::new()?;
    let agent = Agent::start(&Settings::default())?;
    pair.server
        .nft("table inet t { chain in { type filter hook input priority 0; tcp dport 80 drop; }; }")?;
    let _connecting = faults::start_connect(&pair.client, pair.server_at(Family::V4, 80))?;
    let question = json!({ "scenario": "connect", "entities": [pair.client.name(), pair.server.name()] });
    let report = wait::until("the cause", || {
        ask(&agent, &question).ok().filter(|report| report["findings"][0]["code"] == "firewall-drop")
    })?;
    assert_eq!(report["findings"][0]["entities"][0]["name"], pair.server.name(), "{report:#}");
    let confirm = ["connect", "-e", &agent.events.to_string(), "--confirm"];
    let (text, told) = said(&diagnose(&[&confirm[..], &["--entity", pair.server.name()]].concat())?);
    assert!(text.contains("tcp dport 80 drop (handle"), "{text}{told}");
    Ok(())
}

#[test]
fn a_question_about_what_does_not_exist_is_told_what_does() -> Result<()> {
    let pair = Pair::new()?;
    let (agent, _dir) = agent(&[TestPlugin::Concluding])?;
    let at = agent.events.to_string();
    let response = http::post(agent.events, "/api/v1/diagnose", &json!({ "scenario": "moon" }))?;
    assert_eq!(response.status, 400);
    let refusal: Value = serde_json::from_str(&response.body)?;
    assert_eq!(refusal["scenarios"], json!(["loss", "node"]));
    let refused = diagnose(&["moon", "-e", &at])?;
    assert_eq!(refused.status.code(), Some(2));
    assert_eq!(said(&refused).1, "error: there is no scenario \"moon\"; there are loss, node\n");
    for name in [["--entity", "nobody"], ["--pod", "no/body"]] {
        let refused = diagnose(&["-e", &at, name[0], name[1]])?;
        let (_, told) = said(&refused);
        assert!(refused.status.code() == Some(2) && told.contains(pair.server.name()), "{told}");
    }
    // One that has vanished is no error: its last moments may be what is asked about.
    let gone = pair.server.name().to_owned();
    make_drops(&pair, 3)?;
    explained(&agent, &json!({ "entities": [gone] }), 3)?;
    drop(pair);
    let question = json!({ "entities": [gone] });
    let report = wait::until("the entity to be gone", || {
        let report = ask(&agent, &question).ok()?;
        report["blind_spots"].to_string().contains("is gone").then_some(report)
    })?;
    assert_eq!(report["findings"][0]["entities"][0]["name"], gone.as_str());
    Ok(())
}

#[test]
fn a_hostile_answer_is_bounded_and_costs_nobody_else_anything() -> Result<()> {
    let pair = Pair::new()?;
    let (agent, _dir) = agent(&[TestPlugin::Concluding, TestPlugin::Lying])?;
    make_drops(&pair, 5)?;
    let spots = |report: &Value| report["blind_spots"].to_string();
    let asked = |scenario: &str| ask(&agent, &json!({ "scenario": scenario }));

    // Beside the good answer: impossible numbers, entities that are not there, control characters.
    let server = json!([pair.server.name()]);
    let both = wait::until("both answers", || {
        let report = ask(&agent, &json!({ "entities": server })).ok()?;
        // The first of the drops may be seen before the last.
        (report["findings"].as_array()?.len() == 2 && report["findings"][1]["count"] == 5).then_some(report)
    })?;
    let (lie, truth) = (&both["findings"][0], &both["findings"][1]);
    assert_eq!((&truth["code"], &truth["count"]), (&"port-not-listening".into(), &5.into()));
    assert_eq!((&lie["severity"], &lie["confidence"]), (&2.into(), &100.into()));
    assert_eq!((&lie["entities"], &lie["actions"][0]["url"]), (&json!([]), &Value::Null));
    assert_eq!(lie["actions"][0]["risk"], "needs-approval");
    assert!(lie["first_seen"].as_str() <= both["generated_at"].as_str(), "{lie:#}");
    assert!(!has_controls(&both), "{both:#}");
    let page = said(&diagnose(&["-e", &agent.events.to_string(), "-o", "html"])?).0;
    assert!(!page.contains("<script") && !page.contains("javascript:"), "{page}");

    let many = asked("many")?;
    let count = |value: &Value| value.as_array().map_or(0, Vec::len);
    assert_eq!(count(&many["findings"]), 64);
    assert_eq!((count(&many["findings"][0]["evidence"]), count(&many["findings"][0]["actions"])), (32, 8));
    assert!(spots(&many).contains("said more than it may"), "{}", spots(&many));
    for (scenario, why) in [
        ("refuse", "denied: x\\\\u{1b}[2J"),
        ("long", "trap: "),
        ("trap", "trap: "),
        ("loop", "no answer within 1s of CPU time"),
    ] {
        let report = wait::until("an answer of a restarted plugin", || {
            asked(scenario).ok().filter(|report| !spots(report).contains("backoff: "))
        })?;
        assert_eq!(report["verdict"], "inconclusive", "{scenario}");
        assert!(spots(&report).contains("analyzer lying did not answer"), "{scenario}: {}", spots(&report));
        // On a busy machine a second of CPU time takes more than the two that anybody waits.
        let late = spots(&report).contains("not in time");
        assert!(late || spots(&report).contains(why), "{scenario}: {}", spots(&report));
        assert!(!has_controls(&report), "{report:#}");
    }
    let question = json!({ "scenario": "loss", "entities": server });
    assert_eq!(ask(&agent, &question)?["findings"][0]["count"], 5, "the other one remembers");
    assert!(agent.is_running());
    Ok(())
}

fn has_controls(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains(|c: char| c.is_control() || c == '\u{202e}'),
        Value::Array(items) => items.iter().any(has_controls),
        Value::Object(members) => members.values().any(has_controls),
        _ => false,
    }
}

#[test]
fn a_plugin_that_comes_and_goes_takes_its_questions_along() -> Result<()> {
    let (agent, dir) = agent(&[TestPlugin::Lying])?;
    let scenarios = || agent.api("/api/v1/scenarios").unwrap_or_default().to_string();
    assert!(scenarios().contains("\"trap\"") && !scenarios().contains("\"loss\""), "{}", scenarios());
    dir.put("concluding.wasm", &TestPlugin::Concluding.wasm()?)?;
    wait::until("its questions", || scenarios().contains("\"loss\"").then_some(()))?;
    // What it finds is what the tests beside this one do.
    assert_eq!(ask(&agent, &json!({ "scenario": "loss" }))?["scenario"], "loss");
    std::fs::remove_file(dir.path().join("lying.wasm"))?;
    wait::until("the others to go", || (!scenarios().contains("\"trap\"")).then_some(()))?;
    Ok(())
}

#[test]
fn a_fault_is_explained_without_an_agent() -> Result<()> {
    let pair = Pair::new()?;
    let dir = plugin_dir(&[TestPlugin::Concluding])?;
    let config = dir.path().join("one-shot.toml");
    std::fs::write(&config, format!("plugins.cache_dir = '{}'\n", dir.path().join("cache").display()))?;
    let path = |path: &std::path::Path| path.to_str().map(str::to_owned).context("UTF-8");
    let (dir_flag, config) = (path(dir.path())?, path(&config)?);
    let args =
        ["diagnose", "loss", "--for", "3s", "-o", "json", "--plugin-dir", &dir_flag, "--config", &config];
    let mut command = Command::new(binary()?);
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    let mut ended = false;
    wait::until("the answer", || {
        // As long as it looks; when it begins is its own business.
        ended =
            ended || make_drops(&pair, 1).is_err() || child.try_wait().is_ok_and(|status| status.is_some());
        ended.then_some(())
    })?;
    let output = child.wait_with_output()?;
    let (_, told) = said(&output);
    assert!(output.status.success(), "{told}");
    let report: Value = serde_json::from_slice(&output.stdout)?;
    let of_server = |finding: &&Value| finding["entities"][0]["name"] == pair.server.name();
    let finding = report["findings"].as_array().context("a list")?.iter().find(of_server);
    assert_eq!(finding.with_context(|| report.to_string())?["code"], "port-not-listening");
    assert_eq!(report["window_ms"], 3000);

    // Without privileges it answers as well, and says what it could not see.
    let through = ["--bounding-set=-all", "--inh-caps=-all", "--no-new-privs"];
    let binary = binary()?;
    let output = Command::new("setpriv").args(through).arg(&binary).args(args).output()?;
    let (_, told) = said(&output);
    assert!(output.status.success() && told.contains("CAP_BPF"), "{told}");
    let report: Value = serde_json::from_slice(&output.stdout)?;
    assert_eq!(report["verdict"], "inconclusive");
    assert!(report["blind_spots"].to_string().contains("probe skb-drop is down: no CAP_BPF"), "{report:#}");

    let refused = Command::new(&binary).args(args).args(["--entity", "nobody"]).output()?;
    assert!(said(&refused).1.contains("there is no entity \"nobody\""), "{}", said(&refused).1);
    Ok(())
}

#[test]
fn a_replay_ends_with_what_is_concluded_from_it_the_same_every_time() -> Result<()> {
    let pair = Pair::new()?;
    let dir = plugin_dir(&[TestPlugin::Concluding])?;
    let trace = dir.path().join("trace");
    let drops = || {
        make_drops(&pair, 7)?;
        // What is sent need not be there yet.
        lab::counters::counted(&pair.server, "UdpNoPorts", 7)
    };
    lab::record(&trace, &[&pair.client, &pair.server], drops)?;
    let replay = |output: &str| -> Result<Vec<u8>> {
        let mut command = Command::new(binary()?);
        command.arg("replay").arg(&trace).arg("--plugin-dir").arg(dir.path()).args(["-o", output]);
        let output = command.output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(output.stdout)
    };
    let text = String::from_utf8(replay("text")?)?;
    let (_, note) = text.split_once("\nDEGRADED: ").with_context(|| text.clone())?;
    assert!(note.contains("port-not-listening") && note.contains("7 times"), "{note}");
    assert_eq!(text.as_bytes(), replay("text")?);
    let json = String::from_utf8(replay("json")?)?;
    let report: Value = serde_json::from_str(json.lines().last().context("lines")?)?;
    assert_eq!((&report["scenario"], &report["findings"][0]["count"]), (&"node".into(), &7.into()));
    Ok(())
}

/// A server that answers some paths, however it is asked, until the test ends.
fn fake(answers: &[(&str, u16, Value)]) -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let at = listener.local_addr()?;
    let answers: BTreeMap<String, (u16, String)> = answers
        .iter()
        .map(|(path, status, body)| ((*path).to_owned(), (*status, body.to_string())))
        .collect();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            // A client that goes away is its own business.
            let _ = answer(stream, &answers);
        }
    });
    Ok(at)
}

fn answer(mut stream: std::net::TcpStream, answers: &BTreeMap<String, (u16, String)>) -> Result<()> {
    let mut request = BufReader::new(stream.try_clone()?);
    let (mut path, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        ensure!(request.read_line(&mut line)? > 0, "cut off");
        if path.is_empty() {
            line.split(' ').nth(1).unwrap_or_default().clone_into(&mut path);
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse()?;
        }
        if line.trim().is_empty() {
            break;
        }
    }
    request.take(length).read_to_end(&mut Vec::new())?;
    let (status, body) =
        answers.get(&path).cloned().unwrap_or((404, r#"{"error":"no such path"}"#.to_owned()));
    write!(
        stream,
        "HTTP/1.1 {status} X\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    )?;
    Ok(())
}

/// What an agent of some node answers.
fn report(node: &str, verdict: &str, findings: &Value) -> Value {
    json!({
        "scenario": "connect", "verdict": verdict, "node": node, "window_ms": 60_000,
        "generated_at": "2026-01-02T03:04:05.678Z", "findings": findings,
        "blind_spots": ["probe tcp-reset: this kernel has no tracepoint tcp_send_reset; without it: no resets sent"],
    })
}

#[test]
fn nodes_of_which_one_could_not_look_are_not_healthy() -> Result<()> {
    let node = |name: &str, verdict: &str, doubts: Value| {
        let mut report = report(name, verdict, &json!([]));
        report["doubts"] = doubts;
        fake(&[("/api/v1/diagnose", 200, report)]).map(|at| at.to_string())
    };
    let healthy = node("n1", "healthy", json!([]))?;
    let blind =
        node("n2", "inconclusive", json!(["dropped packets are not seen (probe skb-drop is down: x)"]))?;
    let other = node("n3", "healthy", json!([]))?;
    let nobody = TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
    let stranger =
        fake(&[("/api/v1/diagnose", 400, json!({ "error": "there is no entity \"web\"" }))])?.to_string();
    for (servers, status, head) in [
        ([&healthy, &other], 0, "HEALTHY: nothing is wrong on nodes n1, n3 in the last 1m"),
        ([&healthy, &blind], 4, "INCONCLUSIVE: nothing can be said on nodes n1, n2"),
        ([&healthy, &nobody], 4, "INCONCLUSIVE: nothing can be said on node n1"),
        // Whoever is asked about lives on one of the nodes.
        ([&healthy, &stranger], 0, "HEALTHY: nothing is wrong on node n1"),
    ] {
        let both = diagnose(&["connect", "-e", servers[0], "-e", servers[1], "--fail-on", "critical"])?;
        let (text, told) = said(&both);
        assert!(both.status.code() == Some(status) && text.starts_with(head), "{head}: {text}{told}");
    }
    let (text, _) = said(&diagnose(&["connect", "-e", &healthy, "-e", &blind])?);
    let in_one_line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let why = "(scenario connect): n2: dropped packets are not seen (probe skb-drop is down: x)";
    assert!(in_one_line.contains(why), "{text}");
    Ok(())
}

/// One end of a connection between two nodes.
fn finding(code: &str, title: &str, node: &str, name: &str, role: &str) -> Value {
    json!({
        "code": code, "role": role, "title": title, "severity": 2, "confidence": 95, "count": 12,
        "entities": [{ "name": name, "kind": "pod", "namespace": "shop", "node": node }],
        "first_seen": "2026-01-02T03:03:25.000Z", "last_seen": "2026-01-02T03:04:04.000Z",
        "evidence": [{
            "kind": "flow", "summary": format!("{title}: 10.1.0.7:43186 -> 10.2.0.9:5432"),
            "at": "2026-01-02T03:04:04.000Z",
            "attrs": { "flow": "TCP 10.1.0.7:43186 10.2.0.9:5432", "role": role },
        }],
        "actions": [{
            "title": "List the rules of the input hook in the namespace of the server",
            "command": "nsenter --net=/run/netns/db nft -a list ruleset", "risk": "safe", "url": null,
        }],
    })
}

#[test]
fn two_nodes_give_one_answer_with_both_ends_of_a_connection() -> Result<()> {
    let diagnosis = |body| fake(&[("/api/v1/diagnose", 200, body)]);
    let symptom = finding("peer-unresponsive", "SYNs to port 5432 stay unanswered", "n1", "cart", "symptom");
    let cause = finding("firewall-drop", "netfilter drops SYNs to port 5432 of db", "n2", "db", "cause");
    let client = diagnosis(report("n1", "broken", &json!([symptom])))?.to_string();
    let server = diagnosis(report("n2", "broken", &json!([cause])))?.to_string();
    let both = diagnose(&["connect", "-e", &client, "-e", &server])?;
    assert_eq!(both.status.code(), Some(0), "{}", said(&both).1);
    golden::check(&workspace().join("tests/golden/diagnose.txt"), &both.stdout)?;
    let (text, _) = said(&both);
    let is_command = |line: &&str| line.trim_start().starts_with("$ ");
    assert!(text.lines().filter(|line| !is_command(line)).all(|line| line.chars().count() <= 80), "{text}");

    // Some do not answer: the others' answer says so.
    let nobody = TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
    let two = diagnose(&["connect", "-e", &server, "-e", &nobody, "-o", "json", "--fail-on", "critical"])?;
    assert_eq!(two.status.code(), Some(3), "{}", said(&two).1);
    let two: Value = serde_json::from_slice(&two.stdout)?;
    assert_eq!(two["findings"][0]["code"], "firewall-drop");
    let spots = two["blind_spots"].to_string();
    assert_eq!(spots.matches(&nobody).count(), 1, "{spots}");
    assert!(spots.contains(&format!("cannot connect to {nobody}: ")), "{spots}");
    Ok(())
}

#[test]
fn an_agent_that_is_unreachable_or_older_or_broken_is_told_apart() -> Result<()> {
    let version = json!({ "version": "0.0.9", "revision": "abc", "node": "n\u{1b}1" });
    let older = fake(&[("/api/v1/version", 200, version)])?.to_string();
    let foreign = fake(&[])?.to_string();
    let broken = fake(&[("/api/v1/diagnose", 200, json!({ "verdict": "fine" }))])?.to_string();
    let failing =
        fake(&[("/api/v1/diagnose", 503, json!({ "error": "4 questions are being answered" }))])?.to_string();
    let nobody = TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
    for (at, why) in [
        (&older, "inspector 0.0.9 (abc), which cannot answer questions yet: upgrade it"),
        (&foreign, "knows no questions"),
        (&broken, "the server sends no valid JSON: unknown variant `fine`"),
        (&failing, "the server answered 503: 4 questions are being answered"),
        (&nobody, "Connection refused (os error 111): is an agent running there?"),
    ] {
        let failed = diagnose(&["-e", at])?;
        let (_, told) = said(&failed);
        assert_eq!(failed.status.code(), Some(1), "{told}");
        assert!(told.starts_with("error: ") && told.contains(why), "{told}");
        assert!(told.contains(at.as_str()) && told.trim_end().lines().count() == 1, "{told}");
        assert!(!told.trim_end().contains(char::is_control), "{told}");
    }
    Ok(())
}

#[test]
fn an_agent_that_is_silent_is_waited_for_with_a_word_and_not_for_ever() -> Result<()> {
    // Connections wait in its queue, and nobody takes them.
    let silent = TcpListener::bind("127.0.0.1:0")?;
    let at = silent.local_addr()?.to_string();
    let failed = diagnose(&["-e", &at])?;
    let (_, told) = said(&failed);
    assert_eq!(failed.status.code(), Some(1), "{told}");
    let lines: Vec<_> = told.lines().collect();
    let expected = [format!("waiting for {at} (1 s)"), format!("error: {at} did not answer within 10s")];
    assert_eq!(lines, expected);
    Ok(())
}
