//! What every form of an answer says in the same words.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::answers::report::{Evidence, Finding, NO_TRAFFIC, Report, Verdict};
use crate::cli::crowd;
use crate::events::severity::Severity;

/// Names in a sentence; `-o json` has all.
const MAX_NAMES: usize = 3;

/// How long before the report something was.
pub(super) fn ago(report: &Report, at_ns: u64) -> String {
    match Duration::from_nanos(report.generated_ns.saturating_sub(at_ns)) {
        now if now < Duration::from_secs(1) => "just now".to_owned(),
        ago => format!("{} ago", crate::answers::blind_spots::in_words(ago)),
    }
}

/// When and how often a finding was seen.
pub(super) fn when(report: &Report, first_ns: u64, last_ns: u64, count: u64) -> String {
    let (first, last) = (ago(report, first_ns), ago(report, last_ns));
    let often = if count == 1 { "once".to_owned() } else { format!("{count} times") };
    if first == last { format!("{often}, {last}") } else { format!("{often}, {first} to {last}") }
}

/// Why finding nothing does not mean that nothing is wrong. An agent that is not upgraded yet gives no
/// reason, because it knows only one.
pub(super) fn why_in_doubt(report: &Report) -> Option<&str> {
    let silent = (report.verdict == Verdict::Inconclusive).then_some(NO_TRAFFIC);
    report.doubts.first().map(String::as_str).or(silent)
}

/// The verdict and what it rests on, in one sentence.
pub(super) fn sentence(report: &Report) -> String {
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
pub(super) fn counted(report: &Report) -> String {
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
pub(super) fn place(report: &Report) -> String {
    let last = crate::answers::blind_spots::in_words(Duration::from_millis(report.window_ms.into()));
    let nodes: Vec<_> = report.node.split(", ").collect();
    let nodes = match nodes.len() {
        1 => format!("node {}", report.node),
        2..=MAX_NAMES => format!("nodes {}", report.node),
        all => format!("nodes {} and {} more", nodes[..MAX_NAMES].join(", "), all - MAX_NAMES),
    };
    let names = report.entities.iter().take(MAX_NAMES).map(String::as_str).collect::<Vec<_>>().join(", ");
    let whom = match report.entities.len() {
        0 => String::new(),
        1..=MAX_NAMES => format!("for {names} "),
        all => format!("for {names} and {} more ", all - MAX_NAMES),
    };
    format!("{whom}on {nodes} in the last {last}")
}

/// What could not be seen, but for what the sentence says already. What is the same on many nodes is said
/// once.
pub(super) fn blind_spots(report: &Report) -> Vec<String> {
    let said = why_in_doubt(report).filter(|_| report.verdict == Verdict::Inconclusive);
    let spots = report.blind_spots.iter().map(String::as_str).filter(|spot| Some(*spot) != said);
    let nodes: Vec<_> = report.node.split(", ").collect();
    if nodes.len() <= MAX_NAMES {
        return spots.map(str::to_owned).collect();
    }
    let nodes: BTreeSet<_> = nodes.into_iter().collect();
    let of_node = |spot: &str| spot.split_once(": ").map_or("", |(node, _)| node).to_owned();
    let (of_nodes, others): (Vec<_>, Vec<_>) = spots.partition(|spot| nodes.contains(of_node(spot).as_str()));
    let parts = of_nodes.iter().filter_map(|spot| spot.split_once(": "));
    let grouped =
        crowd::grouped(parts.map(|(node, what)| (node.to_owned(), what.to_owned())).collect(), MAX_NAMES);
    let grouped = grouped.into_iter().map(|(nodes, what)| format!("{nodes}: {what}"));
    others.into_iter().map(str::to_owned).chain(grouped).collect()
}

/// A piece of evidence; what reads the same several times is one.
pub(super) struct Fact<'a> {
    pub(super) evidence: &'a Evidence,
    pub(super) times: usize,
}

impl Fact<'_> {
    /// A word in front of what speaks against the finding.
    pub(super) fn but(&self) -> &'static str {
        if self.evidence.kind == "against" { "but " } else { "" }
    }

    /// How long ago it was last, if that is known.
    pub(super) fn ago(&self, report: &Report) -> Option<String> {
        self.evidence.at_ns.map(|at| ago(report, at))
    }

    /// What it is, and how often.
    pub(super) fn summary(&self) -> String {
        match self.times {
            1 => self.evidence.summary.clone(),
            times => format!("{} ({times} times)", self.evidence.summary),
        }
    }
}

/// The evidence of a finding, in its order; of what reads the same, the last.
pub(super) fn facts(finding: &Finding) -> Vec<Fact<'_>> {
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
    use super::*;
    use crate::cli::diagnose::text::tests::report;

    #[test]
    fn the_sentence_fits_the_verdict() {
        let mut report = Report { findings: Vec::new(), ..report() };
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
            place(&Report { entities, ..report() })
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
            ..report()
        };
        assert_eq!(blind_spots(&blind(Verdict::Inconclusive)), ["b", "c"]);
        assert_eq!(blind_spots(&blind(Verdict::Broken)), ["a", "b", "c"], "the sentence tells of findings");
    }

    #[test]
    fn what_is_the_same_on_many_nodes_is_said_once() {
        let blind = |nodes: &str| Report {
            node: nodes.to_owned(),
            blind_spots: ["n9: does not answer", "n1: a", "n2: a", "n1: b", "n3: a", "n4: a"]
                .map(str::to_owned)
                .into(),
            ..report()
        };
        let told = blind_spots(&blind("n1, n2, n3, n4"));
        assert_eq!(told, ["n9: does not answer", "n1, n2, n3 and 1 more: a", "n1: b"]);
        assert_eq!(blind_spots(&blind("n1, n2")).len(), 6, "few are told as they are");
    }

    #[test]
    fn many_nodes_are_named_by_the_first() {
        let of = |node: &str| place(&Report { node: node.to_owned(), ..report() });
        assert_eq!(of("a, b"), "on nodes a, b in the last 1m");
        assert_eq!(of("a, b, c, d, e"), "on nodes a, b, c and 2 more in the last 1m");
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
