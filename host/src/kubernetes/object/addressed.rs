//! Nodes, and pods of all nodes, of which only the addresses are known.

use serde::Deserialize;

use super::{Watched, addresses, metadata};
use crate::kubernetes::told::{Options, Told};
use crate::peers::Addressed;
use crate::pods::{Change, ObjectName};
use crate::status::Resource;

/// A node as the API has it; what is not named here is skipped while it is decoded.
#[derive(Debug, Clone, Deserialize)]
pub(in crate::kubernetes) struct ClusterNode {
    #[serde(deserialize_with = "metadata")]
    metadata: kube::api::ObjectMeta,
    #[serde(default)]
    status: NodeStatus,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct NodeStatus {
    addresses: Vec<Address>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Address {
    /// Those of the types `Hostname` and the like are none.
    address: String,
}

super::resource!(ClusterNode, "Node", "nodes", k8s_openapi::ClusterResourceScope);

impl Watched for ClusterNode {
    type Known = Addressed;
    const RESOURCE: Resource = Resource::Nodes;

    fn key(&self) -> String {
        self.metadata.uid.clone().unwrap_or_default()
    }

    fn known(self, _: &Options) -> Option<Addressed> {
        let name = ObjectName::new("x", self.metadata.name.as_deref()?)?.name;
        let ips = addresses(self.status.addresses.iter().map(|address| address.address.as_str()));
        Some(Addressed { name, ips })
    }

    fn told(change: Change<Addressed>) -> Told {
        Told::Nodes(change)
    }
}

/// A pod of any node.
#[derive(Debug, Clone, Deserialize)]
pub(in crate::kubernetes) struct ClusterPod {
    #[serde(deserialize_with = "metadata")]
    metadata: kube::api::ObjectMeta,
    #[serde(default)]
    spec: PodSpec,
    #[serde(default)]
    status: PodStatus,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct PodSpec {
    host_network: bool,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct PodStatus {
    phase: String,
    #[serde(rename = "podIPs")]
    pod_ips: Vec<PodIp>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct PodIp {
    pub(super) ip: String,
}

super::resource!(ClusterPod, "Pod", "pods", k8s_openapi::NamespaceResourceScope);

impl Watched for ClusterPod {
    type Known = Addressed;
    const RESOURCE: Resource = Resource::AllPods;

    fn key(&self) -> String {
        self.metadata.uid.clone().unwrap_or_default()
    }

    /// Not one that has the addresses of its node, or that has ended: another pod may have its address.
    fn known(self, _: &Options) -> Option<Addressed> {
        let name = ObjectName::new(self.metadata.namespace.as_deref()?, self.metadata.name.as_deref()?)?;
        let has_own =
            !self.spec.host_network && !matches!(self.status.phase.as_str(), "Succeeded" | "Failed");
        let ips = addresses(self.status.pod_ips.iter().map(|ip| ip.ip.as_str()));
        has_own.then(|| Addressed { name: name.to_string(), ips })
    }

    fn told(change: Change<Addressed>) -> Told {
        Told::AllPods(change)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_node_has_the_addresses_that_are_some() {
        let node = json!({ "metadata": { "name": "n1", "uid": "1" }, "status": { "addresses": [
            { "type": "InternalIP", "address": "192.168.0.1" }, { "type": "Hostname", "address": "n1" },
            { "type": "ExternalIP", "address": "192.168.0.1" }] } });
        let node = serde_json::from_value::<ClusterNode>(node).expect("a node").known(&Options::default());
        let ip = "192.168.0.1".parse().expect("an address");
        assert_eq!(node, Some(Addressed { name: "n1".to_owned(), ips: vec![ip] }));
    }

    #[test]
    fn a_pod_that_has_no_address_of_its_own_is_not_known_by_one() {
        let known = |spec, phase| {
            let pod = json!({ "metadata": { "name": "web", "namespace": "shop", "uid": "1" }, "spec": spec,
                "status": { "phase": phase, "podIPs": [{ "ip": "10.0.0.7" }] } });
            serde_json::from_value::<ClusterPod>(pod).expect("a pod").known(&Options::default()).is_some()
        };
        assert!(known(json!({}), "Running"));
        assert!(!known(json!({}), "Failed") && !known(json!({ "hostNetwork": true }), "Running"));
    }
}
