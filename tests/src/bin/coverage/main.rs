//! `make coverage`: every metric name of the contract (`tests/contract/metrics.txt`) with a value
//! that is seen changing, under a workload that makes the real thing happen.
//!
//! - [`tcp`], [`crafted`]: connections, honest and not; [`ip`]: datagrams and routes.
//! - [`system`]: devices, processes, connection tracking and what delays packets.
//! - [`contract`]: the names, and which of them no workload here can move, with the reason.
//!
//! Each workload runs in namespaces of its own, and names the metrics that it must move; what does
//! not move within the patience is reported as missing and fails the run. Most are cases of the lab;
//! what is here moves something that no case does.

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
use inspector_tests::lab::cases::Case;
use inspector_tests::lab::{Family, Held, Pair, Scene, Topology, end_in_order};
use inspector_tests::scrape::Scrape;
use inspector_tests::wait;

/// Sources are read once a second, and a batch and a scrape take their time.
const PATIENCE: Duration = Duration::from_secs(15);

/// A real situation, and the metrics (without `inspector_pod_`) that it moves.
#[derive(Clone, Copy)]
struct Workload {
    name: &'static str,
    moves: &'static [&'static str],
    made: Made,
}

/// How it is made, over IPv4.
#[derive(Clone, Copy)]
enum Made {
    /// As the case of the lab that has this name.
    AsCase(&'static str),
    /// Here.
    By(fn(&Pair) -> Result<Held>),
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
    let only = std::env::args().skip(1).collect::<Vec<_>>().join(" ");
    let settings = Settings {
        config: "sources.interval = \"1s\"\nplugins.disabled = []\n".to_owned(),
        ..Settings::default()
    };
    let agent = Agent::start(&settings)?;
    let mut seen = BTreeMap::new();
    let workloads = [tcp::WORKLOADS, crafted::WORKLOADS, ip::WORKLOADS, system::WORKLOADS].concat();
    let (mut observed, mut failed) = (0, 0);
    for workload in workloads.iter().filter(|workload| workload.name.contains(&only)) {
        eprintln!("{}", workload.name);
        observed += 1;
        if let Err(error) = observe(&agent, workload, &mut seen) {
            failed += 1;
            eprintln!("  {error:#}");
        }
    }
    if only.is_empty() {
        return contract::print(&seen);
    }
    ensure!(observed > 0, "no workload is called {only}");
    contract::print_seen(&seen);
    Ok(failed == 0)
}

fn observe(agent: &Agent, workload: &Workload, seen: &mut BTreeMap<&'static str, Seen>) -> Result<()> {
    let scene = match workload.made {
        Made::AsCase(name) => Scene::new(Case::named(name)?.topology, Family::V4)?,
        Made::By(_) => Scene::new(Topology::Direct, Family::V4)?,
    };
    // The baseline is that of namespaces which the agent knows and has read.
    wait::within(PATIENCE, "the namespaces to be known", || {
        let page = agent.scrape().ok()?;
        scene.hosts().all(|host| known(&page, host.name())).then_some(())
    })?;
    let before = agent.scrape()?;
    let held = match workload.made {
        Made::AsCase(name) => Case::named(name)?.make(&scene)?,
        Made::By(run) => run(&scene.pair)?,
    };
    let mut missing: Vec<_> = workload.moves.to_vec();
    let all = wait::within(PATIENCE, "the metrics to move", || {
        let after = agent.scrape().ok()?;
        missing.retain(|name| {
            let (old, new) = (value(&before, &scene, name), value(&after, &scene, name));
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

/// The metric's value in all namespaces together; for what only the node has, that of the node.
fn value(page: &Scrape, scene: &Scene, name: &str) -> Option<f64> {
    if name.starts_with("inspector_") {
        return page.sum(name, &[]);
    }
    let metric = format!("inspector_pod_{name}");
    if contract::is_of_the_node(name) {
        return page.sum(&metric, &[("pod", "")]);
    }
    let values = scene.hosts().filter_map(|host| page.sum(&metric, &[("pod", host.name())]));
    values.reduce(|a, b| a + b)
}
