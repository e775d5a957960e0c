//! Rules of kube-proxy for one Service, as its two modes write them (Kubernetes 1.36, `pkg/proxy/iptables` and
//! `pkg/proxy/nftables`): the chains that a packet goes through, with their comments, shortened to one Service
//! and one endpoint. IPv4 only.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddrV4};

use anyhow::Result;

use super::Namespace;
use super::tool::feed;

/// How kube-proxy writes its rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// `--proxy-mode=iptables`.
    Iptables,
    /// `--proxy-mode=nftables`.
    Nftables,
}

/// What kube-proxy knows of a Service with one port.
#[derive(Debug, Clone)]
pub struct Routed {
    /// `NAMESPACE/NAME`.
    pub name: &'static str,
    /// `tcp` or `udp`.
    pub proto: &'static str,
    /// Cluster IP and port.
    pub at: SocketAddrV4,
    /// Address of the node and node port, if it has one.
    pub node_port: Option<SocketAddrV4>,
    /// Its endpoint that is used on this node.
    pub endpoint: Option<SocketAddrV4>,
    /// `externalTrafficPolicy: Local`, and no endpoint is on this node.
    pub is_without_local: bool,
}

/// The mark of what is to be masqueraded.
const MARK: &str = "0x4000";
/// What kube-proxy takes a hash of for the names of its chains.
const HASH: &str = "ULMVA6XWZJ4RHQ2L";

impl Routed {
    /// Writes its rules on a node.
    ///
    /// # Errors
    /// If the tool refuses them.
    pub fn write(&self, on: &Namespace, mode: Mode) -> Result<()> {
        match mode {
            Mode::Iptables => {
                let rules = self.iptables();
                on.run(|| feed("iptables-nft-restore", "--noflush", &rules).map(drop))
            }
            Mode::Nftables => on.nft(&self.nftables()),
        }
    }

    fn iptables(&self) -> String {
        let Self { name, proto, at, node_port, endpoint, is_without_local } = self;
        let (ip, port) = (at.ip(), at.port());
        let mut nat = format!(
            "*nat\n:KUBE-SERVICES - [0:0]\n:KUBE-NODEPORTS - [0:0]\n:KUBE-MARK-MASQ - [0:0]\n:KUBE-POSTROUTING - [0:0]\n\
             :KUBE-SVC-{HASH} - [0:0]\n:KUBE-EXT-{HASH} - [0:0]\n:KUBE-SEP-{HASH} - [0:0]\n\
             -A PREROUTING -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES\n\
             -A OUTPUT -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES\n\
             -A POSTROUTING -m comment --comment \"kubernetes postrouting rules\" -j KUBE-POSTROUTING\n\
             -A KUBE-MARK-MASQ -j MARK --or-mark {MARK}\n\
             -A KUBE-POSTROUTING -m mark ! --mark {MARK}/{MARK} -j RETURN\n\
             -A KUBE-POSTROUTING -j MARK --xor-mark {MARK}\n\
             -A KUBE-POSTROUTING -m comment --comment \"kubernetes service traffic requiring SNAT\" -j MASQUERADE --random-fully\n"
        );
        let mut filter = "*filter\n:KUBE-SERVICES - [0:0]\n:KUBE-EXTERNAL-SERVICES - [0:0]\n\
             -A INPUT -m conntrack --ctstate NEW -m comment --comment \"kubernetes externally-visible service portals\" -j KUBE-EXTERNAL-SERVICES\n\
             -A FORWARD -m conntrack --ctstate NEW -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES\n\
             -A FORWARD -m conntrack --ctstate NEW -m comment --comment \"kubernetes externally-visible service portals\" -j KUBE-EXTERNAL-SERVICES\n\
             -A OUTPUT -m conntrack --ctstate NEW -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES\n"
            .to_owned();
        let refuse = "-j REJECT --reject-with icmp-port-unreachable";
        match endpoint {
            Some(endpoint) => {
                let _ = write!(
                    nat,
                    "-A KUBE-SERVICES -d {ip}/32 -p {proto} -m comment --comment \"{name} cluster IP\" -m {proto} --dport {port} -j KUBE-SVC-{HASH}\n\
                     -A KUBE-EXT-{HASH} -m comment --comment \"masquerade traffic for {name} external destinations\" -j KUBE-MARK-MASQ\n\
                     -A KUBE-EXT-{HASH} -j KUBE-SVC-{HASH}\n\
                     -A KUBE-SVC-{HASH} -m comment --comment \"{name} -> {endpoint}\" -j KUBE-SEP-{HASH}\n\
                     -A KUBE-SEP-{HASH} -s {host}/32 -m comment --comment \"{name}\" -j KUBE-MARK-MASQ\n\
                     -A KUBE-SEP-{HASH} -p {proto} -m comment --comment \"{name}\" -m {proto} -j DNAT --to-destination {endpoint}\n",
                    host = endpoint.ip(),
                );
            }
            None => {
                let _ = writeln!(
                    filter,
                    "-A KUBE-SERVICES -d {ip}/32 -p {proto} -m comment --comment \"{name} has no endpoints\" -m {proto} --dport {port} {refuse}"
                );
            }
        }
        if let Some(node) = node_port {
            let to = format!("-m {proto} --dport {}", node.port());
            let _ = match (is_without_local, endpoint) {
                (true, _) => writeln!(
                    filter,
                    "-A KUBE-EXTERNAL-SERVICES -p {proto} -m comment --comment \"{name} has no local endpoints\" -m addrtype --dst-type LOCAL {to} -j DROP"
                ),
                (false, None) => writeln!(
                    filter,
                    "-A KUBE-EXTERNAL-SERVICES -p {proto} -m comment --comment \"{name} has no endpoints\" -m addrtype --dst-type LOCAL {to} {refuse}"
                ),
                (false, Some(_)) => writeln!(
                    nat,
                    "-A KUBE-NODEPORTS -p {proto} -m comment --comment \"{name}\" {to} -j KUBE-EXT-{HASH}"
                ),
            };
        }
        nat.push_str(
            "-A KUBE-SERVICES -m comment --comment \"kubernetes service nodeports; NOTE: this must be the last rule in this chain\" -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS\n",
        );
        format!("{nat}COMMIT\n{filter}COMMIT\n")
    }

