//! Promise: bad input and missing powers are told in one clear line, and what can run, runs.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::{Command, Output};

use anyhow::Result;
use inspector_tests::agent::{Agent, Refusal, Settings, binary, refused};
use inspector_tests::lab::{Pair, faults};
use inspector_tests::plugins::{PluginDir, TestPlugin};
use inspector_tests::wait;
use serde_json::Value;

/// What a person reads: the lines that say what is wrong.
fn complaints(refusal: &Refusal) -> Vec<&str> {
    let complaint = |line: &&String| line.starts_with("error") || line.contains("\"ERROR\"");
    refusal.log.iter().filter(complaint).map(String::as_str).collect()
}

#[test]
fn a_port_in_use_ends_the_agent_with_one_line() -> Result<()> {
    let taken = TcpListener::bind("127.0.0.1:0")?;
    let at = taken.local_addr()?.to_string();
    for (web, events, flag) in [
        (at.as_str(), "127.0.0.1:0", "--web.listen-address"),
        ("127.0.0.1:0", &at, "--events.listen-address"),
    ] {
        let refusal = refused(&Settings::default(), &[web], events)?;
        assert_eq!(refusal.status.code(), Some(1));
        let lines = complaints(&refusal);
        assert_eq!(lines.len(), 1, "{:?}", refusal.log);
        assert!(lines[0].contains(&at) && lines[0].contains(flag), "{}", lines[0]);
    }
    Ok(())
}

/// Runs `inspector serve` on a configuration file of our own.
fn serve(config: &str) -> Result<Output> {
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("bad.toml");
    std::fs::write(&file, config)?;
    Ok(Command::new(binary()?).arg("serve").arg("--config").arg(file).output()?)
}

#[test]
fn a_bad_configuration_is_refused_with_file_line_and_key() -> Result<()> {
    for (config, line, key) in [
        ("[web]\nlisten = [\":9102\"]\ncolour = 1\n", 3, "web.colour"),
        ("\n\n[probes]\nring_kib = 1000\n", 4, "probes.ring_kib"),
        ("[sources]\ninterval = \"5 parsecs\"\n", 2, "sources.interval"),
        ("[events]\nlisten = []\n", 2, "events.listen"),
        ("[plugins]\nmemory_mib = \"16\"\n", 2, "plugins.memory_mib"),
        ("[nodes]\nname = \"a\"\n", 1, "nodes"),
    ] {
        let output = serve(config)?;
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{config}: {said}");
        assert!(said.contains(&format!("bad.toml:{line}: ")), "{config}: {said}");
        assert!(said.contains(key), "{config}: {said}");
        assert_eq!(said.trim_end().lines().count(), 1, "{said}");
    }
    Ok(())
}

#[test]
fn a_file_that_is_not_there_or_no_toml_is_refused() -> Result<()> {
    let output = serve("[web\n")?;
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("bad.toml:1: "));
    let output =
        Command::new(binary()?).args(["serve", "--config", "/nonexistent/inspector.toml"]).output()?;
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("/nonexistent/inspector.toml"));
    Ok(())
}

/// Runs `inspector serve --check` on a configuration file of our own: its exit status, and what it says.
fn check(config: &str) -> Result<(Option<i32>, String)> {
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("own.toml");
    std::fs::write(&file, config)?;
    let output = Command::new(binary()?).args(["serve", "--check", "--config"]).arg(file).output()?;
    let said = [output.stdout, output.stderr].concat();
    Ok((output.status.code(), String::from_utf8(said)?))
}

