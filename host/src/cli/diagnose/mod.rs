//! `inspector diagnose`: asks agents, or an agent of its own, and prints the answer.
//!
//! [`ask`] asks running agents, [`local`] starts one in this process; [`mod@text`], [`markdown`] and
//! [`html`] are forms of the answer. A server is not trusted: every form escapes what it shows.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::ValueEnum;

use super::server_address;
use super::terminal::{self, Style};
use crate::answers::question::Question;
use crate::answers::report::{Evidence, Finding, NO_TRAFFIC, Report, Verdict};
use crate::config::address::Address;
use crate::events::severity::Severity;

mod ask;
mod html;
mod local;
mod markdown;
pub mod progress;
mod text;

pub use text::text;

/// Exit status for findings of the severity that `--fail-on` names.
const FOUND: u8 = 3;
/// Exit status, with `--fail-on`, where there is none and too little was seen for that to mean
/// anything: a check that cannot look must not pass.
const DOUBTFUL: u8 = 4;
/// Names in a sentence; `-o json` has all.
const MAX_NAMES: usize = 3;

/// Ask why the network fails: the cause, where it is, how that is known, what to do
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  inspector diagnose                               is this node's network healthy?
  inspector diagnose connect --entity web          why do connections of web fail?
  inspector diagnose dns --pod shop/cart-7d9f --last 10m
  inspector diagnose -e node-1 -e node-2           one answer for both ends of a connection
  sudo inspector diagnose --for 10s                where no agent runs
  inspector diagnose -o html > report.html
  inspector diagnose --fail-on critical || page-somebody

`inspector list scenario` shows what can be asked, `inspector list entity` about whom.

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
    #[arg(long = "for", value_name = "TIME", value_parser = window, conflicts_with_all = ["last", "servers"])]
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
    let question = args.question();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let report = match args.time {
        Some(time) => {
            let config = local::config(args.config.as_deref(), args.plugin_dirs, args.node_name)?;
            runtime.block_on(local::diagnose(config, question, time))?
        }
        None => runtime.block_on(ask::all(args.servers, &question))?,
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

fn window(text: &str) -> Result<Duration, String> {
    let window = humantime::parse_duration(text).map_err(|e| e.to_string())?;
    // The contract with analyzers counts milliseconds in 32 bits, which is 49 days.
    match u32::try_from(window.as_millis()) {
        Ok(1..) => Ok(window),
        _ => Err("must be between 1ms and 49 days".to_owned()),
    }
}

/// How long before the report something was.
fn ago(report: &Report, at_ns: u64) -> String {
    match Duration::from_nanos(report.generated_ns.saturating_sub(at_ns)) {
        now if now < Duration::from_secs(1) => "just now".to_owned(),
        ago => format!("{} ago", crate::answers::blind_spots::in_words(ago)),
    }
}

/// When and how often a finding was seen.
fn when(report: &Report, first_ns: u64, last_ns: u64, count: u64) -> String {
    let (first, last) = (ago(report, first_ns), ago(report, last_ns));
    let often = if count == 1 { "once".to_owned() } else { format!("{count} times") };
    if first == last { format!("{often}, {last}") } else { format!("{often}, {first} to {last}") }
}

/// Why finding nothing does not mean that nothing is wrong. An agent that is not upgraded yet gives no
/// reason, because it knows only one.
fn why_in_doubt(report: &Report) -> Option<&str> {
    let silent = (report.verdict == Verdict::Inconclusive).then_some(NO_TRAFFIC);
    report.doubts.first().map(String::as_str).or(silent)
}

/// The verdict and what it rests on, in one sentence.
fn sentence(report: &Report) -> String {
    let (place, scenario) = (place(report), &report.scenario);
    let counted = counted(report);
    match (report.verdict, why_in_doubt(report)) {
        (Verdict::Inconclusive, Some(why)) if counted.is_empty() => {
            format!("nothing can be said {place} (scenario {scenario}): {why}")
        }
        (Verdict::Inconclusive, Some(why)) => {
            format!("{counted}, and nothing more can be said {place} (scenario {scenario}): {why}")
        }
        _ if counted.is_empty() => format!("nothing is wrong {place} (scenario {scenario})"),
        _ => format!("{counted} {place} (scenario {scenario})"),
    }
}

/// How many findings there are of each severity; empty if there are none.
fn counted(report: &Report) -> String {
    let counts = [
        (Severity::Critical, "critical", "critical"),
        (Severity::Warning, "warning", "warnings"),
        (Severity::Info, "remark", "remarks"),
    ];
    let counted = counts.map(|(severity, one, many)| match report.count(severity) {
        0 => String::new(),
        1 => format!("1 {one}"),
        several => format!("{several} {many}"),
    });
    let counted: Vec<_> = counted.into_iter().filter(|text| !text.is_empty()).collect();
    counted.join(", ")
}

/// Whom, where and when the question was about.
fn place(report: &Report) -> String {
    let last = crate::answers::blind_spots::in_words(Duration::from_millis(report.window_ms.into()));
    let nodes = if report.node.contains(", ") { "nodes" } else { "node" };
    let names = report.entities.iter().take(MAX_NAMES).map(String::as_str).collect::<Vec<_>>().join(", ");
    let whom = match report.entities.len() {
        0 => String::new(),
        1..=MAX_NAMES => format!("for {names} "),
        all => format!("for {names} and {} more ", all - MAX_NAMES),
    };
    format!("{whom}on {nodes} {} in the last {last}", report.node)
}

/// What could not be seen, but for what the sentence says already.
fn blind_spots(report: &Report) -> Vec<&str> {
    let said = why_in_doubt(report).filter(|_| report.verdict == Verdict::Inconclusive);
    report.blind_spots.iter().map(String::as_str).filter(|spot| Some(*spot) != said).collect()
}

/// A piece of evidence; what reads the same several times is one.
struct Fact<'a> {
    evidence: &'a Evidence,
    times: usize,
}

