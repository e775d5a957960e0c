//! One analyzer as a component in the host's real path, and compiled into this program.
//!
//! Both get the same packed batches, made on one CPU and digested by a thread on the other, and
//! both are told by the CPU time of the calls. The component's is what the agent shows as the
//! plugin's cost: the call with the copy into the guest, and its calls back into the real metrics.
//! Natively it is the same `on_batch` over the SDK's stand-in for a host.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use inspector::entities::{DiscoveredNetns, Entities, Kind};
use inspector::events::log::{EventLog, Limits as EventLimits};
use inspector::kernel::batch::Batch;
use inspector::kernel::names::{KernelNames, Reasons};
use inspector::kernel::symbols::SymbolTable;
use inspector::loss::{Loss, Lost, Stage};
use inspector::plugin::{Limits, Options, Plugins, Shared};
use inspector::series::metrics::{Budget, Metrics};
use inspector::status::{PluginState, ProbeState, ProbeStatus, Status};
use inspector_ebpf::record::FLAG_PACKET;
use inspector_ebpf::{PROBES, Probe, Record, SkbDrop};
use inspector_sdk::testing::{Harness, World, head, record, words};
use inspector_tests::plugins::PluginDir;
use inspector_tests::wait;
use nix::time::{ClockId, clock_gettime};
use packet_loss::PacketLoss;

use crate::producer::pin;
use crate::{CONSUMER_CPU, PRODUCER_CPU, Plan};

const SIZES: [usize; 4] = [64, 256, 512, 1024];
/// Events between two pauses of the producer: less than a plugin's queue holds.
const CHUNK: usize = 1 << 15;
/// Chunks per measurement.
const CHUNKS: usize = 24;
const PLUGIN: &str = "packet-loss";
/// The clock stands still, so that after the first the budget for details is used up: what is
/// measured is counting, as in a storm.
const NOW_NS: u64 = 1_000_000_000;

/// Nanoseconds per event, one value per round.
#[derive(Debug, Default)]
pub struct Measured {
    /// As a component.
    pub component: Vec<f64>,
    /// Compiled in.
    pub native: Vec<f64>,
}

/// By batch size.
pub type Sandbox = BTreeMap<usize, Measured>;

/// Runs all rounds.
///
/// # Errors
/// If the plugin does not start.
pub fn measure(plan: Plan) -> Result<Sandbox> {
    // Threads inherit the CPU of the one that starts them.
    pin(CONSUMER_CPU)?;
    let (component, native) = (Component::start()?, Native::start());
    pin(PRODUCER_CPU)?;
    let mut sandbox = Sandbox::new();
    for round in 1..=plan.rounds {
        eprintln!("sandbox: round {round} of {}", plan.rounds);
        for size in SIZES {
            let words = batch(size);
            let measured = sandbox.entry(size).or_default();
            measured.component.push(component.run(&words)?);
            measured.native.push(native.run(&words)?);
        }
    }
    component.plugins.stop();
    Ok(sandbox)
}

