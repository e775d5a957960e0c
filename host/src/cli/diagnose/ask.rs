//! Asks running agents, all at once. Those that do not answer become blind spots of the others'
//! answer; only if none does, the question fails.

use std::time::Duration;

use anyhow::{Context as _, anyhow};
use serde::Deserialize;

use super::whom::Whom;
use crate::answers::cluster;
use crate::answers::question::Question;
use crate::answers::report::Report;
use crate::cli::crowd;
use crate::cli::shared::Usage;
use crate::http::client::{self, Error};
use crate::http::reach::Server;

/// An agent answers within two seconds, and confirms within five more.
const PATIENCE: Duration = Duration::from_secs(10);
/// Sentences about servers that do not answer, where there is nothing else to be read.
const MAX_WHYS: usize = 10;

/// One report of all agents that answer.
pub async fn all(whom: &Whom, question: &Question) -> anyhow::Result<Report> {
    let ask = |server: Server| async move { ask(&server, &whom.questions(&server, question)).await };
    let answers = crowd::each(whom.servers(), ask).await;
    let (mut reports, mut refusals, mut silent) = (Vec::new(), Vec::new(), whom.silent());
    for (server, answer) in answers {
        match answer {
            Ok(report) => reports.push(report),
            Err(Failure::Refused(why)) => refusals.push((server.name().to_string(), why)),
            Err(Failure::Silent(why)) => silent.push((server.node().map(str::to_owned), why)),
        }
    }
    reports.extend(whom.report(question));
    if reports.is_empty() {
        return Err(unanswered(refusals, silent));
    }
    let silent = silent.into_iter().map(sentence).collect();
    let mut report = cluster::join_nodes(reports, silent).context("there is no report")?;
    report.entities = whom.everybody(question);
    // Whoever is asked about lives on one of the nodes: that another does not know it is no doubt.
    report.blind_spots.extend(ignorant(refusals));
    Ok(report)
}

/// A node's name before what is said of it; of other servers it is in the sentence already.
fn sentence((node, why): (Option<String>, String)) -> String {
    node.map_or(why.clone(), |node| format!("{node}: {why}"))
}

/// What is said of servers that do not know whom is asked about. Of many it is of no use to anybody what
/// each knows instead.
fn ignorant(refusals: Vec<(String, String)>) -> Vec<String> {
    /// Of so many it is.
    const FEW: usize = 3;
    if refusals.len() <= FEW {
        return refusals.into_iter().map(|(server, why)| format!("{server}: {why}")).collect();
    }
    let same = refusals.into_iter().map(|(server, _)| (server, "no such name is known there".to_owned()));
    crowd::grouped(same.collect(), crowd::FEW)
        .into_iter()
        .map(|(servers, why)| format!("{servers}: {why}"))
        .collect()
}

/// Why there is no report at all. Only if every server refuses it is the question that is wrong: one
/// that is silent might know who is asked about.
fn unanswered(refusals: Vec<(String, String)>, silent: Vec<(Option<String>, String)>) -> anyhow::Error {
    let is_wrong = silent.is_empty();
    let mut whys: Vec<_> = refusals.into_iter().map(|(_, why)| why).collect();
    let (nodes, others): (Vec<_>, Vec<_>) = silent.into_iter().partition(|(node, _)| node.is_some());
    whys.extend(others.into_iter().map(|(_, why)| why));
    let nodes = nodes.into_iter().map(|(node, why)| (node.unwrap_or_default(), why)).collect();
    whys.extend(crowd::grouped(nodes, crowd::FEW).into_iter().map(|(nodes, why)| format!("{nodes}: {why}")));
    let more = whys.len().saturating_sub(MAX_WHYS);
    whys.truncate(MAX_WHYS);
    if more > 0 {
        whys.push(format!("and {more} more"));
    }
    let whys = whys.join("; ");
    if is_wrong { Usage(whys).into() } else { anyhow!(whys) }
}

