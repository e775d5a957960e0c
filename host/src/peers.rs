//! Who is at the other end, where that is no network namespace of this node: Services, nodes, and pods of
//! other nodes, by their addresses, as the API server has them.
//!
//! An address that two of them have names nobody. Nothing here does I/O.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock};

use crate::pods::{Change, ObjectName};

/// Number of a protocol by the name that Kubernetes and reports have for it.
pub fn proto(name: &str) -> Option<u8> {
    match name {
        "TCP" => Some(6),
        "UDP" => Some(17),
        "SCTP" => Some(132),
        _ => None,
    }
}

/// A Service, as far as it says what is behind an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Its name.
    pub name: ObjectName,
    /// Addresses that are its own: of the cluster, of a load balancer, external ones.
    pub ips: Vec<IpAddr>,
    /// Its ports.
    pub ports: Vec<ServicePort>,
    /// Connections from outside go to pods of the node that they reach only (`externalTrafficPolicy: Local`).
    pub is_local: bool,
}

/// A port of a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServicePort {
    /// IP protocol.
    pub proto: u8,
    /// Port at its own addresses.
    pub port: u16,
    /// Port at the addresses of nodes; 0 if there is none.
    pub node_port: u16,
    /// Port of its pods, a number or a name (`targetPort`).
    pub target: String,
}

/// A node, or a pod of another one, by its addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Addressed {
    /// Its name; of a pod `NAMESPACE/NAME`.
    pub name: String,
    /// Its addresses.
    pub ips: Vec<IpAddr>,
}

/// Where a client connects to a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Meeting {
    /// The Service.
    pub service: Arc<Service>,
    /// The port that was met.
    pub port: ServicePort,
    /// At a node's address, and not at the Service's own.
    pub is_node_port: bool,
}

/// All of them.
#[derive(Debug, Default)]
pub struct Peers {
    table: RwLock<Table>,
}

#[derive(Debug, Default)]
struct Table {
    services: BTreeMap<String, Arc<Service>>,
    nodes: BTreeMap<String, Arc<Addressed>>,
    pods: BTreeMap<String, Arc<Addressed>>,
    by_ip: HashMap<IpAddr, Vec<Owner>>,
    by_node_port: HashMap<(u8, u16), Vec<Arc<Service>>>,
}

#[derive(Debug, Clone)]
enum Owner {
    Service(Arc<Service>),
    Node(Arc<Addressed>),
    Pod(Arc<Addressed>),
}

impl Owner {
    fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Service(one), Self::Service(other)) => Arc::ptr_eq(one, other),
            (Self::Node(one), Self::Node(other)) | (Self::Pod(one), Self::Pod(other)) => {
                Arc::ptr_eq(one, other)
            }
            _ => false,
        }
    }

    fn ips(&self) -> &[IpAddr] {
        match self {
            Self::Service(service) => &service.ips,
            Self::Node(addressed) | Self::Pod(addressed) => &addressed.ips,
        }
    }

    fn display(&self) -> String {
        match self {
            Self::Service(service) => format!("service/{}", service.name),
            Self::Node(node) => format!("node/{}", node.name),
            Self::Pod(pod) => pod.name.clone(),
        }
    }
}

impl Peers {
    /// The only one that has an address: `service/NAMESPACE/NAME`, `node/NAME`, and of a pod
    /// `NAMESPACE/NAME`.
    pub fn name(&self, ip: IpAddr) -> Option<String> {
        match self.read().by_ip.get(&ip.to_canonical())?.as_slice() {
            [one] => Some(one.display()),
            _ => None,
        }
    }

    /// The Service that a client meets at an address and port; `is_node` says whether an address is that
    /// of this node, as nodes are not known everywhere.
    pub fn service(
        &self,
        proto: u8,
        ip: IpAddr,
        port: u16,
        is_node: impl Fn(IpAddr) -> bool,
    ) -> Option<Meeting> {
        let (table, ip) = (self.read(), ip.to_canonical());
        let owners = table.by_ip.get(&ip).map_or(&[][..], Vec::as_slice);
        let own = owners.iter().filter_map(|owner| match owner {
            Owner::Service(service) => Some((service, false)),
            _ => None,
        });
        let is_node = || is_node(ip) || owners.iter().any(|owner| matches!(owner, Owner::Node(_)));
        let nodes = table.by_node_port.get(&(proto, port)).filter(|_| is_node()).into_iter().flatten();
        let met = own.chain(nodes.map(|service| (service, true))).filter_map(|(service, is_node_port)| {
            let at = |known: &&ServicePort| {
                if is_node_port { known.node_port == port } else { known.port == port }
            };
            let port = service.ports.iter().find(|known| known.proto == proto && at(known))?.clone();
            Some(Meeting { service: Arc::clone(service), port, is_node_port })
        });
        let met: Vec<_> = met.take(2).collect();
        <[_; 1]>::try_from(met).ok().map(|[one]| one)
    }

    /// Takes in Services, and tells how many there are.
    pub fn apply_services(&self, change: Change<Service>) -> usize {
        let mut table = self.write();
        let Table { services, by_ip, by_node_port, .. } = &mut *table;
        if apply(services, change, by_ip, Owner::Service) {
            by_node_port.clear();
            for service in services.values() {
                for port in service.ports.iter().filter(|port| port.node_port > 0) {
                    by_node_port.entry((port.proto, port.node_port)).or_default().push(Arc::clone(service));
                }
            }
        }
        services.len()
    }

