//! `inspector diagnose`: asks agents, or an agent of its own, and prints the answer.
//!
//! [`ask`] asks running agents, [`whom`] says which, [`port`] what comes first, [`local`] starts one in
//! this process; [`mod@text`], [`markdown`] and [`html`] are forms of the answer. A server is not trusted: every form escapes what it shows.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::ValueEnum;

use super::cluster::ClusterArgs;
use super::shared::{or_this_node, server_address};
use super::terminal::{self, Style};
use crate::answers::question::Question;
use crate::answers::report::Report;
use crate::config::address::Address;
use crate::events::severity::Severity;

mod ask;
mod html;
mod local;
mod markdown;
mod port;
mod text;
mod whom;
mod words;

use port::OtherEnd;
pub use text::text;
use whom::{Names, Whom};
use words::why_in_doubt;

/// Exit status for findings of the severity that `--fail-on` names.
const FOUND: u8 = 3;
/// Exit status, with `--fail-on`, where there is none and too little was seen for that to mean
/// anything: a check that cannot look must not pass.
const DOUBTFUL: u8 = 4;

/// Ask why the network fails: the cause, where it is, how that is known, what to do
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  inspector diagnose                               is this node's network healthy?
  inspector diagnose connect --entity web          why do connections of web fail?
  inspector diagnose dns --pod shop/cart-7d9f --last 10m
  inspector diagnose -e node-1 -e node-2           one answer for both ends of a connection
  inspector diagnose --all-nodes                   one answer for the whole cluster
  inspector diagnose connect --all-nodes --pod shop/web-5f9 --to shop/db-0:5432
  sudo inspector diagnose --for 10s                where no agent runs
  inspector diagnose -o html > report.html
  inspector diagnose --fail-on critical || page-somebody

`inspector list scenario` shows what can be asked, `inspector list entity` about whom.

In a cluster, the agents are asked through its API server, with the kubeconfig that kubectl uses; of
pods and Services that are named, only the nodes are asked that they are on. A node that does not
answer in 10 seconds is named in the answer, and costs the others nothing.

Exit status: 0 if there is an answer; 1 if not; 2 for wrong usage, such as a scenario, entity or pod
that no asked agent knows. With --fail-on also 3 if there is a finding of that severity, and 4 if there
is none and too little was seen for that to mean anything, as when the answer is INCONCLUSIVE.")]
pub struct Args {
    /// What is asked
    #[arg(value_name = "SCENARIO", default_value = crate::answers::question::SCENARIO)]
    scenario: String,
    /// Ask about this one only, by the name that `list entity` shows; may be repeated
    #[arg(long = "entity", value_name = "NAME")]
    entities: Vec<String>,
    /// Ask about this pod only; may be repeated
    #[arg(long = "pod", value_name = "NS/NAME", value_parser = pod)]
    pods: Vec<String>,
    /// How far to look back
    #[arg(long, value_name = "TIME", value_parser = window, default_value = "60s")]
    last: Duration,
    /// Needs no agent: load the probes, look for this time, and answer
    #[arg(long = "for", value_name = "TIME", value_parser = window)]
    #[arg(conflicts_with_all = ["last", "servers", "cluster"])]
    time: Option<Duration>,
    /// Agent to ask, port 19102 if none is given; may be repeated [default: 127.0.0.1:19102]
    #[arg(short = 'e', long = "events", visible_short_alias = 's', value_name = "ADDR")]
    #[arg(value_parser = server_address)]
    servers: Vec<Address>,
    /// How to print it
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Form,
    /// Exit with status 3 if there is a finding of this severity or above, 4 if that cannot be told
    #[arg(long, value_enum, value_name = "SEVERITY")]
    fail_on: Option<FailOn>,
    /// Let the agent look at what a finding asks for: rules, listeners, routes, a short capture
    #[arg(long)]
    confirm: bool,
    /// Folder of analyzers (*.wasm), with --for; may be repeated [default: /usr/lib/inspector/plugins]
    #[arg(long = "plugin-dir", value_name = "DIR", requires = "time")]
    plugin_dirs: Vec<PathBuf>,
    /// Configuration file, with --for
    #[arg(long, value_name = "FILE", requires = "time")]
    config: Option<PathBuf>,
    /// Name of this node, with --for; the host name by default
    #[arg(long = "node.name", value_name = "NAME", env = "NODE_NAME", hide_env_values = true)]
    node_name: Option<String>,
    /// Ask only the agent of this node of the cluster; may be repeated
    #[arg(long = "node", value_name = "NAME", group = "cluster", help_heading = "Kubernetes")]
    nodes: Vec<String>,
    /// Ask about this pod of the cluster as well: the other end of a connection. What is about the port
    /// comes first
    #[arg(long = "to", value_name = "NS/NAME[:PORT]", value_parser = other_end, group = "cluster")]
    #[arg(help_heading = "Kubernetes")]
    others: Vec<OtherEnd>,
    /// Ask about the pods behind this Service of the cluster as well; may be repeated
    #[arg(long = "service", value_name = "NS/NAME", value_parser = pod, group = "cluster")]
    #[arg(help_heading = "Kubernetes")]
    services: Vec<String>,
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// A form of the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
enum Form {
    #[default]
    Text,
    Json,
    Markdown,
    Html,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum FailOn {
    Warning,
    Critical,
}

impl From<FailOn> for Severity {
    fn from(least: FailOn) -> Self {
        match least {
            FailOn::Warning => Self::Warning,
            FailOn::Critical => Self::Critical,
        }
    }
}

/// Asks and prints.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let mut question = args.question();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let report = match args.time {
        Some(time) => {
            let config = local::config(args.config.as_deref(), args.plugin_dirs, args.node_name)?;
            runtime.block_on(local::diagnose(config, question, time))?
        }
        None => runtime.block_on(async {
            let whom = args.whom(&mut question).await?;
            let mut report = ask::all(&whom, &question).await?;
            port::first(&mut report, &args.others.iter().filter_map(|other| other.port).collect::<Vec<_>>());
            anyhow::Ok(report)
        })?,
    };
    let shown = match args.output {
        Form::Text => text(&report, Style::of_stdout()),
        Form::Json => terminal::ascii_json(&serde_json::to_string_pretty(&report)?).into_owned(),
        Form::Markdown => markdown::markdown(&report),
        Form::Html => html::html(&report),
    };
    terminal::print_line(shown.trim_end())?;
    Ok(exit_code(&report, args.fail_on))
}

