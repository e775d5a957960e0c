//! Findings about a Service, in the words of Kubernetes.
//!
//! Analyzers know addresses. What a client sends to the address of a Service is translated on its node. Where
//! it goes connection tracking says (such lines of evidence have `proto`, `sent_to` and `arrives_at`), or what
//! was seen elsewhere of the client's own address and port: the kernel deletes the entry of a connection
//! whose only answer is a reset at once. What is not translated has the address of the Service where it ends.

use std::net::{IpAddr, SocketAddr};

use crate::answers::flow::{Flow, SENT_TO};
use crate::answers::report::{Action, Evidence, Finding, Place, Role, join, merge};
use crate::entities::from_api::{Life, PodAt};
use crate::events::severity::Severity;
use crate::peers::{self, Meeting, Peers};
use crate::pods::ObjectName;

/// Nobody is behind a Service.
const NO_ENDPOINTS: &str = "service-without-endpoints";
/// Nobody on this node is, where only these are asked.
const NO_LOCAL_ENDPOINTS: &str = "service-without-local-endpoints";
/// It sends to a port where nobody listens.
const WRONG_PORT: &str = "service-port-not-listening";
/// It sends to a pod that ends.
const ENDING_BACKEND: &str = "service-backend-ending";
/// Codes of analyzers that are told in other words, if a Service is concerned.
const REJECTED: &str = "firewall-reject";
const DROPPED: &str = "firewall-drop";
const CLOSED_PORT: &str = "port-not-listening";
/// What a backend that ends makes its clients suffer.
const OF_ENDING: [&str; 5] =
    [CLOSED_PORT, "peer-unresponsive", "neighbour-unresolved", "stale-translation", "reset-by-peer"];

/// What addresses are known to be.
pub struct Names<'a> {
    /// Of the cluster.
    pub peers: &'a Peers,
    /// Whether an address is this node's own.
    pub is_node: &'a dyn Fn(IpAddr) -> bool,
    /// The pod of this node that has an address.
    pub pod: &'a dyn Fn(IpAddr) -> Option<PodAt>,
}

/// Words findings anew that concern a Service; the others stay as they are.
pub fn explain(findings: Vec<Finding>, names: &Names<'_>) -> Vec<Finding> {
    merge(findings.into_iter().flat_map(|finding| names.explain(finding)))
}

/// A Service to which nobody can connect. What a client meets depends on who routes to Services: mostly a
/// refusal, which looks like that of a firewall or of a closed port.
pub fn without_endpoints(service: &ObjectName, known: &str) -> Finding {
    let ObjectName { namespace, name } = service;
    Finding {
        code: NO_ENDPOINTS.to_owned(),
        title: format!("Service {service}: {known}: every connection to it fails"),
        severity: Severity::Critical,
        confidence: 95,
        entities: vec![place(service)],
        count: 1,
        actions: vec![
            Action::look(
                "see what is behind it, and whether its selector matches pods",
                format!("kubectl -n {namespace} describe service {name}"),
            ),
            Action::look("see why pods are not ready", format!("kubectl -n {namespace} get pods -o wide")),
        ],
        ..Finding::default()
    }
}

fn place(service: &ObjectName) -> Place {
    Place {
        name: service.name.clone(),
        kind: "service".to_owned(),
        namespace: service.namespace.clone(),
        ..Place::default()
    }
}

fn look_at_endpoints(title: &str, service: &ObjectName, form: &str) -> Action {
    let ObjectName { namespace, name } = service;
    Action::look(
        title,
        format!("kubectl -n {namespace} get endpointslices -l kubernetes.io/service-name={name} -o {form}"),
    )
}

/// A Service that a line of evidence is about.
struct Concerned {
    met: Meeting,
    /// Where the client sends to.
    at: SocketAddr,
    /// The client's own address and port, if the line has them.
    client: Option<SocketAddr>,
    /// Where what it sends goes.
    arrives: Option<SocketAddr>,
}

