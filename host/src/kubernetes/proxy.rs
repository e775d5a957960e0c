//! Whether a proxy of the environment is meant for the API server.
//!
//! kube 5.0 compares `NO_PROXY` with the address of the proxy itself, so what it says is looked at here.

use std::env;
use std::net::IpAddr;

use ipnet::IpNet;

/// Whether `NO_PROXY` says that a host is reached without a proxy.
pub(super) fn is_direct(host: &str) -> bool {
    let set = ["NO_PROXY", "no_proxy"].into_iter().filter_map(|name| env::var(name).ok());
    set.filter(|hosts| !hosts.is_empty()).take(1).any(|hosts| names(&hosts, host))
}

/// Whether a list with commas names a host, as Go reads it and thereby kubectl: an address, a network, a
/// domain and all below it, with a dot before it only those below it, or `*` for everybody. Ports, which
/// Go also allows, are not told apart.
fn names(hosts: &str, host: &str) -> bool {
    let host = host.trim_matches(['[', ']']).to_lowercase();
    let address: Option<IpAddr> = host.parse().ok();
    let is_named = |entry: &str| {
        let domain = entry.trim_start_matches('*').trim_start_matches('.');
        let network: Option<IpNet> = entry.parse().ok();
        let is_inside = network.zip(address).is_some_and(|(network, address)| network.contains(&address));
        entry == "*" || entry == host || host.ends_with(&format!(".{domain}")) || is_inside
    };
    let entries = hosts.split(',').map(|entry| entry.trim().to_lowercase());
    entries.filter(|entry| !entry.is_empty()).any(|entry| is_named(&entry))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_named_by_itself_its_domain_and_its_network() {
        for hosts in ["*", "a.b, k8s.corp", ".corp,", "corp", "*.corp", "K8S.CORP"] {
            assert!(names(hosts, "k8s.corp"), "{hosts}");
        }
        for hosts in ["", ",", "xcorp", "k8s", "10.0.0.0/8"] {
            assert!(!names(hosts, "k8s.corp"), "{hosts}");
        }
        assert!(
            names("10.0.0.0/8", "10.1.2.3")
                && names("fd00::/8", "[fd00::1]")
                && names("10.1.2.3", "10.1.2.3")
        );
        assert!(!names("10.0.0.0/8", "11.1.2.3"));
    }
}
