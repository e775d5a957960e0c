//! A Service.

use serde::Deserialize;

use super::{Watched, addresses, metadata};
use crate::kubernetes::told::{Options, Told};
use crate::peers::{self, Service, ServicePort};
use crate::pods::{Change, ObjectName};
use crate::status::Resource;

/// Ports that are kept of one.
const MAX_PORTS: usize = 256;

/// A Service as the API has it; what is not named here is skipped while it is decoded.
#[derive(Debug, Clone, Deserialize)]
pub(in crate::kubernetes) struct ClusterService {
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
    #[serde(rename = "clusterIP")]
    cluster_ip: String,
    #[serde(rename = "clusterIPs")]
    cluster_ips: Vec<String>,
    #[serde(rename = "externalIPs")]
    external_ips: Vec<String>,
    external_traffic_policy: String,
    ports: Vec<Port>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Port {
    protocol: String,
    port: u16,
    node_port: u16,
    target_port: Target,
}

/// A number or the name of a container's port.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
enum Target {
    Number(u16),
    Name(String),
}

impl Default for Target {
    fn default() -> Self {
        Self::Number(0)
    }
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Status {
    load_balancer: LoadBalancer,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct LoadBalancer {
    ingress: Vec<Ingress>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Ingress {
    ip: String,
}

super::resource!(ClusterService, "Service", "services", k8s_openapi::NamespaceResourceScope);

impl Watched for ClusterService {
    type Known = Service;
    const RESOURCE: Resource = Resource::Services;

    fn key(&self) -> String {
        self.metadata.uid.clone().unwrap_or_default()
    }

    fn known(self, _: &Options) -> Option<Service> {
        let name = ObjectName::new(self.metadata.namespace.as_deref()?, self.metadata.name.as_deref()?)?;
        // "None" of a headless one is no address: its clients have those of its pods.
        let Spec { cluster_ip, cluster_ips, external_ips, external_traffic_policy, ports } = self.spec;
        let ingress = self.status.load_balancer.ingress;
        let ips = [cluster_ip].into_iter().chain(cluster_ips).chain(external_ips);
        let ips: Vec<_> = ips.chain(ingress.into_iter().map(|ingress| ingress.ip)).collect();
        let port = |port: Port| {
            let proto = peers::proto(if port.protocol.is_empty() { "TCP" } else { &port.protocol })?;
            let target = match port.target_port {
                Target::Number(0) => port.port.to_string(),
                Target::Number(number) => number.to_string(),
                Target::Name(name) => ObjectName::new("x", &name)?.name,
            };
            Some(ServicePort { proto, port: port.port, node_port: port.node_port, target })
        };
        Some(Service {
            name,
            ips: addresses(ips.iter().map(String::as_str)),
            ports: ports.into_iter().filter_map(port).take(MAX_PORTS).collect(),
            is_local: external_traffic_policy == "Local",
        })
    }

    fn told(change: Change<Service>) -> Told {
        Told::Services(change)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn service(spec: serde_json::Value) -> Option<Service> {
        let object = json!({ "metadata": { "name": "db", "namespace": "shop", "uid": "1" }, "spec": spec,
            "status": { "loadBalancer": { "ingress": [{ "ip": "192.0.2.7" }, { "hostname": "x" }] } } });
        serde_json::from_value::<ClusterService>(object).expect("a Service").known(&Options::default())
    }

    #[test]
    fn all_addresses_and_ports_of_it_are_known() {
        let found = service(json!({
            "clusterIP": "10.96.0.20", "clusterIPs": ["10.96.0.20", "fd00:96::20"], "externalIPs": ["198.51.100.1"],
            "externalTrafficPolicy": "Local", "selector": { "app": "db" },
            "ports": [
                { "name": "sql", "port": 5432, "targetPort": "sql", "nodePort": 30_432 },
                { "port": 53, "protocol": "UDP" },
                { "port": 1, "protocol": "QUIC" },
                { "port": 2, "targetPort": "a b" },
            ],
        }))
        .expect("its name is one");
        let ips: Vec<_> = found.ips.iter().map(ToString::to_string).collect();
        assert_eq!(ips, ["10.96.0.20", "fd00:96::20", "198.51.100.1", "192.0.2.7"]);
        let ports: Vec<_> =
            found.ports.iter().map(|p| (p.proto, p.port, p.node_port, p.target.as_str())).collect();
        assert_eq!(ports, [(6, 5432, 30_432, "sql"), (17, 53, 0, "53")]);
        assert_eq!((found.name.to_string().as_str(), found.is_local), ("shop/db", true));
    }

    #[test]
    fn a_headless_one_has_no_address_of_its_own() {
        let found =
            service(json!({ "clusterIP": "None", "clusterIPs": ["None"], "ports": [{ "port": 80 }] }));
        assert_eq!(found.expect("its name is one").ips.len(), 1, "that of its load balancer");
    }
}