/// Why a server gives no report.
#[derive(Debug)]
enum Failure {
    /// It knows no answer, and says why.
    Refused(String),
    /// It could not be asked; the sentence names it, unless it is called by its node.
    Silent(String),
}

/// What a server says to the first of some questions that it does not refuse; why it refused others is
/// something that it could not look at.
async fn ask(server: &Server, questions: &[Question]) -> Result<Report, Failure> {
    let mut refused = Vec::new();
    for question in questions {
        match client::post_json::<_, Report>(server, "/api/v1/diagnose", question, PATIENCE).await {
            Ok(mut report) => {
                report.blind_spots.extend(refused);
                // A node is what the cluster calls it, whatever its agent claims to be.
                let node = server.node().map_or(report.node, str::to_owned);
                return Ok(Report { node, ..report });
            }
            Err(Error::Status { status: 400, message }) => refused.push(message),
            Err(error) => return Err(Failure::Silent(in_words(server, error).await)),
        }
    }
    Err(Failure::Refused(refused.pop().unwrap_or_else(|| "nothing is asked of it".to_owned())))
}

#[derive(Deserialize)]
struct Version {
    version: String,
    revision: String,
    node: String,
}

/// What a person should know of an error.
async fn in_words(server: &Server, error: Error) -> String {
    // A node stands before what is said of it.
    let (name, node) = (server.name(), server.node());
    match error {
        Error::Status { status: 404 | 405, .. } => {
            match client::get_json::<Version>(server, "/api/v1/version").await {
                Ok(Version { version, revision, node: says }) => {
                    let agent = match node {
                        Some(_) => "its agent".to_owned(),
                        None => format!("the agent of node {says} ({name})"),
                    };
                    format!(
                        "{agent} is inspector {version} ({revision}), which cannot answer questions yet: \
                         upgrade it"
                    )
                }
                Err(_) if node.is_some() => "knows no questions: its agent needs an upgrade".to_owned(),
                Err(_) => format!("{name} knows no questions: no agent, or one that needs an upgrade"),
            }
        }
        Error::Timeout(_) => {
            let within = humantime::format_duration(PATIENCE);
            if node.is_some() {
                format!("no answer within {within}")
            } else {
                format!("{name} did not answer within {within}")
            }
        }
        error @ Error::Connect { .. } => {
            format!("{}: is an agent running there? (--for needs none)", client::chain(&error))
        }
        error if node.is_some() => client::chain(&error),
        error => format!("{name}: {}", client::chain(&error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_no_agent_knows_is_wrong_usage_unless_one_is_silent() {
        let refusals = || vec![("n1:1".to_owned(), "there is no entity \"nope\"".to_owned())];
        assert!(unanswered(refusals(), Vec::new()).is::<Usage>());
        let failed = unanswered(refusals(), vec![(None, "n2:1 did not answer".to_owned())]);
        assert!(!failed.is::<Usage>());
        assert_eq!(failed.to_string(), "there is no entity \"nope\"; n2:1 did not answer");
    }

    #[test]
    fn what_is_in_the_way_of_every_node_is_said_once() {
        let silent = |node: usize| (Some(format!("n{node}")), "you may not".to_owned());
        let failed = unanswered(Vec::new(), (0..22).map(silent).collect()).to_string();
        assert!(
            failed.starts_with("n0, n1, ") && failed.ends_with(", n19 and 2 more: you may not"),
            "{failed}"
        );
    }

    #[test]
    fn of_many_that_do_not_know_whom_is_asked_about_it_is_said_together() {
        let refusal = |node: usize| (format!("n{node}"), format!("there is no entity; there are {node}"));
        assert_eq!(ignorant(vec![refusal(1)]), ["n1: there is no entity; there are 1"]);
        let many = ignorant((0..4).map(refusal).collect());
        assert_eq!(many, ["n0, n1, n2, n3: no such name is known there"]);
    }
}
