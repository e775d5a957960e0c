//! Who is it? The table of network namespaces ("entities") and their names.
//!
//! An entity is keyed by its namespace cookie, which the kernel never reuses; inode numbers are
//! reused at once and serve only for display. The reader asks for an id the moment it sees a
//! cookie ([`Entities::stamp`]); `discover/` brings the name, before or after ([`Entities::apply_scan`]).
//! A vanished entity keeps its name for late events for [`TOMBSTONE`], then is forgotten, and known for
//! a while to questions only ([`past`]).
//! Nothing here does I/O.
//!
//! [`from_api`]: what the API server adds to it. Longer than other files, because the table and what it is
//! made from have one lock and one order.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::pods::{NamedBy, Pod};

use past::Past;

pub mod from_api;
mod past;

/// How long a vanished entity still names late events.
pub const TOMBSTONE: Duration = Duration::from_secs(45);

/// Host-assigned id of an entity; 0 is "unknown".
pub type EntityId = u32;

/// What sort of namespace an entity is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// The initial network namespace.
    Host,
    /// A Kubernetes pod, known by the pod uid in a cgroup path.
    Pod,
    /// A namespace made with `ip netns`.
    Netns,
    /// A container outside of Kubernetes.
    Container,
    /// A namespace that only a process, or nothing yet, is known of.
    #[default]
    Anonymous,
}

impl Kind {
    /// Name as in JSON and in the plugin contract.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Pod => "pod",
            Self::Netns => "netns",
            Self::Container => "container",
            Self::Anonymous => "anonymous",
        }
    }
}

/// One network namespace with a name.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Entity {
    /// Id on this node, never reused while the agent runs.
    pub id: EntityId,
    /// What sort of namespace it is.
    pub kind: Kind,
    /// Kubernetes namespace; empty for everything that is no pod, and for a pod that is known by its uid
    /// only.
    pub namespace: String,
    /// Pod name or uid, netns name or container id; empty for the host.
    pub name: String,
    /// Who said so.
    #[serde(default)]
    pub named_by: NamedBy,
    /// Uid of the pod, as in its cgroup path; empty for everything else.
    #[serde(default)]
    pub pod_uid: String,
    /// Who keeps the pod running, e.g. `Deployment/web`; empty unless the API server said so.
    #[serde(default)]
    pub owner: String,
    /// Allowed labels of the pod.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Phase of the pod, e.g. `Running`; empty unless the API server said so.
    #[serde(default)]
    pub phase: String,
    /// `net->net_cookie` (5.14 and later can read it from user space).
    pub cookie: u64,
    /// Inode number of the namespace, for people; reused by the kernel.
    pub inode: u64,
    /// Addresses of its interfaces, without loopback.
    pub ips: Vec<IpAddr>,
    /// Some of its processes, at most [`MAX_PIDS`]; none of the host's, which are most of the
    /// machine's and say nothing.
    pub pids: Vec<Process>,
    /// Path of its processes' cgroup: that of the container, if one is known. Empty for the host.
    pub cgroup: String,
    /// A file by which the namespace can be entered (`/run/netns/NAME`, `/proc/PID/ns/net`).
    #[serde(skip)]
    pub path: PathBuf,
    /// First seen, nanoseconds since the Unix epoch.
    pub since_ns: u64,
}

/// A process of an entity.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Its number.
    pub pid: i32,
    /// What it calls itself (`/proc/PID/comm`): any text at all.
    pub name: String,
}

/// Maximum number of processes kept for an entity.
pub const MAX_PIDS: usize = 16;

impl Entity {
    /// The name shown to people: `namespace/name`, the bare name, or `host`.
    pub fn display(&self) -> String {
        match (self.kind, self.namespace.as_str()) {
            (Kind::Host, _) => "host".to_owned(),
            (_, "") => self.name.clone(),
            (_, namespace) => format!("{namespace}/{}", self.name),
        }
    }
}

