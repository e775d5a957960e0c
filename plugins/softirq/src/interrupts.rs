//! Waits and runs of the network's soft interrupts.

use inspector_sdk::metrics::Histogram;
use inspector_sdk::probes::Softirq;
use inspector_sdk::probes::softirq::{KIND_SUM, NET_RX, NET_TX, PHASE_RUN, PHASE_WAIT};
use inspector_sdk::probes::sum::{bounds_seconds, is_above, mean_seconds};
use inspector_sdk::{Description, Error, Event, MetricDecl, Severity, Timestamp};

use crate::{Node, SLOW_NS, VERY_SLOW_NS, task};

const LATENCY: &str = "inspector_softirq_latency_seconds";

const SCHED_SLOW: &str = "NETSOFTIRQ_SCHED_SLOW";
const SCHED_100MS: &str = "NETSOFTIRQ_SCHED_100MS";
const EXCUTE_SLOW: &str = "NETSOFTIRQ_EXCUTE_SLOW";
const EXCUTE_100MS: &str = "NETSOFTIRQ_EXCUTE_100MS";

/// The histogram of soft interrupts.
#[derive(Debug)]
pub struct Interrupts {
    latency: Histogram<[&'static str; 2]>,
}

/// Declares the metrics and events of soft interrupts.
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

impl Interrupts {
    /// Their state; the metrics must be declared.
    ///
    /// # Errors
    /// A metric that is not declared.
    pub fn new() -> Result<Self, Error> {
        Ok(Self { latency: Histogram::declared(LATENCY)? })
    }

    /// Counts a sum, or emits the event of a slow interrupt, which is in a sum as well.
    pub fn take(&mut self, interrupt: &Softirq, now: Timestamp, node: &mut Node) {
        if interrupt.head.kind != KIND_SUM {
            let at = interrupt.head.ts_ns;
            return node.emit(kind(interrupt), now, |event| describe_interrupt(event, interrupt), at);
        }
        let mean = mean_seconds(interrupt.count, interrupt.duration_ns);
        self.latency.observe_times(node.entity, [vector(interrupt), phase(interrupt)], mean, interrupt.count);
        let (slow, very_slow) =
            (is_above(interrupt.bucket, SLOW_NS), is_above(interrupt.bucket, VERY_SLOW_NS));
        match interrupt.phase {
            PHASE_WAIT => node.count(0, slow, very_slow, interrupt.count),
            PHASE_RUN => node.count(2, slow, very_slow, interrupt.count),
            _ => {}
        }
    }
}

fn vector(interrupt: &Softirq) -> &'static str {
    match interrupt.vector {
        NET_TX => "NET_TX",
        NET_RX => "NET_RX",
        _ => "other",
    }
}

fn phase(interrupt: &Softirq) -> &'static str {
    match interrupt.phase {
        PHASE_WAIT => "wait",
        PHASE_RUN => "run",
        _ => "other",
    }
}

fn kind(interrupt: &Softirq) -> &'static str {
    match (interrupt.phase, interrupt.duration_ns > VERY_SLOW_NS) {
        (PHASE_WAIT, false) => SCHED_SLOW,
        (PHASE_WAIT, true) => SCHED_100MS,
        (_, false) => EXCUTE_SLOW,
        (_, true) => EXCUTE_100MS,
    }
}

fn describe_interrupt(event: Event, interrupt: &Softirq) -> Event {
    let very_slow = interrupt.duration_ns > VERY_SLOW_NS;
    let event = event
        .severity(if very_slow { Severity::Warning } else { Severity::Info })
        .fact("vector", vector(interrupt))
        .fact("cpu", interrupt.head.cpu)
        .duration_ns(interrupt.duration_ns)
        // Who held it up: the task on the CPU when it was raised, if it is still there at the end.
        .fact("raised_in", task(&interrupt.raised_comm, interrupt.raised_pid))
        .fact("ran_in", task(&interrupt.comm, interrupt.pid));
    let key = format!("{} {} {} {}", event.kind, interrupt.vector, interrupt.head.cpu, interrupt.pid);
    event.dedup_key(key)
}