/// Makes batches of `words` on this CPU, as the reader of the rings does; returns the number of
/// their events.
fn storm(words: &[u64], mut deliver: impl FnMut(Arc<Batch>)) -> u64 {
    let probe = probe();
    let count = words.len() * 8 / usize::from(probe.stride);
    let mut first_seq = 0;
    for _ in 0..CHUNKS {
        for _ in 0..CHUNK / count {
            let words = words.to_vec();
            deliver(Arc::new(Batch {
                probe,
                count: count as u32,
                first_seq,
                lost: 0,
                now_ns: NOW_NS,
                words,
            }));
            first_seq += count as u64;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    first_seq
}

/// The analyzer, compiled in.
struct Native {
    orders: Sender<Order>,
}

enum Order {
    Digest(Arc<Batch>),
    /// Tell the time spent since the last report.
    Report(Sender<Duration>),
}

impl Native {
    /// Its thread, which ends with `self`.
    fn start() -> Self {
        let (orders, inbox) = channel();
        std::thread::spawn(move || {
            let mut analyzer =
                Harness::<PacketLoss>::start(world()).expect("it starts in a world that has all");
            let mut busy = Duration::ZERO;
            for order in inbox {
                match order {
                    Order::Digest(batch) => {
                        let before = cpu();
                        analyzer
                            .packed::<SkbDrop>(batch.now_ns, &batch.words)
                            .expect("it takes its own probe");
                        busy += cpu() - before;
                    }
                    // Whoever asked may be gone.
                    Order::Report(to) => drop(to.send(std::mem::take(&mut busy))),
                }
            }
        });
        Self { orders }
    }

    /// Nanoseconds per event.
    fn run(&self, words: &[u64]) -> Result<f64> {
        let gone = "the native analyzer has ended";
        let events = storm(words, |batch| drop(self.orders.send(Order::Digest(batch))));
        let (report, answer) = channel();
        self.orders.send(Order::Report(report)).ok().context(gone)?;
        Ok(answer.recv().context(gone)?.as_nanos() as f64 / events as f64)
    }
}

/// CPU time of the calling thread.
fn cpu() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("every thread has this clock").into()
}

/// The plugin in the host's path, without probes in front of it.
struct Component {
    plugins: Plugins,
    status: Arc<Status>,
    lost: Lost,
    _directory: PluginDir,
}

impl Component {
    fn start() -> Result<Self> {
        let directory = PluginDir::new()?;
        directory.put_built_in(PLUGIN)?;
        let (entities, loss, status) =
            (Arc::new(Entities::default()), Arc::new(Loss::default()), Arc::new(Status::default()));
        entities.apply_scan((1..=ENTITIES).map(netns).collect(), NOW_NS, Instant::now());
        status.update().probes.insert(probe().name.to_owned(), up());
        let budget = Budget { per_plugin: 50_000, per_agent: 200_000 };
        let limits = EventLimits { backlog: 16_384, per_second: 1000, burst: 5000 };
        let shared = Shared {
            node: "bench".to_owned(),
            kernel: String::new(),
            clock: Arc::default(),
            names: Arc::new(names()),
            columns: Arc::default(),
            metrics: Arc::new(Metrics::new(budget, Arc::clone(&entities), Arc::clone(&loss))),
            events: Arc::new(EventLog::new(limits, Arc::clone(&entities).into(), Arc::clone(&loss), "bench")),
            entities,
            loss: Arc::clone(&loss),
            status: Arc::clone(&status),
        };
        let limits = Limits { memory_bytes: 16 << 20, deadline: Duration::from_secs(1) };
        let options = Options {
            directories: vec![directory.path().to_owned()],
            disabled: Vec::new(),
            cache: None,
            limits,
        };
        let plugins = Plugins::new(options, shared, Arc::default())?;
        plugins.scan(&|_| {});
        wait::until("the plugin to run", || {
            let board = status.update();
            board.plugins.get(PLUGIN).filter(|plugin| plugin.state == PluginState::Running).map(drop)
        })?;
        Ok(Self { plugins, status, lost: loss.cell(Stage::Queue, PLUGIN), _directory: directory })
    }

    /// Nanoseconds per event that the plugin digested; what its queue dropped does not count.
    fn run(&self, words: &[u64]) -> Result<f64> {
        let ((events, seconds), lost) = (self.digested(), self.lost.get());
        let delivered = storm(words, |batch| self.plugins.deliver(&batch));
        let (events, seconds) = wait::until("the plugin to digest what was delivered", || {
            let now = self.digested();
            let digested = now.0 - events;
            (digested + self.lost.get() - lost == delivered).then_some((digested, now.1 - seconds))
        })?;
        Ok(seconds * 1e9 / events as f64)
    }

    /// Events that the plugin digested, and the seconds it took for them.
    fn digested(&self) -> (u64, f64) {
        let board = self.status.update();
        board.plugins.get(PLUGIN).map_or((0, 0.0), |plugin| (plugin.events, plugin.seconds))
    }
}

const ENTITIES: u64 = 8;
const REASONS: [(u32, &str); 4] =
    [(3, "NO_SOCKET"), (6, "SOCKET_RCVBUFF"), (12, "NETFILTER_DROP"), (104, "QUEUE_PURGE")];
const SYMBOLS: [(u64, &str); 4] = [
    (0x1000, "__udp4_lib_rcv"),
    (0x2000, "udp_queue_rcv_one_skb"),
    (0x3000, "nf_hook_slow"),
    (0x4000, "skb_queue_purge_reason"),
];

/// Drops of 8 entities for 4 reasons, in runs of up to 16, as a storm comes out of a device's queue.
fn batch(size: usize) -> Vec<u64> {
    let mut state = 0x2545_f491_4f6c_dd1du64;
    let mut random = |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) % below
    };
    let mut drops: Vec<SkbDrop> = Vec::new();
    while drops.len() < size {
        let mut drop: SkbDrop = record(head("10.0.0.1:4242", "10.0.0.2:80"));
        let site = random(REASONS.len() as u64) as usize;
        drop.head.entity = random(ENTITIES) as u32 + 1;
        (drop.head.kind, drop.head.flags, drop.count) = (1, FLAG_PACKET, 1);
        (drop.reason, drop.location) = (REASONS[site].0, SYMBOLS[site].0 + 0x10);
        let run = random(16) as usize + 1;
        drops.extend(std::iter::repeat_n(drop, run));
    }
    drops.truncate(size);
    words(&drops)
}

fn probe() -> &'static Probe {
    PROBES.iter().find(|probe| probe.name == SkbDrop::PROBE).expect("the catalog has every mirror's probe")
}

fn up() -> ProbeStatus {
    let (name, schema) = (probe().name.to_owned(), probe().schema);
    ProbeStatus {
        name,
        state: ProbeState::Up,
        reason: String::new(),
        schema,
        produced: 0,
        folded: 0,
        events: 0,
        lost: 0,
        hooks: Vec::new(),
    }
}

fn netns(cookie: u64) -> DiscoveredNetns {
    DiscoveredNetns {
        cookie,
        inode: cookie,
        kind: Kind::Netns,
        name: format!("bench-{cookie}"),
        ..DiscoveredNetns::default()
    }
}

fn names() -> KernelNames {
    let drop = REASONS.iter().map(|(code, name)| (*code, (*name).to_owned())).collect();
    let symbols = SYMBOLS.iter().map(|(address, name)| (*address, *name, ""));
    KernelNames {
        reasons: Reasons { drop, ..Reasons::default() },
        symbols: Arc::new(SymbolTable::of(symbols)),
    }
}

fn world() -> World {
    World {
        drop_reasons: HashMap::from(REASONS),
        symbols: SYMBOLS.iter().map(|(address, name)| (address + 0x10, (*name, 0x10))).collect(),
        entities: (1..=ENTITIES as u32).collect(),
        ..World::default()
    }
}
