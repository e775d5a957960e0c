//! A diagnosis: what analyzers conclude, with a verdict and with what could not be seen.
//!
//! These types are the JSON of `POST /api/v1/diagnose` and of `inspector diagnose -o json`.
//! Analyzers of one node are merged here, those of several nodes in [`cluster`](crate::answers::cluster).
//! What is made into a [`Finding`] was bounded and escaped before; what a client reads from a
//! server was not, so whoever shows it escapes it.
//!
//! Longer than other files, because these types together are one document.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::entities::EntityId;
use crate::events::event::ordered_map;
use crate::events::severity::Severity;

/// The answer to a question.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// What was asked.
    pub scenario: String,
    /// All of it in one word.
    pub verdict: Verdict,
    /// The node, or the nodes separated by `, `.
    pub node: String,
    /// Who was asked about, by the names in the question; empty = everybody.
    #[serde(default)]
    pub entities: Vec<String>,
    /// How far was looked back from `generated_at`, in milliseconds.
    pub window_ms: u32,
    /// When it was asked, nanoseconds since the Unix epoch.
    #[serde(rename = "generated_at", with = "time")]
    pub generated_ns: u64,
    /// Conclusions, most important first.
    pub findings: Vec<Finding>,
    /// Why finding nothing does not mean that nothing is wrong; empty if it does. Those that are
    /// blind spots are among `blind_spots` too, word for word.
    #[serde(default)]
    pub doubts: Vec<String>,
    /// What could not be seen, so that absence is not read as health.
    pub blind_spots: Vec<String>,
}

/// The doubt that is no blind spot.
pub const NO_TRAFFIC: &str = "no traffic was seen: ask again while there is some, or look further back";

/// Something that could not be seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlindSpot {
    /// What, and why, for people.
    pub text: String,
    /// The question rests on it: finding nothing means nothing.
    pub casts_doubt: bool,
}

impl BlindSpot {
    /// One that the question rests on.
    pub fn doubt(text: String) -> Self {
        Self { text, casts_doubt: true }
    }

    /// One that would have shown more, but not whether something is wrong.
    pub fn detail(text: String) -> Self {
        Self { text, casts_doubt: false }
    }
}

/// A report in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// All that the question rests on was seen, and nothing is wrong with it.
    Healthy,
    /// Nothing wrong was found, and too little was seen for that to mean anything.
    Inconclusive,
    /// Something works worse than it should.
    Degraded,
    /// Something does not work.
    Broken,
}

impl Verdict {
    /// As in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Inconclusive => "inconclusive",
            Self::Degraded => "degraded",
            Self::Broken => "broken",
        }
    }

    /// The verdict on findings, and on doubts where they tell of nothing wrong.
    pub fn on(findings: &[Finding], doubts: &[String]) -> Self {
        match findings.iter().map(|finding| finding.severity).max() {
            Some(Severity::Critical) => Self::Broken,
            Some(Severity::Warning) => Self::Degraded,
            _ if doubts.is_empty() => Self::Healthy,
            _ => Self::Inconclusive,
        }
    }
}

/// A conclusion.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// Stable code, e.g. `accept-queue-overflow`.
    pub code: String,
    /// Whether it is what connections suffer from, or only what they suffer.
    #[serde(default)]
    pub role: Role,
    /// What happened, for people.
    pub title: String,
    /// How bad it is.
    pub severity: Severity,
    /// How sure it is, 0 to 100.
    pub confidence: u8,
    /// Where the cause sits, then where it is affected.
    pub entities: Vec<Place>,
    /// When it was seen first, nanoseconds since the Unix epoch.
    #[serde(rename = "first_seen", with = "time")]
    pub first_ns: u64,
    /// When it was seen last.
    #[serde(rename = "last_seen", with = "time")]
    pub last_ns: u64,
    /// Packets, connections or whatever the title counts.
    pub count: u64,
    /// How that is known.
    pub evidence: Vec<Evidence>,
    /// What a person can do.
    pub actions: Vec<Action>,
    /// What the host may look at to confirm it.
    #[serde(skip)]
    pub checks: Vec<Check>,
}

