//! The labels by which the host says whose a series is, looked up once per entity and scrape.
//!
//! A plugin cannot set these labels, so no plugin can pass off a series as another entity's.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

use crate::entities::{Entities, EntityId, Kind};
use crate::series::family::push_label;

/// What the labels that the host sets are called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabelNames {
    /// Kubernetes namespace.
    pub namespace: String,
    /// Pod or other name.
    pub pod: String,
    /// Node the agent runs on.
    pub node: String,
}

impl Default for LabelNames {
    fn default() -> Self {
        Self { namespace: "namespace".to_owned(), pod: "pod".to_owned(), node: "node".to_owned() }
    }
}

/// The host's labels of each entity, looked up once per scrape.
#[derive(Debug)]
pub struct Identities<'a> {
    entities: &'a Entities,
    node: &'a str,
    names: &'a LabelNames,
    by_entity: HashMap<EntityId, Option<u32>, BuildHasherDefault<IdHasher>>,
    known: Vec<Identity>,
    by_labels: HashMap<Arc<str>, u32>,
}

/// Labels of one entity, or of several that are called the same.
#[derive(Debug)]
pub(crate) struct Identity {
    /// `{namespace="…",pod="…",node="…"`
    pub(crate) labels: Arc<str>,
    /// Several entities are called so.
    pub(crate) shared: bool,
}

impl<'a> Identities<'a> {
    /// Nobody is looked up yet.
    pub fn new(entities: &'a Entities, node: &'a str, names: &'a LabelNames) -> Self {
        let (by_entity, known, by_labels) = (HashMap::default(), Vec::new(), HashMap::new());
        Self { entities, node, names, by_entity, known, by_labels }
    }

    /// The number of an entity's identity; `None` for an entity that is forgotten: what is left of it is not shown.
    pub(crate) fn number(&mut self, id: EntityId) -> Option<u32> {
        if let Some(number) = self.by_entity.get(&id) {
            return *number;
        }
        let number = self.labels(id).map(|labels| {
            let next = self.known.len() as u32;
            let number = *self.by_labels.entry(Arc::clone(&labels)).or_insert(next);
            match self.known.get_mut(number as usize) {
                Some(identity) => identity.shared = true,
                None => self.known.push(Identity { labels, shared: false }),
            }
            number
        });
        self.by_entity.insert(id, number);
        number
    }

    fn labels(&self, id: EntityId) -> Option<Arc<str>> {
        let entity = if id == 0 { None } else { Some(self.entities.get(id)?) };
        let (namespace, pod) = match &entity {
            None => ("", "unknown"),
            Some(host) if host.kind == Kind::Host => ("", ""),
            Some(entity) => (entity.namespace.as_str(), entity.name.as_str()),
        };
        let mut labels = String::from("{");
        push_label(&mut labels, &self.names.namespace, namespace);
        labels.push(',');
        push_label(&mut labels, &self.names.pod, pod);
        labels.push(',');
        push_label(&mut labels, &self.names.node, self.node);
        Some(labels.into())
    }

    /// The identity of a number that [`Identities::number`] gave.
    pub(crate) fn identity(&self, number: u32) -> &Identity {
        &self.known[number as usize]
    }
}

/// Spreads consecutive ids. The default hasher's protection against chosen keys costs more than the
/// rest of a line and is not needed: the agent itself assigns ids, and `metrics` takes no others.
#[derive(Debug, Default)]
struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u32(u32::from(*byte));
        }
    }

    fn write_u32(&mut self, id: u32) {
        self.0 = (self.0 ^ u64::from(id)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}
