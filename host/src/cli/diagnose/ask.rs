//! Asks running agents, all at once. Those that do not answer become blind spots of the others'
//! answer; only if none does, the question fails.

use std::time::Duration;

use anyhow::{Context as _, anyhow};
use serde::Deserialize;
use tokio::task::JoinSet;

use crate::answers::cluster;
use crate::answers::question::Question;
use crate::answers::report::Report;
use crate::cli::progress;
use crate::cli::shared::{Usage, server_address};
use crate::config::address::Address;
use crate::http::client::{self, Error};

/// An agent answers within two seconds, and confirms within five more.
const PATIENCE: Duration = Duration::from_secs(10);

/// One report of all agents that answer; of this node's if none is named.
pub async fn all(mut servers: Vec<Address>, question: &Question) -> anyhow::Result<Report> {
    if servers.is_empty() {
        servers.push(server_address("127.0.0.1")?);
    }
    let names: Vec<_> = servers.iter().map(Address::to_string).collect();
    let waiting = |passed: Duration| format!("waiting for {} ({} s)", names.join(", "), passed.as_secs());
    let answers = progress::shown(waiting, each(&names, question)).await;
    let (mut reports, mut refusals, mut silent) = (Vec::new(), Vec::new(), Vec::new());
    for (server, answer) in answers {
        match answer {
            Ok(report) => reports.push(report),
            Err(Failure::Refused(why)) => refusals.push((server, why)),
            Err(Failure::Silent(why)) => silent.push(why),
        }
    }
    if reports.is_empty() {
        return Err(unanswered(refusals, silent));
    }
    let mut report = cluster::join_nodes(reports, silent).context("there is no report")?;
    // Whoever is asked about lives on one of the nodes: that another does not know it is no doubt.
    report.blind_spots.extend(refusals.into_iter().map(|(server, why)| format!("{server}: {why}")));
    Ok(report)
}

/// Why there is no report at all. Only if every server refuses it is the question that is wrong: one
/// that is silent might know who is asked about.
fn unanswered(refusals: Vec<(String, String)>, silent: Vec<String>) -> anyhow::Error {
    let is_wrong = silent.is_empty();
    let whys = refusals.into_iter().map(|(_, why)| why).chain(silent).collect::<Vec<_>>().join("; ");
    if is_wrong { Usage(whys).into() } else { anyhow!(whys) }
}

/// Why a server gives no report.
enum Failure {
    /// It knows no answer, and says why.
    Refused(String),
    /// It could not be asked; the sentence names it.
    Silent(String),
}

/// What each server says, in the order in which they were named.
async fn each(servers: &[String], question: &Question) -> Vec<(String, Result<Report, Failure>)> {
    let mut asking = JoinSet::new();
    for (at, server) in servers.iter().enumerate() {
        let (server, question) = (server.clone(), question.clone());
        asking.spawn(async move {
            let answer = match client::post_json(&server, "/api/v1/diagnose", &question, PATIENCE).await {
                Ok(report) => Ok(report),
                Err(Error::Status { status: 400, message }) => Err(Failure::Refused(message)),
                Err(error) => Err(Failure::Silent(in_words(&server, error).await)),
            };
            (at, server, answer)
        });
    }
    let mut answers = asking.join_all().await;
    answers.sort_by_key(|(at, _, _)| *at);
    answers.into_iter().map(|(_, server, answer)| (server, answer)).collect()
}

#[derive(Deserialize)]
struct Version {
    version: String,
    revision: String,
    node: String,
}

/// What a person should know of an error.
async fn in_words(server: &str, error: Error) -> String {
    match error {
        Error::Status { status: 404 | 405, .. } => {
            match client::get_json::<Version>(server, "/api/v1/version").await {
                Ok(Version { version, revision, node }) => format!(
                    "the agent of node {node} ({server}) is inspector {version} ({revision}), which cannot \
                     answer questions yet: upgrade it"
                ),
                Err(_) => format!("{server} knows no questions: no agent, or one that needs an upgrade"),
            }
        }
        Error::Timeout(server) => {
            format!("{server} did not answer within {}", humantime::format_duration(PATIENCE))
        }
        error @ Error::Connect { .. } => {
            format!("{}: is an agent running there? (--for needs none)", client::chain(&error))
        }
        error => format!("{server}: {}", client::chain(&error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_no_agent_knows_is_wrong_usage_unless_one_is_silent() {
        let refusals = || vec![("n1:1".to_owned(), "there is no entity \"nope\"".to_owned())];
        assert!(unanswered(refusals(), Vec::new()).is::<Usage>());
        let failed = unanswered(refusals(), vec!["n2:1 did not answer".to_owned()]);
        assert!(!failed.is::<Usage>());
        assert_eq!(failed.to_string(), "there is no entity \"nope\"; n2:1 did not answer");
    }
}
