//! What the API server says of this node's pods, told to the entities that they are.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, PoisonError};

use super::{Changes, Entities, Entity, EntityId, Kind, Row, Rows};
use crate::pods::{Change, NamedBy, Pod};

/// Who has an address, and for how long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodAt {
    /// `NAMESPACE/NAME`.
    pub name: String,
    /// Whether it still is there.
    pub life: Life,
}

/// How far a pod is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Life {
    /// It is there.
    Running,
    /// It was asked to end.
    Terminating,
    /// It has ended, or is not there any more.
    Gone,
}

impl Entities {
    /// Takes what the API server said of this node's pods.
    pub fn apply_pods(&self, change: Change<Pod>) -> Changes {
        let mut rows = self.rows.write().unwrap_or_else(PoisonError::into_inner);
        let added = match change {
            Change::All(pods) => {
                rows.pods = pods;
                rows.learn(|_| true)
            }
            // A kubelet reports each pod again and again, mostly for what is not kept. And a pod is never
            // called otherwise: whoever claims another one's uid is not believed.
            Change::Set(uid, pod)
                if rows.pods.get(&uid).is_some_and(|known| *known == pod || known.name != pod.name) =>
            {
                Vec::new()
            }
            Change::Set(uid, pod) => {
                rows.pods.insert(uid.clone(), pod);
                rows.learn(|of| of == uid)
            }
            // Its entity keeps what is known, for the events that still come.
            Change::Gone(uid) => {
                rows.pods.remove(&uid);
                Vec::new()
            }
        };
        Changes { added, ..Changes::default() }
    }

    /// Whether this is the name of a pod of this node that has no network of its own.
    pub fn is_host_pod(&self, name: &str) -> bool {
        self.read().pods.values().any(|pod| pod.host_network && pod.name.to_string() == name)
    }

    /// Names of this node's pods that have no network of their own, by uid.
    pub fn host_pods(&self) -> BTreeMap<String, String> {
        let rows = self.read();
        let pods = rows.pods.iter().filter(|(_, pod)| pod.host_network);
        pods.map(|(uid, pod)| (uid.clone(), pod.name.to_string())).collect()
    }

    /// Replaces which pod holds which port of the host.
    pub fn set_host_ports(&self, ports: BTreeMap<(u8, u16), String>) {
        *self.host_ports.write().unwrap_or_else(PoisonError::into_inner) = ports;
    }

    /// The pod that holds a port of the host, as of some seconds ago.
    pub fn host_port(&self, protocol: u8, port: u16) -> Option<String> {
        self.host_ports.read().unwrap_or_else(PoisonError::into_inner).get(&(protocol, port)).cloned()
    }

    /// The pod of this node that has an address, or had it last.
    pub fn pod_at(&self, ip: IpAddr) -> Option<PodAt> {
        let (rows, ip) = (self.read(), ip.to_canonical());
        let has_ended = |pod: &Pod| matches!(pod.phase.as_str(), "Succeeded" | "Failed");
        let has_it = |pod: &&Pod| !pod.host_network && pod.ips.contains(&ip);
        let known = rows.pods.values().filter(has_it).min_by_key(|pod| has_ended(pod));
        let told = known.map(|pod| PodAt {
            name: pod.name.to_string(),
            life: match () {
                () if has_ended(pod) => Life::Gone,
                () if pod.is_terminating => Life::Terminating,
                () => Life::Running,
            },
        });
        let seen = || {
            let has_it = |row: &&Row| row.entity.kind == Kind::Pod && row.entity.ips.contains(&ip);
            // Of those that are gone the youngest.
            let row = rows.by_id.values().filter(has_it).max_by_key(|row| (row.gone.is_none(), row.gone))?;
            let life = if row.gone.is_some() { Life::Gone } else { Life::Running };
            Some(PodAt { name: row.entity.display(), life })
        };
        told.or_else(seen)
    }

    /// Number of pods of this node that the API server knows.
    pub fn pods(&self) -> usize {
        self.read().pods.len()
    }
}

