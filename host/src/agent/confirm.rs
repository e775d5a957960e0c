//! Looks at what findings ask to be looked at, and adds what was seen to their evidence.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::node::Node;
use crate::answers::policies::POLICIES;
use crate::answers::report::{Check, Evidence, Report};
use crate::check::{self, Fact, Facts, Look};
use crate::clock::unix_ns;
use crate::entities::Entity;
use crate::kernel::table::{Columns, Snapshot};
use crate::view::View;

/// Bytes of one fact.
const MAX_SUMMARY: usize = 512;
/// Rows of a table that are shown.
const MAX_ROWS: usize = 8;
/// All looks together, however many there are.
const TIME: Duration = Duration::from_secs(5);
/// Of which tables that are read again may take so much.
const TABLES: Duration = Duration::from_millis(1200);

/// Confirms the findings of a report, the most important first; blocks for at most [`TIME`].
pub(super) fn confirm(report: &mut Report, view: &View, node: &Node) {
    let deadline = Instant::now() + TIME;
    let asked = report.findings.iter().enumerate();
    let asked: Vec<(usize, Check)> =
        asked.flat_map(|(at, finding)| finding.checks.iter().map(move |check| (at, check.clone()))).collect();
    let reads_table = asked.iter().any(|(_, check)| check.kind == "table");
    let snapshot = reads_table.then(|| node.read_tables().until(Instant::now() + TABLES)).flatten();

    let (mut looks, mut looking) = (Vec::new(), Vec::new());
    for (at, check) in asked {
        let Some(entity) = view.entities.get(check.entity) else {
            add(report, at, &check.kind, "an entity", Err("it is gone".to_owned()));
            continue;
        };
        if check.kind == "table" {
            let facts = cell(&check, &entity, snapshot.as_deref(), &node.columns);
            add(report, at, &check.kind, &entity.display(), facts);
        } else {
            looking.push((at, check.kind.clone(), entity.display()));
            looks.push(Look { check, entity });
        }
    }
    for ((at, kind, place), facts) in looking.into_iter().zip(check::look(looks, deadline)) {
        add(report, at, &kind, &place, facts);
    }
}

fn add(report: &mut Report, at: usize, kind: &str, place: &str, facts: Facts) {
    let facts = facts.unwrap_or_else(|why| vec![Fact::from(format!("could not be looked at: {why}"))]);
    let evidence = facts.into_iter().map(|Fact { text, policies }| {
        let policies = Some(policies.join(", ")).filter(|policies| !policies.is_empty());
        let attrs = [("check", Some(kind.to_owned())), (POLICIES, policies)];
        Evidence {
            kind: "table".to_owned(),
            summary: crate::text::escape::admit(format!("{kind} of {place}: {text}"), MAX_SUMMARY),
            at_ns: Some(unix_ns()),
            attrs: attrs.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect(),
        }
    });
    report.findings[at].evidence.extend(evidence);
}

/// The rows of a source as they are now; one column of them, if one is named.
fn cell(check: &Check, entity: &Arc<Entity>, snapshot: Option<&Snapshot>, columns: &Columns) -> Facts {
    let param =
        |name: &str| check.params.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
    let source = param("source").ok_or("parameter source is missing")?;
    let names = columns.get(source).ok_or_else(|| format!("there is no source {source}"))?;
    let wanted = |name: &str| param("column").is_none_or(|column| column == name);
    if !names.iter().any(|name| wanted(name)) {
        return Err(format!("source {source} has no such column"));
    }
    let table = snapshot.and_then(|snapshot| snapshot.get(entity.id, source));
    let table = table.ok_or_else(|| format!("{source} could not be read"))?;
    let row = |row: &[u64]| {
        let cells = names.iter().zip(row).filter(|(name, _)| wanted(name));
        Fact::from(cells.map(|(name, cell)| format!("{name}={cell}")).collect::<Vec<_>>().join(" "))
    };
    Ok(table.numbers.chunks_exact(names.len()).take(MAX_ROWS).map(row).collect())
}
