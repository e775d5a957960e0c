//! Follows this node's pods: a list, and a watch that goes on where it was cut off.
//!
//! Of a pod only what [`Pod`] has is kept while it is decoded. The library goes on where a watch ended, lists
//! anew after `410 Gone`, gives up a silent connection after [`WATCH`], and reads a service account's token
//! again as it rotates. What fails is tried again from the list on, later each time and not at once on all
//! nodes (0.8 s to 30 s, with jitter): a list answers at once, and so tells that the API server is back, where
//! a watch would be silent until a pod changes.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::pin::pin;
use std::time::Duration;

use futures_util::StreamExt as _;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::Api;
use kube::client::ClientBuilder;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::watcher;
use kube::{Client, Config};
use serde::{Deserialize, Deserializer};
use tokio::time::timeout;
use tower::limit::RateLimitLayer;

use crate::pods::{Owner, Pod, PodChange, PodName};
use crate::text::cause;

/// How long one watch lasts before the next one goes on from there: a connection that went silent is
/// noticed some seconds later.
const WATCH: u32 = 240;
/// How long connecting may take.
const CONNECT: Duration = Duration::from_secs(10);
/// Time between two attempts to find out how to reach the API server at all.
const AGAIN: Duration = Duration::from_secs(15);
/// Requests within a time, at most: the library asks again at once for a watch that ends at once, as one
/// through a broken proxy does, and each node of a cluster would.
const REQUESTS: u64 = 5;
/// See [`REQUESTS`].
const PER: Duration = Duration::from_secs(10);
/// Longest pause before it is tried again.
const LONGEST: Duration = Duration::from_secs(30);
/// A watch that is refused is refused within this time.
const SETTLED: Duration = Duration::from_secs(2);
/// Pods of this node that are kept; a kubelet runs some hundreds at most.
const MAX_PODS: usize = 4096;
/// Labels of a pod that are kept, and bytes of a value, which Kubernetes bounds to 63.
const MAX_LABELS: usize = 16;
const MAX_LABEL: usize = 63;

/// What is followed, and how.
#[derive(Debug, Clone)]
pub struct Options {
    /// Name of this node in the API.
    pub node: String,
    /// A kubeconfig file; empty for the service account of the pod that this runs in.
    pub kubeconfig: PathBuf,
    /// Keys of labels that are kept.
    pub labels: Vec<String>,
}

/// What following tells.
#[derive(Debug)]
pub enum Told {
    /// A change of the pods. All that came before it are known.
    Pods(PodChange),
    /// The watch goes on: whatever changes will be told.
    Watching,
    /// It does not work now, and why; it goes on trying.
    Failed(String),
    /// The API server has more pods for this node than are kept.
    LeftOut(usize),
}

/// Whether this process runs in a pod that may ask the API server.
pub fn is_in_cluster() -> bool {
    std::env::var_os("KUBERNETES_SERVICE_HOST").is_some()
}

/// Tells of this node's pods until it is dropped.
pub async fn follow(options: Options, mut tell: impl FnMut(Told)) {
    let client = loop {
        match client(&options).await {
            Ok(client) => break client,
            Err(why) => tell(Told::Failed(why)),
        }
        tokio::time::sleep(AGAIN).await;
    };
    for pause in watcher::DefaultBackoff::default() {
        let why = pods(client.clone(), &options, &mut tell).await;
        tell(Told::Failed(why));
        // The library's jitter doubles its longest pause at most.
        tokio::time::sleep(if pause > LONGEST { pause / 2 } else { pause }).await;
    }
}

async fn client(options: &Options) -> Result<Client, String> {
    let mut config = if options.kubeconfig.as_os_str().is_empty() {
        Config::incluster().map_err(|error| cause::chain(&error))?
    } else {
        let words = |error: kube::config::KubeconfigError| {
            format!("{}: {}", options.kubeconfig.display(), cause::chain(&error))
        };
        let file = Kubeconfig::read_from(&options.kubeconfig).map_err(words)?;
        Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.map_err(words)?
    };
    config.connect_timeout = Some(CONNECT);
    // The watch repeats, and tells; the client would repeat for long before it does.
    config.default_retry = false;
    let builder = ClientBuilder::try_from(config).map_err(|error| cause::chain(&error))?;
    Ok(builder.with_layer(&RateLimitLayer::new(REQUESTS, PER)).build())
}

