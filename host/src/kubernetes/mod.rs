//! The adapter for the API server of a Kubernetes cluster (kube).
//!
//! - [`access`]: which API server, and as whom. [`error`]: why it does not give what it was asked for.
//! - [`agents`]: the agents of the cluster's nodes, and connections to their event servers; [`forward`]
//!   is such a connection.
//! - [`locate`]: on which nodes pods are, and those behind a Service.
//! - [`watch`]: what the API server says of this node's pods, and of who is at the other end of their
//!   conversations, for an agent; [`object`] is what is kept of each object, [`told`] what is told of it.
//! - [`pod_event`]: Events of Kubernetes on pods with which something is wrong. [`client`](mod@client) is
//!   an agent's connection, for both.
//!
//! Nothing here but these Events changes anything in the cluster, and nothing listens: RBAC decides who may reach an agent.
//! What the API server sends is bounded in time and number; who shows a text of it escapes it.

pub mod access;
pub mod agents;
mod client;
pub mod error;
pub mod forward;
pub mod locate;
mod object;
pub mod pod_event;
mod proxy;
pub mod told;
pub mod watch;
