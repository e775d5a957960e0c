//! What is known of a pod beside its network namespace, and who said so.
//!
//! A pod is known by the uid that stands in its cgroup path: of a static pod that is the hash of its
//! file, and not the uid of the mirror pod that the API server has. Nothing here does I/O.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// Who said what an entity is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NamedBy {
    /// Nobody: the host, and what only a number is known of.
    #[default]
    Nobody,
    /// The file in `/run/netns`.
    Netns,
    /// Its cgroup path, which has the uid of a pod or the id of a container, and no name.
    Cgroup,
    /// The configuration that the container runtime keeps of its sandbox.
    Runtime,
    /// The kubelet, by the folder of its logs.
    PodLogs,
    /// The API server.
    Api,
}

impl NamedBy {
    /// As in JSON and in tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Nobody => "nobody",
            Self::Netns => "netns",
            Self::Cgroup => "cgroup",
            Self::Runtime => "runtime",
            Self::PodLogs => "pod-logs",
            Self::Api => "api",
        }
    }
}

/// Namespace and name of a pod or a Service.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ObjectName {
    /// Kubernetes namespace.
    pub namespace: String,
    /// Name in it.
    pub name: String,
}

impl ObjectName {
    /// A name as Kubernetes has them: DNS labels and subdomains. Anything else is none, wherever it was
    /// read: it becomes a label value, a part of suggested commands and a word on terminals.
    pub fn new(namespace: &str, name: &str) -> Option<Self> {
        let is_valid = is_dns(namespace, 63) && is_dns(name, 253);
        is_valid.then(|| Self { namespace: namespace.to_owned(), name: name.to_owned() })
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

fn is_dns(text: &str, max: usize) -> bool {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.".contains(&byte);
    (1..=max).contains(&text.len()) && text.bytes().all(allowed)
}

/// Who keeps a pod running: a Deployment rather than its ReplicaSet, a CronJob rather than its Job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// Its kind, e.g. `Deployment`.
    pub kind: String,
    /// Its name, in the pod's namespace.
    pub name: String,
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.kind, self.name)
    }
}

/// What the API server knows of a pod of this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pod {
    /// Its name.
    pub name: ObjectName,
    /// Who keeps it running, if anybody does.
    pub owner: Option<Owner>,
    /// Labels, of those only whose keys the configuration allows.
    pub labels: BTreeMap<String, String>,
    /// Its addresses.
    pub ips: Vec<IpAddr>,
    /// It was asked to end, and ends within its grace period.
    pub is_terminating: bool,
    /// `Pending`, `Running`, `Succeeded`, `Failed` or `Unknown`.
    pub phase: String,
    /// It has no network namespace of its own, and lives in the host's.
    pub host_network: bool,
}

/// A change of what the API server knows of one kind of objects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change<T> {
    /// All of them, after a list: what is not among them is gone.
    All(BTreeMap<String, T>),
    /// One, by its uid, that is new or changed.
    Set(String, T),
    /// One that is gone, by its uid.
    Gone(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_kubernetes_would_take_is_a_name() {
        assert_eq!(
            ObjectName::new("shop", "cart-7d9f.a").map(|p| p.to_string()).as_deref(),
            Some("shop/cart-7d9f.a")
        );
        for (namespace, name) in
            [("", "x"), ("x", ""), ("a b", "x"), ("x", "a\u{1b}[31m"), ("x", "A"), ("x/y", "z")]
        {
            assert_eq!(ObjectName::new(namespace, name), None, "{namespace} {name}");
        }
        assert_eq!(ObjectName::new("x", &"a".repeat(254)), None);
    }
}
