//! The Kubernetes API (`kube`): what it says of this node's pods.

pub mod watch;
