//! What is followed of a cluster, and what that tells.

use std::path::PathBuf;

use crate::peers::{Addressed, Service};
use crate::pods::{Change, Pod};
use crate::status::Resource;

/// What is followed, and how.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Name of this node in the API.
    pub node: String,
    /// A kubeconfig file; empty for the service account of the pod that this runs in.
    pub kubeconfig: PathBuf,
    /// Keys of labels that are kept.
    pub labels: Vec<String>,
    /// Whether Services and nodes are followed.
    pub peers: bool,
    /// Whether the pods of all nodes are.
    pub all_pods: bool,
}

impl Options {
    /// What is followed.
    pub fn resources(&self) -> Vec<Resource> {
        let peers = [Resource::Services, Resource::Nodes].into_iter().filter(|_| self.peers);
        let all_pods = [Resource::AllPods].into_iter().filter(|_| self.all_pods);
        [Resource::Pods].into_iter().chain(peers).chain(all_pods).collect()
    }
}

/// What following tells.
#[derive(Debug)]
pub enum Told {
    /// A change of this node's pods. All that came before it are known.
    Pods(Change<Pod>),
    /// A change of the Services.
    Services(Change<Service>),
    /// A change of the nodes.
    Nodes(Change<Addressed>),
    /// A change of the pods of all nodes.
    AllPods(Change<Addressed>),
    /// The watch goes on: whatever changes will be told.
    Watching(Resource),
    /// It does not work now, and why; it goes on trying.
    Failed(Resource, String),
    /// The API server has more of them than are kept.
    LeftOut(Resource, usize),
}
