//! Rounds of A B A B over all contenders and rates.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::Plan;
use crate::contender::{Contender, Running, Stage};
use crate::cost::program_statistics;
use crate::producer::produce;

/// Drops per second; 0 is an idle machine, the last is more than most machines make.
pub const RATES: [u32; 5] = [0, 1_000, 10_000, 100_000, 500_000];

/// In this order in each round, with the rates at which each is compared.
const CONTENDERS: [(Contender, &[u32]); 5] = [
    (Contender::Nobody, &[1_000, 100_000]),
    (Contender::Inspector, &RATES),
    (Contender::ByClock, &[10_000, 100_000, 500_000]),
    (Contender::Woken, &[0, 1_000, 10_000, 100_000]),
    (Contender::Bpftrace, &[1_000, 100_000]),
];

/// Before the first measurement of each start: namespaces are found, names and series interned.
const WARM_UP: Duration = Duration::from_millis(300);
/// What was sent is digested within this time, and readers that sleep when idle do.
const SETTLE: Duration = Duration::from_millis(100);

/// One measurement; what a contender does not have is NaN.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    /// Drops made per second.
    pub per_second: f64,
    /// Time in the system call per packet, nanoseconds.
    pub send_ns: f64,
    /// CPU time of the process per drop, nanoseconds.
    pub user_ns: f64,
    /// Time in its eBPF program per drop, nanoseconds.
    pub kernel_ns: f64,
    /// Wake-ups of its reader thread per second.
    pub wakeups: f64,
    /// Wake-ups of all its threads per second.
    pub wakeups_of_all: f64,
    /// Part of the drops that did not reach its user space.
    pub lost: f64,
}

/// All measurements of a run.
#[derive(Debug, Default)]
pub struct Session {
    samples: BTreeMap<(Contender, u32), Vec<Sample>>,
    /// Those that could not be started, with the reason.
    pub absent: BTreeMap<Contender, String>,
}

impl Session {
    /// One value of each round, in order; none if the contender did not take part.
    pub fn values(&self, contender: Contender, rate: u32, value: fn(&Sample) -> f64) -> Vec<f64> {
        self.samples
            .get(&(contender, rate))
            .map_or_else(Vec::new, |samples| samples.iter().map(value).collect())
    }
}

/// Runs all rounds.
///
/// # Errors
/// If anything but bpftrace cannot be run here.
pub fn measure(plan: Plan) -> Result<Session> {
    let stage = Stage::set()?;
    let mut session = Session::default();
    for round in 1..=plan.rounds {
        for (contender, rates) in CONTENDERS {
            if session.absent.contains_key(&contender) {
                continue;
            }
            eprintln!("events: round {round} of {}: {contender:?}", plan.rounds);
            let running = match stage.start(contender) {
                Ok(running) => running,
                Err(error) if contender == Contender::Bpftrace => {
                    session.absent.insert(contender, format!("{error:#}"));
                    continue;
                }
                Err(error) => return Err(error).with_context(|| format!("{contender:?}")),
            };
            produce(&stage.namespace, RATES[2], WARM_UP)?;
            for &rate in rates {
                let sample = sample(&stage, &running, rate, plan.window)?;
                session.samples.entry((contender, rate)).or_default().push(sample);
            }
        }
    }
    Ok(session)
}

fn sample(stage: &Stage, running: &Running, rate: u32, window: Duration) -> Result<Sample> {
    std::thread::sleep(SETTLE);
    let received = running.received()?;
    let before = running.cost()?;
    let sent = produce(&stage.namespace, rate, window)?;
    std::thread::sleep(SETTLE);
    let cost = running.cost()?.since(before);
    let arrived = running.received()?.zip(received).map(|(after, before)| after - before);

    // Timing each run of a program has a cost of its own, so it is done apart.
    let statistics = program_statistics()?;
    let before = running.cost()?;
    produce(&stage.namespace, rate, window / 2)?;
    let timed = running.cost()?.since(before);
    drop(statistics);

    let (drops, seconds) = (sent.drops as f64, sent.took.as_secs_f64());
    let ns = |time: Duration| time.as_nanos() as f64;
    Ok(Sample {
        per_second: drops / seconds,
        send_ns: ns(sent.sending) / drops,
        user_ns: ns(cost.cpu) / drops,
        kernel_ns: ns(timed.run_time) / timed.runs as f64,
        wakeups: cost.wakeups as f64 / seconds,
        wakeups_of_all: cost.wakeups_of_all as f64 / seconds,
        lost: arrived.map_or(f64::NAN, |arrived| (1.0 - arrived as f64 / drops).max(0.0)),
    })
}