fn exit_code(report: &Report, fail_on: Option<FailOn>) -> ExitCode {
    let worst = report.findings.iter().map(|finding| finding.severity).max();
    match fail_on {
        Some(least) if worst >= Some(least.into()) => ExitCode::from(FOUND),
        Some(_) if why_in_doubt(report).is_some() => ExitCode::from(DOUBTFUL),
        _ => ExitCode::SUCCESS,
    }
}

impl Args {
    /// Called through kubectl, the cluster is meant unless something else is asked.
    pub fn through_kubectl(&mut self) {
        if self.servers.is_empty() && self.time.is_none() {
            self.cluster.mean_all_nodes();
        }
    }

    fn is_about_cluster(&self) -> bool {
        self.cluster.is_given()
            || !self.others.is_empty()
            || [&self.nodes, &self.services].iter().any(|names| !names.is_empty())
    }

    /// Whom to ask. In a cluster, pods of the question are looked up, and those that are on a node leave it.
    async fn whom(&self, question: &mut Question) -> anyhow::Result<Whom> {
        if !self.is_about_cluster() {
            return Ok(Whom::of_servers(or_this_node(self.servers.clone())?));
        }
        question.entities.clone_from(&self.entities);
        let pods = self.pods.iter().chain(self.others.iter().map(|other| &other.pod)).cloned().collect();
        let names = Names { pods, services: self.services.clone() };
        Whom::of_cluster(&self.cluster, &self.nodes, names, question).await
    }

    fn question(&self) -> Question {
        let window = self.time.unwrap_or(self.last);
        Question {
            scenario: self.scenario.clone(),
            entities: self.entities.iter().chain(&self.pods).cloned().collect(),
            window_ms: u32::try_from(window.as_millis()).unwrap_or(u32::MAX),
            confirm: self.confirm,
        }
    }
}

fn pod(text: &str) -> Result<String, &'static str> {
    match text.split_once('/') {
        Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() => Ok(text.to_owned()),
        _ => Err("a pod is named NAMESPACE/NAME"),
    }
}

fn other_end(text: &str) -> Result<OtherEnd, &'static str> {
    let Some((name, port)) = text.rsplit_once(':') else {
        return Ok(OtherEnd { pod: pod(text)?, port: None });
    };
    let port = port.parse().ok().filter(|port| *port > 0);
    Ok(OtherEnd { pod: pod(name)?, port: Some(port.ok_or("a port is a number from 1 to 65535")?) })
}