    /// Takes in nodes, and tells how many there are.
    pub fn apply_nodes(&self, change: Change<Addressed>) -> usize {
        let mut table = self.write();
        let Table { nodes, by_ip, .. } = &mut *table;
        apply(nodes, change, by_ip, Owner::Node);
        nodes.len()
    }

    /// Takes in pods of all nodes, and tells how many there are.
    pub fn apply_pods(&self, change: Change<Addressed>) -> usize {
        let mut table = self.write();
        let Table { pods, by_ip, .. } = &mut *table;
        apply(pods, change, by_ip, Owner::Pod);
        pods.len()
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, Table> {
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, Table> {
        self.table.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Changes one kind, and only what differs: nodes report themselves again and again. Tells whether anything
/// did.
fn apply<T: PartialEq>(
    known: &mut BTreeMap<String, Arc<T>>,
    change: Change<T>,
    by_ip: &mut HashMap<IpAddr, Vec<Owner>>,
    owner: impl Fn(Arc<T>) -> Owner,
) -> bool {
    let mut is_other = false;
    let mut replace = |known: &mut BTreeMap<String, Arc<T>>, uid: String, new: Option<T>| {
        if known.get(&uid).map(|before| &**before) == new.as_ref() {
            return;
        }
        is_other = true;
        if let Some(before) = known.remove(&uid).map(&owner) {
            for ip in before.ips() {
                let is_left = by_ip.get_mut(ip).is_some_and(|owners| {
                    owners.retain(|other| !other.is(&before));
                    !owners.is_empty()
                });
                if !is_left {
                    by_ip.remove(ip);
                }
            }
        }
        if let Some(new) = new.map(Arc::new) {
            let who = owner(Arc::clone(&new));
            who.ips().iter().for_each(|ip| by_ip.entry(*ip).or_default().push(who.clone()));
            known.insert(uid, new);
        }
    };
    match change {
        Change::All(all) => {
            let gone: Vec<_> = known.keys().filter(|uid| !all.contains_key(*uid)).cloned().collect();
            gone.into_iter().for_each(|uid| replace(known, uid, None));
            all.into_iter().for_each(|(uid, new)| replace(known, uid, Some(new)));
        }
        Change::Set(uid, new) => replace(known, uid, Some(new)),
        Change::Gone(uid) => replace(known, uid, None),
    }
    is_other
}

#[cfg(test)]
mod tests {
    use super::*;

    const TCP: u8 = 6;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn service(name: &str, address: &str, port: u16, node_port: u16) -> Service {
        let ports = vec![ServicePort { proto: TCP, port, node_port, target: "8080".to_owned() }];
        let name = ObjectName::new("shop", name).expect("a name");
        Service { name, ips: vec![ip(address)], ports, is_local: false }
    }

    fn node(name: &str, address: &str) -> Addressed {
        Addressed { name: name.to_owned(), ips: vec![ip(address)] }
    }

    fn met(peers: &Peers, address: &str, port: u16) -> Option<(String, bool)> {
        let met = peers.service(TCP, ip(address), port, |ip| ip.to_string() == "192.168.0.1");
        met.map(|met| (met.service.name.to_string(), met.is_node_port))
    }

    #[test]
    fn a_service_is_met_at_its_own_addresses_and_at_those_of_nodes() {
        let peers = Peers::default();
        let both = [
            ("a".to_owned(), service("web", "10.96.0.1", 80, 30_080)),
            ("b".to_owned(), service("db", "10.96.0.2", 80, 0)),
        ];
        peers.apply_services(Change::All(both.into()));
        peers.apply_nodes(Change::Set("n".to_owned(), node("n1", "192.168.0.2")));
        assert_eq!(met(&peers, "10.96.0.1", 80), Some(("shop/web".to_owned(), false)));
        assert_eq!(met(&peers, "::ffff:10.96.0.2", 80), Some(("shop/db".to_owned(), false)));
        for at in ["192.168.0.1", "192.168.0.2"] {
            assert_eq!(met(&peers, at, 30_080), Some(("shop/web".to_owned(), true)));
        }
        for (at, port) in [("10.96.0.1", 81), ("192.168.0.1", 80), ("192.168.0.9", 30_080)] {
            assert_eq!(met(&peers, at, port), None, "{at} {port}");
        }
        assert_eq!(peers.name(ip("10.96.0.1")).as_deref(), Some("service/shop/web"));
        assert_eq!(peers.name(ip("192.168.0.2")).as_deref(), Some("node/n1"));
    }

    #[test]
    fn an_address_of_two_names_nobody_until_one_is_gone() {
        let peers = Peers::default();
        peers.apply_pods(Change::Set("p".to_owned(), node("shop/cart", "10.0.0.7")));
        assert_eq!(peers.name(ip("10.0.0.7")).as_deref(), Some("shop/cart"));
        peers.apply_pods(Change::Set("q".to_owned(), node("shop/heir", "10.0.0.7")));
        assert_eq!(peers.name(ip("10.0.0.7")), None);
        peers.apply_pods(Change::Gone("p".to_owned()));
        assert_eq!(peers.name(ip("10.0.0.7")).as_deref(), Some("shop/heir"));
        peers.apply_pods(Change::Set("q".to_owned(), node("shop/heir", "10.0.0.8")));
        assert_eq!(
            (peers.name(ip("10.0.0.7")), peers.name(ip("10.0.0.8")).as_deref()),
            (None, Some("shop/heir"))
        );
        peers.apply_pods(Change::All(BTreeMap::new()));
        assert!(peers.read().by_ip.is_empty());
    }
}