impl Concerned {
    /// The other end of what was seen of the same client's port elsewhere.
    fn seen_elsewhere(&self, lines: &[Evidence]) -> Option<SocketAddr> {
        let client = self.client?;
        let is_its = |flow: &Flow<'_>| {
            peers::proto(flow.proto()) == Some(self.met.port.proto) && flow.ends().any(|end| end == client)
        };
        let mut ends = lines.iter().filter_map(Evidence::flow).filter(is_its).flat_map(Flow::ends);
        ends.find(|end| *end != client && *end != self.at)
    }
}

impl Names<'_> {
    fn explain(&self, mut finding: Finding) -> Vec<Finding> {
        let mut known: Vec<Concerned> = Vec::new();
        for mut concerned in finding.evidence.iter().filter_map(|line| self.concerned(line)) {
            concerned.arrives = concerned.arrives.or_else(|| concerned.seen_elsewhere(&finding.evidence));
            let is_known =
                known.iter().any(|other| (other.at, other.arrives) == (concerned.at, concerned.arrives));
            if !is_known {
                known.push(concerned);
            }
        }
        // What is translated is behind its Service.
        let translated: Vec<_> = known.iter().filter(|of| of.arrives.is_some()).map(|of| of.at).collect();
        known.retain(|of| of.arrives.is_some() || !translated.contains(&of.at));
        let mut found = Vec::new();
        for of in &known {
            match of.arrives {
                Some(arrives) => self.sent_on(&mut finding, of, arrives),
                None => found.extend(self.refused(&mut finding, of)),
            }
        }
        if !finding.evidence.is_empty() || found.is_empty() {
            found.insert(0, finding);
        }
        found
    }

    fn concerned(&self, line: &Evidence) -> Option<Concerned> {
        let meeting = |proto: &str, at: SocketAddr| {
            self.peers.service(peers::proto(proto)?, at.ip(), at.port(), self.is_node)
        };
        if let (Some(proto), Some(at), Some(arrives)) =
            (line.attr("proto"), line.sent_to(), line.arrives_at())
        {
            let met = meeting(proto, at)?;
            return Some(Concerned { met, at, client: None, arrives: Some(arrives) });
        }
        let flow = line.flow()?;
        // A conversation has a Service at one end.
        flow.ends().find_map(|at| {
            let client = flow.ends().find(|end| *end != at);
            Some(Concerned { met: meeting(flow.proto(), at)?, at, client, arrives: None })
        })
    }

    /// What is dropped or refused without having been translated: whoever routes to Services has nobody to
    /// send it to. The lines about it leave the finding.
    fn refused(&self, finding: &mut Finding, of: &Concerned) -> Option<Finding> {
        let service = &of.met.service;
        let (name, at) = (&service.name, of.at);
        let is_of_pod = finding.entities.first().is_some_and(|place| place.kind == "pod");
        let is_outside = of.met.is_node_port || service.ips.first().is_none_or(|ip| *ip != at.ip());
        let mut found = match finding.code.as_str() {
            REJECTED if !is_of_pod => without_endpoints(
                name,
                "it has no endpoint that is ready, and the node refuses connections to it",
            ),
            DROPPED if !is_of_pod && is_outside && service.is_local => Finding {
                code: NO_LOCAL_ENDPOINTS.to_owned(),
                title: format!(
                    "Service {name}: none of its pods is on this node, and its externalTrafficPolicy is Local: \
                     the node drops connections to {at}"
                ),
                severity: finding.severity,
                confidence: 95,
                entities: vec![place(name)],
                actions: vec![
                    look_at_endpoints("see on which nodes its pods are", name, "wide"),
                    Action::look(
                        "see the policy; a load balancer is to send to nodes only that pass its health check",
                        format!("kubectl -n {} describe service {}", name.namespace, name.name),
                    ),
                ],
                ..Finding::default()
            },
            _ => {
                self.name_in(finding, at.ip(), &format!("Service {name}"));
                let said = format!("{at} is Service {name}");
                let attrs = [("service", name.to_string()), (SENT_TO, at.to_string())];
                join(&mut finding.evidence, vec![evidence(said, &attrs)]);
                return None;
            }
        };
        let is_about = |line: &Evidence| self.concerned(line).is_some_and(|other| other.at == at);
        let (lines, others): (Vec<_>, Vec<_>) =
            std::mem::take(&mut finding.evidence).into_iter().partition(is_about);
        // What is left may be no conversation at all.
        let is_whole = !others.iter().any(|line| line.flow().is_some());
        finding.evidence = if is_whole { Vec::new() } else { others };
        let counts = lines.iter().filter_map(|line| line.attr("count")?.parse::<u64>().ok());
        found.count = if is_whole { finding.count } else { counts.sum::<u64>().max(1) };
        finding.count = finding.count.saturating_sub(found.count).max(1);
        found.evidence = lines;
        found.evidence.push(evidence(format!("{at} is Service {name}"), &[("service", name.to_string())]));
        (found.first_ns, found.last_ns) = (finding.first_ns, finding.last_ns);
        found.checks = if is_whole { std::mem::take(&mut finding.checks) } else { Vec::new() };
        join(&mut found.entities, finding.entities.clone());
        Some(found)
    }

    /// What is sent on, and fails there.
    fn sent_on(&self, finding: &mut Finding, of: &Concerned, arrives: SocketAddr) {
        let (name, port) = (&of.met.service.name, &of.met.port);
        let pod = (self.pod)(arrives.ip());
        let backend =
            pod.as_ref().map(|pod| format!("pod {}", pod.name)).or_else(|| self.peers.name(arrives.ip()));
        let backend_named = backend.as_ref().map_or_else(String::new, |backend| format!(" ({backend})"));
        let attrs = [("service", Some(name.to_string())), ("backend", backend.clone())];
        let attrs = attrs.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
        let attrs: Vec<(String, String)> = attrs.collect();
        let mut is_said = false;
        for line in &mut finding.evidence {
            if (line.sent_to(), line.arrives_at()) == (Some(of.at), Some(arrives)) {
                line.summary = format!(
                    "connection tracking sends {} to {} (Service {name}) on to {arrives}{backend_named}",
                    line.attr("proto").unwrap_or_default(),
                    of.at
                );
                line.attrs.extend(attrs.clone());
                is_said = true;
            }
        }
        if !is_said {
            let at = of.at;
            let summary = format!(
                "what is sent to {at} (Service {name}) arrives at {arrives}{backend_named}: both have the client's port"
            );
            finding.evidence.push(Evidence { attrs, ..evidence(summary, &[]) });
        }
        let who = backend.clone().unwrap_or_else(|| arrives.ip().to_string());
        let ends = pod.filter(|pod| pod.life != Life::Running);
        match (finding.code.as_str(), ends) {
            (code, Some(pod)) if OF_ENDING.contains(&code) => {
                let life = if pod.life == Life::Gone { "is gone" } else { "is terminating" };
                let told = untitled(finding);
                finding.code = ENDING_BACKEND.to_owned();
                finding.title = format!("Service {name} still sends to {who}, which {life}: {told}");
                finding.role = Role::Cause;
                finding.actions.insert(
                    0,
                    look_at_endpoints("see whether it is still among the endpoints, and ready", name, "yaml"),
                );
            }
            (CLOSED_PORT, None) => {
                finding.code = WRONG_PORT.to_owned();
                finding.title = format!(
                    "Service {name} sends port {} on to port {} of {who} (targetPort {}), where nobody listens",
                    port.port,
                    arrives.port(),
                    port.target
                );
                finding.actions.insert(
                    0,
                    Action::look(
                        "compare its targetPort with the port that its pods listen on",
                        format!("kubectl -n {} describe service {}", name.namespace, name.name),
                    ),
                );
            }
            _ => {
                if let Some(backend) = &backend {
                    self.name_in(finding, arrives.ip(), backend);
                }
            }
        }
    }

    /// Says behind an address in a title whose it is.
    fn name_in(&self, finding: &mut Finding, ip: IpAddr, name: &str) {
        let text = ip.to_string();
        let is_part =
            |c: Option<char>| c.is_some_and(|c| c.is_ascii_hexdigit() || matches!(c, '.' | ':' | '('));
        let at = finding.title.match_indices(&text).map(|(at, _)| at).find(|at| {
            let (before, behind) = (&finding.title[..*at], &finding.title[at + text.len()..]);
            // A sentence may go on with a colon behind an address, an address does so without a space.
            let is_longer = is_part(behind.chars().next()) && !behind.starts_with(": ");
            !is_longer && !is_part(before.chars().next_back()) && !behind.starts_with(" (")
        });
        if let Some(at) = at {
            finding.title.insert_str(at + text.len(), &format!(" ({name})"));
        }
    }
}

