//! Promise: what is in `make` is run by CI, in a short form where the whole takes long, or
//! tests/README.md says why it is not.
//!
//! CI calls `.ci/run`. Here are those targets that neither it calls nor another test runs, each as a
//! person would call it; `make test` has built before.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use inspector_tests::agent::binary;
use inspector_tests::plugins::{built_in, outside_of_cargo, workspace};
use serde_json::Value;

use crate::documents::targets;

/// Those that `.ci/run` calls, and what they build on.
const BY_CI: [&str; 4] = ["setup", "build", "test", "lint"];

/// Those that a test calls: here, and in [`crate::readme`].
const BY_TESTS: [&str; 7] = ["help", "run", "demo", "lab", "record-cases", "coverage", "bench-quick"];

/// Those that nobody calls but people, and why: tests/README.md has the same words.
const BY_NOBODY: [(&str, &str); 5] = [
    ("fmt", "changes files"),
    ("bench", "the program of `make bench-quick` for ten minutes"),
    ("image", "takes buildah, podman or docker"),
    ("test-kernels", "fetches Debian's kernels and interprets them for minutes"),
    ("lab-kernels", "fetches Debian's kernels and interprets them for minutes"),
];

#[test]
fn every_target_is_run_by_ci_or_the_readme_of_the_tests_says_why_not() -> Result<()> {
    let targets = targets(&fs::read_to_string(workspace().join("Makefile"))?);
    let nobody = BY_NOBODY.map(|(target, _)| target);
    let known = BY_CI.into_iter().chain(BY_TESTS).chain(nobody).map(str::to_owned);
    assert_eq!(targets, known.collect::<BTreeSet<_>>());
    let ci = fs::read_to_string(workspace().join(".ci/run"))?;
    for target in BY_CI.iter().filter(|target| **target != "build") {
        ensure!(ci.contains(&format!("make {target} ")), "`.ci/run` does not call `make {target}`");
    }
    let readme = fs::read_to_string(workspace().join("tests/README.md"))?;
    for (target, why) in BY_NOBODY {
        let says = |line: &str| line.contains(&format!("`make {target}`")) && line.contains(why);
        ensure!(readme.lines().any(says), "tests/README.md does not say of `make {target}`: {why}");
    }
    Ok(())
}

#[test]
fn make_alone_lists_every_target() -> Result<()> {
    let said = make(&[])?;
    for target in targets(&fs::read_to_string(workspace().join("Makefile"))?) {
        ensure!(said.contains(&format!("make {target} ")), "{target} in\n{said}");
    }
    Ok(())
}

#[test]
fn make_run_takes_the_flags_of_the_agent() -> Result<()> {
    make(&["run", "ARGS=--check"]).map(drop)
}

#[test]
fn make_record_cases_records_a_fault_that_a_replay_names() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let to = dir.path().display();
    make(&["record-cases", &format!("CASES=--to {to} closed-port")])?;
    let replay = Command::new(binary()?)
        .arg("replay")
        .arg(dir.path().join("closed-port/trace"))
        .arg("--plugin-dir")
        .arg(built_in()?)
        .output()?;
    let said = String::from_utf8_lossy(&replay.stdout);
    ensure!(replay.status.success() && said.contains("port-not-listening"), "{said}");
    Ok(())
}

#[test]
fn make_lab_asks_about_a_theme_and_makes_an_origin() -> Result<()> {
    let _turn = crate::heavy();
    // Exit status 1 stands for a wrong answer, which may be one that a busy machine gives late.
    let (_, said, log) = call(&["-s", "lab", "ARGS=tcp_closed_port baseline_nothing -o json"])?;
    let rows: Value = serde_json::from_str(&said).with_context(|| format!("{said}\n{log}"))?;
    let rows = rows.as_array().context("a list")?;
    ensure!(rows.len() == 3, "{rows:?}");
    for row in rows {
        ensure!(["ok", "LATE"].contains(&row["mark"].as_str().unwrap_or_default()), "{row}");
    }
    let life = make(&["lab", "ARGS=life_late --make-only"])?;
    ensure!(life.contains("life_late_dns_answer/6"), "{life}");
    let listed = make(&["lab", "ARGS=blind --list"])?;
    ensure!(listed.contains("var_hairpin") && !listed.contains("nft_drop_in"), "{listed}");
    Ok(())
}

#[test]
fn make_coverage_sees_the_metrics_of_a_workload_change() -> Result<()> {
    let _turn = crate::heavy();
    let said = make(&["coverage", "ARGS=a closed port"])?;
    ensure!(said.contains("tcpattemptfails") && said.contains("packetloss_tcprcv"), "{said}");
    Ok(())
}

#[test]
fn make_bench_quick_shows_its_figures() -> Result<()> {
    let _turn = crate::heavy();
    let said = make(&["bench-quick", "ARGS=--only sandbox"])?;
    ensure!(said.contains("sandbox"), "{said}");
    Ok(())
}

/// Calls `make`, which is to succeed, and returns what it printed.
fn make(args: &[&str]) -> Result<String> {
    let (success, said, log) = call(args)?;
    ensure!(success, "make {}:\n{said}\n{log}", args.join(" "));
    Ok(said)
}

/// Calls `make` with what is built; returns whether it succeeded, and what it printed.
fn call(args: &[&str]) -> Result<(bool, String, String)> {
    let mut command = Command::new("make");
    // What called this test may be a make with flags of its own.
    outside_of_cargo(&mut command).current_dir(workspace()).env_remove("MAKEFLAGS").env_remove("MAKELEVEL");
    let output = command.args(["-o", "build"]).args(args).output().context("cannot start `make`")?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok((output.status.success(), text(&output.stdout), text(&output.stderr)))
}
