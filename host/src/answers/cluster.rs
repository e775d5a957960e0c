//! One report from those of several nodes.
//!
//! A connection has two ends, and each node sees one of them: the client's node sees that nobody
//! answers, the server's node why. Findings that are no more than the far end of a cause on another
//! node are folded into it as evidence, told by the flow that both saw. Of what is sent to a Service,
//! the client's node sees the address of the Service and the other node that of a pod: both see the
//! address and port of the client.

use std::net::SocketAddr;

use crate::answers::flow::{FLOW, Flow};
use crate::answers::report::{Evidence, Finding, NO_TRAFFIC, Place, Report, Role, Verdict, join, merge};

/// The attribute that says which part an evidence plays.
const ROLE: &str = "role";

/// Joins reports of the same question; none if there are none. `silent` says in a sentence each who
/// was asked as well and did not answer: where nobody looked, nothing is healthy.
pub fn join_nodes(reports: Vec<Report>, silent: Vec<String>) -> Option<Report> {
    if reports.len() < 2 && silent.is_empty() {
        return reports.into_iter().next();
    }
    let (doubts, blind_spots) = (silent.clone(), silent);
    let mut joined = Report { findings: Vec::new(), doubts, blind_spots, ..reports.first()?.clone() };
    let mut nodes = Vec::new();
    for report in reports {
        let of_node = |texts: Vec<String>| texts.into_iter().map(|text| format!("{}: {text}", report.node));
        joined.window_ms = joined.window_ms.max(report.window_ms);
        joined.generated_ns = joined.generated_ns.max(report.generated_ns);
        join(&mut nodes, vec![report.node.clone()]);
        join(&mut joined.doubts, of_node(doubts_of(&report)).collect());
        join(&mut joined.blind_spots, of_node(report.blind_spots).collect());
        joined.findings.extend(report.findings);
    }
    joined.node = nodes.join(", ");
    joined.findings = merge(fold_far_ends(merge(joined.findings.into_iter())).into_iter());
    joined.verdict = Verdict::on(&joined.findings, &joined.doubts);
    Some(joined)
}

/// An agent that is not upgraded yet gives no reason, because it knows only one.
fn doubts_of(report: &Report) -> Vec<String> {
    match report.verdict {
        Verdict::Inconclusive if report.doubts.is_empty() => vec![NO_TRAFFIC.to_owned()],
        _ => report.doubts.clone(),
    }
}

/// Moves every symptom whose flows are explained on other nodes into what explains them.
fn fold_far_ends(findings: Vec<Finding>) -> Vec<Finding> {
    let is_symptom = |finding: &Finding| finding.role == Role::Symptom;
    let (symptoms, mut findings): (Vec<_>, Vec<_>) = findings.into_iter().partition(is_symptom);
    for symptom in symptoms {
        match explanations(&symptom, &findings) {
            Some(causes) => causes.into_iter().for_each(|at| findings[at].feel(&symptom)),
            None => findings.push(symptom),
        }
    }
    findings
}

/// The findings of other nodes that explain every flow of a symptom; none if one is left over, so
/// that a second fault behind the same symptom is not hidden by the first.
fn explanations(symptom: &Finding, findings: &[Finding]) -> Option<Vec<usize>> {
    let mut causes = Vec::new();
    let services: Vec<_> = symptom.evidence.iter().filter_map(Evidence::sent_to).collect();
    for flow in flows(symptom) {
        let explains = |finding: &Finding| {
            let is_cause = node_of(finding) != node_of(symptom) && finding.role == Role::Cause;
            is_cause && flows(finding).any(|known| known == flow || is_behind(known, flow, &services))
        };
        let cause = findings.iter().position(explains)?;
        join(&mut causes, vec![cause]);
    }
    (!causes.is_empty()).then_some(causes)
}

fn flows(finding: &Finding) -> impl Iterator<Item = Flow<'_>> {
    finding.evidence.iter().filter_map(Evidence::flow)
}