/// The part that a finding plays for the connections that it names.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// It is what they suffer; a cause on another node explains it.
    Symptom,
    /// It is what they suffer from. Also where an analyzer gives another role than these, or an older
    /// agent none: to take a symptom for a cause hides nothing.
    #[default]
    #[serde(other)]
    Cause,
}

impl Role {
    /// The role of a name in the contract.
    pub fn of(name: &str) -> Self {
        if name == "symptom" { Self::Symptom } else { Self::Cause }
    }
}

/// An entity in a finding.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Place {
    /// Its name; `host` for the host.
    pub name: String,
    /// `host`, `pod`, `netns`, `container` or `anonymous`.
    pub kind: String,
    /// Kubernetes namespace, or empty.
    pub namespace: String,
    /// The node it is on.
    pub node: String,
}

impl Place {
    /// `namespace/name`, or the bare name.
    pub fn display(&self) -> String {
        match self.namespace.as_str() {
            "" => self.name.clone(),
            namespace => format!("{namespace}/{}", self.name),
        }
    }
}

/// One reason to believe a finding, or not to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    /// `event`, `metric`, `flow`, `table` or `text`; `against` speaks against the finding.
    pub kind: String,
    /// The fact, for people.
    pub summary: String,
    /// When that was, nanoseconds since the Unix epoch.
    #[serde(rename = "at", with = "time::option")]
    pub at_ns: Option<u64>,
    /// The same fact for programs.
    #[serde(with = "ordered_map")]
    pub attrs: Vec<(String, String)>,
}

impl Evidence {
    /// The value of an attribute.
    pub fn attr(&self, name: &str) -> Option<&str> {
        self.attrs.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// Something to do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Action {
    /// What and why.
    pub title: String,
    /// Shell text for a person; nothing here ever runs it.
    pub command: Option<String>,
    /// `safe`, `disruptive` or `needs-approval`.
    pub risk: String,
    /// Where to read more.
    pub url: Option<String>,
}

impl Action {
    /// A command that only shows something.
    pub fn look(title: impl Into<String>, command: String) -> Self {
        Self { title: title.into(), command: Some(command), risk: "safe".to_owned(), url: None }
    }
}

/// Something that the host may look at (`check/`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Check {
    /// What to look at, e.g. `listeners`.
    pub kind: String,
    /// Where to look.
    pub entity: EntityId,
    /// What to look for.
    pub params: Vec<(String, String)>,
}

/// What one analyzer says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answer {
    /// Its conclusions.
    pub findings: Vec<Finding>,
    /// What it could not look at.
    pub blind_spots: Vec<String>,
    /// From here on what it knows is whole, nanoseconds since the Unix epoch.
    pub since_ns: u64,
    /// How much it saw in the window; 0 = nothing to judge by.
    pub seen: u64,
}

/// An analyzer that was asked, and its answer or why there is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnalyzerReply {
    /// The analyzer.
    pub analyzer: String,
    /// What it says.
    pub answer: Result<Answer, String>,
}

impl Report {
    /// Merges what the analyzers of one node say. `blind_spots` is all that could not be seen, those
    /// of the analyzers among it.
    pub fn of_node(
        scenario: &str,
        node: &str,
        window: Duration,
        now_ns: u64,
        answers: Vec<AnalyzerReply>,
        blind_spots: Vec<BlindSpot>,
    ) -> Self {
        let has_traffic = seen(&answers) > 0;
        let answers = answers.into_iter().filter_map(|answered| answered.answer.ok());
        let findings = merge(answers.flat_map(|answer| answer.findings));
        let (decisive, others): (Vec<_>, Vec<_>) = blind_spots.into_iter().partition(|spot| spot.casts_doubt);
        let (mut doubts, mut blind_spots) = (Vec::new(), Vec::new());
        join(&mut doubts, decisive.into_iter().map(|spot| spot.text).collect());
        join(&mut blind_spots, doubts.clone());
        join(&mut blind_spots, others.into_iter().map(|spot| spot.text).collect());
        if !has_traffic {
            doubts.push(NO_TRAFFIC.to_owned());
        }
        Self {
            scenario: scenario.to_owned(),
            verdict: Verdict::on(&findings, &doubts),
            node: node.to_owned(),
            entities: Vec::new(),
            window_ms: u32::try_from(window.as_millis()).unwrap_or(u32::MAX),
            generated_ns: now_ns,
            findings,
            doubts,
            blind_spots,
        }
    }

