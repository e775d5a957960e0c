//! A report as one file for a browser: nothing is loaded, nothing runs.

use super::words::{Fact, blind_spots, facts, sentence, when};
use crate::answers::report::{Action, Finding, Report};
use crate::text::escape::visible;

/// A browser that is told so runs no script, whatever else went wrong.
const HEAD: &str = "\
<!doctype html>
<html lang=\"en\"><head><meta charset=\"utf-8\">
<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">
<meta name=\"viewport\" content=\"width=device-width\">
<title>Inspector</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 50em; margin: 2em auto; padding: 0 1em; }
code, pre { font-family: ui-monospace, monospace; font-size: 90%; }
pre { background: #f4f4f4; padding: .5em; overflow-x: auto; }
section { border-left: .3em solid #999; padding-left: 1em; margin: 2em 0; }
.critical, .broken { border-color: #c00; color: #c00; }
.warning, .degraded, .inconclusive { border-color: #b60; color: #b60; }
.healthy { color: #080; }
section > * { color: #000; }
dt { font-weight: bold; }
time, .risk { color: #666; }
</style></head><body>
";

/// The report as HTML.
pub fn html(report: &Report) -> String {
    let verdict = report.verdict.as_str();
    let mut out =
        format!("{HEAD}<h1 class=\"{verdict}\">{verdict}</h1>\n<p>{}.</p>\n", safe(&sentence(report)));
    report.findings.iter().for_each(|found| out += &finding(report, found));
    let spots = blind_spots(report);
    if !spots.is_empty() {
        let spots: String = spots.iter().map(|spot| format!("<li>{}</li>\n", safe(spot))).collect();
        out += &format!("<h2>What could not be seen</h2>\n<ul>\n{spots}</ul>\n");
    }
    let at = humantime::format_rfc3339_seconds(
        std::time::UNIX_EPOCH + std::time::Duration::from_nanos(report.generated_ns),
    );
    out + &format!("<p><time>{at}</time></p>\n</body></html>\n")
}

fn finding(report: &Report, finding: &Finding) -> String {
    let level = finding.severity.as_str();
    let when = when(report, finding.first_ns, finding.last_ns, finding.count);
    let places = finding.entities.iter().map(|place| {
        format!("<code>{}</code> ({}, node {})", safe(&place.display()), safe(&place.kind), safe(&place.node))
    });
    let places: Vec<_> = places.collect();
    let place = match places.split_first() {
        None => "not known".to_owned(),
        Some((cause, [])) => cause.clone(),
        Some((cause, affected)) => format!("{cause}; felt by {}", affected.join(", ")),
    };
    let evidence: String = facts(finding).iter().map(|known| fact(report, known)).collect();
    let actions: String = finding.actions.iter().map(action).collect();
    format!(
        "<section class=\"{level}\">\n<h2>{title}</h2>\n<p>{level}, <code>{code}</code>, {confidence} % sure</p>\n\
         <dl>\n<dt>Where</dt><dd>{place}</dd>\n<dt>When</dt><dd>{when}</dd>\n\
         <dt>Known by</dt><dd><ul>\n{evidence}</ul></dd>\n<dt>To do</dt><dd><ul>\n{actions}</ul></dd>\n</dl>\n\
         </section>\n",
        title = safe(&finding.title),
        code = safe(&finding.code),
        confidence = finding.confidence,
    )
}

fn fact(report: &Report, fact: &Fact<'_>) -> String {
    let at = fact.ago(report).map_or_else(String::new, |ago| format!("<time>{ago}</time>: "));
    format!("<li>{}{at}{}</li>\n", fact.but(), safe(&fact.summary()))
}

fn action(action: &Action) -> String {
    let command = action.command.iter().map(|command| format!("<pre>{}</pre>", safe(command)));
    // Other schemes than these can run code.
    let is_web = |url: &&String| url.starts_with("https://") || url.starts_with("http://");
    let url = action.url.iter().filter(is_web);
    let url = url.map(|url| format!(" <a href=\"{0}\" rel=\"noreferrer\">{0}</a>", safe(url)));
    let more: String = command.chain(url).collect();
    format!("<li>{} <span class=\"risk\">({})</span>{more}</li>\n", safe(&action.title), safe(&action.risk))
}

/// Text that stays text, in an element and in a quoted attribute.
fn safe(text: &str) -> String {
    let mut out = String::new();
    for c in visible(text).chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::diagnose::text::tests::report;

    #[test]
    fn nothing_of_a_report_becomes_an_element_or_a_script() {
        let mut report = report();
        let evil = || "<script>alert(1)</script>\"'".to_owned();
        report.findings[0].title = evil();
        report.findings[0].code = evil();
        report.blind_spots = vec![evil()];
        report.findings[0].actions[0].url = Some("javascript:alert(1)".into());
        let page = html(&report);
        assert!(!page.contains("<script") && !page.contains("javascript:"), "{page}");
        assert!(page.contains("&lt;script&gt;alert(1)&lt;/script&gt;&quot;&#39;"), "{page}");
    }

    #[test]
    fn the_page_has_what_the_note_has() {
        let page = html(&report());
        for part in [
            "<h1 class=\"broken\">broken</h1>",
            "<code>web</code> (netns, node n1); felt by <code>client</code>",
            "<time>2s ago</time>: NETFILTER_DROP",
            "href=\"https://example.org/netfilter\"",
            "<time>1970-01-01T00:01:40Z</time>",
        ] {
            assert!(page.contains(part), "{part:?} in\n{page}");
        }
    }
}
