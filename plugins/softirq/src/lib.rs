//! What holds packets up before any packet is looked at: soft interrupts that wait or run for long,
//! and a hypervisor that takes its time for a command.
//!
//! - [`interrupts`]: waits and runs of NET_RX and NET_TX.
//! - [`commands`]: commands of virtio_net.
//!
//! All of it belongs to the node, so to the entity `host`. Counters and histograms come from sums
//! and are exact; events come from records, which the probe limits.

pub mod commands;
pub mod interrupts;

use std::time::Duration;

use inspector_sdk::analyzer::is_granted;
use inspector_sdk::budget::EventLimit;
use inspector_sdk::probes::{Softirq, VirtioCommand};
use inspector_sdk::totals::Totals;
use inspector_sdk::{Analyzer, Batch, Description, EntityId, Error, Event, InitArgs, Timestamp, entities};

use crate::commands::Commands;
use crate::interrupts::Interrupts;

/// Above it, a time is slow in the words of the contract.
pub const SLOW_NS: u64 = 10_000_000;
/// Above it, it has names of its own there.
pub const VERY_SLOW_NS: u64 = 100_000_000;

/// Events of single interrupts and commands, per second.
const DETAILS: u32 = 50;

/// Index of the first metric of commands in [`TOTALS`].
pub const COMMANDS: usize = 4;

/// The metrics of the contract, in the order of their indexes in the totals.
const TOTALS: [(&str, &str); 6] = [
    (
        "inspector_pod_net_softirq_schedslow",
        "Soft interrupts of the network that waited for more than 10 ms (softirq_raise to softirq_entry).",
    ),
    ("inspector_pod_net_softirq_schedslow100ms", "Of these, those that waited for more than 100 ms."),
    (
        "inspector_pod_net_softirq_excuteslow",
        "Soft interrupts of the network that ran for more than 10 ms (softirq_entry to softirq_exit).",
    ),
    ("inspector_pod_net_softirq_excuteslow100ms", "Of these, those that ran for more than 100 ms."),
    (
        "inspector_pod_virtcmdlatency",
        "Commands of virtio_net that took more than 10 ms (kprobe virtnet_send_command).",
    ),
    ("inspector_pod_virtcmdlatency100ms", "Of these, those that took more than 100 ms."),
];

/// The analyzer.
#[derive(Debug)]
pub struct SoftirqAnalyzer {
    interrupts: Interrupts,
    commands: Commands,
    node: Node,
}

/// What both parts write to.
#[derive(Debug)]
pub struct Node {
    /// The entity `host`; 0 until it is known.
    entity: EntityId,
    totals: Totals<6>,
    events: EventLimit,
}

inspector_sdk::export!(SoftirqAnalyzer with ticker, entity_watch, snapshot);

impl Analyzer for SoftirqAnalyzer {
    fn describe() -> Description {
        let description = Description::new(
            "softirq",
            env!("CARGO_PKG_VERSION"),
            "Soft interrupts of the network that wait or run for long, and slow commands to the hypervisor",
        );
        let description = description.tick_every(Duration::from_secs(1));
        let description = TOTALS.iter().fold(description, |description, (name, help)| {
            description.metric(inspector_sdk::MetricDecl::unknown(name, help))
        });
        commands::describe(interrupts::describe(description))
    }

    fn init(args: &InitArgs) -> Result<Self, Error> {
        let mut totals = Totals::declared(TOTALS.map(|(name, _)| name))?;
        if !is_granted::<Softirq>(args) {
            totals.hide(0..COMMANDS);
        }
        if !is_granted::<VirtioCommand>(args) {
            totals.hide(COMMANDS..TOTALS.len());
        }
        let node = Node { entity: 0, totals, events: EventLimit::per_second(DETAILS) };
        Ok(Self { interrupts: Interrupts::new()?, commands: Commands::new()?, node })
    }

    fn on_batch(&mut self, batch: &Batch<'_>) -> Result<(), Error> {
        let now = batch.now;
        batch.events::<Softirq>().for_each(|record| self.interrupts.take(record, now, &mut self.node));
        batch.events::<VirtioCommand>().for_each(|command| self.commands.take(command, now, &mut self.node));
        self.node.totals.publish();
        Ok(())
    }

    fn tick(&mut self, now: Timestamp) {
        self.node.events.tick(now);
        self.node.totals.publish();
    }

    fn added(&mut self, ids: &[EntityId]) {
        if let Some(host) = entities::host_among(ids) {
            self.node.entity = host;
            self.node.totals.start(&[host]);
        }
    }

    fn save(&self) -> Vec<u8> {
        self.node.totals.save()
    }

    fn restore(&mut self, _: &str, state: &[u8]) -> Result<(), Error> {
        self.node.totals.restore(state)
    }
}

impl Node {
    /// Counts `n` of a duration in two totals: the first if it is slow, the next if it is very slow.
    fn count(&mut self, first: usize, slow: bool, very_slow: bool, n: u64) {
        for (total, counts) in [(first, slow), (first + 1, very_slow)] {
            if counts {
                self.totals.add(self.entity, total, n);
            }
        }
    }

    /// Emits what `event` makes of an event of the node, within the limit.
    fn emit(
        &mut self,
        kind: &'static str,
        now: Timestamp,
        event: impl FnOnce(Event) -> Event,
        at: Timestamp,
    ) {
        let entity = self.entity;
        self.events.emit(entity, kind, now, || event(Event::new(kind, at).entity(entity)));
    }
}

/// `comm/pid`, without what a process may have put into its name.
fn task(comm: &[u8; 16], pid: u32) -> String {
    let name = String::from_utf8_lossy(comm);
    let name: String = name.trim_end_matches('\0').chars().filter(|c| !c.is_control()).collect();
    if pid == 0 { "idle".to_owned() } else { format!("{name}/{pid}") }
}
