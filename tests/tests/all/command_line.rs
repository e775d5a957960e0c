//! Promise: what a person asks for on the command line is shown as one reads it, and what cannot be
//! so is said at once.

use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result};
use inspector_tests::agent::{Agent, Settings, binary};
use inspector_tests::lab::{Family, Pair, faults};
use inspector_tests::wait;
use nix::sys::socket::{setsockopt, sockopt};
use serde_json::Value;

fn inspector(args: &[&str]) -> Result<Output> {
    Ok(Command::new(binary()?).args(args).stdin(Stdio::null()).output()?)
}

/// What `watch` prints of the events that the agent has already.
fn watch(agent: &Agent, args: &[&str]) -> Result<Vec<String>> {
    let events = agent.events.to_string();
    let output = inspector(&[&["watch", "-e", &events, "--no-follow"], args].concat())?;
    anyhow::ensure!(output.status.success(), "{}", told(&output));
    Ok(String::from_utf8(output.stdout)?.lines().map(str::to_owned).collect())
}

fn told(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Types of the events in lines of JSON.
fn kinds(lines: &[String]) -> Vec<String> {
    let events = lines.iter().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    events.filter_map(|event| event["type"].as_str().map(str::to_owned)).collect()
}

#[test]
fn a_closed_port_is_one_line_for_people_and_every_event_for_programs() -> Result<()> {
    let (pair, agent) = (Pair::new()?, Agent::start(&Settings::default())?);
    let to = pair.server_at(Family::V4, faults::CLOSED_PORT);
    let from = faults::connect_to_closed_port(&pair.client, to)?;
    let (pod, port) = (pair.server.name(), from.port().to_string());
    let chosen = ["--pod", pod, "--port", &port, "--type", "TCPRESET_NOSOCK,PACKETLOSS"];
    let json = [&chosen[..], &["-o", "json"]].concat();
    wait::until("both events of the fault", || {
        (kinds(&watch(&agent, &json).ok()?).len() == 2).then_some(())
    })?;

    let lines = watch(&agent, &[&chosen[..], &["--time", "none"]].concat())?;
    assert_eq!(lines.len(), 1, "{lines:#?}");
    assert!(lines[0].starts_with(&format!("WARN TCPRESET_NOSOCK Namespace= Pod={pod} Node=")), "{lines:?}");
    assert!(
        lines[0].contains(" location=tcp_v4_rcv+0x") && lines[0].ends_with(" also=PACKETLOSS"),
        "{lines:?}"
    );
    assert_eq!(watch(&agent, &[&chosen[..], &["--all"]].concat())?.len(), 2);

    // The time stands first, unless it is not wanted.
    let lines = watch(&agent, &[&chosen[..], &["--time", "utc"]].concat())?;
    let time = lines[0].split(' ').next().context("a word")?;
    humantime::parse_rfc3339(time).with_context(|| lines[0].clone())?;
    // Everything can be chosen by what it is not.
    let not = format!("!{port}");
    let others = watch(&agent, &["--pod", pod, "--port", &not, "--reason", "NO_SOCKET"])?;
    assert!(others.iter().all(|line| !line.contains(&format!(":{port} "))), "{others:#?}");
    Ok(())
}

#[test]
fn connections_of_the_agent_itself_are_told_to_programs_only() -> Result<()> {
    let agent = Agent::start(&Settings::default())?;
    // A scraper that hangs up rudely.
    let port = agent.web.port().to_string();
    let events = |args: &[&str]| watch(&agent, &[&["--port", &port], args].concat());
    wait::until("an event of the agent's own connection", || {
        hang_up(agent.web).ok()?;
        events(&["-o", "json"])
            .ok()?
            .iter()
            .any(|line| line.contains(r#""own_traffic":"true""#))
            .then_some(())
    })?;
    assert_eq!(events(&[])?, Vec::<String>::new());
    let all = events(&["--all"])?;
    assert!(all.iter().any(|line| line.contains(" Namespace=hostNetwork Pod=hostNetwork ")), "{all:#?}");
    Ok(())
}

fn hang_up(at: SocketAddr) -> Result<()> {
    let stream = TcpStream::connect(at)?;
    setsockopt(&stream, sockopt::Linger, &nix::libc::linger { l_onoff: 1, l_linger: 0 })?;
    Ok(())
}

#[test]
fn the_last_events_of_the_backlog_and_no_more_are_shown() -> Result<()> {
    let (pair, agent) = (Pair::new()?, Agent::start(&Settings::default())?);
    let pod = pair.server.name();
    for _ in 0..5 {
        faults::connect_to_closed_port(&pair.client, pair.server_at(Family::V4, faults::CLOSED_PORT))?;
    }
    let chosen = ["--pod", pod, "--type", "PACKETLOSS", "--reason", "NO_SOCKET"];
    wait::until("five drops", || (watch(&agent, &chosen).ok()?.len() >= 5).then_some(()))?;
    let all = watch(&agent, &chosen)?;
    let last = watch(&agent, &[&chosen[..], &["-n", "2"]].concat())?;
    assert_eq!(last, all[all.len() - 2..]);
    assert_eq!(watch(&agent, &[&chosen[..], &["--count", "3"]].concat())?, all[..3]);
    assert_eq!(watch(&agent, &[&chosen[..], &["--until", "1h"]].concat())?, Vec::<String>::new());
    assert_eq!(
        watch(&agent, &[&chosen[..], &["--since", "1h", "--min-severity", "error"]].concat())?.len(),
        0
    );
    Ok(())
}

#[test]
fn a_type_that_nobody_sends_is_refused_and_a_name_that_nobody_has_is_told() -> Result<()> {
    let agent = Agent::start(&Settings::default())?;
    let events = agent.events.to_string();
    let refused = inspector(&["watch", "-e", &events, "--type", "PACKETLOS"])?;
    let said = told(&refused);
    assert_eq!(refused.status.code(), Some(2), "{said}");
    assert!(
        said.contains("\"PACKETLOS\" (did you mean PACKETLOSS?); there are ") && said.contains("TCPRETRANS"),
        "{said}"
    );

    let refused = inspector(&["watch", "-e", &events, "--protocol", "FOO"])?;
    let said = told(&refused);
    assert!(refused.status.code() == Some(2) && said.contains("one of TCP, UDP, ICMP"), "{said}");
    let elsewhere = inspector(&["watch", "-e", &events, "--node", "nope,no-other", "--for", "500ms"])?;
    let said = told(&elsewhere);
    assert!(elsewhere.status.success(), "{said}");
    for node in ["nope", "no-other"] {
        assert!(said.contains(&format!("no asked agent is that of node \"{node}\"")), "{said}");
    }

    let waited =
        inspector(&["watch", "-e", &events, "--pod", "nosuch", "--reason", "NO_SOKET", "--for", "500ms"])?;
    let said = told(&waited);
    assert!(waited.status.success() && said.contains("there is no pod \"nosuch\" now"), "{said}");
    assert!(
        said.contains("no drop or reset reason NO_SOKET is known here (did you mean NO_SOCKET?)"),
        "{said}"
    );
    Ok(())
}

#[test]
fn lists_of_several_agents_say_the_node_of_each_row_and_which_did_not_answer() -> Result<()> {
    let named = |name: &str| Settings { config: format!("node.name = '{name}'"), ..Settings::default() };
    let agents = [Agent::start(&named("n1"))?, Agent::start(&named("n2"))?];
    let servers = agents.each_ref().map(|agent| agent.events.to_string());
    let list = |noun: &str, more: &[&str]| {
        inspector(&[&["list", noun, "-e", &servers[0], "-e", &servers[1]], more].concat())
    };

    let output = list("plugins", &[])?;
    let text = String::from_utf8(output.stdout)?;
    assert!(output.status.success() && text.starts_with("NODE  NAME"), "{text}");
    for node in ["n1 ", "n2 "] {
        assert!(text.lines().any(|line| line.starts_with(node) && line.contains("packet-loss")), "{text}");
    }
    let json: Value = serde_json::from_slice(&list("entities", &["-o", "json"])?.stdout)?;
    let nodes: Vec<_> = json.as_array().context("a list")?.iter().map(|row| row["node"].clone()).collect();
    assert!(nodes.contains(&"n1".into()) && nodes.contains(&"n2".into()), "{json:#}");

    let output = list("probe", &["-e", "127.0.0.1:1"])?;
    assert_eq!(output.status.code(), Some(1));
    assert!(!output.stdout.is_empty(), "those that answer are shown");
    assert!(
        told(&output).contains("cannot list probes of 127.0.0.1:1: cannot connect to"),
        "{}",
        told(&output)
    );
    Ok(())
}

#[test]
fn an_error_is_said_once_with_a_hint() -> Result<()> {
    let replay = inspector(&["replay", "/nonexistent/x.trace"])?;
    assert_eq!(
        told(&replay).trim_end(),
        "error: cannot read the trace /nonexistent/x.trace: No such file or directory (os error 2)"
    );
    for args in [&["list", "probe", "-e", "127.0.0.1:1"][..], &["watch", "--no-follow", "-e", "127.0.0.1:1"]]
    {
        let output = inspector(args)?;
        let said = told(&output);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert_eq!(said.matches("127.0.0.1:1").count(), said.matches("cannot list").count() + 1, "{said}");
        assert!(said.contains("Connection refused (os error 111) (is an agent running there?"), "{said}");
    }
    Ok(())
}

#[test]
fn what_does_not_exist_is_refused_before_anything_is_done() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("x.trace");
    let file = file.to_str().context("UTF-8")?;
    for (args, words) in [
        (&["record", "-o", file, "--entity", "nosuch"][..], "there is no entity \"nosuch\"; there are host"),
        (&["record", "-o", file, "--probe", "nosuch"], "there is no probe \"nosuch\"; there are "),
        (&["explain", "NO_SOKET"], "did you mean NO_SOCKET?"),
        (&["explain", ""], "a value is required"),
        (&["list", "probe", "-e", ""], "it is empty"),
        (&["watch", "-e", ""], "it is empty"),
        (&["watch", "--entity", ""], "the name or the id of an entity"),
        (&["watch", "--address", "10.0.0.0/40"], "an address or a network like 10.0.0.0/8"),
        (&["list", "nosuch"], "possible values"),
    ] {
        let output = inspector(args)?;
        assert_eq!(output.status.code(), Some(2), "{args:?}: {}", told(&output));
        assert!(told(&output).contains(words), "{args:?}: {}", told(&output));
    }
    assert!(!std::path::Path::new(file).exists(), "a refused recording leaves no file");
    Ok(())
}
