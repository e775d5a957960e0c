//! A report for a ticket or a chat.

use super::words::{Fact, blind_spots, facts, sentence, when};
use crate::answers::report::{Action, Finding, Report};
use crate::text::escape::visible;

/// The report as Markdown (CommonMark).
pub fn markdown(report: &Report) -> String {
    let mut out = format!("# {}\n\n{}.\n", report.verdict.as_str(), plain(&sentence(report)));
    for (number, found) in (1..).zip(&report.findings) {
        out += &finding(report, number, found);
    }
    let spots = blind_spots(report);
    if !spots.is_empty() {
        out += "\n## What could not be seen\n\n";
        spots.iter().for_each(|spot| out += &format!("- {}\n", plain(spot)));
    }
    out
}

fn finding(report: &Report, number: usize, finding: &Finding) -> String {
    let (level, when) =
        (finding.severity.as_str(), when(report, finding.first_ns, finding.last_ns, finding.count));
    let mut out = format!("\n## {number}. {}\n\n", plain(&finding.title));
    out += &format!("{level}, {}, {} % sure\n\n", code(&finding.code), finding.confidence);
    let places: Vec<_> = finding
        .entities
        .iter()
        .map(|place| {
            format!("{} ({}, node {})", code(&place.display()), plain(&place.kind), plain(&place.node))
        })
        .collect();
    if let Some((cause, affected)) = places.split_first() {
        out += &format!("- **Where:** {cause}");
        if !affected.is_empty() {
            out += &format!("; felt by {}", affected.join(", "));
        }
        out += "\n";
    }
    out += &format!("- **When:** {}\n", plain(&when));
    if !finding.evidence.is_empty() {
        out += "- **Known by:**\n";
        facts(finding).iter().for_each(|known| out += &fact(report, known));
    }
    if !finding.actions.is_empty() {
        out += "- **To do:**\n";
        finding.actions.iter().for_each(|todo| out += &action(todo));
    }
    out
}

fn fact(report: &Report, fact: &Fact<'_>) -> String {
    let at = fact.ago(report).map_or_else(String::new, |ago| format!("{ago}: "));
    format!("  - {}{at}{}\n", fact.but(), plain(&fact.summary()))
}

fn action(action: &Action) -> String {
    let command = action.command.as_ref().map_or_else(String::new, |command| format!(": {}", code(command)));
    let url = action.url.as_ref().map_or_else(String::new, |url| format!(" {}", plain(url)));
    format!("  - {} ({}){command}{url}\n", plain(&action.title), plain(&action.risk))
}

/// Text that stays text, whatever is in it.
fn plain(text: &str) -> String {
    let mut out = String::new();
    for c in visible(text).chars() {
        match c {
            // As an entity, since raw HTML is a part of Markdown.
            '<' => out.push_str("&lt;"),
            '&' => out.push_str("&amp;"),
            '\\' | '`' | '*' | '_' | '[' | ']' | '#' | '|' | '~' | '!' => out.extend(['\\', c]),
            c => out.push(c),
        }
    }
    out
}

/// Text to be copied; its fence is longer than any run of backticks in it.
fn code(text: &str) -> String {
    let text = visible(text);
    let longest = text.split(|c| c != '`').map(str::len).max().unwrap_or(0);
    let fence = "`".repeat(longest + 1);
    // A blank at each end is taken off again by whoever reads it.
    let pad = if text.starts_with('`') || text.ends_with('`') { " " } else { "" };
    format!("{fence}{pad}{text}{pad}{fence}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::diagnose::text::tests::report;

    #[test]
    fn a_ticket_says_what_the_note_says() {
        let text = markdown(&report());
        for part in [
            "# broken\n\n1 critical on node n1 in the last 1m (scenario connect).\n",
            "\ncritical, `firewall-drop`, 90 % sure\n",
            "- **Where:** `web` (netns, node n1); felt by `client` (netns, node n1), `far` (netns, node n2)\n",
            "  - 2s ago: NETFILTER\\_DROP at nft\\_do\\_chain: 10.9.0.1:4242 -> 10.9.0.2:80\n",
            "  - Look at the rules of the input hook (safe): `nsenter --net=/run/netns/web nft",
            "\n## What could not be seen\n\n- probe tcp-reset",
        ] {
            assert!(text.contains(part), "{part:?} in\n{text}");
        }
    }

    #[test]
    fn no_name_can_become_markup() {
        assert_eq!(plain("<b>*[x](y)"), "&lt;b>\\*\\[x\\](y)");
        assert_eq!(code("a`b"), "``a`b``");
        assert_eq!(code("`"), "`` ` ``");
    }
}
