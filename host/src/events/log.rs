//! The log of recent events.
//!
//! There is one bounded log for all readers, and a reader is no more than a position in it. A
//! reader that does not read costs nobody anything: the log goes on without it, and when it comes
//! back it is told how many events it missed. Nothing
//! here does I/O; readers wait on a tokio `watch`, which is woken once per emitted batch, holds no
//! queue per reader and cannot miss a change.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::clock::unix_ns;
use crate::entities::{Entities, EntityId, Kind};
use crate::events::event::{Event, MAX_ATTR_VALUE, NewEvent, OWN};
use crate::events::throttle::{Admission, Throttle};
use crate::loss::{Loss, Lost, Stage};
use crate::peers::{self, Peers};
use crate::text::escape;

/// The ends of a connection or of a packet.
const ENDS: [End; 2] = [
    End { address: "saddr", port: "sport", entity: "src_entity", pod: "src_pod" },
    End { address: "daddr", port: "dport", entity: "dst_entity", pod: "dst_pod" },
];
/// Maximum bytes of events that are kept, by estimate.
pub const MAX_BYTES: usize = 16 << 20;
/// Maximum number of types that are counted for one plugin; what is beyond is counted as `other`.
const MAX_KINDS: usize = 256;

/// Size of the log and rate of each plugin.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Events that are kept, within [`MAX_BYTES`].
    pub backlog: usize,
    /// Events per second that a plugin may emit in the long run.
    pub per_second: u32,
    /// Events that it may emit at once.
    pub burst: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { backlog: 16_384, per_second: 1_000, burst: 5_000 }
    }
}

/// An event type that a plugin declares.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventType {
    /// Plugin that declares it.
    pub plugin: String,
    /// Its name, e.g. `PACKETLOSS`.
    #[serde(rename = "type")]
    pub kind: String,
    /// What it means.
    pub help: String,
}

/// How many events of one type a plugin emitted, those folded into others included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventCount {
    /// The plugin.
    pub plugin: String,
    /// The type.
    pub kind: String,
    /// Since the agent started.
    pub count: u64,
}

/// The log of recent events.
#[derive(Debug)]
pub struct EventLog {
    log: Mutex<Log>,
    /// By which this log is told from those of earlier runs, which number their events from 1 as well.
    id: u64,
    /// Number of the next event.
    head: watch::Sender<u64>,
    limits: Limits,
    node: Arc<str>,
    who: Who,
    loss: Arc<Loss>,
    /// Missed by clients that fell behind.
    missed: Lost,
    /// Where this agent listens.
    own: OnceLock<Vec<SocketAddr>>,
}

#[derive(Debug, Default)]
struct Log {
    events: VecDeque<Arc<Event>>,
    bytes: usize,
    /// Number of the last event.
    last: u64,
    plugins: BTreeMap<String, Emitter>,
}

#[derive(Debug)]
struct Emitter {
    throttle: Throttle,
    counts: BTreeMap<String, u64>,
    types: Vec<EventType>,
    over_quota: Lost,
}

/// Who has which address.
#[derive(Debug, Default)]
pub struct Who {
    /// On this node.
    pub entities: Arc<Entities>,
    /// Elsewhere.
    pub peers: Arc<Peers>,
}

impl From<Arc<Entities>> for Who {
    /// Nobody is known elsewhere.
    fn from(entities: Arc<Entities>) -> Self {
        Self { entities, peers: Arc::default() }
    }
}

impl Who {
    /// An address of this node that several have names nobody, whoever else has it.
    fn name(&self, ip: IpAddr) -> Option<String> {
        match self.entities.owner(ip) {
            Some(owner) => Some(owner.display()),
            None if self.entities.is_shared(ip) => None,
            None => self.peers.name(ip),
        }
    }
}

/// Names of the attributes of one end.
struct End {
    address: &'static str,
    port: &'static str,
    /// Who has the address.
    entity: &'static str,
    /// The pod with the host's network that has the port.
    pod: &'static str,
}