fn window(text: &str) -> Result<Duration, String> {
    let window = humantime::parse_duration(text).map_err(|e| e.to_string())?;
    // The contract with analyzers counts milliseconds in 32 bits, which is 49 days.
    match u32::try_from(window.as_millis()) {
        Ok(1..) => Ok(window),
        _ => Err("must be between 1ms and 49 days".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::answers::report::{Finding, Verdict};

    #[derive(Debug, Parser)]
    struct Flags {
        #[command(flatten)]
        args: Args,
    }

    fn question(flags: &[&str]) -> Result<Question, clap::Error> {
        Ok(Flags::try_parse_from(["diagnose"].iter().chain(flags))?.args.question())
    }

    #[test]
    fn flags_become_a_question() {
        assert_eq!(question(&[]).expect("valid"), Question::default());
        let asked = question(&["dns", "--entity", "a", "--pod", "b/c", "--last", "5m", "--confirm"]);
        let asked = asked.expect("valid");
        assert_eq!((asked.scenario.as_str(), asked.window_ms, asked.confirm), ("dns", 300_000, true));
        assert_eq!(asked.entities, ["a", "b/c"]);
        assert_eq!(question(&["--for", "10s"]).expect("valid").window_ms, 10_000);
        for wrong in [
            &["--last", "0s"][..],
            &["--last", "60d"],
            &["--pod", "b"],
            &["--for", "1s", "--last", "1s"],
            &["--for", "1s", "-e", "n1"],
            &["--plugin-dir", "x"],
            &["--all-nodes", "-e", "n1"],
            &["--all-nodes", "--for", "1s"],
            &["--node", "n1", "-e", "n1"],
            &["--to", "shop/db", "--for", "1s"],
            &["--to", "shop/db:x"],
            &["--to", "shop/db:0"],
            &["--service", "db"],
        ] {
            assert!(question(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn any_flag_about_a_cluster_means_the_cluster() {
        let args = |flags: &[&str]| {
            Flags::try_parse_from(["diagnose"].iter().chain(flags)).expect("valid flags").args
        };
        for flags in [
            &["--all-nodes"][..],
            &["--node", "n1"],
            &["--context", "prod"],
            &["--kubeconfig", "f"],
            &["--agent-namespace", "n"],
            &["--agent-selector", "a=b"],
            &["--to", "shop/db:5432"],
            &["--service", "shop/db"],
        ] {
            assert!(args(flags).is_about_cluster(), "{flags:?}");
        }
        assert!(!args(&["--pod", "shop/db"]).is_about_cluster());
        let db = |port| OtherEnd { pod: "shop/db".to_owned(), port };
        assert_eq!(args(&["--to", "shop/db:5432", "--to", "shop/db"]).others, [db(Some(5432)), db(None)]);
        let through = |flags: &[&str]| {
            let mut args = args(flags);
            args.through_kubectl();
            args.is_about_cluster()
        };
        assert_eq!((through(&[]), through(&["-e", "n1"]), through(&["--for", "1s"])), (true, false, false));
    }

    fn code(severity: Severity, fail_on: Option<FailOn>) -> String {
        let findings = vec![Finding { severity, ..Finding::test("x") }];
        format!("{:?}", exit_code(&Report { findings, ..text::tests::report() }, fail_on))
    }

    #[test]
    fn only_findings_of_the_named_severity_are_told_by_the_exit_status() {
        let (found, fine) = (format!("{:?}", ExitCode::from(3)), format!("{:?}", ExitCode::SUCCESS));
        assert_eq!(code(Severity::Critical, Some(FailOn::Critical)), found);
        assert_eq!(code(Severity::Critical, Some(FailOn::Warning)), found);
        assert_eq!(code(Severity::Warning, Some(FailOn::Warning)), found);
        assert_eq!(code(Severity::Warning, Some(FailOn::Critical)), fine);
        assert_eq!(
            (code(Severity::Info, Some(FailOn::Warning)), code(Severity::Critical, None)),
            (fine.clone(), fine)
        );
    }

    #[test]
    fn a_check_that_could_not_look_does_not_pass() {
        let blind = |findings: Vec<Finding>, fail_on| {
            let verdict = Verdict::on(&findings, &["x".to_owned()]);
            let report = Report { findings, verdict, doubts: vec!["x".into()], ..text::tests::report() };
            format!("{:?}", exit_code(&report, fail_on))
        };
        let status = |status: u8| format!("{:?}", ExitCode::from(status));
        let warning = || vec![Finding::test("x")];
        assert_eq!((blind(vec![], Some(FailOn::Warning)), blind(vec![], None)), (status(4), status(0)));
        assert_eq!(blind(warning(), Some(FailOn::Warning)), status(3));
        // There may be a critical one as well.
        assert_eq!(blind(warning(), Some(FailOn::Critical)), status(4));
        let older = Report { findings: vec![], verdict: Verdict::Inconclusive, ..text::tests::report() };
        assert_eq!(format!("{:?}", exit_code(&older, Some(FailOn::Critical))), status(4));
    }
}
