//! Asks each minute what is wrong, for those who are to be told: Kubernetes, of its pods, and whoever events are
//! sent to.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::MissedTickBehavior;

use super::diagnoser::Diagnoser;
use super::findings::Findings;
use super::options;
use super::pod_events::{self, PodEventsTeller};
use crate::answers::question::{Question, Refusal};
use crate::config::Config;
use crate::view::View;

/// How often is asked, and how far back: a fault that lasts is told each time.
pub(super) const EVERY: Duration = Duration::from_secs(60);

/// Tells until it is dropped; waits for ever if nobody is to be told.
pub(super) async fn tell(config: &Config, view: &View, diagnoser: Arc<Diagnoser>) {
    let options = options::api_server(config).filter(|_| config.kubernetes.events);
    let mut pods = options.map(|options| PodEventsTeller::new(options, view));
    let mut findings = config.sinks.is_any().then(|| Findings::new(view));
    if pods.is_none() && findings.is_none() {
        return std::future::pending().await;
    }
    let mut minute = tokio::time::interval_at(tokio::time::Instant::now() + EVERY, EVERY);
    minute.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        minute.tick().await;
        let asked = Arc::clone(&diagnoser);
        let answer = tokio::task::spawn_blocking(move || asked.answer(&Question::default())).await;
        match answer.expect("answering does not panic and is not cancelled") {
            Ok(report) => {
                if let Some(findings) = &mut findings {
                    findings.tell(&report, view);
                }
                if let Some(pods) = &mut pods {
                    pods.tell(&report.findings, view, Instant::now()).await;
                }
            }
            Err(Refusal::Starting(_)) => {}
            Err(refusal) => {
                if pods.is_some() {
                    pod_events::failed(view, 0, refusal.to_string());
                }
            }
        }
    }
}
