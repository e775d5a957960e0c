//! `make bench`: what Inspector costs, beside floors that are measured in the same run.
//!
//! - [`producer`]: real drops at a given rate, in a namespace of our own.
//! - [`contender`]: whom they are shown to: nobody, Inspector, two C programs, bpftrace.
//! - [`cost`]: what that cost, as the kernel counts it.
//! - [`session`]: rounds of A B A B over all contenders and rates.
//! - [`sandbox`]: one analyzer as a component and compiled in.
//! - [`scraping`]: reading and showing the counters of 110 namespaces, and node_exporter.
//! - [`goals`]: the goals: what is compared with what, and the limit of each comparison.
//! - [`spread`], [`table`]: medians with minimum and maximum; the table, and its JSON in `bench/`.
//!
//! Nothing here fails on a time: the figures are for people, and for comparison with the previous
//! release. A comparison whose baseline moved while it was made is shown as void, never left out.

mod contender;
mod cost;
mod goals;
mod producer;
mod sandbox;
mod scraping;
mod session;
mod spread;
mod table;

use std::time::Duration;

use anyhow::{Result, bail, ensure};

/// The CPU that makes the drops, and their soft interrupts.
const PRODUCER_CPU: usize = 0;
/// The CPU of whoever reads them.
const CONSUMER_CPU: usize = 1;

/// How much is measured.
#[derive(Debug, Clone, Copy)]
struct Plan {
    rounds: usize,
    /// Length of one measurement.
    window: Duration,
}

const FULL: Plan = Plan { rounds: 7, window: Duration::from_millis(1500) };
const QUICK: Plan = Plan { rounds: 3, window: Duration::from_millis(700) };

/// What is measured by itself.
const SECTIONS: [&str; 3] = ["events", "sandbox", "counters"];

fn known(sections: &[&str]) -> bool {
    !sections.is_empty() && sections.iter().all(|section| SECTIONS.contains(section))
}

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let (plan, sections) = match args[..] {
        [] => (FULL, &SECTIONS[..]),
        ["--quick"] => (QUICK, &SECTIONS[..]),
        ["--only", ref only @ ..] if known(only) => (FULL, only),
        ["--quick", "--only", ref only @ ..] if known(only) => (QUICK, only),
        _ => bail!("usage: bench [--quick] [--only SECTION...], with sections {}", SECTIONS.join(", ")),
    };
    ensure!(nix::unistd::geteuid().is_root(), "the bench needs root: it loads eBPF programs");
    let cpus = std::thread::available_parallelism()?.get();
    ensure!(cpus > CONSUMER_CPU, "the bench needs two CPUs, one that produces and one that consumes");

    let mut rows = Vec::new();
    for section in sections {
        match *section {
            "events" => goals::event_rows(&session::measure(plan)?, &mut rows),
            "sandbox" => goals::sandbox_rows(&sandbox::measure(plan)?, &mut rows),
            _ => goals::scraping_rows(&scraping::measure(plan)?, &mut rows),
        }
    }
    table::print(plan, &rows);
    let file = table::save(plan, &rows)?;
    println!("\nwritten to {}", file.display());
    Ok(())
}
