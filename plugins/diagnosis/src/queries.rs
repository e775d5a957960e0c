//! DNS queries that wait for their answer, each for itself: clients that go on asking a dead server
//! hide nothing by it.

use inspector_sdk::map::Map;
use inspector_sdk::probes::Dns;
use inspector_sdk::{EntityId, Timestamp};

use crate::fact::{Amount, Flow, What};
use crate::store::Store;

/// A resolver waits for 5 s; a query without an answer for this long is reported.
const PATIENCE_NS: u64 = 1_000_000_000;
/// An answer that comes even later than this is of no use to anybody.
const KEPT_NS: u64 = 5_000_000_000;
/// Sockets and transactions with queries at a time, some 100 bytes each; more are not judged.
const CROWD: usize = 8_192;
/// Servers that one question may go to.
const SERVERS: usize = 8;

/// Socket, transaction id and protocol.
type Transaction = (u64, u16, u8);

/// Queries without an answer so far.
#[derive(Debug, Default)]
pub struct Queries {
    waiting: Map<Transaction, Vec<Query>>,
}

/// One server was asked.
#[derive(Debug)]
struct Query {
    entity: EntityId,
    flow: Flow,
    at: Timestamp,
    /// Its silence is a fact already.
    is_overdue: bool,
}

impl Queries {
    /// Takes a query; whether it is another one, since resolvers send the same again. From one socket
    /// the same question may go to several servers at once.
    pub fn ask(&mut self, dns: &Dns, flow: Flow) -> bool {
        let query = Query { entity: dns.head.entity, flow, at: dns.head.ts_ns, is_overdue: false };
        if dns.tries <= 1 {
            if self.waiting.len() < CROWD {
                self.waiting.insert(transaction(dns), vec![query]);
            }
            return true;
        }
        let Some(asked) = self.waiting.get_mut(&transaction(dns)) else { return false };
        let is_other = asked.len() < SERVERS && asked.iter().all(|other| other.flow.to != flow.to);
        if is_other {
            asked.push(query);
        }
        is_other
    }

    /// An answer came; whether its query was a fact as unanswered. Where addresses are translated
    /// it may come from another address than was asked, and then ends all of its transaction.
    pub fn answered(&mut self, dns: &Dns, flow: Flow) -> bool {
        let Some(mut asked) = self.waiting.remove(&transaction(dns)) else { return false };
        let Some(by) = asked.iter().position(|query| query.flow.to == flow.to) else {
            return asked.iter().any(|query| query.is_overdue);
        };
        let query = asked.remove(by);
        if !asked.is_empty() {
            self.waiting.insert(transaction(dns), asked);
        }
        query.is_overdue
    }

    /// Makes a fact of each query whose patience has run out.
    pub fn add_overdue(&mut self, now: Timestamp, store: &mut Store) {
        self.waiting.retain(|_, asked| {
            for query in asked.iter_mut().filter(|query| !query.is_overdue && query.is_past(PATIENCE_NS, now))
            {
                query.is_overdue = true;
                store.add(query.entity, What::DnsUnanswered, query.flow, Amount::new(query.at, 1, 0));
            }
            asked.retain(|query| !query.is_past(KEPT_NS, now));
            !asked.is_empty()
        });
    }

    /// Forgets all: answers may be among the events that were lost.
    pub fn forget_all(&mut self) {
        self.waiting.clear();
    }
}

impl Query {
    fn is_past(&self, limit_ns: u64, now: Timestamp) -> bool {
        now.saturating_sub(self.at) >= limit_ns
    }
}

fn transaction(dns: &Dns) -> Transaction {
    (dns.socket, dns.id, dns.head.proto)
}