#[test]
fn a_configuration_is_checked_with_everything_that_it_names_and_nothing_is_started() -> Result<()> {
    let dir = PluginDir::new()?;
    dir.put("counting.wasm", &TestPlugin::Counting.wasm()?)?;
    let listening = |web: &str| {
        let folder = dir.path().display();
        format!(
            "plugins.directories = ['{folder}']\nweb.listen = ['{web}']\nevents.listen = ['127.0.0.1:0']\n"
        )
    };
    let good = listening("127.0.0.1:0");
    let (status, said) = check(&good)?;
    assert_eq!(status, Some(0), "{said}");
    assert!(said.contains("counting 1.0.0"), "{said}");
    assert!(said.ends_with("The configuration is good.\n"), "{said}");

    let taken = TcpListener::bind("127.0.0.1:0")?;
    let (status, said) = check(&listening(&taken.local_addr()?.to_string()))?;
    assert_eq!(status, Some(1), "{said}");
    assert!(said.contains("in use: serve would not start while that runs"), "{said}");
    assert!(said.ends_with("One thing is wrong.\n"), "{said}");

    dir.put("foreign.wasm", b"\0asm\x0d\0\x01\0")?;
    let wrong = "plugins.disabled = ['nosuch']\nadvice.file = '/nonexistent/own.toml'\n\
                 paths.procfs = '/nonexistent/proc'\n";
    let (status, said) = check(&(good.clone() + wrong))?;
    assert_eq!(status, Some(1), "{said}");
    for (key, what, why) in [
        ("plugins.directories", "foreign.wasm", "not an analyzer"),
        ("plugins.disabled", "nosuch", "there are counting"),
        ("advice.file", "/nonexistent/own.toml", "No such file"),
        ("paths.procfs", "/nonexistent/proc", "is it a procfs?"),
    ] {
        let line = said.lines().find(|line| line.starts_with(key) && line.contains(what));
        assert!(line.is_some_and(|line| line.contains("failed") && line.contains(why)), "{key}: {said}");
    }
    assert!(said.ends_with("4 things are wrong.\n"), "{said}");

    let (status, said) = check("web.telemetry_path = '/healthz'")?;
    assert_eq!(status, Some(2), "{said}");
    assert!(said.contains("own.toml:1: web.telemetry_path: is the path of a health check"), "{said}");
    Ok(())
}

#[test]
fn what_a_configuration_names_in_vain_is_told_at_start() -> Result<()> {
    let dir = PluginDir::new()?;
    dir.put("counting.wasm", &TestPlugin::Counting.wasm()?)?;
    let config = "plugins.disabled = ['nosuch']\nadvice.file = '/nonexistent/own.toml'";
    let settings = Settings {
        config: config.to_owned(),
        plugin_dirs: vec![dir.path().to_owned()],
        ..Settings::default()
    };
    let agent = Agent::start(&settings)?;
    agent.wait_for_log(&["WARN", "plugins.disabled", "nosuch", "counting"])?;
    agent.wait_for_log(&["WARN", "advice.file", "/nonexistent/own.toml"])?;
    Ok(())
}

#[test]
fn no_error_says_its_cause_twice() -> Result<()> {
    for args in [
        &["serve", "--config", "/nonexistent/x"][..],
        &["serve", "--check", "--config", "/nonexistent/x"],
        &["record", "-o", "/nonexistent/x", "--for", "1s"],
        &["record", "-o", "/tmp/x", "--config", "/nonexistent/x"],
        &["replay", "/nonexistent/x"],
        &["replay", "/nonexistent/x", "--config", "/nonexistent/y"],
        &["explain", "--advice", "/nonexistent/x", "NO_SOCKET"],
        &["doctor", "--config", "/nonexistent/x"],
    ] {
        let output = Command::new(binary()?).args(args).output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{args:?}");
        assert_eq!(said.matches("No such file").count(), 1, "{args:?}: {said}");
        assert_eq!(said.matches("/nonexistent/").count(), 1, "{args:?}: {said}");
    }
    Ok(())
}