    /// How many findings have a severity.
    pub fn count(&self, severity: Severity) -> usize {
        self.findings.iter().filter(|finding| finding.severity == severity).count()
    }
}

/// How much was seen in the window, by the analyzer that saw most of it.
pub fn seen(answers: &[AnalyzerReply]) -> u64 {
    let answers = answers.iter().filter_map(|answered| answered.answer.as_ref().ok());
    answers.map(|answer| answer.seen).max().unwrap_or(0)
}

/// One finding per code and cause, ranked.
pub fn merge(findings: impl Iterator<Item = Finding>) -> Vec<Finding> {
    let mut merged: BTreeMap<(String, Option<Place>), Finding> = BTreeMap::new();
    for finding in findings {
        let key = (finding.code.clone(), finding.entities.first().cloned());
        match merged.get_mut(&key) {
            Some(known) => known.absorb(finding),
            None => drop(merged.insert(key, finding)),
        }
    }
    let mut findings: Vec<_> = merged.into_values().collect();
    findings.sort_by(|a, b| a.rank().cmp(&b.rank()));
    findings
}

impl Finding {
    /// Joins what another analyzer says of the same thing. Both saw the same packets, so that
    /// counts are not added up.
    pub(super) fn absorb(&mut self, other: Self) {
        if other.confidence > self.confidence {
            self.title = other.title;
        }
        if other.role == Role::Cause {
            self.role = Role::Cause;
        }
        self.severity = self.severity.max(other.severity);
        self.confidence = self.confidence.max(other.confidence);
        self.first_ns = self.first_ns.min(other.first_ns);
        self.last_ns = self.last_ns.max(other.last_ns);
        self.count = self.count.max(other.count);
        join(&mut self.entities, other.entities);
        join(&mut self.evidence, other.evidence);
        join(&mut self.actions, other.actions);
        join(&mut self.checks, other.checks);
    }

    /// Smaller is more important; no two findings of a report rank alike.
    fn rank(&self) -> impl Ord {
        use std::cmp::Reverse;
        let grave = (Reverse(self.severity), Reverse(self.confidence), Reverse(self.count));
        (grave, self.code.clone(), self.entities.first().cloned())
    }
}

/// Adds what is not there yet, in its order.
pub fn join<T: PartialEq>(known: &mut Vec<T>, more: Vec<T>) {
    for item in more {
        if !known.contains(&item) {
            known.push(item);
        }
    }
}

/// Times as RFC 3339 in UTC with milliseconds.
mod time {
    use std::time::{Duration, SystemTime, UNIX_EPOCH};

    use serde::{Deserialize, Deserializer, Serializer, de};

    pub(super) fn serialize<S: Serializer>(ns: &u64, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&humantime::format_rfc3339_millis(UNIX_EPOCH + Duration::from_nanos(*ns)))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
        read(&String::deserialize(from)?).map_err(de::Error::custom)
    }

    fn read(text: &str) -> Result<u64, String> {
        let time: SystemTime = humantime::parse_rfc3339(text).map_err(|e| format!("{text:?}: {e}"))?;
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_nanos()).map_err(|_| format!("{text:?}: too far ahead"))
    }

    pub(super) mod option {
        use super::*;

        pub(in super::super) fn serialize<S: Serializer>(ns: &Option<u64>, to: S) -> Result<S::Ok, S::Error> {
            match ns {
                Some(ns) => super::serialize(ns, to),
                None => to.serialize_none(),
            }
        }

        pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
            from: D,
        ) -> Result<Option<u64>, D::Error> {
            let text = Option::<String>::deserialize(from)?;
            text.map(|text| read(&text)).transpose().map_err(de::Error::custom)
        }
    }
}