/// What `discover/` found out about one namespace in one scan.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DiscoveredNetns {
    /// Key of the entity.
    pub cookie: u64,
    /// Inode number of the namespace.
    pub inode: u64,
    /// What sort of namespace it is.
    pub kind: Kind,
    /// Kubernetes namespace, or empty.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Who said so.
    pub named_by: NamedBy,
    /// Uid of the pod, or empty.
    pub pod_uid: String,
    /// Addresses of its interfaces, without loopback.
    pub ips: Vec<IpAddr>,
    /// Some of its processes.
    pub pids: Vec<Process>,
    /// Path of their cgroup, or empty.
    pub cgroup: String,
    /// A file by which the namespace can be entered.
    pub path: PathBuf,
}

/// A network namespace that is there and cannot be entered: nothing of it can be counted, and its
/// events have an entity of their own, since only who enters a namespace learns its cookie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unentered {
    /// What sort of namespace it is.
    pub kind: Kind,
    /// Kubernetes namespace, or empty.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Who said so.
    pub named_by: NamedBy,
    /// Inode number of the namespace; 0 if only its processes are known.
    pub inode: u64,
    /// Some of its processes.
    pub pids: Vec<Process>,
    /// Path of their cgroup, or empty.
    pub cgroup: String,
    /// What stands in the way.
    pub why: String,
}

/// A line of the list of entities.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed {
    /// Who it is; id and cookie are 0 if it cannot be entered. The host is called `host`: here,
    /// and not in metrics and events, where it has no name.
    #[serde(flatten)]
    pub entity: Entity,
    /// Why nothing can be counted there; empty if it can.
    #[serde(default)]
    pub unreadable: String,
}

/// What changed in the table, for plugins and for series.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// Entities that got a name, or another one.
    pub added: Vec<EntityId>,
    /// Entities that vanished; their names are still known for [`TOMBSTONE`].
    pub removed: Vec<EntityId>,
    /// Entities whose tombstone is over: nothing may refer to them any more.
    pub forgotten: Vec<EntityId>,
}

/// One row of the table as a trace keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntityRow {
    /// Who it is.
    pub entity: Arc<Entity>,
    /// The last scan saw it; otherwise it vanished, or none has seen it yet.
    pub live: bool,
}

#[derive(Debug)]
struct Row {
    entity: Arc<Entity>,
    /// When it vanished, or for a cookie without a name, when it was first seen.
    gone: Option<Instant>,
    /// `discover/` has seen it at least once.
    named: bool,
}

#[derive(Debug, Default)]
struct Rows {
    by_id: BTreeMap<EntityId, Row>,
    by_cookie: HashMap<u64, EntityId>,
    /// 0 for an address that several entities have: it tells nobody.
    by_ip: HashMap<IpAddr, EntityId>,
    last_id: EntityId,
    /// What the API server knows, by uid.
    pods: BTreeMap<String, Pod>,
    past: Past<Arc<Entity>>,
    /// Named outside of a scan, and when: a scan that began before did not see them.
    discovered: Vec<(EntityId, Instant)>,
}

/// The table. Readers never wait for I/O, since nothing does I/O under its lock.
#[derive(Debug, Default)]
pub struct Entities {
    rows: RwLock<Rows>,
    /// Of the last scan.
    unentered: RwLock<Vec<Unentered>>,
    /// Names of pods by the ports (protocol and number) that they hold of the host.
    host_ports: RwLock<BTreeMap<(u8, u16), String>>,
    /// A cookie without a name was stamped since the last [`Entities::take_unnamed`].
    unnamed: AtomicBool,
}

impl Entities {
    /// The id for a cookie; a cookie never seen before gets an anonymous entity, which
    /// `discover/` names as soon as it finds the namespace. Cookie 0 is unknown.
    pub fn stamp(&self, cookie: u64, now_ns: u64) -> EntityId {
        if cookie == 0 {
            return 0;
        }
        let known = self.read().by_cookie.get(&cookie).copied();
        known.unwrap_or_else(|| self.add_unnamed(cookie, now_ns))
    }

    /// One entity, also one that vanished less than [`TOMBSTONE`] ago.
    pub fn get(&self, id: EntityId) -> Option<Arc<Entity>> {
        self.read().by_id.get(&id).map(|row| Arc::clone(&row.entity))
    }

