//! A pod of this node.

use serde::Deserialize;

use super::addressed::PodIp;
use super::{CONFIG_HASH, CONFIG_MIRROR, Watched, addresses, metadata};
use crate::kubernetes::told::{Options, Told};
use crate::pods::{Change, ObjectName, Owner, Pod};
use crate::status::Resource;

/// Labels of a pod that are kept, and bytes of a value, which Kubernetes bounds to 63.
const MAX_LABELS: usize = 16;
const MAX_LABEL: usize = 63;

/// A pod as the API has it; what is not named here is skipped while it is decoded.
#[derive(Debug, Clone, Deserialize)]
pub(in crate::kubernetes) struct NodePod {
    #[serde(deserialize_with = "metadata")]
    metadata: kube::api::ObjectMeta,
    #[serde(default)]
    spec: Spec,
    #[serde(default)]
    status: Status,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Spec {
    host_network: bool,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Status {
    phase: String,
    #[serde(rename = "podIPs")]
    pod_ips: Vec<PodIp>,
}

super::resource!(NodePod, "Pod", "pods", k8s_openapi::NamespaceResourceScope);

/// Label by which a Deployment tells the pods of its ReplicaSets apart.
const TEMPLATE_HASH: &str = "pod-template-hash";

impl Watched for NodePod {
    type Known = Pod;
    const RESOURCE: Resource = Resource::Pods;

    fn key(&self) -> String {
        self.uid()
    }

    fn known(self, options: &Options) -> Option<Pod> {
        let owner = self.owner();
        let name = ObjectName::new(self.metadata.namespace.as_deref()?, self.metadata.name.as_deref()?)?;
        let labels = self.metadata.labels.unwrap_or_default();
        let is_kept = |key: &String, value: &String| options.labels.contains(key) && value.len() <= MAX_LABEL;
        Some(Pod {
            name,
            owner,
            labels: labels.into_iter().filter(|(key, value)| is_kept(key, value)).take(MAX_LABELS).collect(),
            ips: addresses(self.status.pod_ips.iter().map(|ip| ip.ip.as_str())),
            is_terminating: self.metadata.deletion_timestamp.is_some(),
            phase: self.status.phase,
            host_network: self.spec.host_network,
        })
    }

    fn told(change: Change<Pod>) -> Told {
        Told::Pods(change)
    }
}

impl NodePod {
    /// The uid in the pod's cgroup path.
    fn uid(&self) -> String {
        let annotation = |key: &str| self.metadata.annotations.as_ref()?.get(key);
        // Anybody may annotate a pod. What can be another pod's uid is not believed, and neither is a pod that
        // is no mirror: the kubelet makes a mirror its node's, and deletes those that are not its own.
        let is_hash = |text: &&String| text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let hash = annotation(CONFIG_HASH).filter(is_hash).filter(|_| annotation(CONFIG_MIRROR).is_some());
        let is_nodes = self.owner().is_some_and(|owner| owner.kind == "Node");
        hash.filter(|_| is_nodes).or(self.metadata.uid.as_ref()).cloned().unwrap_or_default()
    }

    fn owner(&self) -> Option<Owner> {
        let owners = self.metadata.owner_references.as_ref()?;
        let owner = owners.iter().find(|owner| owner.controller == Some(true))?;
        let hash = self.metadata.labels.as_ref().and_then(|labels| labels.get(TEMPLATE_HASH));
        let deployment = hash.and_then(|hash| owner.name.strip_suffix(hash.as_str())?.strip_suffix('-'));
        let (kind, name) = match deployment {
            Some(deployment) if owner.kind == "ReplicaSet" => ("Deployment", deployment),
            _ => (owner.kind.as_str(), owner.name.as_str()),
        };
        let is_kind = !kind.is_empty() && kind.bytes().all(|byte| byte.is_ascii_alphanumeric());
        let name = ObjectName::new("x", name)?.name;
        is_kind.then(|| Owner { kind: kind.to_owned(), name })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    const UID: &str = "6c5e8a3b-1f0d-4f6e-9c55-0a1b2c3d4e5f";
    const HASH: &str = "0123456789abcdef0123456789abcdef";

    fn pod(text: &str) -> NodePod {
        serde_json::from_str(text).expect("a pod")
    }

    #[test]
    fn of_a_pod_only_what_is_used_is_kept() {
        let pod = pod(&format!(
            r#"{{"metadata":{{"name":"cart-7d9f-x","namespace":"shop","uid":"{UID}","resourceVersion":"7",
            "labels":{{"app":"cart","secret":"x","pod-template-hash":"7d9f"}},
            "annotations":{{"big":"…"}},"managedFields":[{{"manager":"kubelet","fieldsV1":{{"f:x":{{}}}}}}],
            "ownerReferences":[{{"apiVersion":"apps/v1","kind":"ReplicaSet","name":"cart-7d9f","uid":"1","controller":true}}]}},
            "spec":{{"containers":[{{"name":"a"}}],"nodeName":"n1"}},
            "status":{{"phase":"Running","podIP":"10.0.0.7","podIPs":[{{"ip":"10.0.0.7"}},{{"ip":"fd00::7"}},{{"ip":"?"}}]}}}}"#
        ));
        assert_eq!(pod.metadata.managed_fields, None);
        assert_eq!(pod.metadata.annotations.as_ref().map(BTreeMap::len), Some(0));
        let options = Options { labels: vec!["app".to_owned()], ..Options::default() };
        let (uid, known) = (pod.key(), pod.known(&options).expect("its name is one"));
        assert_eq!((uid.as_str(), known.name.to_string().as_str()), (UID, "shop/cart-7d9f-x"));
        assert_eq!(known.owner.map(|owner| owner.to_string()).as_deref(), Some("Deployment/cart"));
        assert_eq!(known.labels, [("app".to_owned(), "cart".to_owned())].into());
        assert_eq!((known.ips.len(), known.phase.as_str(), known.host_network), (2, "Running", false));
        assert!(!known.is_terminating);
    }

    fn annotated(hash: &str, owner: &str) -> NodePod {
        pod(&format!(
            r#"{{"metadata":{{"name":"etcd-n1","namespace":"kube-system","uid":"{UID}",
            "annotations":{{"kubernetes.io/config.hash":"{hash}","kubernetes.io/config.mirror":"{hash}"}},
            "ownerReferences":[{{"apiVersion":"v1","kind":"{owner}","name":"n1","uid":"1","controller":true}}]}},
            "spec":{{"hostNetwork":true}}}}"#
        ))
    }

    #[test]
    fn a_static_pod_has_the_uid_of_its_cgroup_and_nobody_takes_anothers() {
        let pod = annotated(HASH, "Node");
        let (uid, known) = (pod.key(), pod.known(&Options::default()).expect("a name"));
        assert_eq!((uid.as_str(), known.host_network), (HASH, true));
        assert_eq!(known.owner.map(|owner| owner.to_string()).as_deref(), Some("Node/n1"));
        let other = "7c5e8a3b-1f0d-4f6e-9c55-0a1b2c3d4e5f";
        assert_eq!(annotated(other, "Node").uid(), UID);
        assert_eq!(annotated(HASH, "ReplicaSet").uid(), UID);
    }

    #[test]
    fn a_pod_that_kubernetes_would_not_take_is_not_known() {
        let escapes = pod(r#"{"metadata":{"name":"a\u001b[2J","namespace":"shop","uid":"1"}}"#);
        assert!(escapes.known(&Options::default()).is_none());
    }
}
