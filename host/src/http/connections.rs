//! Who may be connected to a server, and who has to go when one more comes.
//!
//! Every connection is taken. Where that makes one too many, the address that holds most of them
//! gives up the one that has been waiting longest: for a request that does not come, between two
//! requests, or for its client to take an answer. One that is being answered never has to go; what
//! takes the agent time (streams, questions, scrapes) has limits of its own, below the number of
//! connections. So a thousand silent connections take no room from a health check or a scrape, also
//! where all come from one address, as on the host's network they do.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::status::{ServerStatus, Status};

/// The open connections of one server, which is shown under its name.
pub(super) struct Connections {
    server: &'static str,
    max: usize,
    status: Arc<Status>,
    open: Mutex<Open>,
}

/// One of them; it is closed when this is dropped.
pub(super) struct Connection {
    number: u64,
    among: Arc<Connections>,
    leave: Arc<Notify>,
}

#[derive(Default)]
struct Open {
    by_number: BTreeMap<u64, Entry>,
    /// Number of the newest connection or wait.
    newest: u64,
}

struct Entry {
    holder: IpAddr,
    /// Number of its wait, lower if it waits longer; none while it is being answered.
    waiting: Option<u64>,
    leave: Arc<Notify>,
}

impl Connections {
    /// At most `max` connections of the server called so.
    pub(super) fn new(server: &'static str, max: usize, status: &Arc<Status>) -> Arc<Self> {
        status.update().servers.insert(server.to_owned(), ServerStatus::default());
        Arc::new(Self { server, max, status: Arc::clone(status), open: Mutex::default() })
    }

    /// Takes one more in, in place of another if need be; none if all are being answered.
    pub(super) fn open(self: &Arc<Self>, peer: IpAddr) -> Option<Arc<Connection>> {
        let mut open = self.lock();
        let full = open.by_number.len() >= self.max;
        if full && !open.close_longest_waiting() {
            self.show(&open, |shown| shown.refused += 1);
            return None;
        }
        let (number, waiting) = (open.next(), Some(open.next()));
        let leave = Arc::<Notify>::default();
        open.by_number.insert(number, Entry { holder: holder(peer), waiting, leave: Arc::clone(&leave) });
        self.show(&open, |shown| shown.closed += u64::from(full));
        Some(Arc::new(Connection { number, among: Arc::clone(self), leave }))
    }

    fn show(&self, open: &Open, change: impl FnOnce(&mut ServerStatus)) {
        let mut states = self.status.update();
        let shown = states.servers.entry(self.server.to_owned()).or_default();
        shown.connections = open.by_number.len() as u64;
        change(shown);
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Connection {
    /// Its request is there and is being answered.
    pub(super) fn answers(&self) {
        if let Some(entry) = self.among.lock().by_number.get_mut(&self.number) {
            entry.waiting = None;
        }
    }

    /// Its answer is complete: from now on it waits for its client.
    pub(super) fn waits(&self) {
        self.wait_anew(|_| true);
    }

    /// Its client took something.
    pub(super) fn moves(&self) {
        self.wait_anew(|entry| entry.waiting.is_some());
    }

    /// Ready when it has to go.
    pub(super) async fn has_to_go(&self) {
        self.leave.notified().await;
    }

    fn wait_anew(&self, does_it: impl FnOnce(&Entry) -> bool) {
        let mut open = self.among.lock();
        let newest = open.next();
        if let Some(entry) = open.by_number.get_mut(&self.number)
            && does_it(entry)
        {
            entry.waiting = Some(newest);
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let mut open = self.among.lock();
        if open.by_number.remove(&self.number).is_some() {
            self.among.show(&open, |_| {});
        }
    }
}

impl Open {
    fn next(&mut self) -> u64 {
        self.newest += 1;
        self.newest
    }

    /// False if there is none that waits.
    fn close_longest_waiting(&mut self) -> bool {
        let mut held = HashMap::<IpAddr, usize>::new();
        self.by_number.values().for_each(|entry| *held.entry(entry.holder).or_default() += 1);
        let key = |(number, entry): (&u64, &Entry)| {
            Some((Reverse(held.get(&entry.holder).copied()), entry.waiting?, *number))
        };
        let longest = self.by_number.iter().filter_map(key).min();
        let closed = longest.and_then(|(.., number)| self.by_number.remove(&number));
        closed.inspect(|entry| entry.leave.notify_one()).is_some()
    }
}

/// Who holds a connection: an IPv4 address, or the half of an IPv6 address that tells networks
/// apart, since a host has as many of the other half as it likes.
fn holder(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64).into(),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(max: usize) -> (Arc<Connections>, Arc<Status>) {
        let status = Arc::<Status>::default();
        (Connections::new("metrics", max, &status), status)
    }

    fn shown(status: &Status) -> (u64, u64, u64) {
        let server = status.snapshot().servers["metrics"].clone();
        (server.connections, server.closed, server.refused)
    }

    fn is_open(connection: &Connection) -> bool {
        connection.among.lock().by_number.contains_key(&connection.number)
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn the_longest_waiting_one_has_to_go_and_none_that_is_being_answered() {
        let (table, status) = table(3);
        let open = || table.open(ip("127.0.0.1")).expect("room");
        let (answered, first, second) = (open(), open(), open());
        answered.answers();
        // It had an answer, so the second one has waited longer by now.
        first.answers();
        first.waits();
        let third = open();
        assert_eq!([&answered, &first, &second, &third].map(|c| is_open(c)), [true, true, false, true]);
        assert_eq!(shown(&status), (3, 1, 0));
        first.answers();
        third.answers();
        assert!(table.open(ip("127.0.0.1")).is_none(), "all are being answered");
        assert_eq!(shown(&status), (3, 1, 1));
        drop((answered, first, second, third));
        assert_eq!(shown(&status).0, 0);
    }

    #[test]
    fn a_client_that_takes_its_answer_does_not_wait_and_one_that_stalls_does() {
        let (table, _) = table(2);
        let open = || table.open(ip("127.0.0.1")).expect("room");
        let (reading, stalled) = (open(), open());
        for connection in [&reading, &stalled] {
            connection.answers();
            connection.waits();
        }
        reading.moves();
        let _third = open();
        assert_eq!((is_open(&reading), is_open(&stalled)), (true, false));
    }

    #[test]
    fn the_address_that_holds_most_gives_one_up() {
        let (table, _) = table(4);
        let honest = table.open(ip("10.0.0.1")).expect("room");
        let many: Vec<_> =
            (1..=9).map(|host| table.open(ip(&format!("2001:db8::{host}"))).expect("room")).collect();
        assert!(is_open(&honest), "it has waited longest");
        assert_eq!(many.iter().filter(|connection| is_open(connection)).count(), 3);
        assert_eq!(holder(ip("::ffff:10.0.0.1")), ip("10.0.0.1"));
        assert_ne!(holder(ip("2001:db8::1")), holder(ip("2001:db8:0:1::1")));
    }

    #[tokio::test]
    async fn one_that_has_to_go_is_told() {
        let (table, _) = table(1);
        let first = table.open(ip("127.0.0.1")).expect("room");
        let _second = table.open(ip("127.0.0.1")).expect("room");
        first.has_to_go().await;
    }
}
