//! The agents of the cluster's nodes, found by the labels of their pods, and connections to their event
//! servers. Those listen on loopback only: whoever may forward ports of the pods may ask the agents.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use tokio::sync::Semaphore;

use super::access::Cluster;
use super::error::{Error, Permission};
use super::forward::Forward;
use crate::config::EVENTS_PORT;
use crate::text::escape::admit;

/// Objects of one page of a list, as kubectl has it.
const PAGE: u32 = 500;
/// Pages of a list: more objects than this no cluster has.
const MAX_PAGES: usize = 400;
/// Ports whose forwarding begins at the same time: a thousand at once would be a burden to the API server.
const OPENING: usize = 32;
/// Bytes of a reason of kubelet's.
const MAX_STATE: usize = 128;

/// The agents of a cluster.
pub struct Agents {
    /// Where they are.
    pub cluster: Cluster,
    namespace: String,
    selector: String,
    /// What was seen last, by node. Pods change with every upgrade, nodes stay.
    seen: Mutex<BTreeMap<String, Agent>>,
    opening: Semaphore,
}

/// The agent of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Agent {
    /// This pod answers.
    Ready(String),
    /// There is a pod, and it cannot be asked, for this reason.
    NotReady(String),
}

impl Agents {
    /// The agents of a cluster whose pods are in this namespace and have these labels.
    pub fn of(cluster: Cluster, namespace: String, selector: String) -> Self {
        Self { cluster, namespace, selector, seen: Mutex::default(), opening: Semaphore::new(OPENING) }
    }

    /// Looks for them, and remembers where they are.
    ///
    /// # Errors
    /// If the API server gives no list, or an empty one.
    pub async fn look(&self) -> Result<BTreeMap<String, Agent>, Error> {
        let found = by_node(self.pods().await?);
        if found.is_empty() {
            let (namespace, selector) = (self.namespace.clone(), self.selector.clone());
            return Err(Error::NoAgent { namespace, selector });
        }
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&found);
        Ok(found)
    }

    /// A new connection to the event server of a node's agent.
    ///
    /// # Errors
    /// If there is none that can be asked, or the API server refuses.
    pub async fn open(&self, node: &str) -> Result<Forward, Error> {
        let agent = self.seen.lock().unwrap_or_else(PoisonError::into_inner).get(node).cloned();
        let pod = match agent {
            Some(Agent::Ready(pod)) => pod,
            Some(Agent::NotReady(why)) => return Err(Error::NotReady { why }),
            None => return Err(Error::NotReady { why: NO_POD.to_owned() }),
        };
        let _place = self.opening.acquire().await;
        // What is missing of `get` and `create`, which it takes both, the refusal says.
        let permission = Permission::to("create", "pods/portforward", &self.namespace);
        let pods = self.cluster.objects::<Pod>(&self.namespace);
        let forwarder = self.cluster.ask(&permission, pods.portforward(&pod, &[EVENTS_PORT])).await?;
        let refused = || Error::Refused { permission, why: "no stream was opened".to_owned() };
        Forward::of(forwarder, EVENTS_PORT).ok_or_else(refused)
    }

    async fn pods(&self) -> Result<Vec<Pod>, Error> {
        let permission = Permission::to("list", "pods", &self.namespace);
        let api = self.cluster.objects::<Pod>(&self.namespace);
        let mut params = ListParams::default().labels(&self.selector).limit(PAGE);
        let mut pods = Vec::new();
        for _ in 0..MAX_PAGES {
            let page = self.cluster.ask(&permission, api.list(&params)).await?;
            pods.extend(page.items);
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params.continue_token = Some(token),
                None => return Ok(pods),
            }
        }
        Err(Error::Endless { permission })
    }
}

/// Why there is nobody to ask on a node.
pub const NO_POD: &str = "no pod of the agent is there";

