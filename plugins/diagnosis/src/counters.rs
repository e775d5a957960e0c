//! Kernel counters and gauges, and what they said: for faults that make no event.

use inspector_sdk::map::Map;
use inspector_sdk::source::{Source, Table};
use inspector_sdk::{Description, EntityId, Timestamp, entities, log};

use crate::fact::{Amount, Flow, What};
use crate::readings::{Readings, Rows};
use crate::store::Store;

/// A counter: its source, its columns (those that a kernel has are added up), and whether rows are.
#[derive(Debug)]
pub struct Column {
    /// Source of the table.
    pub source: &'static str,
    /// Names in it.
    pub names: &'static [&'static str],
}

macro_rules! columns {
    ($list:ident: $($id:ident = $source:literal $names:expr;)*) => {
        #[allow(non_camel_case_types, clippy::upper_case_acronyms, reason = "named like the constants made of them")]
        #[derive(Debug, Clone, Copy)]
        enum Index { $($id,)* }
        $(
            #[doc = concat!("Index in the list of columns; source `", $source, "`.")]
            pub const $id: u16 = Index::$id as u16;
        )*
        const $list: &[Column] = &[$(Column { source: $source, names: &$names },)*];
    };
}

/// Counters, which only ever rise.
pub mod counter {
    use super::Column;

    columns! { COLUMNS:
        LISTEN_OVERFLOWS = "netstat" ["TcpExt.ListenOverflows"];
        LISTEN_DROPS = "netstat" ["TcpExt.ListenDrops"];
        SYNCOOKIES_SENT = "netstat" ["TcpExt.SyncookiesSent"];
        REQUEST_QUEUE_FULL = "netstat" ["TcpExt.TCPReqQFullDoCookies", "TcpExt.TCPReqQFullDrop"];
        TIME_WAIT_OVERFLOW = "netstat" ["TcpExt.TCPTimeWaitOverflow"];
        TO_ZERO_WINDOW = "netstat" ["TcpExt.TCPToZeroWindowAdv"];
        FROM_ZERO_WINDOW = "netstat" ["TcpExt.TCPFromZeroWindowAdv"];
        WINDOW_PROBES = "netstat" ["TcpExt.TCPWinProbe"];
        PAWS = "netstat" ["TcpExt.PAWSEstab", "TcpExt.PAWSActive", "TcpExt.TCPPAWSOld"];
        CHALLENGE_ACKS = "netstat" ["TcpExt.TCPChallengeACK"];
        ABORT_ON_TIMEOUT = "netstat" ["TcpExt.TCPAbortOnTimeout"];
        MEMORY_PRESSURE = "netstat" ["TcpExt.TCPMemoryPressures", "TcpExt.TCPAbortOnMemory"];
        PRUNED = "netstat" ["TcpExt.PruneCalled", "TcpExt.RcvPruned", "TcpExt.TCPRcvQDrop"];
        REVERSE_PATH = "netstat" ["TcpExt.IPReversePathFilter"];
        IN_NO_ROUTES = "netstat" ["IpExt.InNoRoutes"];
        OUT_NO_ROUTES = "snmp" ["Ip.OutNoRoutes", "Ip6.OutNoRoutes"];
        REASSEMBLY_FAILED = "snmp" ["Ip.ReasmFails", "Ip6.ReasmFails"];
        RESETS_SENT = "snmp" ["Tcp.OutRsts"];
        TCP_RETRANSMITS = "snmp" ["Tcp.RetransSegs"];
        TCP_SENT = "snmp" ["Tcp.OutSegs"];
        TCP_RECEIVED = "snmp" ["Tcp.InSegs"];
        UDP_SENT = "snmp" ["Udp.OutDatagrams", "Udp6.OutDatagrams"];
        UDP_RECEIVED = "snmp" ["Udp.InDatagrams", "Udp6.InDatagrams"];
        UDP_RECEIVE_FULL = "snmp" ["Udp.RcvbufErrors", "Udp6.RcvbufErrors"];
        UDP_SEND_FULL = "snmp" ["Udp.SndbufErrors", "Udp6.SndbufErrors"];
        CONNTRACK_DROP = "conntrack" ["drop", "early_drop"];
        CONNTRACK_INSERT_FAILED = "conntrack" ["insert_failed"];
        QDISC_DROPS = "qdisc" ["drops"];
        QDISC_SENT = "qdisc" ["bytes"];
        DEVICE_TX_DROPS = "netdev" ["tx_drop", "tx_errs"];
        DEVICE_CARRIER = "netdev" ["tx_carrier"];
        SOFTNET_DROPPED = "softnet" ["dropped"];
        SOFTNET_SQUEEZED = "softnet" ["time_squeeze"];
    }

