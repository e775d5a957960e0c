//! Promise: the number of namespaces is no reason to fail: what grows with them has a bound that grows
//! with them, and costs little where nothing happens.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use inspector::entities::{DiscoveredNetns, Entities, Kind};
use inspector::events::log::{EventLog, Limits as EventLimits};
use inspector::kernel::batch::Batch;
use inspector::kernel::names::{KernelNames, Reasons};
use inspector::kernel::symbols::SymbolTable;
use inspector::kernel::table::{Columns, Snapshot, Table};
use inspector::loss::{Loss, Stage};
use inspector::notify::Notify;
use inspector::plugin::{Limits, Options, Plugins, ResolvedQuestion, Shared};
use inspector::series::metrics::{Budget, Metrics};
use inspector::status::{PluginState, PluginStatus, ProbeState, ProbeStatus, Status};
use inspector_ebpf::{PROBES, Probe, Record, SkbDrop};
use inspector_sdk::tcp::SYN;
use inspector_sdk::testing::{head, record, words};
use inspector_tests::plugins::PluginDir;
use inspector_tests::wait;
use pod_counters::counters::MODULES;

const SECOND_NS: u64 = 1_000_000_000;
/// Far beyond the pods of a full node.
const NAMESPACES: u64 = 5000;
/// Columns that nobody reads, as Linux has some hundred of them.
const FILLER: usize = 200;
/// Connections that are refused in half a minute, as long as the analyzer looks back by itself.
const REFUSED: u64 = 128 * BATCH as u64;
const STORM: Duration = Duration::from_secs(30);
const BATCH: usize = 512;
/// As this kernel is said to number them.
const NO_SOCKET: u32 = 3;
const TCP_V4_RCV: u64 = 0x1010;
/// Of the host's own, not of every namespace.
const HOST_ONLY: [&str; 2] = ["softnet", "ipvs"];

/// A plugin among [`NAMESPACES`] namespaces, and what it reads and writes.
struct Node {
    plugin: &'static str,
    plugins: Plugins,
    shared: Shared,
    intervals: u64,
    _dir: PluginDir,
}

impl Node {
    fn start(plugin: &'static str, budget: Budget) -> Result<Self> {
        Self::among(NAMESPACES, plugin, budget)
    }

    fn among(namespaces: u64, plugin: &'static str, budget: Budget) -> Result<Self> {
        let dir = PluginDir::new()?;
        dir.put_built_in(plugin)?;
        let (entities, loss) = (Arc::<Entities>::default(), Arc::<Loss>::default());
        entities.apply_scan((1..=namespaces).map(netns).collect(), SECOND_NS, Instant::now());
        let limits = EventLimits { backlog: 16, per_second: 1, burst: 1 };
        let shared = Shared {
            node: "n1".to_owned(),
            kernel: String::new(),
            clock: Arc::default(),
            names: Arc::new(names()),
            columns: Arc::default(),
            metrics: Arc::new(Metrics::new(budget, Arc::clone(&entities), Arc::clone(&loss))),
            events: Arc::new(EventLog::new(limits, Arc::clone(&entities).into(), Arc::clone(&loss), "n1")),
            entities,
            loss,
            status: Arc::<Status>::default(),
        };
        shared.status.update().probes.insert(SkbDrop::PROBE.to_owned(), up());
        learn(&shared.columns);
        let limits = Limits { memory_bytes: 16 << 20, deadline: Duration::from_millis(50) };
        let directories = vec![dir.path().to_owned()];
        let options = Options { directories, disabled: Vec::new(), cache: None, limits };
        let plugins = Plugins::new(options, shared.clone(), Arc::<Notify>::default())?;
        plugins.scan(&|_| {});
        Ok(Self { plugin, plugins, shared, intervals: 0, _dir: dir })
    }