fn evidence(summary: String, attrs: &[(&str, String)]) -> Evidence {
    let attrs = attrs.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
    Evidence { kind: "text".to_owned(), summary, attrs, ..Evidence::default() }
}

/// A title without the place that stands before it.
fn untitled(finding: &Finding) -> String {
    let title = finding.title.as_str();
    title.split_once(": ").map_or(title, |(_, told)| told).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peers::{Addressed, Service, ServicePort};
    use crate::pods::Change;

    fn peers(is_local: bool) -> Peers {
        let peers = Peers::default();
        let port = |proto, port, node_port| ServicePort { proto, port, node_port, target: "sql".to_owned() };
        let service = Service {
            name: ObjectName::new("shop", "db").expect("a name"),
            ips: vec!["10.96.0.20".parse().expect("an address")],
            ports: vec![port(6, 5432, 30_432), port(17, 53, 0)],
            is_local,
        };
        peers.apply_services(Change::Set("s".to_owned(), service));
        let node = Addressed { name: "n1".to_owned(), ips: vec!["192.168.0.1".parse().expect("an address")] };
        peers.apply_nodes(Change::Set("n".to_owned(), node));
        peers
    }

    fn explained(peers: &Peers, life: Life, finding: Finding) -> Vec<Finding> {
        let pod =
            |ip: IpAddr| (ip.to_string() == "10.0.0.9").then(|| PodAt { name: "shop/db-0".to_owned(), life });
        explain(vec![finding], &Names { peers, is_node: &|_| false, pod: &pod })
    }

    fn line(attrs: &[(&str, &str)]) -> Evidence {
        let attrs: Vec<_> = attrs.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        Evidence { kind: "event".to_owned(), ..evidence(format!("{attrs:?}"), &attrs) }
    }

    fn on(flow: &str, count: &str) -> Evidence {
        line(&[("flow", flow), ("count", count)])
    }

    const TO_SERVICE: &str = "TCP 10.0.0.1:4242 10.96.0.20:5432";
    const SENT_ON: [(&str, &str); 3] =
        [("proto", "TCP"), ("sent_to", "10.96.0.20:5432"), ("arrives_at", "10.0.0.9:5433")];

    #[test]
    fn what_the_node_refuses_for_want_of_endpoints_is_told_apart_from_what_a_firewall_refuses() {
        let lines = vec![on(TO_SERVICE, "3"), on("TCP 10.0.0.1:4243 10.0.0.2:22", "2")];
        let rejected = Finding { evidence: lines, count: 5, ..Finding::test(REJECTED) };
        let found = explained(&peers(false), Life::Running, rejected);
        let [service, firewall] = &found[..] else { panic!("{found:#?}") };
        assert_eq!((service.code.as_str(), service.count), (NO_ENDPOINTS, 3));
        assert_eq!(service.entities[0], place(&ObjectName::new("shop", "db").expect("a name")));
        assert_eq!((firewall.code.as_str(), firewall.count, firewall.evidence.len()), (REJECTED, 2, 1));
    }

    #[test]
    fn of_one_that_is_all_about_a_service_nothing_is_left() {
        let rejected =
            || Finding { evidence: vec![on(TO_SERVICE, "3"), line(&[])], ..Finding::test(REJECTED) };
        let found = explained(&peers(false), Life::Running, rejected());
        assert_eq!(found.iter().map(|f| (f.code.as_str(), f.count)).collect::<Vec<_>>(), [(NO_ENDPOINTS, 3)]);
        // A pod's own rules are not those of its node.
        let mut of_pod = rejected();
        of_pod.entities[0].kind = "pod".to_owned();
        let found = explained(&peers(false), Life::Running, of_pod);
        assert_eq!((found.len(), found[0].code.as_str()), (1, REJECTED));
        assert!(found[0].evidence.iter().any(|line| line.summary == "10.96.0.20:5432 is Service shop/db"));
    }

    #[test]
    fn a_node_port_that_is_dropped_lacks_local_endpoints_only_under_that_policy() {
        let dropped = || Finding {
            evidence: vec![on("TCP 10.0.0.1:1 192.168.0.1:30432", "1")],
            ..Finding::test(DROPPED)
        };
        assert_eq!(explained(&peers(true), Life::Running, dropped())[0].code, NO_LOCAL_ENDPOINTS);
        assert_eq!(explained(&peers(false), Life::Running, dropped())[0].code, DROPPED);
        let own = Finding { evidence: vec![on(TO_SERVICE, "1")], ..Finding::test(DROPPED) };
        assert_eq!(explained(&peers(true), Life::Running, own)[0].code, DROPPED, "the policy is of outside");
    }

    #[test]
    fn what_is_sent_on_is_told_with_its_service_and_its_pod() {
        let closed = || Finding { evidence: vec![line(&SENT_ON)], ..Finding::test(CLOSED_PORT) };
        let found = explained(&peers(false), Life::Running, closed());
        assert_eq!(found[0].code, WRONG_PORT);
        let title = "Service shop/db sends port 5432 on to port 5433 of pod shop/db-0 (targetPort sql), where nobody listens";
        assert_eq!(found[0].title, title);
        assert_eq!(found[0].evidence[0].attr("backend"), Some("pod shop/db-0"));
        for (life, word) in [(Life::Terminating, "is terminating"), (Life::Gone, "is gone")] {
            let found = explained(&peers(false), life, closed());
            assert_eq!(found[0].code, ENDING_BACKEND);
            assert!(found[0].title.contains(word), "{}", found[0].title);
        }
    }

    #[test]
    fn what_no_entry_tells_the_clients_own_port_does() {
        let closed = |client: &str| {
            let lines = vec![on(&format!("TCP {client} 10.0.0.9:5433"), "1"), on(TO_SERVICE, "1")];
            let finding = Finding { evidence: lines, ..Finding::test(CLOSED_PORT) };
            explained(&peers(false), Life::Running, finding).remove(0)
        };
        let same = closed("10.0.0.1:4242");
        assert_eq!(
            (same.code.as_str(), same.evidence[2].attr("backend")),
            (WRONG_PORT, Some("pod shop/db-0"))
        );
        assert_eq!(closed("10.0.0.1:4243").code, CLOSED_PORT, "another client's");
    }

    #[test]
    fn an_address_in_a_title_gets_its_name_once_and_as_a_whole() {
        let slow = |title: &str| {
            let finding =
                Finding { title: title.to_owned(), evidence: vec![line(&SENT_ON)], ..Finding::test("x") };
            explained(&peers(false), Life::Running, finding).remove(0).title
        };
        assert_eq!(slow("10.0.0.9 port 1: slow"), "10.0.0.9 (pod shop/db-0) port 1: slow");
        assert_eq!(slow("to 10.0.0.9: slow"), "to 10.0.0.9 (pod shop/db-0): slow");
        assert_eq!(slow("110.0.0.9 and 10.0.0.99"), "110.0.0.9 and 10.0.0.99");
    }

    #[test]
    fn what_concerns_no_service_stays_as_it_is() {
        for lines in [vec![], vec![on("TCP 10.0.0.1:1 10.96.0.20:1", "1")], vec![on("nonsense", "x")]] {
            let finding = Finding { evidence: lines, ..Finding::test(CLOSED_PORT) };
            assert_eq!(explained(&peers(false), Life::Running, finding.clone()), [finding]);
        }
    }
}
