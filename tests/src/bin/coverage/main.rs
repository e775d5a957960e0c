//! `make coverage`: every metric name of the contract (`tests/contract/metrics.txt`) with a value
//! that is seen changing, under a workload that makes the real thing happen.
//!
//! - [`tcp`], [`crafted`]: connections, honest and not; [`ip`]: datagrams and routes.
//! - [`system`]: devices, processes, connection tracking and what delays packets.
//! - [`contract`]: the names, and which of them no workload here can move, with the reason.
//!
//! Each workload runs in two namespaces of its own, and names the metrics that it must move; what
//! does not move within the patience is reported as missing and fails the run.

mod contract;
mod crafted;
mod ip;
mod system;
mod tcp;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use inspector_tests::agent::{Agent, Settings};
use inspector_tests::lab::{Held, Pair, end_in_order};
use inspector_tests::scrape::Scrape;
use inspector_tests::wait;

/// Sources are read once a second, and a batch and a scrape take their time.
const PATIENCE: Duration = Duration::from_secs(15);

/// A real situation, and the metrics (without `inspector_pod_`) that it moves.
#[derive(Clone, Copy)]
struct Workload {
    name: &'static str,
    moves: &'static [&'static str],
    run: fn(&Pair) -> Result<Held>,
}

/// What became of one metric.
struct Seen {
    before: f64,
    after: f64,
    workload: &'static str,
}

fn main() -> ExitCode {
    match coverage() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("coverage: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// True if nothing is missing.
fn coverage() -> Result<bool> {
    // The agent ends with the thread that started it.
    end_in_order(|| ())?;
    let only = std::env::args().nth(1);
    let settings = Settings {
        config: "sources.interval = \"1s\"\nplugins.disabled = []\n".to_owned(),
        ..Settings::default()
    };
    let agent = Agent::start(&settings)?;
    let mut seen = BTreeMap::new();
    let workloads = [tcp::WORKLOADS, crafted::WORKLOADS, ip::WORKLOADS, system::WORKLOADS].concat();
    let wanted =
        |workload: &&Workload| only.as_ref().is_none_or(|only| workload.name.contains(only.as_str()));
    for workload in workloads.iter().filter(wanted) {
        eprintln!("{}", workload.name);
        if let Err(error) = observe(&agent, workload, &mut seen) {
            eprintln!("  {error:#}");
        }
    }
    if only.is_some() {
        contract::print_seen(&seen);
        return Ok(true);
    }
    contract::print(&seen)
}

fn observe(agent: &Agent, workload: &Workload, seen: &mut BTreeMap<&'static str, Seen>) -> Result<()> {
    let pair = Pair::new()?;
    // The baseline is that of namespaces which the agent knows and has read.
    wait::within(PATIENCE, "the namespaces to be known", || {
        let page = agent.scrape().ok()?;
        [&pair.client, &pair.server].iter().all(|n| known(&page, n.name())).then_some(())
    })?;
    let before = agent.scrape()?;
    let held = (workload.run)(&pair)?;
    let mut missing: Vec<_> = workload.moves.to_vec();
    let all = wait::within(PATIENCE, "the metrics to move", || {
        let after = agent.scrape().ok()?;
        missing.retain(|name| {
            let (old, new) = (value(&before, &pair, name), value(&after, &pair, name));
            let moved = new.is_some() && new != old;
            if moved {
                let (before, after) = (old.unwrap_or(0.0), new.unwrap_or(0.0));
                seen.insert(name, Seen { before, after, workload: workload.name });
            }
            !moved
        });
        missing.is_empty().then_some(())
    });
    drop(held);
    all.with_context(|| format!("not moved: {missing:?}"))?;
    ensure!(agent.is_running(), "the agent ended");
    Ok(())
}

fn known(page: &Scrape, pod: &str) -> bool {
    page.find("inspector_pod_tcpoutsegs", &[("pod", pod)]).next().is_some()
}

/// The metric's value in both namespaces; for what only the node has, that of the node.
fn value(page: &Scrape, pair: &Pair, name: &str) -> Option<f64> {
    if name.starts_with("inspector_") {
        return page.sum(name, &[]);
    }
    let metric = format!("inspector_pod_{name}");
    if contract::is_of_the_node(name) {
        return page.sum(&metric, &[("pod", "")]);
    }
    let values =
        [&pair.client, &pair.server].map(|namespace| page.sum(&metric, &[("pod", namespace.name())]));
    values.into_iter().flatten().reduce(|a, b| a + b)
}