#[cfg(test)]
impl Finding {
    /// A warning at an entity `web` of node `n1`.
    pub(crate) fn test(code: &str) -> Self {
        Self {
            code: code.to_owned(),
            title: format!("{code} happened"),
            severity: Severity::Warning,
            confidence: 90,
            entities: vec![Place::test("web", "n1")],
            first_ns: 1_000_000_000,
            last_ns: 2_000_000_000,
            count: 3,
            ..Self::default()
        }
    }
}

#[cfg(test)]
impl Place {
    /// A named network namespace.
    pub(crate) fn test(name: &str, node: &str) -> Self {
        let (kind, namespace) = ("netns".to_owned(), String::new());
        Self { name: name.to_owned(), kind, namespace, node: node.to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn evidence(summary: &str) -> Evidence {
        Evidence { kind: "event".into(), summary: summary.into(), ..Evidence::default() }
    }

    fn answered(findings: Vec<Finding>, seen: u64) -> AnalyzerReply {
        let answer = Answer { findings, seen, ..Answer::default() };
        AnalyzerReply { analyzer: "a".into(), answer: Ok(answer) }
    }

    fn report(answers: Vec<AnalyzerReply>) -> Report {
        Report::of_node("node", "n1", Duration::from_secs(60), 100_000_000_000, answers, Vec::new())
    }

    #[test]
    fn two_analyzers_that_saw_the_same_say_it_once_with_the_larger_count() {
        let one = Finding { evidence: vec![evidence("a"), evidence("b")], ..Finding::test("x") };
        let other = Finding {
            title: "surer".into(),
            severity: Severity::Critical,
            confidence: 95,
            count: 2,
            first_ns: 5,
            last_ns: 7,
            entities: vec![Place::test("web", "n1"), Place::test("client", "n1")],
            evidence: vec![evidence("b"), evidence("c")],
            ..Finding::test("x")
        };
        let report = report(vec![answered(vec![one], 1), answered(vec![other], 1)]);
        let [merged] = report.findings.as_slice() else { panic!("one finding: {report:?}") };
        assert_eq!((merged.count, merged.severity, merged.confidence), (3, Severity::Critical, 95));
        assert_eq!((merged.first_ns, merged.last_ns), (5, 2_000_000_000));
        assert_eq!((merged.title.as_str(), merged.entities.len()), ("surer", 2));
        assert_eq!(merged.evidence.iter().map(|e| e.summary.as_str()).collect::<Vec<_>>(), ["a", "b", "c"]);
    }

    #[test]
    fn the_same_code_elsewhere_is_another_finding() {
        let elsewhere = Finding { entities: vec![Place::test("db", "n1")], ..Finding::test("x") };
        assert_eq!(report(vec![answered(vec![Finding::test("x"), elsewhere], 1)]).findings.len(), 2);
    }

    #[test]
    fn the_order_does_not_depend_on_who_answers_first() {
        let all = [
            Finding { severity: Severity::Critical, ..Finding::test("e") },
            Finding { confidence: 95, ..Finding::test("d") },
            Finding { count: 9, ..Finding::test("c") },
            Finding { entities: vec![Place::test("a", "n1")], ..Finding::test("b") },
            Finding::test("b"),
            Finding { severity: Severity::Info, confidence: 100, ..Finding::test("a") },
        ];
        let mut reversed = all.to_vec();
        reversed.reverse();
        assert_eq!(report(vec![answered(reversed, 1)]).findings, all);
    }

    #[test]
    fn the_verdict_is_that_of_the_worst_finding_or_of_what_was_seen() {
        let of = |severity, seen| {
            report(vec![answered(vec![Finding { severity, ..Finding::test("x") }], seen)]).verdict
        };
        use Severity::{Critical, Info, Warning};
        assert_eq!((of(Critical, 0), of(Warning, 0)), (Verdict::Broken, Verdict::Degraded));
        assert_eq!((of(Info, 5), of(Info, 0)), (Verdict::Healthy, Verdict::Inconclusive));
        assert_eq!(report(vec![answered(vec![], 0), answered(vec![], 1)]).verdict, Verdict::Healthy);
        assert_eq!(report(vec![]).verdict, Verdict::Inconclusive);
    }

    #[test]
    fn who_could_not_see_what_the_question_rests_on_calls_nothing_healthy() {
        let of = |findings, spot: BlindSpot| {
            let (window, answers) = (Duration::from_secs(60), vec![answered(findings, 5)]);
            Report::of_node(
                "node",
                "n1",
                window,
                100_000_000_000,
                answers,
                vec![BlindSpot::detail("b".into()), spot],
            )
        };
        let blind = of(vec![], BlindSpot::doubt("a".into()));
        assert_eq!(blind.verdict, Verdict::Inconclusive);
        assert_eq!(
            (blind.doubts.as_slice(), blind.blind_spots.as_slice()),
            (&["a".to_owned()][..], &["a".to_owned(), "b".to_owned()][..])
        );
        assert_eq!(of(vec![], BlindSpot::detail("a".into())).verdict, Verdict::Healthy);
        // What was found stays found.
        let found = of(vec![Finding::test("x")], BlindSpot::doubt("a".into()));
        assert_eq!((found.verdict, found.doubts.len()), (Verdict::Degraded, 1));
    }

    #[test]
    fn the_json_is_what_programs_were_promised() {
        let evidence = Evidence {
            at_ns: Some(1_500_000_000),
            attrs: vec![("reason".into(), "NO_SOCKET".into()), ("at".into(), "tcp_v4_rcv".into())],
            ..evidence("a drop")
        };
        let action = Action { title: "look".into(), risk: "safe".into(), ..Action::default() };
        let finding = Finding { evidence: vec![evidence], actions: vec![action], ..Finding::test("x") };
        let report = report(vec![answered(vec![finding], 1)]);
        let json = serde_json::to_string(&report).expect("strings and integers");
        assert_eq!(
            json,
            r#"{"scenario":"node","verdict":"degraded","node":"n1","entities":[],"window_ms":60000,"#
                .to_owned()
                + r#""generated_at":"1970-01-01T00:01:40.000Z","findings":[{"code":"x","role":"cause","title":"x happened","#
                + r#""severity":1,"confidence":90,"entities":[{"name":"web","kind":"netns","namespace":"","#
                + r#""node":"n1"}],"first_seen":"1970-01-01T00:00:01.000Z","#
                + r#""last_seen":"1970-01-01T00:00:02.000Z","count":3,"evidence":[{"kind":"event","#
                + r#""summary":"a drop","at":"1970-01-01T00:00:01.500Z","#
                + r#""attrs":{"reason":"NO_SOCKET","at":"tcp_v4_rcv"}}],"actions":[{"title":"look","#
                + r#""command":null,"risk":"safe","url":null}]}],"doubts":[],"blind_spots":[]}"#
        );
        assert_eq!(serde_json::from_str::<Report>(&json).expect("what is written can be read"), report);
        // An agent that is not upgraded yet knows of neither.
        let older = json.replace(r#""entities":[],"window"#, r#""window"#).replace(r#""doubts":[],"#, "");
        let older = older.replace(r#""role":"cause","#, "");
        assert_eq!(serde_json::from_str::<Report>(&older).expect("older JSON can be read"), report);
        // Nor this version of what a newer one says.
        let newer = json.replace(r#""role":"cause""#, r#""role":"something""#);
        assert_eq!(serde_json::from_str::<Report>(&newer).expect("newer JSON can be read"), report);
    }
}
