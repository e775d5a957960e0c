//! The table that people read, and its JSON for comparison with another release.

use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Result;
use inspector_tests::plugins::workspace;
use serde_json::{Value, json};

use crate::Plan;
use crate::goals::{Limit, Row, Verdict};
use crate::spread::Spread;

const COLUMNS: [&str; 8] = ["", "what", "ours", "floor", "", "ratio (min to max)", "at most", "verdict"];

/// Prints all rows, aligned.
pub fn print(plan: Plan, rows: &[Row]) {
    let cells: Vec<[String; 8]> = rows.iter().map(cells).collect();
    let width = |column: usize| {
        let longest = cells.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        longest.max(COLUMNS[column].len())
    };
    let widths: Vec<usize> = (0..COLUMNS.len()).map(width).collect();
    println!("\nmedians of {} rounds, floors in the same run\n", plan.rounds);
    line(&COLUMNS.map(str::to_owned), &widths, "");
    for (row, cells) in rows.iter().zip(&cells) {
        line(cells, &widths, &row.note);
    }
}

/// Writes all rows to a new file in `bench/`.
///
/// # Errors
/// If it cannot be written.
pub fn save(plan: Plan, rows: &[Row]) -> Result<PathBuf> {
    let at = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let kernel = nix::sys::utsname::uname()?.release().to_string_lossy().into_owned();
    let document = json!({
        "at": at,
        "version": env!("CARGO_PKG_VERSION"),
        "kernel": kernel,
        "cpus": std::thread::available_parallelism()?.get(),
        "rounds": plan.rounds,
        "rows": rows.iter().map(document).collect::<Vec<_>>(),
    });
    let directory = workspace().join("bench");
    std::fs::create_dir_all(&directory)?;
    let file = directory.join(format!("{at}.json"));
    std::fs::write(&file, format!("{document:#}\n"))?;
    Ok(file)
}

fn line(cells: &[String; 8], widths: &[usize], note: &str) {
    let [goal, what, ours, floor, name, ratio, limit, verdict] = cells;
    let text = format!(
        "{goal:10}  {what:w1$}  {ours:>w2$}  {floor:>w3$}  {name:w4$}  {ratio:>w5$}  {limit:>w6$}  {verdict:w7$}  {note}",
        w1 = widths[1],
        w2 = widths[2],
        w3 = widths[3],
        w4 = widths[4],
        w5 = widths[5],
        w6 = widths[6],
        w7 = widths[7],
    );
    println!("{}", text.trim_end());
}

fn cells(row: &Row) -> [String; 8] {
    let Spread { median, min, max } = row.ratio;
    let ratio =
        if median.is_finite() { format!("{median:.2} ({min:.2} to {max:.2})") } else { "-".to_owned() };
    let limit = match row.limit {
        Limit::Ratio(limit) => format!("{limit:.2}x"),
        Limit::Absolute(limit) => format!("{limit:.0}{}", row.unit),
        Limit::None => "-".to_owned(),
    };
    let verdict = match row.verdict() {
        Verdict::Met => "met".to_owned(),
        Verdict::Missed => "MISSED".to_owned(),
        Verdict::Void => format!("void: baseline moved {:.0} %", row.drift * 100.0),
        Verdict::Shown => String::new(),
    };
    let (goal, name) = (row.goal.to_owned(), row.floor_name.to_owned());
    [
        goal,
        row.what.clone(),
        value(row.ours, row.unit),
        value(row.floor, row.unit),
        name,
        ratio,
        limit,
        verdict,
    ]
}

fn value(spread: Spread, unit: &str) -> String {
    match spread.median {
        median if !median.is_finite() => "-".to_owned(),
        median if median < 100.0 => format!("{median:.1} {unit}"),
        median => format!("{median:.0} {unit}"),
    }
}

fn document(row: &Row) -> Value {
    let (limit, kind) = match row.limit {
        Limit::Ratio(limit) => (Some(limit), "ratio"),
        Limit::Absolute(limit) => (Some(limit), "absolute"),
        Limit::None => (None, "none"),
    };
    json!({
        "goal": row.goal,
        "what": row.what,
        "floor_name": row.floor_name,
        "unit": row.unit,
        "ours": spread(row.ours),
        "floor": spread(row.floor),
        "ratio": spread(row.ratio),
        "limit": limit,
        "limit_kind": kind,
        "baseline_moved": row.drift,
        "verdict": format!("{:?}", row.verdict()).to_lowercase(),
        "note": row.note,
    })
}

fn spread(spread: Spread) -> Value {
    json!({ "median": spread.median, "min": spread.min, "max": spread.max })
}
