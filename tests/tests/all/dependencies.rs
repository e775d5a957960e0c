//! Promise: each dependency has a reason, which ARCHITECTURE.md states, and none that is stated is gone.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use inspector_tests::plugins::workspace;

/// Every `Cargo.toml` of the workspace below a folder; what cargo builds is not looked into.
fn manifests(folder: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if path.is_symlink() || name == "target" || name.starts_with('.') {
            continue;
        }
        if path.is_dir() {
            manifests(&path, found)?;
        } else if name == "Cargo.toml" {
            found.push(path);
        }
    }
    Ok(())
}

/// Names in the sections of a manifest that list dependencies.
fn dependencies(manifest: &str) -> BTreeSet<String> {
    let mut inside = false;
    let mut names = BTreeSet::new();
    for line in manifest.lines().map(str::trim) {
        if let Some(section) = line.strip_prefix('[') {
            inside = section.trim_end_matches(']').ends_with("dependencies");
        } else if inside && !line.is_empty() && !line.starts_with('#') {
            let name = line.split(|c: char| !(c.is_alphanumeric() || c == '-' || c == '_')).next();
            names.extend(name.map(str::to_owned));
        }
    }
    names
}

/// The package that a manifest is of; none if it is the workspace's own.
fn package(manifest: &str) -> Option<String> {
    let (_, rest) = manifest.split_once("[package]\nname = \"")?;
    rest.split('"').next().map(str::to_owned)
}

/// Names in the first column of the table below a heading.
fn first_column(document: &str, heading: &str) -> Result<BTreeSet<String>> {
    let (_, rest) = document.split_once(&format!("\n{heading}\n")).context("the heading")?;
    let rows =
        rest.lines().skip_while(|line| !line.starts_with('|')).take_while(|line| line.starts_with('|'));
    let cells = rows.skip(2).filter_map(|row| row.split('|').nth(1));
    Ok(cells.flat_map(|cell| cell.split(',')).map(|name| name.trim().to_owned()).collect())
}

#[test]
fn every_dependency_has_its_reason_in_the_architecture() -> Result<()> {
    let mut files = Vec::new();
    manifests(workspace(), &mut files)?;
    let texts = files.iter().map(fs::read_to_string).collect::<Result<Vec<_>, _>>()?;
    let own: BTreeSet<String> = texts.iter().filter_map(|text| package(text)).collect();
    let used: BTreeSet<String> = texts.iter().flat_map(|text| dependencies(text)).collect();
    ensure!(own.contains("inspector") && used.contains("wasmtime"), "the manifests are read");
    let foreign: BTreeSet<String> = used.difference(&own).cloned().collect();
    let stated = first_column(&fs::read_to_string(workspace().join("ARCHITECTURE.md"))?, "## Dependencies")?;
    let without_reason: Vec<_> = foreign.difference(&stated).collect();
    let gone: Vec<_> = stated.difference(&foreign).collect();
    ensure!(without_reason.is_empty(), "no line in ARCHITECTURE.md: {without_reason:?}");
    ensure!(gone.is_empty(), "in ARCHITECTURE.md and in no Cargo.toml: {gone:?}");
    Ok(())
}

#[test]
fn a_dependency_is_seen_in_every_form_and_section() {
    let manifest = "[package]\nname = \"a\"\n\n[dependencies]\n# why\nb.workspace = true\nc-d = \"1\"\n\n\
                    [target.'cfg(unix)'.dev-dependencies]\ne = { path = \"e\" }\n\n[lints]\nworkspace = true\n";
    assert_eq!(package(manifest).as_deref(), Some("a"));
    assert_eq!(dependencies(manifest), ["b", "c-d", "e"].map(str::to_owned).into());
}