/// Lists and watches until something fails, and returns what.
async fn pods(client: Client, options: &Options, tell: &mut impl FnMut(Told)) -> String {
    // From the API server's memory: the state of some moments ago will do, and 5 000 nodes ask.
    let config = watcher::Config::default()
        .any_semantic()
        .timeout(WATCH)
        .fields(&format!("spec.nodeName={}", options.node));
    let mut events = pin!(watcher(Api::<NodePod>::all(client), config));
    let mut listed = BTreeMap::new();
    let mut left_out = 0;
    let (mut is_listed, mut is_watching) = (false, false);
    loop {
        let next = if is_listed && !is_watching {
            // A watch is not there because a list was: each is refused by itself.
            timeout(SETTLED, events.next()).await.ok()
        } else {
            Some(events.next().await)
        };
        let Some(event) = next else {
            is_watching = true;
            tell(Told::Watching);
            continue;
        };
        let Some(event) = event else { return "the watch of this node's pods ended".to_owned() };
        match event {
            Ok(watcher::Event::Init) => {
                listed.clear();
                left_out = 0;
            }
            Ok(watcher::Event::InitApply(pod)) => match pod.known(&options.labels) {
                Some(_) if listed.len() >= MAX_PODS => left_out += 1,
                Some((uid, pod)) => drop(listed.insert(uid, pod)),
                None => {}
            },
            Ok(watcher::Event::InitDone) => {
                tell(Told::Pods(PodChange::All(std::mem::take(&mut listed))));
                is_listed = true;
                if left_out > 0 {
                    tell(Told::LeftOut(left_out));
                }
            }
            Ok(watcher::Event::Apply(pod)) => {
                if let Some((uid, pod)) = pod.known(&options.labels) {
                    tell(Told::Pods(PodChange::Set(uid, pod)));
                }
            }
            Ok(watcher::Event::Delete(pod)) => tell(Told::Pods(PodChange::Gone(pod.uid()))),
            // What the watch would go on from is too old by now, so it lists anew.
            Err(watcher::Error::WatchError(status)) if status.code == 410 => {}
            Err(error) => return in_words(&error),
        }
    }
}

/// What a person can do something about.
fn in_words(error: &watcher::Error) -> String {
    let status = match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status))
        | watcher::Error::WatchFailed(kube::Error::Api(status))
        | watcher::Error::WatchError(status) => status,
        error => return format!("the API server cannot be reached: {}", innermost(error)),
    };
    match status.code {
        401 => "the API server does not accept who the agent says it is (401)".to_owned(),
        // It says who may not do what.
        403 => format!("{} (403): see the ClusterRole of the agent's manifests", status.message),
        code => format!("the API server answers {code}: {}", status.message),
    }
}

/// What went wrong, without the layers of the client through which it came: the same words whatever was asked.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

/// A pod as the API has it; what is not named here is skipped while it is decoded.
#[derive(Debug, Clone, Deserialize)]
struct NodePod {
    #[serde(deserialize_with = "metadata")]
    metadata: ObjectMeta,
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

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct PodIp {
    ip: String,
}

/// Metadata without what takes the most room and is of no use here, such as managedFields.
fn metadata<'de, D: Deserializer<'de>>(value: D) -> Result<ObjectMeta, D::Error> {
    #[derive(Default, Deserialize)]
    #[serde(default, rename_all = "camelCase")]
    struct Used {
        name: Option<String>,
        namespace: Option<String>,
        uid: Option<String>,
        resource_version: Option<String>,
        labels: Option<BTreeMap<String, String>>,
        annotations: Option<BTreeMap<String, String>>,
        owner_references: Option<Vec<OwnerReference>>,
    }
    let Used { name, namespace, uid, resource_version, labels, mut annotations, owner_references } =
        Used::deserialize(value)?;
    if let Some(annotations) = &mut annotations {
        annotations.retain(|key, _| [CONFIG_HASH, CONFIG_MIRROR].contains(&key.as_str()));
    }
    Ok(ObjectMeta {
        name,
        namespace,
        uid,
        resource_version,
        labels,
        annotations,
        owner_references,
        ..ObjectMeta::default()
    })
}

impl kube::Resource for NodePod {
    type DynamicType = ();
    type Scope = NamespaceResourceScope;

