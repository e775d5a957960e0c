//! Queries that wait for their answer.
//!
//! One that is overdue is reported once, and kept for a while: its answer may still come.

use std::time::Duration;

use inspector_sdk::map::Map;
use inspector_sdk::probes::{Dns, SkbDrop};
use inspector_sdk::{EntityId, Timestamp};

use crate::DEADLINE;

/// Queries that may wait at a time, 256 bytes each.
const CROWD: usize = 8_192;
/// How long an overdue one is kept.
const KEPT: Duration = Duration::from_secs(30);

/// Socket, transaction id and protocol, which make a query unique.
type Key = (u64, u16, u8);

/// All of them.
#[derive(Debug, Default)]
pub struct Waiting {
    queries: Map<Key, Query>,
}

#[derive(Debug)]
struct Query {
    record: Dns,
    /// Its timeout has been reported.
    overdue: bool,
}

/// No room for another one.
#[derive(Debug)]
pub struct Full;

/// A query whose answer found its socket closed.
#[derive(Debug)]
pub struct Closed {
    /// The query.
    pub query: Dns,
    /// Time from the query to the answer.
    pub after: Duration,
}

impl Waiting {
    /// Takes a query; one that is sent again within the deadline is the same. Returns the one
    /// before it with the same key if that is overdue.
    ///
    /// # Errors
    /// [`Full`]
    pub fn ask(&mut self, dns: &Dns) -> Result<Option<Dns>, Full> {
        let key = key(dns);
        if let Some(query) = self.queries.get_mut(&key) {
            if dns.tries > 1 && !query.overdue {
                query.record.tries = dns.tries;
                return Ok(None);
            }
            let before = std::mem::replace(query, Query { record: *dns, overdue: false });
            let is_overdue = !before.overdue && is_past(&before.record, DEADLINE, dns.head.ts_ns);
            return Ok(is_overdue.then_some(before.record));
        }
        if self.queries.len() >= CROWD {
            return Err(Full);
        }
        self.queries.insert(key, Query { record: *dns, overdue: false });
        Ok(None)
    }

    /// Its answer came.
    pub fn answered(&mut self, dns: &Dns) {
        self.queries.remove(&key(dns));
    }

    /// An answer came to a port that nobody listens at any more; `None` if no query waits for it.
    pub fn closed(&mut self, drop: &SkbDrop) -> Option<Closed> {
        let client = |query: &Query| {
            let head = &query.record.head;
            (head.entity, head.proto, head.sport) == (drop.head.entity, drop.head.proto, drop.head.dport)
        };
        let (key, _) = self.queries.iter().find(|(_, query)| client(query))?;
        let query = self.queries.remove(&key.clone())?.record;
        let after = Duration::from_nanos(drop.head.ts_ns.saturating_sub(query.head.ts_ns));
        Some(Closed { query, after })
    }

    /// Those that became overdue since the last time, oldest first.
    pub fn overdue(&mut self, now: Timestamp) -> Vec<Dns> {
        self.queries.retain(|_, query| !query.overdue || !is_past(&query.record, KEPT, now));
        let mut overdue = Vec::new();
        for query in self.queries.values_mut() {
            if !query.overdue && is_past(&query.record, DEADLINE, now) {
                query.overdue = true;
                overdue.push(query.record);
            }
        }
        overdue.sort_by_key(|record| (record.head.ts_ns, record.socket, record.id));
        overdue
    }

    /// Forgets all, and says whose those were that are not overdue.
    pub fn clear(&mut self) -> Vec<EntityId> {
        let unreported = self.queries.drain().filter(|(_, query)| !query.overdue);
        unreported.map(|(_, query)| query.record.head.entity).collect()
    }

    /// Forgets entities that vanished: nobody waits there any more.
    pub fn forget(&mut self, entities: &[EntityId]) {
        self.queries.retain(|_, query| !entities.contains(&query.record.head.entity));
    }
}

fn key(dns: &Dns) -> Key {
    (dns.socket, dns.id, dns.head.proto)
}

fn is_past(query: &Dns, limit: Duration, now: Timestamp) -> bool {
    Duration::from_nanos(now.saturating_sub(query.head.ts_ns)) >= limit
}