impl Fact<'_> {
    /// A word in front of what speaks against the finding.
    fn but(&self) -> &'static str {
        if self.evidence.kind == "against" { "but " } else { "" }
    }

    /// How long ago it was last, if that is known.
    fn ago(&self, report: &Report) -> Option<String> {
        self.evidence.at_ns.map(|at| ago(report, at))
    }

    /// What it is, and how often.
    fn summary(&self) -> String {
        match self.times {
            1 => self.evidence.summary.clone(),
            times => format!("{} ({times} times)", self.evidence.summary),
        }
    }
}

/// The evidence of a finding, in its order; of what reads the same, the last.
fn facts(finding: &Finding) -> Vec<Fact<'_>> {
    let mut facts: Vec<Fact<'_>> = Vec::new();
    for evidence in &finding.evidence {
        let reads_same = |fact: &&mut Fact<'_>| {
            (&fact.evidence.kind, &fact.evidence.summary) == (&evidence.kind, &evidence.summary)
        };
        match facts.iter_mut().find(reads_same) {
            Some(fact) => {
                fact.times += 1;
                fact.evidence = std::cmp::max_by_key(fact.evidence, evidence, |evidence| evidence.at_ns);
            }
            None => facts.push(Fact { evidence, times: 1 }),
        }
    }
    facts
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

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
        ] {
            assert!(question(wrong).is_err(), "{wrong:?}");
        }
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

    #[test]
    fn the_sentence_fits_the_verdict() {
        let mut report = Report { findings: Vec::new(), ..text::tests::report() };
        report.verdict = Verdict::Healthy;
        assert_eq!(sentence(&report), "nothing is wrong on node n1 in the last 1m (scenario connect)");
        report.verdict = Verdict::Inconclusive;
        let nothing = "nothing can be said on node n1 in the last 1m (scenario connect): ";
        assert_eq!(sentence(&report), format!("{nothing}{NO_TRAFFIC}"));
        report.doubts = vec!["DNS queries are not seen".into(), "nor is the rest".into()];
        assert_eq!(sentence(&report), format!("{nothing}DNS queries are not seen"));
        report.findings = vec![Finding { severity: Severity::Info, ..Finding::test("x") }];
        assert!(sentence(&report).starts_with("1 remark, and nothing more can be said on node n1"));
    }

    #[test]
    fn who_was_asked_about_is_in_the_sentence() {
        let of = |names: &[&str]| {
            let entities = names.iter().map(|name| (*name).to_owned()).collect();
            place(&Report { entities, ..text::tests::report() })
        };
        assert_eq!(of(&["web"]), "for web on node n1 in the last 1m");
        assert_eq!(of(&["a", "b", "c", "d", "e"]), "for a, b, c and 2 more on node n1 in the last 1m");
    }

    #[test]
    fn no_blind_spot_is_told_twice() {
        let blind = |verdict| Report {
            verdict,
            doubts: vec!["a".into(), "b".into()],
            blind_spots: ["a", "b", "c"].map(str::to_owned).into(),
            ..text::tests::report()
        };
        assert_eq!(blind_spots(&blind(Verdict::Inconclusive)), ["b", "c"]);
        assert_eq!(blind_spots(&blind(Verdict::Broken)), ["a", "b", "c"], "the sentence tells of findings");
    }

    #[test]
    fn evidence_that_reads_the_same_is_told_once_with_how_often_and_when_last() {
        let evidence = |summary: &str, at_ns| Evidence {
            kind: "event".into(),
            summary: summary.into(),
            at_ns: Some(at_ns),
            attrs: vec![("flow".into(), at_ns.to_string())],
        };
        let evidence = vec![evidence("a", 1), evidence("b", 9), evidence("a", 3), evidence("a", 2)];
        let finding = Finding { evidence, ..Finding::test("x") };
        let told: Vec<_> = facts(&finding).iter().map(|fact| (fact.summary(), fact.evidence.at_ns)).collect();
        assert_eq!(told, [("a (3 times)".to_owned(), Some(3)), ("b".to_owned(), Some(9))]);
    }
}
