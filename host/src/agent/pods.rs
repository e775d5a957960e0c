//! Takes in what the API server says of this node's pods, and says how that goes. Names do not wait for
//! it: the node itself has them (`discover`).

use std::sync::Arc;
use std::time::Instant;

use super::known::Known;
use super::options;
use crate::config::Config;
use crate::frame::{Frame, Take};
use crate::kubernetes::watch::{self, Told};
use crate::status::KubeStatus;

/// Follows the pods, if there is an API server to ask; otherwise it never ends either.
pub(super) async fn follow(config: &Config, known: Known, take: Arc<dyn Take>) {
    let Some(options) = options::pods(config) else { return std::future::pending().await };
    known.status.update().kube = Some(KubeStatus::default());
    let tell = move |told| match told {
        Told::Pods(change) => {
            let changes = known.entities.apply_pods(change);
            known.status.update().kube.get_or_insert_default().pods = known.entities.pods();
            if !changes.added.is_empty() {
                take.take(Frame::Entities(changes));
            }
        }
        Told::Watching => reached(&known),
        Told::LeftOut(pods) => {
            tracing::warn!(pods, "the API server has more pods of this node than are kept")
        }
        Told::Failed(why) => failed(&known, why),
    };
    watch::follow(options, tell).await;
}

fn reached(known: &Known) {
    let mut states = known.status.update();
    let status = states.kube.get_or_insert_default();
    let was_away = status.is_away();
    *status = KubeStatus { was_reached: true, failing: None, reason: String::new(), ..status.clone() };
    if was_away {
        tracing::info!(pods = status.pods, "the API server tells of this node's pods");
    }
}

/// One line for one cause.
fn failed(known: &Known, why: String) {
    let mut states = known.status.update();
    let status = states.kube.get_or_insert_default();
    if status.reason != why {
        let lost = match status.was_reached {
            true => "owners and labels of pods are as of before",
            false => "owners and labels of pods are not known",
        };
        tracing::warn!(why, lost, "the API server does not tell of this node's pods");
    }
    status.failing.get_or_insert_with(Instant::now);
    status.reason = why;
}
