//! Waits and runs of the network's soft interrupts.

use inspector_sdk::metrics::Histogram;
use inspector_sdk::probes::Softirq;
use inspector_sdk::probes::softirq::{KIND_SUM, NET_RX, NET_TX, PHASE_RUN, PHASE_WAIT};
use inspector_sdk::probes::sum::{bounds_seconds, is_above, mean_seconds};
use inspector_sdk::{Description, Error, Event, MetricDecl, Severity, Timestamp};

use crate::{Node, SLOW_NS, VERY_SLOW_NS, milliseconds, task};

const LATENCY: &str = "inspector_softirq_latency_seconds";

const SCHED_SLOW: &str = "NETSOFTIRQ_SCHED_SLOW";
const SCHED_100MS: &str = "NETSOFTIRQ_SCHED_100MS";
const EXCUTE_SLOW: &str = "NETSOFTIRQ_EXCUTE_SLOW";
const EXCUTE_100MS: &str = "NETSOFTIRQ_EXCUTE_100MS";

/// The histogram of soft interrupts.
#[derive(Debug)]
pub struct Turns {
    latency: Histogram<[&'static str; 2]>,
}

/// Declares what is told of soft interrupts.
pub fn describe(description: Description) -> Description {
    let latency = MetricDecl::histogram(
        LATENCY,
        "Time that soft interrupts of the network wait (tracepoint softirq_raise to softirq_entry) and run \
         (to softirq_exit), by vector (NET_RX, NET_TX) and phase (wait, run), on all CPUs.",
        &bounds_seconds(1_000, 5_000_000_000, false),
    );
    description
        .probe::<Softirq>()
        .metric(latency.labels(&["vector", "phase"]))
        .event(SCHED_SLOW, "A soft interrupt of the network waited for more than 10 ms.")
        .event(SCHED_100MS, "A soft interrupt of the network waited for more than 100 ms.")
        .event(EXCUTE_SLOW, "A soft interrupt of the network ran for more than 10 ms.")
        .event(EXCUTE_100MS, "A soft interrupt of the network ran for more than 100 ms.")
}

impl Turns {
    /// Their state; the metrics must be declared.
    ///
    /// # Errors
    /// A metric that is not declared.
    pub fn new() -> Result<Self, Error> {
        Ok(Self { latency: Histogram::declared(LATENCY)? })
    }

    /// Counts a sum; shows a slow one, which is in a sum as well.
    pub fn take(&mut self, turn: &Softirq, now: Timestamp, node: &mut Node) {
        if turn.head.kind != KIND_SUM {
            let at = turn.head.ts_ns;
            return node.emit(kind(turn), now, |event| told(event, turn), at);
        }
        let mean = mean_seconds(turn.count, turn.duration_ns);
        self.latency.observe_times(node.entity, [vector(turn), phase(turn)], mean, turn.count);
        let (slow, very_slow) = (is_above(turn.bucket, SLOW_NS), is_above(turn.bucket, VERY_SLOW_NS));
        match turn.phase {
            PHASE_WAIT => node.count(0, slow, very_slow, turn.count),
            PHASE_RUN => node.count(2, slow, very_slow, turn.count),
            _ => {}
        }
    }
}

fn vector(turn: &Softirq) -> &'static str {
    match turn.vector {
        NET_TX => "NET_TX",
        NET_RX => "NET_RX",
        _ => "other",
    }
}

fn phase(turn: &Softirq) -> &'static str {
    match turn.phase {
        PHASE_WAIT => "wait",
        PHASE_RUN => "run",
        _ => "other",
    }
}

fn kind(turn: &Softirq) -> &'static str {
    match (turn.phase, turn.duration_ns > VERY_SLOW_NS) {
        (PHASE_WAIT, false) => SCHED_SLOW,
        (PHASE_WAIT, true) => SCHED_100MS,
        (_, false) => EXCUTE_SLOW,
        (_, true) => EXCUTE_100MS,
    }
}

fn told(event: Event, turn: &Softirq) -> Event {
    let very_slow = turn.duration_ns > VERY_SLOW_NS;
    let event = event
        .severity(if very_slow { Severity::Warning } else { Severity::Info })
        .fact("vector", vector(turn))
        .fact("cpu", turn.head.cpu)
        .fact("duration_ms", milliseconds(turn.duration_ns))
        // Who held it up: the task on the CPU when it was raised, if it is still there at the end.
        .fact("raised_in", task(&turn.raised_comm, turn.raised_pid))
        .fact("ran_in", task(&turn.comm, turn.pid));
    let key = format!("{} {} {} {}", event.kind, turn.vector, turn.head.cpu, turn.pid);
    event.dedup_key(key)
}
