//! Which agents a question goes to, and about whom each is asked.
//!
//! In a cluster, pods are looked up first: each of them is known to one node only, and no other need be
//! asked. A pod that the cluster does not know may have been on any node.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::anyhow;

use crate::answers::question::Question;
use crate::answers::report::{Evidence, Finding, Report, Verdict};
use crate::answers::services;
use crate::cli::cluster::{self, ClusterArgs, Found};
use crate::cli::terminal;
use crate::clock::unix_ns;
use crate::http::reach::Server;
use crate::kubernetes::access::Cluster;
use crate::pods::ObjectName;

/// What the agent calls the network of its node.
const HOST: &str = "host";
/// Pods of a Service that are looked up one by one: whether they have the network of their node, only
/// they say.
const LOOKED_UP: usize = 20;

/// Whom is asked.
#[derive(Debug, Default)]
pub struct Whom {
    found: Found,
    /// Who is asked about, by the node that knows them.
    located: BTreeMap<String, Vec<String>>,
    /// Why somebody cannot be asked about.
    notes: Vec<String>,
    /// What the API server's objects alone tell.
    findings: Vec<Finding>,
}

/// Who is to be looked up, as `NAMESPACE/NAME`.
#[derive(Debug, Default)]
pub struct Names {
    /// Pods.
    pub pods: Vec<String>,
    /// Services.
    pub services: Vec<String>,
}

impl Whom {
    /// Agents with addresses. Each may know whom is asked about.
    pub fn of_servers(servers: Vec<Server>) -> Self {
        Self { found: Found { servers, ..Found::default() }, ..Self::default() }
    }

    /// The agents of the nodes that these pods and Services are on, and of those that are named. All nodes
    /// are asked if there are no such names, or the question has others. What is not on a node now goes
    /// into the question, which anybody may know an answer to.
    ///
    /// # Errors
    /// If the cluster gives no answer, or nobody is left to be asked.
    pub async fn of_cluster(
        args: &ClusterArgs,
        nodes: &[String],
        names: Names,
        question: &mut Question,
    ) -> anyhow::Result<Self> {
        let agents = args.agents().await?;
        let mut whom = Self::default();
        whom.locate(&agents.cluster, names, question).await?;
        let is_everywhere = nodes.is_empty() && (whom.located.is_empty() || !question.entities.is_empty());
        if is_everywhere && question.entities.is_empty() {
            // Somebody was named, and nobody is anywhere.
            if !whom.findings.is_empty() {
                return Ok(whom);
            }
            if !whom.notes.is_empty() {
                return Err(anyhow!(whom.notes.join("; ")));
            }
        }
        let asked = nodes.iter().chain(whom.located.keys()).cloned().collect::<BTreeSet<_>>();
        let asked: Vec<_> = if is_everywhere { Vec::new() } else { asked.into_iter().collect() };
        whom.found = cluster::find(&agents, &asked).await?;
        Ok(whom)
    }

    async fn locate(
        &mut self,
        cluster: &Cluster,
        names: Names,
        question: &mut Question,
    ) -> anyhow::Result<()> {
        for pod in names.pods {
            let (namespace, name) = pod.split_once('/').unwrap_or(("", &pod));
            match cluster.pod(namespace, name).await? {
                None => {
                    let gone = "is not in the cluster now: all nodes are asked, one may have known it";
                    terminal::complain(&format!("pod {pod} {gone}"));
                    question.entities.push(pod);
                }
                Some(located) => match located.node {
                    None => self.notes.push(format!("pod {pod} is on no node yet: it was never started")),
                    // Agents know the network, which is not the pod's own.
                    Some(node) if located.is_host_network => self.add(node, HOST.to_owned()),
                    Some(node) => self.add(node, pod),
                },
            }
        }
        for service in names.services {
            let (namespace, name) = service.split_once('/').unwrap_or(("", &service));
            let behind = cluster.behind(namespace, name).await?;
            if behind.ready == 0 {
                let service = ObjectName { namespace: namespace.to_owned(), name: name.to_owned() };
                self.findings.push(without_endpoints(&service, behind.all));
            } else if behind.pods.is_empty() {
                let why = "its endpoints are no pods of this cluster, so no agent is beside them";
                self.notes.push(format!("Service {service}: {why}"));
            }
            let is_looked_up = behind.pods.len() <= LOOKED_UP;
            for (pod, node) in behind.pods {
                let (namespace, name) = pod.split_once('/').unwrap_or(("", &pod));
                let is_host_network = is_looked_up
                    && cluster.pod(namespace, name).await?.is_some_and(|pod| pod.is_host_network);
                match node {
                    // Agents know the network, which is not the pod's own.
                    Some(node) if is_host_network => self.add(node, HOST.to_owned()),
                    Some(node) => self.add(node, pod),
                    None => question.entities.push(pod),
                }
            }
        }
        Ok(())
    }

