//! What connection tracking translates: a client sends to the address of a service, and what it sends goes
//! to another host. Who is behind the translation sees other addresses than its client.
//!
//! Entries are remembered here as long as facts are. That of a TCP connection whose only answer was a reset is
//! never seen: the kernel deletes it at once.

use std::collections::BTreeSet;
use std::rc::Rc;

use inspector_sdk::map::Map;
use inspector_sdk::source::Source;
use inspector_sdk::{Description, EntityId, Timestamp, entities};

use crate::fact::Flow;

const SOURCE: &str = "nat";
/// Translations remembered, some 110 bytes each, and as many again while a question is answered: as many as
/// a map of that size holds before it grows to twice as much.
const REMEMBERED: usize = 7_168;
/// As long as facts are.
const AGE_NS: u64 = 16 * 60 * 1_000_000_000;
/// Translations of one conversation, one behind the other: in a pod, at its node, at a gateway.
const HOPS: usize = 3;

/// Declares the source.
pub fn describe(description: Description) -> Description {
    description.source(SOURCE)
}

/// Translations as they were last, by what the client sends.
#[derive(Debug)]
pub struct Translations {
    /// `None` on a node that has none.
    source: Option<(Source, Columns)>,
    known: Rc<Known>,
}

/// As it arrives, and when it was seen last, by what the client sends.
type Known = Map<Flow, (Flow, Timestamp)>;

/// Where each cell of a row stands.
#[derive(Debug)]
struct Columns {
    proto: usize,
    sent: End,
    sent_to: End,
    arrives_from: End,
    arrives_at: End,
}

#[derive(Debug)]
struct End {
    hi: usize,
    lo: usize,
    port: usize,
}

impl Columns {
    fn of(source: &Source) -> Option<Self> {
        let end = |hi, lo, port| {
            Some(End { hi: source.column(hi)?, lo: source.column(lo)?, port: source.column(port)? })
        };
        Some(Self {
            proto: source.column("proto")?,
            sent: end("src_hi", "src_lo", "sport")?,
            sent_to: end("dst_hi", "dst_lo", "dport")?,
            arrives_from: end("from_hi", "from_lo", "from_port")?,
            arrives_at: end("to_hi", "to_lo", "to_port")?,
        })
    }

    /// As the client sends it, and as it arrives.
    fn row(&self, entity: EntityId, row: &[u64]) -> (Flow, Flow) {
        let flow = |from: &End, to: &End| Flow {
            from: from.address(row),
            to: to.address(row),
            sport: row[from.port] as u16,
            dport: row[to.port] as u16,
            proto: row[self.proto] as u8,
            within: 0,
        };
        let sent = flow(&self.sent, &self.sent_to);
        (sent.at(entity), flow(&self.arrives_from, &self.arrives_at).at(entity))
    }
}

impl End {
    fn address(&self, row: &[u64]) -> [u8; 16] {
        (u128::from(row[self.hi]) << 64 | u128::from(row[self.lo])).to_be_bytes()
    }
}

impl Translations {
    /// Opens the source; no translation is known yet.
    pub fn open() -> Self {
        let source = Source::open(SOURCE).ok();
        let source = source.and_then(|source| Columns::of(&source).map(|columns| (source, columns)));
        Self { source, known: Rc::default() }
    }

    /// Takes in what the tables say now.
    pub fn tick(&mut self, now: Timestamp) {
        let Some((source, columns)) = &self.source else { return };
        // No window outlives the call that made it.
        let known = Rc::make_mut(&mut self.known);
        for entity in entities::all() {
            let Ok(table) = source.read(entity) else { continue };
            let rows = table.rows().map(|row| columns.row(entity, row));
            known.extend(rows.map(|(sent, got)| (sent, (got, now))));
        }
        known.retain(|_, (_, seen)| now.saturating_sub(*seen) < AGE_NS);
        let excess = known.len().saturating_sub(REMEMBERED);
        if excess > 0 {
            let mut oldest: Vec<_> = known.iter().map(|(sent, (_, seen))| (*seen, *sent)).collect();
            oldest.select_nth_unstable(excess);
            oldest[..excess].iter().for_each(|(_, sent)| {
                known.remove(sent);
            });
            known.shrink_to_fit();
        }
    }

    /// For a window of facts.
    pub fn view(&self) -> View {
        let mut view = View { known: Rc::clone(&self.known), ..View::default() };
        let without_port = |flow: &Flow| Flow { sport: 0, ..*flow };
        for (sent, (arrives, _)) in &*self.known {
            view.sent.insert(*arrives, *sent);
            view.backends.entry(without_port(sent)).or_default().insert(without_port(arrives));
        }
        for (sent, backends) in &view.backends {
            view.sent.extend(backends.iter().map(|arrives| (*arrives, *sent)));
        }
        view
    }
}

/// Translations by what a client sends, whole and without its port, and back.
#[derive(Debug, Default)]
pub struct View {
    known: Rc<Known>,
    backends: Map<Flow, BTreeSet<Flow>>,
    sent: Map<Flow, Flow>,
}

impl View {
    /// What a client sends, as it arrives at who gets it at last; `None` if it is not translated, or one of
    /// several that cannot be told apart.
    pub fn arrives(&self, sent: &Flow) -> Option<Flow> {
        follow(sent, |flow| match self.known.get(flow) {
            Some((arrives, _)) => Some(*arrives),
            // Connections of which too many are known to keep their ports.
            None if flow.sport == 0 => {
                let backends = self.backends.get(flow).filter(|all| all.len() == 1)?;
                backends.first().copied()
            }
            None => None,
        })
    }

    /// What its client sent, of a conversation as it arrives; `None` if it is not translated.
    pub fn sent(&self, arrives: &Flow) -> Option<Flow> {
        follow(arrives, |flow| self.sent.get(flow).copied())
    }

    /// All conversations that one without the port of its client may be, as they arrive.
    pub fn behind(&self, flow: &Flow) -> impl Iterator<Item = Flow> {
        self.backends.get(&Flow { sport: 0, ..*flow }).into_iter().flatten().copied()
    }
}

/// From one translation to the next behind it, as far as there are any.
fn follow(flow: &Flow, next: impl Fn(&Flow) -> Option<Flow>) -> Option<Flow> {
    (0..HOPS).fold(None, |found, _| {
        let here = found.unwrap_or(*flow);
        next(&here).filter(|there| *there != here).or(found)
    })
}