#[test]
fn what_a_plugin_says_of_itself_is_cut_where_it_enters() -> Result<()> {
    let dir = PluginDir::new()?;
    dir.put("wordy.wasm", &TestPlugin::Wordy.wasm()?)?;
    let agent = Agent::start(&Settings { plugin_dirs: vec![dir.path().to_owned()], ..Settings::default() })?;
    wait_for_state(&agent, "wordy", "refused")?;
    agent.wait_for_log(&["plugin file refused", "wordy: why why"])?;
    for path in ["/api/v1/plugins", "/api/v1/metrics", "/api/v1/event-types"] {
        let answer = agent.api(path)?.to_string();
        assert!(answer.contains("wordy") && answer.len() < 4096, "{path}: {} bytes", answer.len());
    }
    let longest = agent.log().iter().map(String::len).max().unwrap_or(0);
    assert!(longest < 4096, "a log line of {longest} bytes");
    for noun in ["plugin", "metric", "event"] {
        let output =
            Command::new(binary()?).args(["list", noun, "-e", &agent.events.to_string()]).output()?;
        assert!(output.status.success(), "list {noun}: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}

#[test]
fn an_answer_of_long_texts_is_listed_and_cut() -> Result<()> {
    let server = TcpListener::bind("127.0.0.1:0")?;
    let at = server.local_addr()?.to_string();
    let long = "x".repeat(1 << 20);
    let answer = format!(r#"[{{"plugin":"{long}","type":"{long}","help":"{long}"}}]"#);
    let hostile = std::thread::spawn(move || -> Result<()> {
        let (mut client, _) = server.accept()?;
        let _ = client.read(&mut [0; 1024])?;
        write!(client, "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{answer}", answer.len())?;
        Ok(())
    });
    let output = Command::new(binary()?).args(["list", "event", "-e", &at]).output()?;
    hostile.join().expect("answering does not panic")?;
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("xxx…") && said.len() < 100_000, "{} bytes", said.len());
    Ok(())
}

#[test]
fn an_unreadable_plugins_directory_is_named_and_the_rest_goes_on() -> Result<()> {
    let good = PluginDir::new()?;
    good.put("counting.wasm", &TestPlugin::Counting.wasm()?)?;
    let plugin_dirs = vec!["/nonexistent/plugins".into(), good.path().to_owned()];
    let agent = Agent::start(&Settings { plugin_dirs, ..Settings::default() })?;
    agent.wait_for_log(&["/nonexistent/plugins"])?;
    wait_for_state(&agent, "counting", "running")
}

#[test]
fn a_plugins_directory_that_others_can_write_is_refused() -> Result<()> {
    let dir = PluginDir::new()?;
    dir.put("counting.wasm", &TestPlugin::Counting.wasm()?)?;
    std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o777))?;
    let agent = Agent::start(&Settings { plugin_dirs: vec![dir.path().to_owned()], ..Settings::default() })?;
    agent.wait_for_log(&["writable by others"])?;
    let plugins = agent.api("/api/v1/plugins")?;
    let running = |plugins: &[Value]| plugins.iter().any(|plugin| plugin["state"] == "running");
    assert!(plugins.as_array().is_some_and(|plugins| !running(plugins)), "{plugins:#}");
    Ok(())
}

#[test]
fn a_file_that_is_no_analyzer_is_refused_with_its_reason() -> Result<()> {
    let dir = PluginDir::new()?;
    let good = TestPlugin::Counting.wasm()?;
    dir.put("counting.wasm", &good)?;
    // A component without imports and exports: valid, but of no world of ours.
    dir.put("foreign.wasm", b"\0asm\x0d\0\x01\0")?;
    // A core module: valid, but no component.
    dir.put("module.wasm", b"\0asm\x01\0\0\0")?;
    let mut corrupt = good.clone();
    corrupt[16..80].fill(0xff);
    dir.put("corrupt.wasm", &corrupt)?;
    let agent = Agent::start(&Settings { plugin_dirs: vec![dir.path().to_owned()], ..Settings::default() })?;
    wait_for_state(&agent, "counting", "running")?;
    for name in ["foreign", "module", "corrupt"] {
        wait_for_state(&agent, name, "refused")?;
        let of_file = |line: &String| line.contains(&format!("{name}.wasm")) && !line.contains("compiling");
        let own: Vec<_> = agent.log().into_iter().filter(of_file).collect();
        assert_eq!(own.len(), 1, "one line each: {own:#?}");
        assert!(own[0].contains("refused") && !own[0].contains("\\n"), "{}", own[0]);
    }
    assert!(agent.is_running());
    Ok(())
}

fn wait_for_state(agent: &Agent, name: &str, state: &str) -> Result<()> {
    wait::until(&format!("{name} to be {state}"), || {
        let plugins = agent.api("/api/v1/plugins").ok()?;
        let plugin = plugins.as_array()?.iter().find(|plugin| plugin["name"] == name)?.clone();
        (plugin["state"] == state).then_some(())
    })
    .inspect_err(|_| eprintln!("{:#?}", agent.api("/api/v1/plugins")))
}

#[test]
fn without_privileges_the_counters_are_still_served_and_the_rest_is_explained() -> Result<()> {
    let through = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs"];
    let agent = Agent::start(&Settings {
        config: "sources.interval = '1s'".to_owned(),
        through: through.map(str::to_owned).to_vec(),
        ..Settings::default()
    })?;
    let status = std::fs::read_to_string(format!("/proc/{}/status", agent.pid()))?;
    assert!(status.contains("CapEff:\t0000000000000000"), "the agent kept powers:\n{status}");

    let host = [("pod", ""), ("namespace", "")];
    wait::until("the host's counters", || agent.scrape().ok()?.sum("inspector_pod_tcpactiveopens", &host))?;
    let probes = agent.api("/api/v1/probes")?;
    let probes = probes.as_array().cloned().unwrap_or_default();
    assert_eq!(probes.len(), inspector_ebpf::PROBES.len());
    for probe in probes {
        assert_eq!(probe["state"], "down", "{probe:#}");
        assert!(probe["reason"].as_str().is_some_and(|why| why.contains("CAP_")), "{probe:#}");
        let hooks = probe["hooks"].as_array().map_or(&[][..], Vec::as_slice);
        assert!(!hooks.is_empty(), "{probe:#}");
        assert!(hooks.iter().all(|hook| hook["state"] != "attached" && hook["reason"] != ""), "{probe:#}");
    }
    let page = agent.scrape()?;
    assert_eq!(page.sum("inspector_probe_up", &[("probe", "skb-drop")]), Some(0.0));
    assert!(agent.stop()?.success());
    Ok(())
}

#[test]
fn doctor_without_privileges_says_what_is_missing() -> Result<()> {
    let output = Command::new("setpriv")
        .args(["--bounding-set=-all", "--inh-caps=-all"])
        .arg(binary()?)
        .arg("doctor")
        .output()?;
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("CAP_BPF"), "{said}");
    assert_eq!(output.status.code(), Some(0), "degraded is no failure: {said}");
    Ok(())
}

#[test]
fn a_killed_agent_leaves_no_program_behind() -> Result<()> {
    let pair = Pair::new()?;
    let agent = Agent::start(&Settings::default())?;
    let to = pair.server_at(inspector_tests::lab::Family::V4, faults::CLOSED_PORT);
    faults::send_udp(&pair.client, to, 1, 1)?;
    let pid = agent.pid();
    let held = descriptors(pid)?;
    assert!(held.iter().any(|name| name.contains("bpf")), "{held:?}");
    // Dropping kills it with SIGKILL; what it had open is all that held its programs.
    drop(agent);
    assert!(descriptors(pid).is_err(), "process {pid} is still there");
    Ok(())
}

fn descriptors(pid: u32) -> Result<Vec<String>> {
    let entries = std::fs::read_dir(format!("/proc/{pid}/fd"))?;
    let links = entries.flatten().filter_map(|entry| std::fs::read_link(entry.path()).ok());
    Ok(links.map(|link| link.to_string_lossy().into_owned()).collect())
}