impl End {
    /// The address that an event has at this end.
    fn ip(&self, attrs: &[(String, String)]) -> Option<IpAddr> {
        value(attrs, self.address)?.parse().ok()
    }

    /// The port that it has there.
    fn port(&self, attrs: &[(String, String)]) -> Option<u16> {
        value(attrs, self.port)?.parse().ok()
    }
}

fn value<'a>(attrs: &'a [(String, String)], wanted: &str) -> Option<&'a str> {
    attrs.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.as_str())
}

/// A reader's position in the log.
#[derive(Debug)]
pub struct Cursor {
    next: u64,
    head: watch::Receiver<u64>,
    /// Counts what it missed.
    missed: Lost,
}

/// What a reader gets at once.
#[derive(Debug)]
pub struct Read {
    /// Events that the log had already dropped when the reader came for them.
    pub lost: u64,
    /// The next events, oldest first.
    pub events: Vec<Arc<Event>>,
}

impl EventLog {
    /// An empty log.
    pub fn new(limits: Limits, who: Who, loss: Arc<Loss>, node: &str) -> Self {
        let missed = loss.cell(Stage::Stream, "events");
        let (log, head) = (Mutex::default(), watch::Sender::new(1));
        Self { log, id: unix_ns(), head, limits, node: node.into(), who, loss, missed, own: OnceLock::new() }
    }

    /// By which this log is told from those of earlier runs.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// How many events are kept.
    pub fn backlog(&self) -> usize {
        self.limits.backlog
    }

    /// Says where this agent listens, so that events of its own connections are marked; once.
    pub fn listens_on(&self, addresses: Vec<SocketAddr>) {
        // The sockets of an agent stay the same as long as it runs.
        let _ = self.own.set(addresses);
    }

    /// Takes a plugin's events and returns how many were accepted; the rest was over its quota.
    pub fn emit(&self, plugin: &str, events: Vec<NewEvent>) -> u32 {
        self.emit_at(plugin, events, Instant::now())
    }

    /// Lets out what was folded in windows that have ended; called once a second.
    pub fn flush(&self, now: Instant) {
        let mut log = self.lock();
        let mut due = Vec::new();
        for (plugin, emitter) in &mut log.plugins {
            due.extend(emitter.throttle.due(now).into_iter().map(|folded| (plugin.clone(), folded)));
        }
        for (plugin, (event, count)) in due {
            self.push(&mut log, plugin, event, count);
        }
        self.wake(log);
    }

    /// Remembers the event types of a plugin, in place of those it had declared before.
    pub fn declare(&self, plugin: &str, types: Vec<EventType>) {
        self.lock().emitter(plugin, self, Instant::now()).types = types;
    }

    /// Forgets the event types of a plugin that is gone; what it emitted stays.
    pub fn forget(&self, plugin: &str) {
        self.declare(plugin, Vec::new());
    }

    /// All declared event types, by plugin.
    pub fn types(&self) -> Vec<EventType> {
        self.lock().plugins.values().flat_map(|emitter| emitter.types.clone()).collect()
    }

    /// How many events there were, by plugin and type.
    pub fn counts(&self) -> Vec<EventCount> {
        let log = self.lock();
        let each = |(plugin, emitter): (&String, &Emitter)| {
            let count = |(kind, count): (&String, &u64)| EventCount {
                plugin: plugin.clone(),
                kind: kind.clone(),
                count: *count,
            };
            emitter.counts.iter().map(count).collect::<Vec<_>>()
        };
        log.plugins.iter().flat_map(each).collect()
    }

    /// A reader that starts with the oldest event still kept.
    pub fn oldest(&self) -> Cursor {
        Cursor { next: self.lock().oldest(), head: self.head.subscribe(), missed: self.missed.clone() }
    }

