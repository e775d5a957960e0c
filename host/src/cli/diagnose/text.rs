//! A report as a good engineer's note: the verdict, then for each cause what happened, where, how
//! that is known and what to do, and what could not be seen.

use super::words::{Fact, blind_spots, facts, sentence, when};
use crate::answers::report::{Action, Finding, Report, Verdict};
use crate::cli::terminal::{Colour, Style, wrap};
use crate::events::severity::Severity;
use crate::text::escape::visible;

/// Columns where the terminal does not tell; wider lines are hard to read.
const WIDTH: usize = 80;
/// Columns in front of what a label stands for.
const INDENT: usize = 12;

/// The report, in lines that fit the terminal. Commands are not broken, so that they can be copied.
pub fn text(report: &Report, style: Style) -> String {
    let page = Page { width: style.width.unwrap_or(WIDTH).clamp(40, WIDTH), style };
    let mut lines = page.verdict(report);
    for (number, finding) in (1..).zip(&report.findings) {
        lines.push(String::new());
        lines.extend(page.finding(report, number, finding));
    }
    let spots = blind_spots(report);
    if !spots.is_empty() {
        lines.push(String::new());
        lines.push("What could not be seen:".to_owned());
        lines.extend(spots.iter().flat_map(|spot| page.item("  - ", &visible(spot))));
    }
    lines.iter().fold(String::new(), |text, line| text + line.trim_end() + "\n")
}

struct Page {
    width: usize,
    style: Style,
}

impl Page {
    fn verdict(&self, report: &Report) -> Vec<String> {
        let (verdict, colour) = (report.verdict.as_str(), colour_of(report.verdict));
        let mut lines = wrap(&format!("{verdict}: {}", visible(&sentence(report))), self.width);
        lines[0].replace_range(..verdict.len(), &self.style.paint(colour, &verdict.to_uppercase()));
        lines
    }

    fn finding(&self, report: &Report, number: usize, finding: &Finding) -> Vec<String> {
        let level = finding.severity.as_str();
        let head = format!("{number}. {}", self.style.paint(colour_of_severity(finding.severity), level));
        let head = format!("{head}: {} ({} % sure)", visible(&finding.code), finding.confidence);
        let mut lines = vec![head];
        lines.extend(self.item("   ", &visible(&finding.title)));
        lines.extend(self.labelled("where", &place(finding)));
        let when = when(report, finding.first_ns, finding.last_ns, finding.count);
        lines.extend(self.labelled("when", &when));
        let facts = facts(finding);
        let facts = facts.iter().flat_map(|fact| self.item_at(INDENT, "- ", &in_words(report, fact)));
        lines.extend(under("known by", facts));
        lines.extend(under("to do", finding.actions.iter().flat_map(|action| self.action(action))));
        lines
    }

    fn action(&self, action: &Action) -> Vec<String> {
        let risk = action.risk.replace('-', " ");
        let mut lines =
            self.item_at(INDENT, "- ", &format!("{} ({})", visible(&action.title), visible(&risk)));
        // Not wrapped: they are there to be copied.
        lines.extend(action.command.iter().map(|command| format!("    $ {}", visible(command))));
        lines.extend(action.url.iter().map(|url| format!("    {}", visible(url))));
        lines
    }

    fn labelled(&self, label: &str, text: &str) -> Vec<String> {
        under(label, wrap(&visible(text), self.width - INDENT).into_iter())
    }

    fn item(&self, mark: &str, text: &str) -> Vec<String> {
        self.item_at(0, mark, text)
    }

    /// Lines that stand `indent` columns to the right, with a mark before the first.
    fn item_at(&self, indent: usize, mark: &str, text: &str) -> Vec<String> {
        let blank = " ".repeat(mark.len());
        let lines = wrap(text, self.width - indent - mark.len());
        let marks = std::iter::once(mark).chain(std::iter::repeat(blank.as_str()));
        marks.zip(lines).map(|(mark, line)| format!("{mark}{line}")).collect()
    }
}

fn in_words(report: &Report, fact: &Fact<'_>) -> String {
    let at = fact.ago(report).map_or_else(String::new, |ago| format!("{ago}: "));
    format!("{}{at}{}", fact.but(), visible(&fact.summary()))
}

/// Lines with a label before the first of them.
fn under(label: &str, lines: impl Iterator<Item = String>) -> Vec<String> {
    let (label, blank) = (format!("   {label}"), String::new());
    let labels = std::iter::once(&label).chain(std::iter::repeat(&blank));
    labels.zip(lines).map(|(label, line)| format!("{label:<INDENT$}{line}")).collect()
}

