//! Findings about the host name the pod that has the host's network, by the port that it holds.

use std::net::IpAddr;

use crate::answers::report::{Evidence, Finding, join};
use crate::entities::Kind;
use crate::peers;

/// Adds to each finding the pods whose ports on the host it is about. `pod` tells the pod that has a port
/// (protocol and number) of the host.
pub fn name(
    findings: &mut [Finding],
    is_host: &dyn Fn(IpAddr) -> bool,
    pod: &dyn Fn(u8, u16) -> Option<String>,
) {
    for finding in findings {
        let pods: Vec<_> = ports(finding, is_host)
            .filter_map(|(name, port)| Some((name.to_owned(), port, pod(peers::proto(name)?, port)?)))
            .collect();
        let lines = pods.into_iter().map(|(proto, port, pod)| Evidence {
            kind: "text".to_owned(),
            summary: format!("{proto} port {port} of the host is held by pod {pod}"),
            at_ns: None,
            attrs: vec![("pod".to_owned(), pod)],
        });
        join(&mut finding.evidence, lines.collect());
    }
}

/// Whether a finding is about a port of the host.
pub fn concerns(finding: &Finding, is_host: &dyn Fn(IpAddr) -> bool) -> bool {
    ports(finding, is_host).next().is_some()
}

/// Names of protocols and numbers.
fn ports<'a>(
    finding: &'a Finding,
    is_host: &'a dyn Fn(IpAddr) -> bool,
) -> impl Iterator<Item = (&'a str, u16)> {
    let is_at_host = finding.entities.first().is_some_and(|place| place.kind == Kind::Host.as_str());
    // Each namespace has a loopback address of its own.
    let is_its = move |ip: IpAddr| is_host(ip) || (is_at_host && ip.is_loopback());
    let flows = finding.evidence.iter().filter_map(Evidence::flow);
    flows
        .flat_map(move |flow| flow.ends().map(move |end| (flow.proto(), end)))
        .filter(move |(_, end)| is_its(end.ip()))
        .map(|(proto, end)| (proto, end.port()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::answers::report::Place;

    #[test]
    fn a_port_of_the_host_names_its_pod_once_and_ports_of_others_do_not() {
        let host: IpAddr = "10.0.0.1".parse().expect("an address");
        let flow = |text: &str| Evidence {
            attrs: vec![("flow".to_owned(), text.to_owned())],
            ..Evidence::default()
        };
        let evidence = vec![
            flow("TCP 10.0.0.1:9100 10.0.0.2:40000"),
            flow("TCP 10.0.0.1:9100 10.0.0.2:40001"),
            flow("TCP 10.0.0.2:9100 10.0.0.3:40001"),
            flow("UDP 10.0.0.1:9100 10.0.0.2:53"),
        ];
        let mut findings = [Finding { evidence, ..Finding::test("a") }];
        let on_loopback = vec![flow("TCP 127.0.0.1:40000 127.0.0.1:9100")];
        let at = |kind: &str| vec![Place { kind: kind.to_owned(), ..Place::default() }];
        let of = |kind| Finding { evidence: on_loopback.clone(), entities: at(kind), ..Finding::test("b") };
        let is_host = |ip| ip == host;
        let pod = |proto, port| ((proto, port) == (6, 9100)).then(|| "monitoring/exporter".to_owned());
        assert!(concerns(&findings[0], &is_host) && concerns(&of("host"), &is_host));
        assert!(!concerns(&of("pod"), &is_host) && !concerns(&Finding::test("b"), &is_host));
        name(&mut findings, &is_host, &pod);
        let said: Vec<_> = findings[0].evidence.iter().filter(|line| line.kind == "text").collect();
        let [line] = said[..] else { panic!("{said:?}") };
        assert_eq!(line.summary, "TCP port 9100 of the host is held by pod monitoring/exporter");
        assert_eq!(line.attr("pod"), Some("monitoring/exporter"));
    }
}
