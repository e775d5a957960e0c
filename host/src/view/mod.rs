//! Everything that can be looked at from outside, in one value that `http/` is given.
//!
//! [`exposition`] writes the series of plugins, with the labels that [`identity`] looks up, and
//! [`selfmetrics`] the agent's own.

pub mod exposition;
pub mod identity;
pub mod selfmetrics;

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::entities::Entities;
use crate::events::log::EventLog;
use crate::loss::Loss;
use crate::peers::Peers;
use crate::series::metrics::Metrics;
use crate::status::{Process, Status};

use exposition::{Format, encode};
use identity::{Identities, LabelNames};

/// The agent's core, shared with whoever shows them.
#[derive(Debug)]
pub struct View {
    /// Plugin series.
    pub metrics: Arc<Metrics>,
    /// Recent events.
    pub events: Arc<EventLog>,
    /// Who is who.
    pub entities: Arc<Entities>,
    /// Who is at the other end.
    pub peers: Arc<Peers>,
    /// State of every part.
    pub status: Arc<Status>,
    /// What was lost where.
    pub loss: Arc<Loss>,
    /// Name of this node.
    pub node: String,
    /// Revision of the source this agent was built from.
    pub revision: &'static str,
    /// What the labels of entities are called.
    pub labels: LabelNames,
}

impl View {
    /// One complete scrape.
    pub fn scrape(&self, process: &Process, format: Format, capacity: usize) -> Vec<u8> {
        let mut out = Vec::with_capacity(capacity);
        let mut identities = Identities::new(&self.entities, &self.node, &self.labels);
        encode(&mut out, &self.metrics, &mut identities, format);
        selfmetrics::encode(&mut out, self.snapshot(*process), format);
        if format == Format::OpenMetrics {
            out.extend_from_slice(b"# EOF\n");
        }
        out
    }
}

impl View {
    fn snapshot(&self, process: Process) -> selfmetrics::AgentState {
        let (mut entities, mut unentered) = (BTreeMap::new(), BTreeMap::new());
        for entity in self.entities.live() {
            *entities.entry(entity.kind.as_str()).or_default() += 1;
        }
        for namespace in self.entities.unentered() {
            *unentered.entry(namespace.kind.as_str()).or_default() += 1;
        }
        selfmetrics::AgentState {
            node: self.node.clone(),
            revision: self.revision,
            states: self.status.snapshot(),
            lost: self.loss.all(),
            events: self.events.counts(),
            entities,
            unentered,
            process,
        }
    }
}

#[cfg(test)]
impl View {
    /// A view on a node `n1` where nothing has happened.
    pub(crate) fn test() -> Arc<Self> {
        let (entities, loss) = (Arc::<Entities>::default(), Arc::<Loss>::default());
        let limits = crate::events::log::Limits { backlog: 100, ..Default::default() };
        Arc::new(Self {
            metrics: Arc::new(Metrics::new(Default::default(), Arc::clone(&entities), Arc::clone(&loss))),
            events: Arc::new(EventLog::new(limits, Arc::clone(&entities).into(), Arc::clone(&loss), "n1")),
            entities,
            peers: Arc::default(),
            status: Arc::default(),
            loss,
            node: "n1".to_owned(),
            revision: "test",
            labels: LabelNames::default(),
        })
    }

    /// Makes the host known with one address, beside those that are.
    pub(crate) fn test_host(&self, ip: &str) -> crate::entities::EntityId {
        let ips = vec![ip.parse().expect("an address")];
        self.test_netns(1, crate::entities::Kind::Host, "", ips)
    }

    /// Makes a named network namespace known, beside those that are.
    pub(crate) fn test_entity(&self, cookie: u64, name: &str) -> crate::entities::EntityId {
        self.test_netns(cookie, crate::entities::Kind::Netns, name, vec![])
    }

    fn test_netns(
        &self,
        cookie: u64,
        kind: crate::entities::Kind,
        name: &str,
        ips: Vec<std::net::IpAddr>,
    ) -> crate::entities::EntityId {
        use crate::entities::DiscoveredNetns;
        let again = |e: Arc<crate::entities::Entity>| DiscoveredNetns {
            cookie: e.cookie,
            inode: e.inode,
            kind: e.kind,
            namespace: e.namespace.clone(),
            name: e.name.clone(),
            ips: e.ips.clone(),
            ..DiscoveredNetns::default()
        };
        let name = name.to_owned();
        let new = DiscoveredNetns { cookie, inode: 7, kind, name, ips, ..DiscoveredNetns::default() };
        let all = self.entities.live().into_iter().map(again).chain([new]).collect();
        self.entities.apply_scan(all, 1, std::time::Instant::now());
        self.entities.stamp(cookie, 1)
    }
}