impl Entity {
    /// Adds what the API server knows of the pod with this uid; nothing if it means another pod than the node
    /// itself.
    pub(super) fn learn(&mut self, pod: &Pod) {
        if self.named_by < NamedBy::Runtime {
            self.named_by = NamedBy::Api;
            self.namespace.clone_from(&pod.name.namespace);
            self.name.clone_from(&pod.name.name);
        } else if (&self.namespace, &self.name) != (&pod.name.namespace, &pod.name.name) {
            return;
        }
        self.owner = pod.owner.as_ref().map(ToString::to_string).unwrap_or_default();
        self.labels.clone_from(&pod.labels);
        self.phase.clone_from(&pod.phase);
    }
}

impl Rows {
    /// Tells the entities of some pods what the API server said of them; returns who is called otherwise now.
    fn learn(&mut self, is_concerned: impl Fn(&str) -> bool) -> Vec<EntityId> {
        let mut renamed = Vec::new();
        for (id, row) in &mut self.by_id {
            let uid = row.entity.pod_uid.as_str();
            let Some(pod) = self.pods.get(uid).filter(|_| is_concerned(uid)) else { continue };
            let mut entity = Entity::clone(&row.entity);
            entity.learn(pod);
            if entity == *row.entity {
                continue;
            }
            if row.gone.is_none() && !row.entity.is_called_like(&entity) {
                renamed.push(*id);
            }
            row.entity = Arc::new(entity);
        }
        renamed
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::super::tests::{UID, of_pod};
    use super::*;
    use crate::pods::{ObjectName, Owner};

    fn pod(name: &str, owner: &str) -> Pod {
        let owner = Some(Owner { kind: "Deployment".to_owned(), name: owner.to_owned() });
        let (labels, ips) = ([("app".to_owned(), name.to_owned())].into(), vec![]);
        let name = ObjectName::new("shop", name).expect("a name");
        Pod {
            name,
            owner,
            labels,
            ips,
            is_terminating: false,
            phase: "Running".to_owned(),
            host_network: false,
        }
    }

    #[test]
    fn a_pod_is_called_by_its_uid_until_somebody_knows_better() {
        let entities = Entities::default();
        let id = entities.apply_scan(vec![of_pod(1, UID, None)], 1, Instant::now()).added[0];
        let shown = || {
            let entity = entities.get(id).expect("live");
            (entity.display(), entity.named_by, entity.owner.clone())
        };
        assert_eq!(shown(), (UID.to_owned(), NamedBy::Cgroup, String::new()));
        let changes = entities.apply_pods(Change::All([(UID.to_owned(), pod("cart-1", "cart"))].into()));
        assert_eq!(changes.added, [id]);
        let named = ("shop/cart-1".to_owned(), NamedBy::Api, "Deployment/cart".to_owned());
        assert_eq!(shown(), named);
        // The API server forgets it, or goes away, and a scan knows no more than the uid.
        entities.apply_pods(Change::Gone(UID.to_owned()));
        assert!(entities.apply_scan(vec![of_pod(1, UID, None)], 2, Instant::now()).added.is_empty());
        assert_eq!(shown(), named);
    }

    #[test]
    fn what_the_node_says_comes_first_and_what_the_api_server_says_beside_it() {
        let entities = Entities::default();
        let before = Change::Set(UID.to_owned(), pod("cart-1", "cart"));
        assert_eq!(entities.apply_pods(before), Changes::default());
        let id = entities.apply_scan(vec![of_pod(1, UID, Some("cart-1"))], 1, Instant::now()).added[0];
        let entity = entities.get(id).expect("live");
        assert_eq!((entity.display().as_str(), entity.named_by), ("shop/cart-1", NamedBy::PodLogs));
        assert_eq!((entity.owner.as_str(), &entity.labels["app"]), ("Deployment/cart", &"cart-1".to_owned()));
        let other = Change::Set(UID.to_owned(), pod("cart-1", "cart-2"));
        assert!(entities.apply_pods(other).added.is_empty(), "its name is the same");
        assert_eq!(entities.get(id).expect("live").owner, "Deployment/cart-2");
        let thief = Change::All([(UID.to_owned(), pod("spoof", "thief"))].into());
        assert!(entities.apply_pods(thief).added.is_empty());
        let entity = entities.get(id).expect("live");
        assert_eq!((entity.display().as_str(), entity.owner.as_str()), ("shop/cart-1", "Deployment/cart-2"));
    }
}
