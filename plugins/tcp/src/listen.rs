//! Accept queues: connections that a listener had no room for. No tracepoint reports them, so
//! this is read from the counter `TcpExt.ListenOverflows` on every tick.

use inspector_sdk::map::Map;
use inspector_sdk::source::Source;
use inspector_sdk::{Description, EntityId, Event, Severity, Timestamp, entities, log};

const OVERFLOW: &str = "TCPLISTEN_OVERFLOW";
const SOURCE: &str = "netstat";
const COLUMN: &str = "TcpExt.ListenOverflows";

/// The counter of each entity as of the last tick.
#[derive(Debug)]
pub struct Listeners {
    counter: Option<(Source, usize)>,
    last: Map<EntityId, u64>,
    started: Timestamp,
}

/// Declares the source and the event.
pub fn describe(description: Description) -> Description {
    description
        .source(SOURCE)
        .event(OVERFLOW, "a listener's accept queue was full: connections were turned away")
}

impl Listeners {
    /// Without the source there are no events, and the log says why.
    pub fn new(now: Timestamp) -> Self {
        let source = Source::open(SOURCE);
        if let Err(error) = &source {
            log!(WARN, "source {SOURCE}: {}; full accept queues are not reported", error.message);
        }
        let counter = source.ok().and_then(|source| source.column(COLUMN).map(|column| (source, column)));
        Self { counter, last: Map::default(), started: now }
    }

    /// Emits an event for every entity whose counter rose since the last tick.
    pub fn tick(&mut self, now: Timestamp) {
        let Some((source, column)) = &self.counter else { return };
        for entity in entities::all() {
            let Ok(table) = source.read(entity) else { continue };
            let Some(total) = table.rows().next().map(|row| row[*column]) else { continue };
            // What was counted before the start is not news; in a younger namespace all is.
            let is_young = || entities::get(entity).is_some_and(|entity| entity.since > self.started);
            let before = self.last.insert(entity, total);
            let last = before.unwrap_or_else(|| if is_young() { 0 } else { total });
            if total > last {
                overflow(entity, total - last, now).emit();
            }
        }
    }

    /// Forgets entities that are gone.
    pub fn forget(&mut self, ids: &[EntityId]) {
        self.last.retain(|id, _| !ids.contains(id));
    }
}

fn overflow(entity: EntityId, connections: u64, now: Timestamp) -> Event {
    let mut event = Event::new(OVERFLOW, now).entity(entity).severity(Severity::Warning);
    event.message =
        "accept queue full: the application accepts too slowly or its backlog is too small".to_owned();
    event.fact("turned_away", connections)
}