    /// A reader that starts behind the event of this number; `None` if there was none yet.
    pub fn behind(&self, seq: u64) -> Option<Cursor> {
        let newest = self.newest();
        (seq < newest.next).then(|| Cursor { next: seq + 1, ..newest })
    }

    /// A reader that starts with the next event.
    pub fn newest(&self) -> Cursor {
        Cursor { next: self.lock().last + 1, head: self.head.subscribe(), missed: self.missed.clone() }
    }

    /// The next events for a reader, at most `max`; none if it has seen all.
    pub fn read(&self, cursor: &mut Cursor, max: usize) -> Read {
        cursor.head.mark_unchanged();
        let log = self.lock();
        let oldest = log.oldest();
        let lost = oldest.saturating_sub(cursor.next);
        cursor.missed.add(lost);
        cursor.next += lost;
        let events: Vec<_> =
            log.events.iter().skip((cursor.next - oldest) as usize).take(max).cloned().collect();
        cursor.next += events.len() as u64;
        Read { lost, events }
    }

    /// [`EventLog::emit`] by a clock of the caller's.
    pub fn emit_at(&self, plugin: &str, events: Vec<NewEvent>, now: Instant) -> u32 {
        let events: Vec<NewEvent> = events.into_iter().map(NewEvent::admit).collect();
        let (mut accepted, mut refused) = (0, 0);
        let mut log = self.lock();
        for event in events {
            let emitter = log.emitter(plugin, self, now);
            let kind = event.kind.clone();
            match emitter.throttle.take(event, now) {
                Admission::Refused => {
                    refused += 1;
                    continue;
                }
                Admission::Folded => emitter.count(kind),
                Admission::Pass(event) => {
                    emitter.count(kind);
                    self.push(&mut log, plugin.to_owned(), event, 1);
                }
            }
            accepted += 1;
        }
        log.emitter(plugin, self, now).over_quota.add(refused);
        self.wake(log);
        accepted
    }

    fn push(&self, log: &mut Log, plugin: String, event: NewEvent, count: u64) {
        log.last += 1;
        let attrs = self.with_names(event.entity, event.attrs);
        let event = Event {
            seq: log.last,
            time_ns: event.time_ns,
            severity: event.severity,
            kind: event.kind,
            plugin,
            node: Arc::clone(&self.node),
            entity: event.entity,
            who: self.who.entities.get(event.entity),
            message: event.message,
            attrs,
            count,
            json: OnceLock::new(),
        };
        log.bytes += event.bytes();
        log.events.push_back(Arc::new(event));
        while log.events.len() > self.limits.backlog || log.bytes > MAX_BYTES {
            let Some(oldest) = log.events.pop_front() else { break };
            log.bytes -= oldest.bytes();
        }
    }

    /// Adds whose the addresses are, where exactly one entity of this node or else one peer has them, which pod
    /// with the host's network has a port, and whether this agent is at one of the ends.
    fn with_names(&self, at: EntityId, mut attrs: Vec<(String, String)>) -> Vec<(String, String)> {
        // What a guest says of it is not believed.
        attrs.retain(|(name, _)| name != OWN);
        if self.is_own(at, &attrs) {
            attrs.push((OWN.to_owned(), "true".to_owned()));
        }
        for end in ENDS {
            let owner = end.ip(&attrs).and_then(|ip| self.who.name(ip));
            let named = [(end.entity, owner), (end.pod, self.host_pod(at, &end, &attrs))];
            for (name, known) in named {
                if let Some(known) = known.filter(|_| value(&attrs, name).is_none()) {
                    attrs.push((name.to_owned(), escape::admit(known, MAX_ATTR_VALUE)));
                }
            }
        }
        attrs
    }

    /// The pod with the host's network that is at an end.
    fn host_pod(&self, at: EntityId, end: &End, attrs: &[(String, String)]) -> Option<String> {
        let protocol = peers::proto(value(attrs, "protocol")?)?;
        let port = end.port(attrs)?;
        let pod = self.who.entities.host_port(protocol, port)?;
        self.is_of_host(at, end.ip(attrs)?).then_some(pod)
    }