    fn nftables(&self) -> String {
        let Self { name, proto, at, node_port, endpoint, is_without_local } = self;
        let (ip, port) = (at.ip(), at.port());
        let elements =
            |of: Option<String>| of.map_or_else(String::new, |of| format!("elements = {{ {of} }}"));
        let service = format!("service-{HASH}-{name}/{proto}/");
        let external = format!("external-{HASH}-{name}/{proto}/");
        let nodes = elements(node_port.map(|node| node.ip().to_string()));
        let is_used = endpoint.is_some();
        let node_verdict =
            |verdict: String| node_port.map(|node| format!("{proto} . {} : {verdict}", node.port()));
        let (used_nodes, unused_nodes) = match (is_without_local, is_used) {
            (true, _) => (None, node_verdict("drop".to_owned())),
            (false, true) => (node_verdict(format!("goto {external}")), None),
            (false, false) => (None, node_verdict("goto reject-chain".to_owned())),
        };
        let own = |verdict: String| format!("{ip} . {proto} . {port} : {verdict}");
        let used = elements(is_used.then(|| own(format!("goto {service}"))));
        let unused = elements((!is_used).then(|| own("goto reject-chain".to_owned())));
        let (used_nodes, unused_nodes) = (elements(used_nodes), elements(unused_nodes));
        let endpoint = endpoint.unwrap_or(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0));
        let chain = format!("endpoint-{HASH}-{name}/{proto}/__{}/{}", endpoint.ip(), endpoint.port());
        let to = if is_used { format!("meta l4proto {proto} dnat to {endpoint}") } else { String::new() };
        let key = "ip daddr . meta l4proto . th dport";
        format!(
            "table ip kube-proxy {{
                set nodeport-ips {{ type ipv4_addr; {nodes}; }}
                map service-ips {{ type ipv4_addr . inet_proto . inet_service : verdict; {used}; }}
                map service-nodeports {{ type inet_proto . inet_service : verdict; {used_nodes}; }}
                map no-endpoint-services {{ type ipv4_addr . inet_proto . inet_service : verdict; {unused}; }}
                map no-endpoint-nodeports {{ type inet_proto . inet_service : verdict; {unused_nodes}; }}
                chain reject-chain {{ reject; }}
                chain mark-for-masquerade {{ meta mark set meta mark or {MARK}; }}
                chain masquerading {{
                    meta mark and {MARK} == 0 return
                    meta mark set meta mark xor {MARK}
                    masquerade fully-random
                }}
                chain {chain} {{ {to}
                }}
                chain {service} {{ numgen random mod 1 vmap {{ 0 : goto {chain} }}; }}
                chain {external} {{ jump mark-for-masquerade; goto {service}; }}
                chain services {{
                    {key} vmap @service-ips
                    ip daddr @nodeport-ips meta l4proto . th dport vmap @service-nodeports
                }}
                chain service-endpoints-check {{ {key} vmap @no-endpoint-services; }}
                chain nodeport-endpoints-check {{ ip daddr @nodeport-ips meta l4proto . th dport vmap @no-endpoint-nodeports; }}
                chain filter-input {{ type filter hook input priority filter; ct state new jump nodeport-endpoints-check; ct state new jump service-endpoints-check; }}
                chain filter-forward {{ type filter hook forward priority filter; ct state new jump service-endpoints-check; }}
                chain filter-output {{ type filter hook output priority filter; ct state new jump service-endpoints-check; }}
                chain nat-prerouting {{ type nat hook prerouting priority dstnat; jump services; }}
                chain nat-output {{ type nat hook output priority -100; jump services; }}
                chain nat-postrouting {{ type nat hook postrouting priority srcnat; jump masquerading; }}
            }}\n"
        )
        .replace("; ; }", "; }")
    }
}
