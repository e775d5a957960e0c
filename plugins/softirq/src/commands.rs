//! Commands of virtio_net, for which the kernel waits while nothing else can be configured.

use inspector_sdk::metrics::{Counter, Histogram};
use inspector_sdk::probes::VirtioCommand;
use inspector_sdk::probes::sum::{bounds_seconds, mean_seconds};
use inspector_sdk::{Description, Error, Event, MetricDecl, Severity, Timestamp};

use crate::{COMMANDS, Node, SLOW_NS, VERY_SLOW_NS, task};

const LATENCY: &str = "inspector_virtio_command_seconds";
const REFUSED: &str = "inspector_virtio_commands_refused_total";

const SLOW: &str = "VIRTCMDEXCUTE";
const VERY_SLOW: &str = "VIRTCMDEXCUTE_100MS";

/// The metrics of commands.
#[derive(Debug)]
pub struct Commands {
    latency: Histogram,
    refused: Counter,
}

/// Declares the metrics and events of commands.
pub fn describe(description: Description) -> Description {
    let latency = MetricDecl::histogram(
        LATENCY,
        "Time of commands of virtio_net, from kprobe and kretprobe virtnet_send_command.",
        &bounds_seconds(1_000, 5_000_000_000, true),
    );
    let refused = MetricDecl::counter(
        REFUSED,
        "Commands of virtio_net that the hypervisor refused, from kretprobe virtnet_send_command.",
    );
    description
        .probe::<VirtioCommand>()
        .metric(latency)
        .metric(refused)
        .event(SLOW, "A command of virtio_net took more than 10 ms.")
        .event(VERY_SLOW, "A command of virtio_net took more than 100 ms.")
}

impl Commands {
    /// Their state; the metrics must be declared.
    ///
    /// # Errors
    /// A metric that is not declared.
    pub fn new() -> Result<Self, Error> {
        Ok(Self { latency: Histogram::declared(LATENCY)?, refused: Counter::declared(REFUSED)? })
    }

    /// Counts one, and emits its event if it is slow.
    pub fn take(&mut self, command: &VirtioCommand, now: Timestamp, node: &mut Node) {
        let (slow, very_slow) = (command.duration_ns > SLOW_NS, command.duration_ns > VERY_SLOW_NS);
        self.latency.observe(node.entity, (), mean_seconds(1, command.duration_ns));
        if command.ok == 0 {
            self.refused.add(node.entity, (), 1);
        }
        node.count(COMMANDS, slow, very_slow, 1);
        if slow {
            let kind = if very_slow { VERY_SLOW } else { SLOW };
            node.emit(kind, now, |event| describe_command(event, command), command.head.ts_ns);
        }
    }
}

fn describe_command(event: Event, command: &VirtioCommand) -> Event {
    let event = event
        .severity(Severity::Warning)
        .duration_ns(command.duration_ns)
        .fact("task", task(&command.comm, command.pid));
    let event = if command.known == 1 {
        event.fact("class", command.class).fact("command", command.command)
    } else {
        event
    };
    event.fact("accepted", command.ok == 1)
}
