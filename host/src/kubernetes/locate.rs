//! On which nodes pods are, so that only their agents are asked.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::ListParams;

use super::access::Cluster;
use super::error::{Error, Permission};

/// Slices of a Service: each has 100 endpoints or more, and nobody asks about more.
const MAX_SLICES: u32 = 100;

/// Where a pod is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Located {
    /// Its node; none if it has none yet.
    pub node: Option<String>,
    /// It uses the network of its node, as which agents know it.
    pub is_host_network: bool,
}

impl Cluster {
    /// Where a pod is; none if there is no such pod, which may have been there.
    ///
    /// # Errors
    /// If the API server gives no answer.
    pub async fn pod(&self, namespace: &str, name: &str) -> Result<Option<Located>, Error> {
        let pods = self.objects::<Pod>(namespace);
        let pod = self.ask(&Permission::to("get", "pods", namespace), pods.get_opt(name)).await?;
        Ok(pod.map(|pod| {
            let spec = pod.spec.unwrap_or_default();
            let is_host_network = spec.host_network.unwrap_or_default();
            Located { node: spec.node_name.filter(|node| !node.is_empty()), is_host_network }
        }))
    }

    /// What is behind a Service.
    ///
    /// # Errors
    /// If the API server gives no answer.
    pub async fn behind(&self, namespace: &str, name: &str) -> Result<Behind, Error> {
        let slices = self.objects::<EndpointSlice>(namespace);
        let params =
            ListParams::default().labels(&format!("kubernetes.io/service-name={name}")).limit(MAX_SLICES);
        let permission = Permission::to("list", "endpointslices.discovery.k8s.io", namespace);
        Ok(Behind::of(self.ask(&permission, slices.list(&params)).await?.items, namespace))
    }
}

/// What is behind a Service.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Behind {
    /// Its pods, as `NAMESPACE/NAME`, with their nodes.
    pub pods: BTreeMap<String, Option<String>>,
    /// Number of endpoints to which connections go: those that are ready, of whatever kind.
    pub ready: usize,
    /// Number of all endpoints.
    pub all: usize,
}

impl Behind {
    /// Endpoints that are no pods are counted and not named: no agent is beside them.
    fn of(slices: Vec<EndpointSlice>, namespace: &str) -> Self {
        let mut behind = Self::default();
        for endpoint in slices.into_iter().flat_map(|slice| slice.endpoints) {
            behind.all += 1;
            // What is not said is to be read as ready (the API's documentation of EndpointConditions).
            let is_ready = endpoint.conditions.and_then(|conditions| conditions.ready).unwrap_or(true);
            behind.ready += usize::from(is_ready);
            let target = endpoint.target_ref.filter(|target| target.kind.as_deref() == Some("Pod"));
            if let Some((namespace, Some(name))) =
                target.map(|pod| (pod.namespace.unwrap_or_else(|| namespace.to_owned()), pod.name))
            {
                behind.pods.insert(format!("{namespace}/{name}"), endpoint.node_name);
            }
        }
        behind
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_pods_behind_a_service_are_those_of_all_its_slices() {
        let slice = |pod: &str, node: &str| {
            let target = json!({ "kind": "Pod", "namespace": "shop", "name": pod });
            json!({ "addressType": "IPv4", "endpoints": [
                { "addresses": ["10.0.0.1"], "nodeName": node, "targetRef": target },
                { "addresses": ["192.0.2.1"], "conditions": { "ready": node == "n1" } },
            ] })
        };
        let slices = [slice("db-0", "n1"), slice("db-1", "n2")];
        let slices = slices.map(|slice| serde_json::from_value(slice).expect("a slice")).into();
        let behind = Behind::of(slices, "shop");
        let expected = [("shop/db-0", "n1"), ("shop/db-1", "n2")];
        assert_eq!(behind.pods, expected.map(|(pod, node)| (pod.to_owned(), Some(node.to_owned()))).into());
        assert_eq!((behind.ready, behind.all), (3, 4));
    }
}