/// The agent of each node. While it is replaced a node has two pods: the one that answers counts.
fn by_node(pods: Vec<Pod>) -> BTreeMap<String, Agent> {
    let mut agents = BTreeMap::new();
    for pod in pods {
        let name = pod.metadata.name.clone().unwrap_or_default();
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).filter(|node| !node.is_empty());
        // It has no node yet, which is why it does not run, and is to be told all the same.
        let node = node.unwrap_or_else(|| format!("(no node yet: {name})"));
        let agent = match why_not(&pod) {
            None => Agent::Ready(name),
            Some(why) => Agent::NotReady(format!("the agent's pod {why}")),
        };
        if !matches!(agents.get(&node), Some(Agent::Ready(_))) {
            agents.insert(node, agent);
        }
    }
    agents
}

/// Why a pod cannot be asked; none if it can.
fn why_not(pod: &Pod) -> Option<String> {
    if pod.metadata.deletion_timestamp.is_some() {
        return Some("is being deleted".to_owned());
    }
    let status = pod.status.clone().unwrap_or_default();
    let phase = status.phase.unwrap_or_else(|| "Unknown".to_owned());
    let mut conditions = status.conditions.iter().flatten();
    let is_ready = conditions.any(|condition| condition.type_ == "Ready" && condition.status == "True");
    if phase == "Running" && is_ready {
        return None;
    }
    let state = if phase == "Running" { "is not ready".to_owned() } else { format!("is {phase}") };
    let containers = status.container_statuses.into_iter().flatten();
    let waiting = containers.filter_map(|container| container.state?.waiting?.reason).next();
    let because = waiting.or(status.reason).map_or_else(String::new, |reason| format!(" ({reason})"));
    Some(admit(state + &because, MAX_STATE))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(name: &str, node: &str, status: Value) -> Pod {
        let pod = json!({ "metadata": { "name": name }, "spec": { "nodeName": node, "containers": [] }, "status": status });
        serde_json::from_value(pod).expect("a pod")
    }

    fn running(ready: &str) -> Value {
        json!({ "phase": "Running", "conditions": [{ "type": "Ready", "status": ready }] })
    }

    #[test]
    fn only_a_pod_that_runs_and_is_ready_is_asked_and_of_the_others_it_is_said_why() {
        let waiting = json!({ "phase": "Running", "containerStatuses": [{ "name": "a", "ready": false,
            "restartCount": 9, "image": "", "imageID": "", "state": { "waiting": { "reason": "CrashLoopBackOff" } } }] });
        let mut deleted = pod("d", "n5", running("True"));
        deleted.metadata.deletion_timestamp =
            serde_json::from_value(json!("2026-11-30T14:30:00Z")).expect("a time");
        let agents = by_node(vec![
            pod("a", "n1", running("True")),
            pod("b", "n2", json!({ "phase": "Pending" })),
            pod("c", "n3", waiting),
            pod("e", "n4", running("False")),
            deleted,
            pod("f", "", json!({ "phase": "Pend\u{1b}ing" })),
        ]);
        let why = |node: &str| match &agents[node] {
            Agent::Ready(pod) => format!("ask {pod}"),
            Agent::NotReady(why) => why.clone(),
        };
        assert_eq!(why("n1"), "ask a");
        assert_eq!(why("n2"), "the agent's pod is Pending");
        assert_eq!(why("n3"), "the agent's pod is not ready (CrashLoopBackOff)");
        assert_eq!(why("n4"), "the agent's pod is not ready");
        assert_eq!(why("n5"), "the agent's pod is being deleted");
        assert_eq!(why("(no node yet: f)"), "the agent's pod is Pend\\u{1b}ing");
    }

    #[test]
    fn while_an_agent_is_replaced_the_pod_that_answers_counts() {
        let both = [pod("new", "n", running("True")), pod("old", "n", running("False"))];
        for pods in [both.to_vec(), both.iter().rev().cloned().collect()] {
            assert_eq!(by_node(pods), [("n".to_owned(), Agent::Ready("new".to_owned()))].into());
        }
    }
}