    fn kind((): &()) -> std::borrow::Cow<'_, str> {
        "Pod".into()
    }

    fn group((): &()) -> std::borrow::Cow<'_, str> {
        "".into()
    }

    fn version((): &()) -> std::borrow::Cow<'_, str> {
        "v1".into()
    }

    fn plural((): &()) -> std::borrow::Cow<'_, str> {
        "pods".into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

/// The uid by which the kubelet runs a static pod; the API server has only a mirror of it.
const CONFIG_HASH: &str = "kubernetes.io/config.hash";
/// What says that a pod is the mirror of a static one.
const CONFIG_MIRROR: &str = "kubernetes.io/config.mirror";
/// Label by which a Deployment tells the pods of its ReplicaSets apart.
const TEMPLATE_HASH: &str = "pod-template-hash";

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

    /// `None` for one whose name is none.
    fn known(self, allowed: &[String]) -> Option<(String, Pod)> {
        let (uid, owner) = (self.uid(), self.owner());
        let name = PodName::new(self.metadata.namespace.as_deref()?, self.metadata.name.as_deref()?)?;
        let labels = self.metadata.labels.unwrap_or_default();
        let is_kept = |key: &String, value: &String| allowed.contains(key) && value.len() <= MAX_LABEL;
        let labels = labels.into_iter().filter(|(key, value)| is_kept(key, value)).take(MAX_LABELS).collect();
        let ips = self.status.pod_ips.iter().filter_map(|ip| ip.ip.parse::<IpAddr>().ok()).collect();
        let pod =
            Pod { name, owner, labels, ips, phase: self.status.phase, host_network: self.spec.host_network };
        (!uid.is_empty()).then_some((uid, pod))
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
        let name = PodName::new("x", name)?.name;
        is_kind.then(|| Owner { kind: kind.to_owned(), name })
    }
}

#[cfg(test)]
mod tests {
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
        let (uid, known) = pod.known(&["app".to_owned()]).expect("its name is one");
        assert_eq!((uid.as_str(), known.name.to_string().as_str()), (UID, "shop/cart-7d9f-x"));
        assert_eq!(known.owner.map(|owner| owner.to_string()).as_deref(), Some("Deployment/cart"));
        assert_eq!(known.labels, [("app".to_owned(), "cart".to_owned())].into());
        assert_eq!((known.ips.len(), known.phase.as_str(), known.host_network), (2, "Running", false));
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
        let (uid, known) = annotated(HASH, "Node").known(&[]).expect("a name");
        assert_eq!((uid.as_str(), known.host_network), (HASH, true));
        assert_eq!(known.owner.map(|owner| owner.to_string()).as_deref(), Some("Node/n1"));
        let other = "7c5e8a3b-1f0d-4f6e-9c55-0a1b2c3d4e5f";
        assert_eq!(annotated(other, "Node").uid(), UID);
        assert_eq!(annotated(HASH, "ReplicaSet").uid(), UID);
    }

    #[test]
    fn a_pod_that_kubernetes_would_not_take_is_not_known() {
        let escapes = pod(r#"{"metadata":{"name":"a\u001b[2J","namespace":"shop","uid":"1"}}"#);
        assert!(escapes.known(&[]).is_none());
    }
}