    /// An interval in which those cells are the number of the interval of which `rises` says so, by the
    /// number of the namespace and the name of the column, and the others are 0; returns the CPU time that
    /// the plugin took for it.
    fn interval(&mut self, rises: impl Fn(usize, &str) -> bool) -> Result<Duration> {
        let before = self.status()?;
        self.intervals += 1;
        let mut snapshot = Snapshot::at(self.intervals * 5 * SECOND_NS);
        for (at, entity) in self.shared.entities.live().iter().enumerate() {
            let value = |name: &String| if rises(at, name) { self.intervals } else { 0 };
            for (source, columns) in self.shared.columns.all() {
                if !HOST_ONLY.contains(&source) {
                    let numbers = columns.iter().map(value).collect();
                    snapshot.insert(entity.id, source, Table { numbers, strings: vec!["eth0".to_owned()] });
                }
            }
        }
        self.plugins.tick(&Arc::new(snapshot));
        let after = wait::until("the plugin to have read everything", || {
            self.status().ok().filter(|now| now.calls > before.calls || now.state != PluginState::Running)
        })?;
        assert_eq!((&after.state, after.traps), (&PluginState::Running, 0), "{after:#?}");
        Ok(Duration::from_secs_f64(after.seconds - before.seconds))
    }

    fn status(&self) -> Result<PluginStatus> {
        let board = self.shared.status.update();
        board.plugins.get(self.plugin).cloned().with_context(|| format!("{:#?}", board.plugins))
    }
}

/// The columns that are shown, of every source, among others.
fn learn(columns: &Columns) {
    let mut names: BTreeMap<&'static str, Vec<String>> = BTreeMap::new();
    for counter in MODULES.iter().flat_map(|module| module.counters()) {
        let own = counter.columns.iter().map(|name| (*name).to_owned());
        names.entry(counter.source).or_default().extend(own);
    }
    for (source, mut names) in names {
        if matches!(source, "snmp" | "netstat") {
            names.extend((0..FILLER).map(|n| format!("Filler.{n}")));
        }
        columns.learn(source, &names);
    }
}

fn names() -> KernelNames {
    let drop = [(NO_SOCKET, "NO_SOCKET".to_owned())].into();
    KernelNames {
        reasons: Reasons { drop, ..Reasons::default() },
        symbols: Arc::new(SymbolTable::of([(TCP_V4_RCV - 0x10, "tcp_v4_rcv", "")])),
    }
}

fn probe() -> &'static Probe {
    PROBES.iter().find(|probe| probe.name == SkbDrop::PROBE).expect("the catalog has every mirror's probe")
}

fn up() -> ProbeStatus {
    ProbeStatus {
        name: SkbDrop::PROBE.to_owned(),
        state: ProbeState::Up,
        reason: String::new(),
        schema: probe().schema,
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
        name: format!("ns-{cookie}"),
        ..DiscoveredNetns::default()
    }
}

#[test]
fn the_counters_of_five_thousand_namespaces_are_all_current_and_no_tick_is_too_long() -> Result<()> {
    let plenty = Budget { per_plugin: 2_000_000, per_agent: 2_000_000 };
    let mut node = Node::start("pod-counters", plenty)?;
    let first = node.interval(|_, _| false)?;
    let series = node.shared.metrics.series_count("pod-counters");
    // The shortest of three: on a machine that others use, any one may cost several times as much.
    let mut shortest = |rises: bool| -> Result<Duration> {
        let (a, b, c) =
            (node.interval(|_, _| rises)?, node.interval(|_, _| rises)?, node.interval(|_, _| rises)?);
        Ok(a.min(b).min(c))
    };
    let (idle, busy) = (shortest(false)?, shortest(true)?);
    println!("{series} series; first {first:?}, nothing changed {idle:?}, everything changed {busy:?}");
    assert_eq!(series % NAMESPACES, 0, "some namespaces have series that others lack");
    assert!(series / NAMESPACES >= 100);
    let families = node.shared.metrics.families();
    let opens = families.iter().find(|family| family.name == "inspector_pod_tcpactiveopens");
    assert_eq!(opens.map(|family| family.series), Some(NAMESPACES));
    // Asking for a series is what costs, and happens once.
    assert!(idle < first / 2 && busy < first / 2, "{first:?} {idle:?} {busy:?}");
    Ok(())
}