    /// Whether one end is a port of this agent at an address of the host, which is where it runs.
    fn is_own(&self, at: EntityId, attrs: &[(String, String)]) -> bool {
        let Some(own) = self.own.get() else { return false };
        ENDS.iter().any(|end| {
            let Some((ip, port)) = end.ip(attrs).zip(end.port(attrs)) else { return false };
            self.is_of_host(at, ip)
                && own.iter().any(|own| own.port() == port && (own.ip().is_unspecified() || own.ip() == ip))
        })
    }

    /// Whether an address in an event is the host's; each namespace has a loopback address of its own.
    fn is_of_host(&self, at: EntityId, ip: IpAddr) -> bool {
        let is_host = |id| self.who.entities.get(id).is_some_and(|entity| entity.kind == Kind::Host);
        if ip.is_loopback() { is_host(at) } else { is_host(self.who.entities.by_ip(ip)) }
    }

    fn wake(&self, log: MutexGuard<'_, Log>) {
        let next = log.last + 1;
        drop(log);
        self.head.send_if_modified(|head| {
            let news = next > *head;
            *head = next.max(*head);
            news
        });
    }

    fn lock(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Log {
    fn oldest(&self) -> u64 {
        self.last + 1 - self.events.len() as u64
    }

    fn emitter(&mut self, plugin: &str, of: &EventLog, now: Instant) -> &mut Emitter {
        if !self.plugins.contains_key(plugin) {
            let emitter = Emitter {
                throttle: Throttle::new(of.limits.per_second, of.limits.burst, now),
                counts: BTreeMap::new(),
                types: Vec::new(),
                over_quota: of.loss.cell(Stage::Quota, plugin),
            };
            self.plugins.insert(plugin.to_owned(), emitter);
        }
        self.plugins.get_mut(plugin).expect("it was there or has just been inserted")
    }
}

impl Emitter {
    fn count(&mut self, kind: String) {
        let known = self.counts.contains_key(&kind) || self.counts.len() < MAX_KINDS;
        *self.counts.entry(if known { kind } else { "other".to_owned() }).or_default() += 1;
    }
}

impl Cursor {
    /// The same position, whose losses are counted elsewhere than those of clients.
    pub fn counting(self, missed: Lost) -> Self {
        Self { missed, ..self }
    }

    /// Waits until there are so many events to read; false if the log is gone.
    pub async fn wait_for(&mut self, events: u64) -> bool {
        let next = self.next;
        self.head.wait_for(|head| *head >= next + events).await.is_ok()
    }

    /// Waits until there is something to read; false if the log is gone.
    pub async fn wait(&mut self) -> bool {
        self.head.changed().await.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::events::event::MAX_MESSAGE;
    use crate::view::View;

    fn events(kind: &str, count: usize) -> Vec<NewEvent> {
        vec![NewEvent { kind: kind.to_owned(), time_ns: 1, ..NewEvent::default() }; count]
    }

    #[test]
    fn a_reader_that_falls_behind_is_told_how_many_it_missed() {
        let view = View::test();
        let mut cursor = view.events.newest();
        assert_eq!(view.events.emit("p", events("A", 250)), 250);
        let read = view.events.read(&mut cursor, 60);
        assert_eq!((read.lost, read.events[0].seq, read.events.len()), (150, 151, 60));
        let read = view.events.read(&mut cursor, 60);
        assert_eq!((read.lost, read.events[0].seq, read.events.len()), (0, 211, 40));
        assert_eq!(view.loss.cell(Stage::Stream, "events").get(), 150);
        let read = view.events.read(&mut view.events.oldest(), 1);
        assert_eq!((read.lost, read.events[0].seq), (0, 151));
    }

    #[test]
    fn the_log_is_bounded_in_bytes() {
        let (entities, loss) = (Arc::<Entities>::default(), Arc::<Loss>::default());
        let limits = Limits { backlog: usize::MAX, per_second: 0, burst: u32::MAX };
        let log = EventLog::new(limits, entities.into(), loss, "n1");
        let big = NewEvent { message: "x".repeat(MAX_MESSAGE), ..NewEvent::default() };
        log.emit("p", vec![big; 10_000]);
        let state = log.lock();
        assert!(state.bytes <= MAX_BYTES && state.events.len() > 1000);
        assert_eq!(state.bytes, state.events.iter().map(|event| event.bytes()).sum::<usize>());
    }

    #[test]
    fn what_is_over_quota_is_refused_and_counted() {
        let view = View::test();
        let now = Instant::now();
        assert_eq!(view.events.emit_at("p", events("A", 6000), now), 5000);
        assert_eq!(view.loss.cell(Stage::Quota, "p").get(), 1000);
        assert_eq!(view.events.emit_at("q", events("A", 1), now), 1, "another plugin has its own");
        let counts = view.events.counts().into_iter().map(|c| (c.plugin, c.count)).collect::<Vec<_>>();
        assert_eq!(counts, [("p".to_owned(), 5000), ("q".to_owned(), 1)]);
    }

    #[test]
    fn folded_events_come_once_with_their_count() {
        let view = View::test();
        let mut cursor = view.events.newest();
        let (now, same) = (Instant::now(), |event| NewEvent { dedup_key: Some("k".into()), ..event });
        let folded: Vec<_> = events("A", 10_000).into_iter().map(same).collect();
        assert_eq!(view.events.emit_at("p", folded, now), 10_000);
        view.events.flush(now + Duration::from_secs(1));
        let read = view.events.read(&mut cursor, 10);
        assert_eq!(read.events.iter().map(|event| event.count).collect::<Vec<_>>(), [1, 9_999]);
        assert_eq!(view.loss.cell(Stage::Quota, "p").get(), 0);
    }

    #[test]
    fn only_connections_of_this_agent_are_marked_as_its_own() {
        let view = View::test();
        view.events.listens_on(vec!["0.0.0.0:9102".parse().expect("an address")]);
        let host = view.test_host("192.0.2.1");
        let web = view.test_entity(9, "web");
        let is_own = |at, saddr: &str, sport: &str, reason: &str| {
            let attrs = [("saddr", saddr), ("sport", sport), ("reason", reason), (OWN, "true")];
            let attrs = attrs.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
            let mut cursor = view.events.newest();
            view.events.emit("p", vec![NewEvent { entity: at, attrs, ..NewEvent::default() }]);
            view.events.read(&mut cursor, 1).events[0].is_noise()
        };
        assert!(is_own(host, "127.0.0.1", "9102", "TCP_CLOSE"));
        assert!(is_own(web, "192.0.2.1", "9102", "TCP_CLOSE"), "a scraper in a pod");
        assert!(!is_own(host, "127.0.0.1", "9103", "TCP_CLOSE"), "another port");
        assert!(!is_own(web, "127.0.0.1", "9102", "TCP_CLOSE"), "a server of the pod");
        assert!(!is_own(host, "192.0.2.2", "9102", "TCP_CLOSE"), "the agent of another node");
        assert!(!is_own(host, "127.0.0.1", "9102", "NETFILTER_DROP"), "a firewall in a scraper's way");
    }

    #[tokio::test]
    async fn a_waiting_reader_is_woken_by_each_batch() {
        let view = View::test();
        let mut cursor = view.events.newest();
        for _ in 0..3 {
            view.events.emit("p", events("A", 2));
            assert!(tokio::time::timeout(Duration::from_secs(5), cursor.wait()).await.expect("woken"));
            assert_eq!(view.events.read(&mut cursor, 10).events.len(), 2);
        }
        let idle = tokio::time::timeout(Duration::from_millis(50), cursor.wait()).await;
        assert!(idle.is_err(), "nothing happened");
    }
}