/// Whether a flow is what became of another, which a client sent to one of those Services.
fn is_behind(known: Flow<'_>, flow: Flow<'_>, services: &[SocketAddr]) -> bool {
    let (at, client): (Vec<_>, Vec<_>) = flow.ends().partition(|end| services.contains(end));
    let ([_], [client]) = (at.as_slice(), client.as_slice()) else { return false };
    known.proto() == flow.proto() && known.ends().any(|end| end == *client)
}

fn node_of(finding: &Finding) -> &str {
    finding.entities.first().map_or("", |place| place.node.as_str())
}

impl Finding {
    /// Takes in what another node suffers from it.
    fn feel(&mut self, symptom: &Finding) {
        let place = symptom.entities.first().cloned().unwrap_or_else(Place::default);
        let flow = flows(symptom).next().map_or("", |flow| flow.0).to_owned();
        let attrs = [(FLOW, flow), (ROLE, "symptom".to_owned()), ("code", symptom.code.clone())];
        let evidence = Evidence {
            kind: "event".to_owned(),
            summary: format!("felt by {} on node {}: {}", place.display(), place.node, symptom.title),
            at_ns: Some(symptom.last_ns),
            attrs: attrs.map(|(name, value)| (name.to_owned(), value)).into(),
        };
        join(&mut self.evidence, vec![evidence]);
        join(&mut self.entities, symptom.entities.clone());
        self.first_ns = self.first_ns.min(symptom.first_ns);
        self.last_ns = self.last_ns.max(symptom.last_ns);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::answers::flow::SENT_TO;
    use crate::answers::report::{AnalyzerReply, Answer, BlindSpot};

    const FLOW_A: &str = "TCP 10.0.0.1:4242 10.0.0.2:80";
    const FLOW_B: &str = "TCP 10.0.0.1:4243 10.0.0.2:80";

    fn finding(code: &str, node: &str, flows: &[&str]) -> Finding {
        let evidence = |flow: &&str| Evidence {
            kind: "flow".into(),
            attrs: vec![(FLOW.into(), (*flow).into())],
            ..Evidence::default()
        };
        let evidence = flows.iter().map(evidence).collect();
        Finding { evidence, entities: vec![Place::test("web", node)], ..Finding::test(code) }
    }

    fn symptom(code: &str, node: &str, flows: &[&str]) -> Finding {
        Finding { role: Role::Symptom, ..finding(code, node, flows) }
    }

    fn node(name: &str, findings: Vec<Finding>, seen: u64) -> Report {
        let answer = Ok(Answer { findings, seen, ..Answer::default() });
        let answers = vec![AnalyzerReply { analyzer: "a".into(), answer }];
        let spots = vec![BlindSpot::detail("x".to_owned())];
        Report::of_node("connect", name, Duration::from_secs(60), 9_000_000_000, answers, spots)
    }

    fn joined(client: Vec<Finding>, server: Vec<Finding>) -> Report {
        join_nodes(vec![node("n1", client, 1), node("n2", server, 1)], vec![]).expect("two reports")
    }

    #[test]
    fn the_far_end_of_a_cause_becomes_its_evidence() {
        let report = joined(
            vec![symptom("peer-unresponsive", "n1", &[FLOW_A])],
            vec![finding("firewall-drop", "n2", &[FLOW_B, FLOW_A])],
        );
        let [cause] = report.findings.as_slice() else { panic!("one finding: {report:#?}") };
        assert_eq!(cause.code, "firewall-drop");
        assert_eq!(cause.entities, [Place::test("web", "n2"), Place::test("web", "n1")]);
        let affected = cause.evidence.last().expect("evidence");
        assert_eq!(affected.summary, "felt by web on node n1: peer-unresponsive happened");
        assert_eq!((affected.attr(FLOW), affected.attr(ROLE)), (Some(FLOW_A), Some("symptom")));
        assert_eq!((report.node.as_str(), report.verdict), ("n1, n2", Verdict::Degraded));
        assert_eq!(report.blind_spots, ["n1: x", "n2: x"]);
    }

    #[test]
    fn what_is_not_wholly_explained_stays() {
        let lossy = || symptom("tcp-loss", "n1", &[FLOW_A, FLOW_B]);
        let report = joined(vec![lossy()], vec![finding("qdisc-drop", "n2", &[FLOW_A])]);
        assert_eq!(report.findings.len(), 2, "another flow is lost elsewhere");
        let both = vec![finding("qdisc-drop", "n2", &[FLOW_A]), finding("firewall-drop", "n2", &[FLOW_B])];
        let report = joined(vec![lossy()], both);
        assert_eq!(report.findings.len(), 2, "each cause has the symptom");
        assert!(report.findings.iter().all(|finding| finding.evidence.len() == 2), "{report:#?}");
    }

    #[test]
    fn what_is_sent_to_a_service_is_explained_by_the_node_of_its_pod() {
        let to_service = |flow: &str, service: &str| {
            let mut refused = symptom("connection-refused", "n1", &[flow]);
            let attrs = vec![(SENT_TO.into(), service.into()), ("service".into(), "shop/db".into())];
            refused.evidence.push(Evidence { attrs, ..Evidence::default() });
            joined(vec![refused], vec![finding("port-not-listening", "n2", &[FLOW_A])]).findings.len()
        };
        assert_eq!(to_service("TCP 10.0.0.1:4242 10.96.0.10:5432", "10.96.0.10:5432"), 1);
        assert_eq!(to_service("TCP 10.0.0.1:4243 10.96.0.10:5432", "10.96.0.10:5432"), 2, "another port");
        assert_eq!(to_service("UDP 10.0.0.1:4242 10.96.0.10:5432", "10.96.0.10:5432"), 2, "another protocol");
        assert_eq!(to_service("TCP 10.0.0.1:4242 10.96.0.11:5432", "10.96.0.10:5432"), 2, "no Service");
        assert_eq!(to_service("TCP 10.0.0.1 10.96.0.10:5432", "10.96.0.10:5432"), 2, "no port");
    }

    #[test]
    fn a_symptom_explains_no_symptom_and_a_node_does_not_explain_itself() {
        let report = joined(
            vec![symptom("tcp-loss", "n1", &[FLOW_A])],
            vec![symptom("reset-by-peer", "n2", &[FLOW_A])],
        );
        assert_eq!(report.findings.len(), 2);
        let same = vec![symptom("tcp-loss", "n1", &[FLOW_A]), finding("qdisc-drop", "n1", &[FLOW_A])];
        assert_eq!(joined(same, vec![]).findings.len(), 2);
        let without_flow = joined(vec![symptom("tcp-loss", "n1", &[])], vec![finding("x", "n2", &[])]);
        assert_eq!(without_flow.findings.len(), 2);
    }

    #[test]
    fn nodes_are_healthy_only_if_each_is() {
        let all = |seen: [u64; 2], silent: &[&str]| {
            let reports = vec![node("n1", vec![], seen[0]), node("n2", vec![], seen[1])];
            let silent = silent.iter().map(|who| (*who).to_owned()).collect();
            join_nodes(reports, silent).expect("two reports")
        };
        assert_eq!(all([1, 1], &[]).verdict, Verdict::Healthy);
        let idle = all([0, 1], &[]);
        assert_eq!((idle.verdict, idle.doubts), (Verdict::Inconclusive, vec![format!("n1: {NO_TRAFFIC}")]));
        let silent = all([1, 1], &["n3 did not answer"]);
        assert_eq!((silent.verdict, silent.doubts.len()), (Verdict::Inconclusive, 1));
        assert_eq!(silent.blind_spots, ["n3 did not answer", "n1: x", "n2: x"]);
        // One that answers alone is no better.
        let alone = join_nodes(vec![node("n1", vec![], 1)], vec!["n2 did not answer".to_owned()]);
        assert_eq!(alone.expect("a report").verdict, Verdict::Inconclusive);
        assert_eq!(join_nodes(vec![], vec![]), None);
    }

    #[test]
    fn an_older_agent_that_saw_nothing_is_not_taken_for_a_healthy_one() {
        let older = Report { doubts: Vec::new(), ..node("n1", vec![], 0) };
        let joined = join_nodes(vec![older, node("n2", vec![], 1)], vec![]).expect("two reports");
        assert_eq!(joined.verdict, Verdict::Inconclusive);
    }
}
