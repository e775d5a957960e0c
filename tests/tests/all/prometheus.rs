//! Promise: Prometheus understands every page, and users' queries give an answer.

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use inspector_tests::agent::{Agent, Settings};
use inspector_tests::http;
use inspector_tests::lab::{Family, Pair, faults};
use inspector_tests::prometheus::Prometheus;
use inspector_tests::wait;
use serde_json::Value;

/// Lints that do not hold for names which are a contract with users' dashboards, or that take the
/// original's spelling for a unit.
const ACCEPTED_LINTS: &[&str] = &["inspector_pod_", "inspector_runtime_collectlatency"];

fn agent() -> Result<Agent> {
    Agent::start(&Settings { config: "sources.interval = '1s'".to_owned(), ..Settings::default() })
}

#[test]
fn a_real_prometheus_sees_who_accepted_connections() -> Result<()> {
    let (pair, agent) = (Pair::new()?, agent()?);
    let prometheus = Prometheus::scraping(agent.web)?;
    let listener = pair.server.listen((pair.server_ip(Family::V4), 0))?;
    let at = listener.local_addr()?;
    let rate = |pod: &str| -> Result<f64> {
        let query = format!("rate(inspector_pod_tcppassiveopens{{pod=\"{pod}\"}}[30s])");
        let vector = prometheus.query(&query)?;
        ensure!(vector.len() <= 1, "{query}: {vector:?}");
        let value = vector.first().and_then(|sample| sample["value"][1].as_str());
        value.map_or(Ok(f64::NAN), |value| Ok(value.parse()?))
    };

    let seen = wait::within(Duration::from_secs(60), "a rate of accepted connections", || {
        let client = pair.client.connect(at).ok()?;
        drop((client, listener.accept().ok()?));
        rate(pair.server.name()).ok().filter(|rate| *rate > 0.0)
    })?;
    println!("rate(inspector_pod_tcppassiveopens{{pod={:?}}}[30s]) = {seen}", pair.server.name());
    assert_eq!(rate(pair.client.name())?, 0.0, "the client accepted nothing");

    let up = prometheus.query("up{job=\"inspector\"}")?;
    assert_eq!(up[0]["value"][1], "1");
    let target = prometheus.target()?;
    assert_eq!((target["health"].as_str(), target["lastError"].as_str()), (Some("up"), Some("")));
    // Prometheus asks for OpenMetrics first, so what it read was that.
    assert!(prometheus.query("inspector_build_info")?.len() == 1);
    Ok(())
}

#[test]
fn every_contract_module_is_there_for_the_host_and_for_a_namespace() -> Result<()> {
    let (pair, agent) = (Pair::new()?, agent()?);
    let names = [
        "tcpactiveopens",
        "udpindatagrams",
        "ipinreceives",
        "tcpextlistenoverflows",
        "netdevrxbytes",
        "sockinuse",
        "packetloss_total",
    ];
    for pod in ["", pair.server.name()] {
        for name in names {
            let name = format!("inspector_pod_{name}");
            let labels = [("pod", pod), ("namespace", "")];
            wait::until(&format!("{name} of {pod:?}"), || agent.scrape().ok()?.sum(&name, &labels))?;
        }
    }
    Ok(())
}

#[test]
fn promtool_accepts_the_text_format() -> Result<()> {
    let (_pair, agent) = with_all_kinds_of_series()?;
    let page = http::get(agent.web, "/metrics", "text/plain;version=0.0.4")?;
    assert!(page.content_type.starts_with("text/plain"), "{}", page.content_type);
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot start `promtool`; run `make setup`")?;
    promtool.stdin.take().context("stdin is piped")?.write_all(page.body.as_bytes())?;
    let output = promtool.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    let refused: Vec<_> =
        said.lines().filter(|line| !ACCEPTED_LINTS.iter().any(|name| line.starts_with(name))).collect();
    assert!(refused.is_empty(), "{}", refused.join("\n"));
    Ok(())
}

#[test]
fn open_metrics_is_served_to_who_asks_for_it() -> Result<()> {
    let (_pair, agent) = with_all_kinds_of_series()?;
    let page =
        http::get(agent.web, "/metrics", "application/openmetrics-text;version=1.0.0,text/plain;q=0.5")?;
    assert!(page.content_type.starts_with("application/openmetrics-text"), "{}", page.content_type);
    assert!(page.body.ends_with("\n# EOF\n"));
    assert!(page.body.contains("# TYPE inspector_pod_tcpactiveopens unknown\n"));
    assert!(page.body.contains("# TYPE inspector_drops counter\n"));
    let prometheus = Prometheus::scraping(agent.web)?;
    let healthy = |target: &Value| (target["health"] == "up").then_some(());
    wait::until("a healthy target", || healthy(&prometheus.target().ok()?))?;
    Ok(())
}

/// An agent that shows counters, gauges, histograms and untyped series.
fn with_all_kinds_of_series() -> Result<(Pair, Agent)> {
    let (pair, agent) = (Pair::new()?, agent()?);
    for family in Family::BOTH {
        faults::connect_to_closed_port(&pair.client, pair.server_at(family, faults::CLOSED_PORT))?;
        faults::reset_by_linger(&pair, family)?;
    }
    for name in
        ["inspector_drops_total", "inspector_pod_tcpactiveopens", "inspector_tcp_connect_seconds_count"]
    {
        wait::until(name, || agent.scrape().ok()?.sum(name, &[]))?;
    }
    Ok((pair, agent))
}

/// Samples of a namespace, the host's among them.
fn samples(agent: &Agent, pod: &str) -> Result<usize> {
    Ok(agent.scrape()?.samples.iter().filter(|s| s.labels.get("pod").is_some_and(|of| of == pod)).count())
}

#[test]
fn a_profile_leaves_out_what_nobody_watches_and_patterns_change_it() -> Result<()> {
    let (pair, whole) = (Pair::new()?, agent()?);
    let config = "sources.interval = '1s'\nmetrics.profile = 'essential'\nmetrics.allow = ['*tcpinerrs', 'typo']\n\
                  metrics.deny = ['inspector_pod_udp*']";
    let essential = Agent::start(&Settings { config: config.to_owned(), ..Settings::default() })?;
    let pod = [("pod", pair.server.name())];
    for agent in [&whole, &essential] {
        wait::until("the counters of a namespace", || {
            let page = agent.scrape().ok()?;
            page.sum("inspector_pod_tcppassiveopens", &pod)?;
            page.sum("inspector_pod_fdopenfd", &[("pod", "")])
        })?;
    }
    let page = essential.scrape()?;
    let has = |name| page.sum(name, &pod).is_some();
    assert!(has("inspector_pod_tcpinerrs"), "allowed beside the profile");
    assert!(!has("inspector_pod_udpindatagrams"), "denied though it is in the profile");
    assert!(!has("inspector_pod_tcpabortonclose") && !has("inspector_pod_ipforwarding"));
    essential.wait_for_log(&["no metric matches", "typo"])?;
    let (all, some) = (samples(&whole, pair.server.name())?, samples(&essential, pair.server.name())?);
    println!("samples of a namespace without traffic: full {all}, essential {some}");
    ensure!(some * 3 < all && all >= 100, "{all} {some}");
    Ok(())
}