    /// All of them, by index.
    pub const ALL: &[Column] = COLUMNS;
}

/// Gauges, of which the last, the least and the most are kept.
pub mod gauge {
    use super::Column;

    columns! { COLUMNS:
        CONNTRACK_ENTRIES = "conntrack" ["entries"];
        CONNTRACK_MAXIMUM = "conntrack" ["max_entries"];
        QDISC_BACKLOG = "qdisc" ["backlog"];
        TCP_UNREAD = "tcpsummary" ["rx_queue"];
        TCP_UNSENT = "tcpsummary" ["tx_queue"];
    }

    /// All of them, by index.
    pub const ALL: &[Column] = COLUMNS;
}

/// Time in the queue of a device that is worth a fact: what a person or a protocol notices.
const QUEUED_NS: u64 = 50_000_000;

const SOURCES: [&str; 7] = ["snmp", "netstat", "conntrack", "qdisc", "netdev", "softnet", "tcpsummary"];

/// Readings of counters that are kept: what rises on some 200 busy entities in a quarter of an hour.
const RISES: usize = 24_000;
/// Readings of gauges above 0.
const LEVELS: usize = 8_000;

/// The tables, what they said last, and what they said before.
#[derive(Debug)]
pub struct Counters {
    sources: Vec<Opened>,
    /// By how much counters rose.
    rises: Readings,
    /// Values of gauges: `count` ticks, `least`, `most`.
    levels: Readings,
    last: Map<EntityId, Vec<Option<u64>>>,
    unread: Unread,
    started: Timestamp,
    ticked: Timestamp,
    /// Sources that this node does not have.
    pub missing: Vec<&'static str>,
}

/// Bytes unread in TCP sockets, and since when it is these.
type Unread = Map<EntityId, (u64, Timestamp)>;

#[derive(Debug)]
struct Opened {
    source: Source,
    /// Index of a counter or gauge, and the cells that make it up.
    counters: Vec<(u16, Vec<usize>)>,
    gauges: Vec<(u16, Vec<usize>)>,
}

/// Declares the sources.
pub fn describe(description: Description) -> Description {
    SOURCES.iter().fold(description, |description, name| description.source(name))
}

impl Counters {
    /// A source that this node lacks costs its own counters.
    pub fn new(now: Timestamp) -> Self {
        let (mut sources, mut missing) = (Vec::new(), Vec::new());
        for name in SOURCES {
            match Source::open(name) {
                Ok(source) => {
                    let (counters, gauges) =
                        (cells(counter::ALL, name, &source), cells(gauge::ALL, name, &source));
                    sources.push(Opened { source, counters, gauges });
                }
                Err(error) => {
                    log!(
                        INFO,
                        "source {name}: {}; faults that only it shows are not reported",
                        error.message
                    );
                    missing.push(name);
                }
            }
        }
        Self {
            sources,
            rises: Readings::new(now, RISES),
            levels: Readings::new(now, LEVELS),
            last: Map::default(),
            unread: Map::default(),
            started: now,
            ticked: now,
            missing,
        }
    }

    /// How far back everything is known.
    pub fn since(&self) -> Timestamp {
        self.rises.since().max(self.levels.since())
    }