    /// One entity, also one that was forgotten less than a quarter of an hour ago: for questions about
    /// the past.
    pub fn known(&self, id: EntityId) -> Option<Arc<Entity>> {
        let rows = self.read();
        rows.by_id.get(&id).map(|row| &row.entity).or_else(|| rows.past.get(id)).map(Arc::clone)
    }

    /// The only live entity that has an address; 0 if there is none, or more than one.
    pub fn by_ip(&self, ip: IpAddr) -> EntityId {
        self.read().by_ip.get(&ip.to_canonical()).copied().unwrap_or(0)
    }

    /// Whether several live entities have an address.
    pub fn is_shared(&self, ip: IpAddr) -> bool {
        self.read().by_ip.get(&ip.to_canonical()) == Some(&0)
    }

    /// The only live entity that has an address.
    pub fn owner(&self, ip: IpAddr) -> Option<Arc<Entity>> {
        self.get(self.by_ip(ip))
    }

    /// All live entities that have been seen by `discover/`, by id.
    pub fn live(&self) -> Vec<Arc<Entity>> {
        let rows = self.read();
        rows.by_id.values().filter(|r| r.named && r.gone.is_none()).map(|r| Arc::clone(&r.entity)).collect()
    }

    /// All live entities, and behind them the namespaces that cannot be entered.
    pub fn listed(&self) -> Vec<Listed> {
        let live = self.live().into_iter().map(|entity| Listed::from(Arc::unwrap_or_clone(entity)));
        live.chain(self.unentered().into_iter().map(Listed::from)).collect()
    }

