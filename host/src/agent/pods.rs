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
    watch::follow(options, move |told| match told {
        Told::Pods(change) => {
            let changes = known.entities.apply_pods(change);
            if !changes.added.is_empty() {
                take.take(Frame::Entities(changes));
            }
            reached(&known);
        }
        Told::LeftOut(pods) => {
            tracing::warn!(pods, "the API server has more pods of this node than are kept")
        }
        Told::Failed(why) => failed(&known, why),
    })
    .await;
}

fn reached(known: &Known) {
    let mut states = known.status.update();
    let status = states.kube.get_or_insert_default();
    let was_away = status.is_away();
    *status = KubeStatus {
        reached: Some(Instant::now()),
        failing: None,
        reason: String::new(),
        pods: known.entities.pods(),
    };
    if was_away {
        tracing::info!(pods = status.pods, "the API server tells of this node's pods");
    }
}

/// One line for one cause.
fn failed(known: &Known, why: String) {
    let mut states = known.status.update();
    let status = states.kube.get_or_insert_default();
    if status.reason != why {
        tracing::warn!(
            why,
            "the API server does not tell of this node's pods: owners and labels are as of before"
        );
    }
    status.failing.get_or_insert_with(Instant::now);
    status.reason = why;
}