    /// What counters rose by and what gauges said since `from`.
    pub fn window(&self, from: Timestamp) -> (Rows, Rows) {
        (self.rises.window(from), self.levels.window(from))
    }

    /// Takes in what the tables say now; what waits, of itself or in a queue, is a fact.
    pub fn tick(&mut self, now: Timestamp, store: &mut Store) {
        let elapsed = now.saturating_sub(std::mem::replace(&mut self.ticked, now));
        for entity in entities::all() {
            // What was counted before the start is not news; in a younger namespace all is.
            let is_young = || entities::get(entity).is_some_and(|entity| entity.since > self.started);
            let last =
                self.last.entry(entity).or_insert_with(|| vec![is_young().then_some(0); counter::ALL.len()]);
            for opened in &self.sources {
                let Ok(table) = opened.source.read(entity) else { continue };
                let (mut sent, mut is_full, mut tracked) = (0, false, 0);
                for (index, cells) in &opened.counters {
                    let total = sum(&table, cells);
                    let before = last[usize::from(*index)].replace(total);
                    let rose = before.map_or(0, |before| total.saturating_sub(before));
                    match *index {
                        counter::QDISC_SENT => sent = rose,
                        counter::CONNTRACK_DROP => is_full = rose > 0,
                        _ => {}
                    }
                    if rose > 0 {
                        self.rises.add(*index, entity, Amount::new(now, rose, 0));
                    }
                }
                for (index, cells) in &opened.gauges {
                    let value = sum(&table, cells);
                    // A bound says something where it is near; it is above 0 in every namespace.
                    let is_far = *index == gauge::CONNTRACK_MAXIMUM && !is_full && 2 * tracked < value;
                    if value > 0 && !is_far {
                        self.levels.add(*index, entity, Amount::new(now, 1, value));
                    }
                    match *index {
                        gauge::CONNTRACK_ENTRIES => tracked = value,
                        gauge::TCP_UNREAD => unread(&mut self.unread, entity, value, now, store),
                        gauge::QDISC_BACKLOG => queued(entity, value, (sent, elapsed), now, store),
                        _ => {}
                    }
                }
            }
        }
    }

    /// Forgets entities that are gone.
    pub fn forget(&mut self, ids: &[EntityId]) {
        self.last.retain(|id, _| !ids.contains(id));
        self.unread.retain(|id, _| !ids.contains(id));
    }
}

/// Bytes that nobody reads make no event.
fn unread(known: &mut Unread, entity: EntityId, value: u64, now: Timestamp, store: &mut Store) {
    let (before, since) = known.entry(entity).or_insert((0, now));
    if value > 0 && value == *before {
        let amount = Amount::new(now, 1, now.saturating_sub(*since));
        store.add(entity, What::Unread, Flow::NONE, amount);
    } else {
        (*before, *since) = (value, now);
    }
}

/// What waits in a queue, as the time that it needs at the speed at which the queue was emptied in
/// the time before: of two queues with the same bytes, the slower one is the trouble.
fn queued(entity: EntityId, waits: u64, (sent, elapsed): (u64, u64), now: Timestamp, store: &mut Store) {
    let Some(time) = waits.saturating_mul(elapsed).checked_div(sent) else { return };
    if time >= QUEUED_NS {
        store.add(entity, What::Queued, Flow::NONE, Amount::new(now, 1, time));
    }
}

fn cells(columns: &[Column], source: &str, opened: &Source) -> Vec<(u16, Vec<usize>)> {
    let of_source = columns.iter().enumerate().filter(|(_, column)| column.source == source);
    of_source
        .map(|(index, column)| {
            let cells = column.names.iter().filter_map(|name| opened.column(name)).collect();
            (u16::try_from(index).expect("some dozens of columns"), cells)
        })
        .filter(|(_, cells): &(u16, Vec<usize>)| !cells.is_empty())
        .collect()
}

fn sum(table: &Table, cells: &[usize]) -> u64 {
    table.rows().map(|row| cells.iter().map(|cell| row[*cell]).sum::<u64>()).sum()
}