    fn add(&mut self, node: String, entity: String) {
        let there = self.located.entry(node).or_default();
        if !there.contains(&entity) {
            there.push(entity);
        }
    }

    /// What the API server's objects alone tell, as a report beside those of the agents.
    pub fn report(&self, question: &Question) -> Option<Report> {
        let report = Report {
            scenario: question.scenario.clone(),
            verdict: Verdict::on(&self.findings, &[]),
            node: "the API server".to_owned(),
            entities: Vec::new(),
            window_ms: question.window_ms,
            generated_ns: unix_ns(),
            findings: self.findings.clone(),
            doubts: Vec::new(),
            blind_spots: Vec::new(),
        };
        (!self.findings.is_empty()).then_some(report)
    }

    /// The agents.
    pub fn servers(&self) -> &[Server] {
        &self.found.servers
    }

    /// Who cannot be asked, with the node if it is one's, and why.
    pub fn silent(&self) -> Vec<(Option<String>, String)> {
        let absent = self.found.absent.iter().map(|(node, why)| (Some(node.clone()), why.clone()));
        absent.chain(self.notes.iter().map(|note| (None, note.clone()))).collect()
    }

    /// What a server is asked, one after the other until it does not refuse: it refuses a question about
    /// anybody whom it does not know.
    pub fn questions(&self, server: &Server, question: &Question) -> Vec<Question> {
        let about = |entities: Vec<String>| Question { entities, ..question.clone() };
        match server.node().and_then(|node| self.located.get(node)) {
            Some(there) if question.entities.is_empty() => vec![about(there.clone())],
            Some(there) => vec![about([&question.entities[..], there].concat()), about(there.clone())],
            None => vec![about(self.everybody(question))],
        }
    }

    /// Everybody who is asked about, on whatever node.
    pub fn everybody(&self, question: &Question) -> Vec<String> {
        question.entities.iter().chain(self.located.values().flatten()).cloned().collect()
    }
}

/// A Service to which nobody can connect, as its EndpointSlices say.
fn without_endpoints(service: &ObjectName, endpoints: usize) -> Finding {
    let (known, summary) = match endpoints {
        0 => (
            "there is no endpoint behind it, or no such Service",
            "no EndpointSlice of it has an endpoint".to_owned(),
        ),
        _ => (
            "none of the pods behind it is ready",
            format!("its EndpointSlices have {endpoints} endpoints, 0 of them ready"),
        ),
    };
    let now = unix_ns();
    let evidence = Evidence { kind: "text".to_owned(), summary, at_ns: Some(now), ..Evidence::default() };
    Finding {
        first_ns: now,
        last_ns: now,
        evidence: vec![evidence],
        ..services::without_endpoints(service, known)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn a_node_is_asked_about_its_own_pods_and_the_others_about_whom_they_may_know() {
        let opener: crate::http::reach::Opener = Arc::new(|| Box::pin(std::future::pending()));
        let server = |node: &str| Server::of_node(node, Arc::clone(&opener));
        let mut whom = Whom::default();
        for (node, pod) in [("n1", "shop/web"), ("n2", "shop/db"), ("n2", "shop/db")] {
            whom.add(node.to_owned(), pod.to_owned());
        }
        let asked = |server: &Server, entities: &[&str]| {
            let entities = entities.iter().map(|name| (*name).to_owned()).collect();
            let questions = whom.questions(server, &Question { entities, ..Question::default() });
            questions.into_iter().map(|question| question.entities.join(" ")).collect::<Vec<_>>()
        };
        assert_eq!(asked(&server("n1"), &[]), ["shop/web"]);
        assert_eq!(asked(&server("n2"), &[]), ["shop/db"]);
        assert_eq!(asked(&server("n1"), &["gone"]), ["gone shop/web", "shop/web"]);
        assert_eq!(asked(&server("n3"), &["gone"]), ["gone shop/web shop/db"]);
    }
}
