//! Takes in what the API server says of this node's pods, and of who is at the other end of their
//! conversations, and says how that goes. Names of this node's pods do not wait for it: the node itself has
//! them (`discover`).

use std::sync::Arc;
use std::time::Instant;

use super::known::Known;
use super::{host_ports, options};
use crate::config::Config;
use crate::frame::{Frame, Take};
use crate::kubernetes::told::Told;
use crate::kubernetes::watch;
use crate::status::{KubeStatus, Resource};

/// Follows what is configured, if there is an API server to ask; otherwise it never ends either.
pub(super) async fn follow(config: &Config, known: Known, take: Arc<dyn Take>) {
    let Some(options) = options::api_server(config) else { return std::future::pending().await };
    let resources = options.resources();
    known.status.update().kube = resources.into_iter().map(|of| (of, KubeStatus::default())).collect();
    let host_ports = host_ports::follow(Arc::clone(&known.entities), config.paths.procfs.clone());
    tokio::join!(watch::follow(options, |told| take_in(told, &known, &*take)), host_ports);
}

fn take_in(told: Told, known: &Known, take: &dyn Take) {
    let count = |of: Resource, objects| known.status.update().kube.entry(of).or_default().objects = objects;
    match told {
        Told::Pods(change) => {
            let changes = known.entities.apply_pods(change);
            count(Resource::Pods, known.entities.pods());
            if !changes.added.is_empty() {
                take.take(Frame::Entities(changes));
            }
        }
        Told::Services(change) => count(Resource::Services, known.peers.apply_services(change)),
        Told::Nodes(change) => count(Resource::Nodes, known.peers.apply_nodes(change)),
        Told::AllPods(change) => count(Resource::AllPods, known.peers.apply_pods(change)),
        Told::Watching(of) => reached(known, of),
        Told::LeftOut(of, left_out) => {
            tracing::warn!(left_out, "the API server has more of {} than are kept", of.words())
        }
        Told::Failed(of, why) => failed(known, of, why),
    }
}

fn reached(known: &Known, of: Resource) {
    let mut states = known.status.update();
    let status = states.kube.entry(of).or_default();
    let was_away = status.is_away();
    *status = KubeStatus { was_reached: true, failing: None, reason: String::new(), ..status.clone() };
    if was_away {
        tracing::info!(objects = status.objects, "the API server tells of {}", of.words());
    }
}

/// One line for one cause, whatever else it is the cause of.
fn failed(known: &Known, of: Resource, why: String) {
    let mut states = known.status.update();
    let is_known = states.kube.values().any(|status| status.reason == why);
    let status = states.kube.entry(of).or_default();
    if !is_known {
        // Of objects whose watch is refused there may be a list.
        let lost = match status.was_reached || status.objects > 0 {
            true => format!("{} are as of before", of.gives()),
            false => format!("{} are not known", of.gives()),
        };
        tracing::warn!(why, lost, "the API server does not tell of {}", of.words());
    }
    status.failing.get_or_insert_with(Instant::now);
    status.reason = why;
}
