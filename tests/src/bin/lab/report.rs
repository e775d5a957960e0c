//! The table of a run, the scores of its themes and origins, and what was missed.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result};
use inspector_tests::exam::score::{Concluded, Mark};
use inspector_tests::exam::{Exam, Row};
use inspector_tests::lab::cases::{Expected, Place};
use serde_json::{Value, json};

/// Says what became of a case, while others are still to come.
pub fn progress(row: &Row) {
    eprintln!("{:<11} {} {}", row.mark.shown(), row.exam.name(), row.error);
}

/// Keeps an answer as it came, in a file named after its case.
///
/// # Errors
/// If it cannot be written.
pub fn keep(dir: &Path, row: &Row) -> Result<()> {
    let file = dir.join(format!("{}.json", row.exam.name().replace('/', "-v")));
    std::fs::write(&file, serde_json::to_string_pretty(&row.answer)?)
        .with_context(|| file.display().to_string())
}

/// Prints the table for people.
pub fn text(rows: &[Row]) {
    println!(
        "\n{:<28} {:<36} {:<36} {:>3} {:>4} {:>5}  mark",
        "fault", "expected", "concluded", "sev", "conf", "secs"
    );
    rows.iter().for_each(line);
    scores("theme", rows, |row| row.exam.theme);
    scores("origin", rows, |row| row.exam.case.origin.word());
    for row in rows.iter().filter(|row| row.mark != Mark::Right) {
        println!("\n{}: {} {}", row.exam.name(), row.mark.shown(), row.error);
        println!("  made:     {}", row.exam.case.made);
        println!("  expected: {}", expected(&row.exam));
        row.findings.iter().for_each(|finding| println!("  came:     {}", finding));
    }
}

/// Prints how much of each kind was right.
fn scores<'a>(title: &str, rows: &[Row], kind: impl Fn(&Row) -> &'a str) {
    println!("\n{title:<28} {:>5} {:>5} {:>5}", "right", "of", "%");
    let mut kinds: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    for row in rows {
        let (right, of) = kinds.entry(kind(row)).or_default();
        *right += usize::from(row.mark == Mark::Right);
        *of += 1;
    }
    let all = kinds.values().fold((0, 0), |sum, kind| (sum.0 + kind.0, sum.1 + kind.1));
    for (name, (right, of)) in kinds.into_iter().chain([("all", all)]) {
        println!("{name:<28} {right:>5} {of:>5} {:>5}", right * 100 / of.max(1));
    }
}

fn line(row: &Row) {
    let first = row.findings.first();
    let concluded = first.map_or_else(|| "-".to_owned(), at_place);
    let (severity, confidence) = first.map_or((String::new(), String::new()), |finding| {
        (finding.severity.to_string(), finding.confidence.to_string())
    });
    println!(
        "{:<28} {:<36} {concluded:<36} {severity:>3} {confidence:>4} {:>5.2}  {}",
        row.exam.name(),
        expected(&row.exam),
        row.took.as_secs_f64(),
        row.mark.shown()
    );
}

/// Prints the document for programs.
pub fn json(rows: &[Row]) {
    let rows = rows.iter().map(|row| {
        let findings = row.findings.iter().map(|finding| {
            json!({
                "code": finding.code,
                "place": finding.place.map(Place::word),
                "severity": finding.severity,
                "confidence": finding.confidence,
            })
        });
        let expected = |list: &[Expected]| -> Vec<Value> {
            list.iter()
                .map(|one| json!({"code": one.code, "place": one.at.word(), "info": one.info}))
                .collect()
        };
        json!({
            "fault": row.exam.name(),
            "theme": row.exam.theme,
            "origin": row.exam.case.origin.word(),
            "made": row.exam.case.made,
            "expected": expected(row.exam.case.expect),
            "also": expected(row.exam.case.also),
            "findings": findings.collect::<Vec<_>>(),
            "seconds": row.took.as_secs_f64(),
            "mark": row.mark.shown(),
            "error": row.error,
        })
    });
    println!("{}", Value::from(rows.collect::<Vec<_>>()));
}

/// The first of the expected findings, and how many others are right as well.
fn expected(exam: &Exam) -> String {
    let show = |one: &Expected| format!("{} @{}", one.code, one.at.word());
    match exam.case.expect {
        [] => "none".to_owned(),
        [only] => show(only),
        [first, others @ ..] => format!("{} (or {} more)", show(first), others.len()),
    }
}

fn at_place(finding: &Concluded) -> String {
    format!("{} @{}", finding.code, finding.place.map_or("elsewhere", Place::word))
}