    /// The namespaces that are there and cannot be entered.
    pub fn unentered(&self) -> Vec<Unentered> {
        self.unentered.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Replaces them.
    pub fn set_unentered(&self, unentered: Vec<Unentered>) {
        *self.unentered.write().unwrap_or_else(PoisonError::into_inner) = unentered;
    }

    /// Names one namespace that was found by itself, ahead of the next scan. A scan has seen more of
    /// what it named.
    pub fn discovered(&self, netns: DiscoveredNetns, now_ns: u64, now: Instant) -> Changes {
        let mut rows = self.rows.write().unwrap_or_else(PoisonError::into_inner);
        let id = rows.id_of(netns.cookie);
        if rows.by_id.get(&id).is_some_and(|row| row.named && row.gone.is_none()) {
            return Changes::default();
        }
        rows.discovered.push((id, now));
        let added = rows.name(id, netns, now_ns).then_some(id);
        Changes { added: added.into_iter().collect(), ..Changes::default() }
    }

    /// Takes a complete scan that began at `now`: names what was found, buries what was not,
    /// forgets old tombstones.
    pub fn apply_scan(&self, scan: Vec<DiscoveredNetns>, now_ns: u64, now: Instant) -> Changes {
        let mut rows = self.rows.write().unwrap_or_else(PoisonError::into_inner);
        let mut changes = Changes::default();
        let mut present = std::collections::HashSet::new();
        for netns in scan {
            let id = rows.id_of(netns.cookie);
            present.insert(id);
            if rows.name(id, netns, now_ns) {
                changes.added.push(id);
            }
        }
        rows.discovered.retain(|(_, at)| *at >= now);
        present.extend(rows.discovered.iter().map(|(id, _)| *id));
        for (id, row) in &mut rows.by_id {
            if !present.contains(id) && row.gone.is_none() {
                row.gone = Some(now);
                changes.removed.push(*id);
            }
        }
        changes.forgotten = rows.forget(now);
        rows.index_ips();
        changes
    }

    /// All rows, by id: also of what vanished and of cookies without a name.
    pub fn rows(&self) -> Vec<EntityRow> {
        let row =
            |row: &Row| EntityRow { entity: Arc::clone(&row.entity), live: row.named && row.gone.is_none() };
        self.read().by_id.values().map(row).collect()
    }

    /// All rows, behind those that were forgotten less than a quarter of an hour ago.
    pub fn known_rows(&self) -> Vec<EntityRow> {
        let past = |entity: &Arc<Entity>| EntityRow { entity: Arc::clone(entity), live: false };
        let past: Vec<_> = self.read().past.all().map(past).collect();
        past.into_iter().chain(self.rows()).collect()
    }

    /// Sets and removes rows under ids that another agent gave, for a replay; names the rest of the
    /// table anew. `now` is when those that are not live vanished.
    pub fn replay(&self, rows: Vec<EntityRow>, forgotten: &[EntityId], now: Instant) {
        let mut table = self.rows.write().unwrap_or_else(PoisonError::into_inner);
        for EntityRow { entity, live } in rows {
            table.last_id = table.last_id.max(entity.id);
            table.by_cookie.insert(entity.cookie, entity.id);
            table.by_id.insert(entity.id, Row { entity, gone: (!live).then_some(now), named: live });
        }
        let forgotten: Vec<_> = forgotten.iter().filter_map(|id| table.by_id.remove(id)).collect();
        for row in &forgotten {
            table.by_cookie.remove(&row.entity.cookie);
        }
        table.past.remember(forgotten.into_iter().map(|row| (row.entity.id, row.entity)), now);
        table.index_ips();
    }

    /// Whether a cookie without a name turned up since the last call.
    pub fn take_unnamed(&self) -> bool {
        self.unnamed.swap(false, Ordering::Relaxed)
    }

    fn add_unnamed(&self, cookie: u64, now_ns: u64) -> EntityId {
        let mut rows = self.rows.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(id) = rows.by_cookie.get(&cookie) {
            return *id;
        }
        let id = rows.id_of(cookie);
        let name = format!("netns-{cookie}");
        let entity = Entity { id, name, cookie, since_ns: now_ns, ..Entity::default() };
        // It counts as vanished until a scan sees it, so that one never seen is forgotten too.
        let row = Row { entity: Arc::new(entity), gone: Some(Instant::now()), named: false };
        rows.by_id.insert(id, row);
        self.unnamed.store(true, Ordering::Relaxed);
        id
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, Rows> {
        self.rows.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entity {
    fn is_called_like(&self, other: &Self) -> bool {
        (self.kind, &self.namespace, &self.name) == (other.kind, &other.namespace, &other.name)
    }

    /// Keeps what was known of the pod in this namespace: a namespace never changes hands, and a pod that is
    /// being removed loses its processes and its folder of logs before its last packets are sent.
    fn remember(&mut self, before: &Self) {
        if before.pod_uid.is_empty() || self.kind == Kind::Host {
            return;
        }
        if self.pod_uid.is_empty() || (self.pod_uid == before.pod_uid && self.named_by < before.named_by) {
            (self.kind, self.named_by) = (before.kind, before.named_by);
            self.namespace.clone_from(&before.namespace);
            self.name.clone_from(&before.name);
            self.pod_uid.clone_from(&before.pod_uid);
        }
        self.owner.clone_from(&before.owner);
        self.labels.clone_from(&before.labels);
        self.phase.clone_from(&before.phase);
    }
}

impl From<DiscoveredNetns> for Entity {
    fn from(found: DiscoveredNetns) -> Self {
        let DiscoveredNetns {
            cookie,
            inode,
            kind,
            namespace,
            name,
            named_by,
            pod_uid,
            ips,
            pids,
            cgroup,
            path,
        } = found;
        Self {
            kind,
            namespace,
            name,
            named_by,
            pod_uid,
            cookie,
            inode,
            ips,
            pids,
            cgroup,
            path,
            ..Self::default()
        }
    }
}

impl From<Entity> for Listed {
    fn from(mut entity: Entity) -> Self {
        if entity.kind == Kind::Host {
            entity.name = entity.display();
        }
        Self { entity, unreadable: String::new() }
    }
}

impl From<Unentered> for Listed {
    fn from(unentered: Unentered) -> Self {
        let Unentered { kind, namespace, name, named_by, inode, pids, cgroup, why } = unentered;
        let entity = Entity { kind, namespace, name, named_by, inode, pids, cgroup, ..Entity::default() };
        Self { entity, unreadable: why }
    }
}

impl Rows {
    fn id_of(&mut self, cookie: u64) -> EntityId {
        let next = self.last_id + 1;
        let id = *self.by_cookie.entry(cookie).or_insert(next);
        self.last_id = self.last_id.max(id);
        id
    }

    /// Stores a netns; true if the entity is new to plugins or is called otherwise now.
    fn name(&mut self, id: EntityId, found: DiscoveredNetns, now_ns: u64) -> bool {
        let old = self.by_id.get(&id);
        let since_ns = old.map_or(now_ns, |row| row.entity.since_ns);
        let mut entity = Entity { id, since_ns, ..Entity::from(found) };
        if let Some(row) = old {
            entity.remember(&row.entity);
        }
        if let Some(pod) = self.pods.get(&entity.pod_uid) {
            entity.learn(pod);
        }
        let changed = !old.is_some_and(|row| row.gone.is_none() && row.entity.is_called_like(&entity));
        if old.is_none_or(|row| *row.entity != entity || row.gone.is_some()) {
            self.by_id.insert(id, Row { entity: Arc::new(entity), gone: None, named: true });
        }
        changed
    }

    fn forget(&mut self, now: Instant) -> Vec<EntityId> {
        let dead = |row: &Row| row.gone.is_some_and(|gone| now.saturating_duration_since(gone) > TOMBSTONE);
        let forgotten: Vec<_> = self.by_id.extract_if(.., |_, row| dead(row)).map(|(_, row)| row).collect();
        for row in &forgotten {
            self.by_cookie.remove(&row.entity.cookie);
        }
        let ids = forgotten.iter().map(|row| row.entity.id).collect();
        let named = forgotten.into_iter().filter(|row| row.named);
        self.past.remember(named.map(|row| (row.entity.id, row.entity)), now);
        ids
    }

    fn index_ips(&mut self) {
        self.by_ip.clear();
        let live = self.by_id.iter().filter(|(_, row)| row.gone.is_none());
        for (id, ip) in live.flat_map(|(id, row)| row.entity.ips.iter().map(move |ip| (*id, ip))) {
            self.by_ip.entry(ip.to_canonical()).and_modify(|owner| *owner = 0).or_insert(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn netns(cookie: u64, name: &str) -> DiscoveredNetns {
        DiscoveredNetns {
            cookie,
            inode: 7,
            kind: Kind::Netns,
            name: name.to_owned(),
            ..DiscoveredNetns::default()
        }
    }

    pub(super) const UID: &str = "6c5e8a3b-1f0d-4f6e-9c55-0a1b2c3d4e5f";

    /// A namespace in which the processes of a pod run.
    pub(super) fn of_pod(cookie: u64, uid: &str, name: Option<&str>) -> DiscoveredNetns {
        DiscoveredNetns {
            kind: Kind::Pod,
            namespace: name.map(|_| "shop".to_owned()).unwrap_or_default(),
            named_by: if name.is_some() { NamedBy::PodLogs } else { NamedBy::Cgroup },
            pod_uid: uid.to_owned(),
            ..netns(cookie, name.unwrap_or(uid))
        }
    }

    #[test]
    fn a_pod_whose_processes_are_gone_first_keeps_its_name() {
        let entities = Entities::default();
        let id = entities.apply_scan(vec![of_pod(1, UID, Some("cart-1"))], 1, Instant::now()).added[0];
        let changes = entities.apply_scan(vec![netns(1, "cni-1")], 2, Instant::now());
        assert!(changes.added.is_empty());
        let entity = entities.get(id).expect("live");
        assert_eq!((entity.kind, entity.display().as_str()), (Kind::Pod, "shop/cart-1"));
        // Another pod under the same name has another namespace, so it is another entity.
        let again = of_pod(2, "7c5e8a3b-1f0d-4f6e-9c55-0a1b2c3d4e5f", Some("cart-1"));
        let changes = entities.apply_scan(vec![again], 3, Instant::now());
        assert_eq!((changes.removed, changes.added.contains(&id)), (vec![id], false));
    }

    #[test]
    fn an_event_that_comes_before_the_name_keeps_its_entity() {
        let entities = Entities::default();
        let id = entities.stamp(4242, 1);
        assert!(entities.take_unnamed());
        assert_eq!(entities.get(id).expect("stamped").kind, Kind::Anonymous);
        let changes = entities.apply_scan(vec![netns(4242, "web")], 2, Instant::now());
        assert_eq!(changes.added, [id]);
        assert_eq!(entities.get(id).expect("named").name, "web");
    }

    #[test]
    fn a_vanished_entity_names_late_events_and_is_then_forgotten() {
        let entities = Entities::default();
        let start = Instant::now();
        entities.apply_scan(vec![netns(1, "a")], 1, start);
        let id = entities.stamp(1, 1);
        assert_eq!(entities.apply_scan(vec![], 2, start).removed, [id]);
        assert_eq!(entities.get(id).expect("tombstone").name, "a");
        assert!(entities.live().is_empty());
        let changes = entities.apply_scan(vec![], 3, start + TOMBSTONE + Duration::from_secs(1));
        assert_eq!(changes.forgotten, [id]);
        assert!(entities.get(id).is_none() && entities.rows().is_empty());
        // Whoever asks about what was before still knows it by name.
        assert_eq!(entities.known(id).expect("remembered").name, "a");
        let known: Vec<_> = entities.known_rows().iter().map(|row| (row.entity.id, row.live)).collect();
        assert_eq!(known, [(id, false)]);
    }

    #[test]
    fn a_reused_inode_is_another_entity_because_its_cookie_is() {
        let entities = Entities::default();
        entities.apply_scan(vec![netns(1, "a")], 1, Instant::now());
        let first = entities.stamp(1, 1);
        let changes = entities.apply_scan(vec![netns(2, "b")], 2, Instant::now());
        assert_eq!(changes.removed, [first]);
        assert_ne!(changes.added, [first]);
    }

    #[test]
    fn the_host_has_a_name_where_it_is_listed_and_only_there() {
        let entities = Entities::default();
        let host = DiscoveredNetns { kind: Kind::Host, ..netns(1, "") };
        entities.apply_scan(vec![host, netns(2, "web")], 1, Instant::now());
        let listed = serde_json::to_value(entities.listed()).expect("JSON");
        assert_eq!((&listed[0]["name"], &listed[1]["name"]), (&"host".into(), &"web".into()));
        assert_eq!(entities.get(entities.stamp(1, 1)).expect("seen").name, "");
    }

    #[test]
    fn the_unknown_cookie_is_nobody() {
        assert_eq!(Entities::default().stamp(0, 1), 0);
    }

    #[test]
    fn what_was_named_while_a_scan_ran_is_not_buried_by_it() {
        let entities = Entities::default();
        let scan_began = Instant::now();
        let id = entities.discovered(netns(1, "young"), 1, scan_began + Duration::from_millis(1)).added[0];
        assert!(entities.apply_scan(vec![], 2, scan_began).removed.is_empty());
        assert_eq!(entities.get(id).expect("named").name, "young");
        let later = scan_began + Duration::from_millis(2);
        assert_eq!(entities.apply_scan(vec![], 3, later).removed, [id]);
        assert_eq!(entities.get(id).expect("tombstone").name, "young");
    }

    #[test]
    fn an_address_that_two_namespaces_have_is_nobodys() {
        let entities = Entities::default();
        let at = |cookie, ips: [&str; 2]| DiscoveredNetns {
            ips: ips.map(|ip| ip.parse().expect("address")).into(),
            ..netns(cookie, "x")
        };
        let scan = vec![at(1, ["10.0.0.1", "10.0.0.9"]), at(2, ["10.0.0.2", "10.0.0.9"])];
        entities.apply_scan(scan, 1, Instant::now());
        let owner = |ip: &str| entities.owner(ip.parse().expect("address")).map(|e| e.cookie);
        assert_eq!((owner("10.0.0.1"), owner("::ffff:10.0.0.2")), (Some(1), Some(2)));
        assert_eq!((owner("10.0.0.9"), owner("10.0.0.3")), (None, None));
    }
}
