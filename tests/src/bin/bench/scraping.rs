//! What it costs to read and to show the counters of 110 namespaces, beside node_exporter, which
//! reads and shows those of one.

use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use inspector_tests::agent::{Agent, Settings};
use inspector_tests::lab::Namespace;
use inspector_tests::scrape::Scrape;
use inspector_tests::wait;

use crate::Plan;
use crate::cost::Cost;

/// Namespaces, as many as a node has pods.
const ENTITIES: usize = 110;
/// Scrapes in one measurement.
const SCRAPES: u32 = 10;

/// One round; CPU times in nanoseconds.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sample {
    /// Inspector's, for one interval of reading all entities.
    pub interval: f64,
    /// Inspector's, for one scrape.
    pub scrape: f64,
    /// Series in that scrape.
    pub series: f64,
    /// node_exporter's, for one scrape, which reads what it shows.
    pub exporter: f64,
    /// Series in that scrape.
    pub exporter_series: f64,
}

/// Runs all rounds.
///
/// # Errors
/// If one of the two does not start, or without root.
pub fn measure(plan: Plan) -> Result<Vec<Sample>> {
    let namespaces = (0..ENTITIES).map(|_| Namespace::new("pod")).collect::<Result<Vec<_>>>()?;
    let agent = Agent::start(&Settings {
        config: "sources.interval = '1s'".to_owned(),
        is_first: true,
        ..Settings::default()
    })?;
    let last = namespaces.last().map(Namespace::name).context("there are namespaces")?;
    wait::until("the series of the last namespace", || {
        agent.scrape().ok()?.sum("inspector_pod_tcpinsegs", &[("pod", last)])
    })?;
    let exporter = Exporter::start()?;
    let mut samples = Vec::new();
    for round in 1..=plan.rounds {
        eprintln!("counters: round {round} of {}", plan.rounds);
        let (interval, scrape) = (interval(&agent, plan.window * 3)?, scrapes(agent.pid(), agent.web)?);
        let floor = scrapes(exporter.child.id(), exporter.at)?;
        samples.push(Sample {
            interval,
            scrape: scrape.0,
            series: scrape.1,
            exporter: floor.0,
            exporter_series: floor.1,
        });
    }
    Ok(samples)
}

/// CPU time per interval while nobody scrapes.
fn interval(agent: &Agent, window: Duration) -> Result<f64> {
    let reads = || -> Result<f64> {
        let reads = agent.scrape()?.sum("inspector_source_reads_total", &[("source", "snmp")]);
        reads.context("snmp is read")
    };
    let (from, start) = (reads()?, Instant::now());
    let before = Cost::of(agent.pid(), "")?;
    std::thread::sleep(window);
    let cost = Cost::of(agent.pid(), "")?.since(before);
    let intervals = (reads()? - from) / (ENTITIES + 1) as f64;
    // An interval that was cut by either end counts by its part.
    let intervals = intervals.max(start.elapsed().as_secs_f64().floor());
    Ok(cost.cpu.as_nanos() as f64 / intervals)
}

/// CPU time and series of one scrape.
fn scrapes(pid: u32, at: SocketAddr) -> Result<(f64, f64)> {
    let before = Cost::of(pid, "")?;
    let mut series = 0;
    for _ in 0..SCRAPES {
        series = Scrape::of(at)?.samples.len();
    }
    let cost = Cost::of(pid, "")?.since(before);
    Ok((cost.cpu.as_nanos() as f64 / f64::from(SCRAPES), series as f64))
}

/// Debian's node_exporter with its own defaults; killed when dropped.
#[derive(Debug)]
struct Exporter {
    at: SocketAddr,
    child: Child,
}

impl Exporter {
    fn start() -> Result<Self> {
        // It cannot tell which port it was given for port 0, so it gets one that is free now.
        let at = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let child = Command::new("prometheus-node-exporter")
            .arg(format!("--web.listen-address={at}"))
            .args(["--no-collector.systemd"])
            .stdin(Stdio::null())
            .spawn()
            .context("cannot start `prometheus-node-exporter`; run `make setup`")?;
        let exporter = Self { at, child };
        wait::until("node_exporter to answer", || Scrape::of(at).ok())?;
        Ok(exporter)
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to kill.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