#[test]
fn the_counters_that_diagnosis_reads_in_five_thousand_namespaces_are_not_too_many() -> Result<()> {
    let mut node = Node::start("diagnosis", Budget::default())?;
    let (first, next) = (node.interval(|_, _| false)?, node.interval(|at, _| at < 50)?);
    // Each namespace has a fact: tracked connections.
    let busy = node.interval(|_, name| name == "entries")?;
    println!("first {first:?}, next {next:?}, all busy {busy:?}");
    Ok(())
}

/// Of as many clients and services as there are numbers, to ports where nobody listens.
fn refused(namespaces: u64, numbers: std::ops::Range<u64>) -> Vec<u64> {
    let drops = numbers.map(|n| {
        let client = format!("10.{}.{}.{}:{}", n >> 16 & 255, n >> 8 & 255, n & 255, 40_000 + n % 20_000);
        let mut drop: SkbDrop = record(head(&client, &format!("10.255.0.1:{}", 80 + n % 500)));
        drop.head.entity = (1 + n % namespaces) as u32;
        drop.head.ts_ns = SECOND_NS + n * STORM.as_nanos() as u64 / REFUSED;
        (drop.count, drop.length, drop.ethertype, drop.tcp_flags) = (1, 60, 0x0800, SYN);
        (drop.reason, drop.location) = (NO_SOCKET, TCP_V4_RCV);
        drop
    });
    words(&drops.collect::<Vec<_>>())
}

#[test]
fn a_storm_of_refused_connections_keeps_no_tick_and_no_question_of_diagnosis_too_long() -> Result<()> {
    let namespaces = 500;
    let mut node = Node::among(namespaces, "diagnosis", Budget::default())?;
    let probe = probe();
    for first_seq in (0..REFUSED).step_by(BATCH) {
        let numbers = first_seq..first_seq + BATCH as u64;
        node.plugins.deliver(&Arc::new(Batch {
            probe,
            count: BATCH as u32,
            first_seq,
            lost: 0,
            now_ns: SECOND_NS + numbers.end * STORM.as_nanos() as u64 / REFUSED,
            words: refused(namespaces, numbers.clone()),
        }));
        wait::until("the analyzer to have taken it", || {
            node.status().ok().filter(|now| now.events >= numbers.end || now.state != PluginState::Running)
        })?;
    }
    // The next interval ends when the storm does, and everything of it is looked at.
    node.intervals = STORM.as_secs() / 5;
    let tick = node.interval(|_, _| false)?;
    println!("{REFUSED} refused: {tick:?}");
    let families = node.shared.metrics.families();
    let found = families.iter().find(|family| family.name == "inspector_findings_total");
    assert!(found.is_some_and(|family| family.series > 0), "nothing was found: {found:?}");
    let answers = node.plugins.diagnose(ResolvedQuestion {
        scenario: "node".to_owned(),
        entities: Vec::new(),
        window: 2 * STORM,
        now_ns: SECOND_NS + STORM.as_nanos() as u64,
        snapshot: None,
        deadline: Instant::now() + Duration::from_secs(60),
    });
    let answer = answers[0].answer.as_ref().map_err(|why| anyhow::anyhow!("{why}"))?;
    assert!(answer.findings.len() > 1, "{answer:?}");
    Ok(())
}

#[test]
fn more_series_than_there_is_room_for_are_left_out_counted_and_said_so() -> Result<()> {
    let mut node = Node::start("pod-counters", Budget { per_plugin: 100_000, per_agent: 100_000 })?;
    node.interval(|_, _| false)?;
    let (refused, idle) = (node.shared.loss.cell(Stage::Quota, "pod-counters"), node.interval(|_, _| false)?);
    let busy = node.interval(|_, _| true)?;
    println!("{} refused; nothing changed {idle:?}, everything changed {busy:?}", refused.get());
    assert!(refused.get() > 0);
    let status = node.status()?;
    assert!(status.reason.contains("raise plugins.max_series"), "{status:#?}");
    Ok(())
}
