//! The agents of a Kubernetes cluster as servers to be asked: the flags, and how they are found.
//!
//! The connections go through the API server, so that the agents listen on loopback only and RBAC decides
//! who may ask them. `http` is given a closure for each node and `kubernetes` asks for none: neither knows
//! the other.

use std::path::PathBuf;
use std::sync::Arc;

use clap::builder::NonEmptyStringValueParser;

use crate::http::reach::{Opener, Server, Stream, Unopened};
use crate::kubernetes::access::{Choice, Cluster};
use crate::kubernetes::agents::{Agent, Agents, NO_POD};
use crate::kubernetes::error::Error;

/// Namespace of the agents' pods, where the chart puts them.
const NAMESPACE: &str = "kube-system";
/// Labels of the agents' pods.
const SELECTOR: &str = "app.kubernetes.io/name=inspector";

/// Agents of a cluster that are asked through its API server. Any of these flags means the cluster.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Kubernetes")]
#[group(id = "cluster", multiple = true, conflicts_with = "servers")]
pub(super) struct ClusterArgs {
    /// Ask the agents of all nodes of the cluster, through its API server
    #[arg(long)]
    all_nodes: bool,
    /// Context of the kubeconfig [default: the current one]
    #[arg(long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    context: Option<String>,
    /// Kubeconfig [default: those of $KUBECONFIG, or ~/.kube/config, or this pod's account]
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Namespace of the agents' pods [default: kube-system]
    #[arg(long, value_name = "NS", value_parser = NonEmptyStringValueParser::new())]
    agent_namespace: Option<String>,
    /// Labels of the agents' pods [default: app.kubernetes.io/name=inspector]
    #[arg(long, value_name = "LABELS", value_parser = NonEmptyStringValueParser::new())]
    agent_selector: Option<String>,
}

/// Whom there is to ask.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Agents that can be asked.
    pub(super) servers: Vec<Server>,
    /// Nodes whose agents cannot, with the reason.
    pub(super) absent: Vec<(String, String)>,
}

impl ClusterArgs {
    /// Whether the cluster is meant.
    pub(super) fn is_given(&self) -> bool {
        let Self { all_nodes, context, kubeconfig, agent_namespace, agent_selector } = self;
        let texts = [context, agent_namespace, agent_selector];
        *all_nodes || kubeconfig.is_some() || texts.iter().any(|text| text.is_some())
    }

    /// As if all nodes were asked for, where nobody named anything else.
    pub(super) fn mean_all_nodes(&mut self) {
        self.all_nodes = true;
    }

    /// The agents of the cluster. None is looked for yet.
    pub(super) async fn agents(&self) -> Result<Arc<Agents>, Error> {
        let choice = Choice { kubeconfig: self.kubeconfig.clone(), context: self.context.clone() };
        let or = |given: &Option<String>, usual: &str| given.clone().unwrap_or_else(|| usual.to_owned());
        let (namespace, selector) =
            (or(&self.agent_namespace, NAMESPACE), or(&self.agent_selector, SELECTOR));
        Ok(Arc::new(Agents::of(Cluster::of(&choice).await?, namespace, selector)))
    }
}

/// The agents of these nodes; of all, if none is named.
pub(super) async fn find(agents: &Arc<Agents>, nodes: &[String]) -> Result<Found, Error> {
    let mut there = agents.look().await?;
    if !nodes.is_empty() {
        let missing = nodes.iter().filter(|node| !there.contains_key(*node));
        let missing: Vec<_> =
            missing.cloned().map(|node| (node, Agent::NotReady(NO_POD.to_owned()))).collect();
        there.extend(missing);
        there.retain(|node, _| nodes.contains(node));
    }
    let mut found = Found::default();
    for (node, agent) in there {
        match agent {
            Agent::Ready(_) => found.servers.push(Server::of_node(&node, opener(agents, &node))),
            Agent::NotReady(why) => found.absent.push((node, why)),
        }
    }
    Ok(found)
}

fn opener(agents: &Arc<Agents>, node: &str) -> Opener {
    let (agents, node) = (Arc::clone(agents), node.to_owned());
    Arc::new(move || {
        let (agents, node) = (Arc::clone(&agents), node.clone());
        Box::pin(async move {
            match agents.open(&node).await {
                Ok(stream) => Ok(Box::new(stream) as Box<dyn Stream>),
                Err(why) => Err(Unopened { is_final: why.is_final(), why: why.into() }),
            }
        })
    })
}