/// Where the cause sits, and where it is affected.
fn place(finding: &Finding) -> String {
    let Some((cause, affected)) = finding.entities.split_first() else { return "not known".to_owned() };
    let mut text = format!("{} ({}, node {})", cause.display(), cause.kind, cause.node);
    let affected: Vec<_> = affected
        .iter()
        .map(|place| match place.node == cause.node {
            true => place.display(),
            false => format!("{} (node {})", place.display(), place.node),
        })
        .collect();
    if !affected.is_empty() {
        text += &format!("; felt by {}", affected.join(", "));
    }
    text
}

fn colour_of(verdict: Verdict) -> Colour {
    match verdict {
        Verdict::Healthy => Colour::Green,
        Verdict::Inconclusive | Verdict::Degraded => Colour::Yellow,
        Verdict::Broken => Colour::Red,
    }
}

fn colour_of_severity(severity: Severity) -> Colour {
    match severity {
        Severity::Info => Colour::Dim,
        Severity::Warning => Colour::Yellow,
        Severity::Critical => Colour::Red,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::Duration;

    use super::*;
    use crate::answers::report::{AnalyzerReply, Answer, BlindSpot, Evidence, Place};

    /// A report with everything in it.
    pub(in crate::cli::diagnose) fn report() -> Report {
        let evidence = |kind: &str, summary: &str, at_ns| Evidence {
            kind: kind.to_owned(),
            summary: summary.to_owned(),
            at_ns,
            attrs: vec![("reason".to_owned(), "NETFILTER_DROP".to_owned())],
        };
        let finding = Finding {
            title: "netfilter in web drops packets to TCP port 80, silently, on their way in".into(),
            severity: Severity::Critical,
            entities: vec![Place::test("web", "n1"), Place::test("client", "n1"), Place::test("far", "n2")],
            first_ns: 60_000_000_000,
            last_ns: 98_000_000_000,
            evidence: vec![
                evidence(
                    "event",
                    "NETFILTER_DROP at nft_do_chain: 10.9.0.1:4242 -> 10.9.0.2:80",
                    Some(98_000_000_000),
                ),
                evidence("against", "the table of tracked connections has a drop counter", None),
            ],
            actions: vec![Action {
                title: "Look at the rules of the input hook".into(),
                command: Some(
                    "nsenter --net=/run/netns/web nft -a list ruleset # in the namespace of the server"
                        .into(),
                ),
                risk: "safe".into(),
                url: Some("https://example.org/netfilter".into()),
            }],
            ..Finding::test("firewall-drop")
        };
        let answer = Answer { findings: vec![finding], seen: 1, ..Answer::default() };
        let answers = vec![AnalyzerReply { analyzer: "diagnosis".into(), answer: Ok(answer) }];
        let spots = vec![BlindSpot::detail(
            "probe tcp-reset: this kernel has no tracepoint tcp_send_reset; without it: no resets sent"
                .into(),
        )];
        let window = Duration::from_secs(60);
        Report::of_node("connect", "n1", window, 100_000_000_000, answers, spots)
    }

    #[test]
    fn the_note_fits_eighty_columns_but_for_commands() {
        let text = text(&report(), Style::PLAIN);
        let expected = "\
BROKEN: 1 critical on node n1 in the last 1m (scenario connect)

1. critical: firewall-drop (90 % sure)
   netfilter in web drops packets to TCP port 80, silently, on their way in
   where    web (netns, node n1); felt by client, far (node n2)
   when     3 times, 40s ago to 2s ago
   known by - 2s ago: NETFILTER_DROP at nft_do_chain: 10.9.0.1:4242 ->
              10.9.0.2:80
            - but the table of tracked connections has a drop counter
   to do    - Look at the rules of the input hook (safe)
                $ nsenter --net=/run/netns/web nft -a list ruleset # in the namespace of the server
                https://example.org/netfilter

What could not be seen:
  - probe tcp-reset: this kernel has no tracepoint tcp_send_reset; without it:
    no resets sent
";
        assert_eq!(text, expected);
    }

    #[test]
    fn nothing_from_outside_is_obeyed_by_a_terminal() {
        let evil = || "x\u{1b}[2J\r\n\u{202e}".to_owned();
        let mut report = report();
        report.node = evil();
        report.scenario = evil();
        report.entities = vec![evil()];
        report.doubts = vec![evil()];
        report.blind_spots = vec![evil()];
        let finding = &mut report.findings[0];
        (finding.code, finding.title) = (evil(), evil());
        finding.entities = vec![Place { name: evil(), kind: evil(), namespace: evil(), node: evil() }; 2];
        finding.evidence = vec![Evidence { kind: evil(), summary: evil(), ..Evidence::default() }];
        let (command, url) = (Some(evil()), Some(evil()));
        finding.actions = vec![Action { title: evil(), command, risk: evil(), url }];
        for shown in [
            text(&report, Style::PLAIN),
            crate::cli::diagnose::markdown::markdown(&report),
            crate::cli::diagnose::html::html(&report),
        ] {
            assert!(!shown.contains(|c: char| c != '\n' && (c.is_control() || c == '\u{202e}')), "{shown}");
        }
    }
}
