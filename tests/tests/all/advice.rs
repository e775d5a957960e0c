//! Promise: whatever reason this kernel gives, somebody can read what it means.

use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};
use inspector::kernel::advice::{Advice, Kind};
use inspector::probe;
use inspector_tests::agent::binary;
use serde_json::Value;

fn explain(args: &[&str]) -> Result<Output> {
    Ok(Command::new(binary()?).arg("explain").args(args).output()?)
}

/// Reasons that a kernel newer than the texts may have, stable releases among them; more of them mean that
/// their names are read wrongly.
const NEWER: usize = 16;

#[test]
fn every_reason_of_this_kernel_has_a_text_or_is_said_to_be_newer() -> Result<()> {
    let (advice, reasons) = (Advice::built_in(), probe::kernel_reasons());
    ensure!(reasons.drop.len() > 60, "this kernel tells its drop reasons: {reasons:?}");
    for (kind, names) in [(Kind::Drop, &reasons.drop), (Kind::Reset, &reasons.reset)] {
        let silent: Vec<_> = names.values().filter(|name| advice.of(kind, name).is_none()).collect();
        ensure!(silent.len() <= NEWER, "{kind:?} reasons without a text in host/advice.toml: {silent:?}");
        for name in silent {
            let told = explain(&[name])?;
            let said = format!("{name}: a reason that is newer than this version");
            ensure!(String::from_utf8_lossy(&told.stderr).starts_with(&said), "{told:?}");
        }
    }
    Ok(())
}

#[test]
fn this_kernel_names_its_tcp_and_congestion_states() {
    let reasons = probe::kernel_reasons();
    assert_eq!(reasons.tcp_states.get(&1).map(String::as_str), Some("ESTABLISHED"));
    assert_eq!(reasons.tcp_states.get(&7).map(String::as_str), Some("CLOSE"));
    assert_eq!(reasons.congestion_states.get(&4).map(String::as_str), Some("Loss"));
}

#[test]
fn a_reason_is_explained_in_any_case_for_people_and_for_programs() -> Result<()> {
    let output = explain(&["netfilter_drop"])?;
    let text = String::from_utf8(output.stdout)?;
    ensure!(output.status.success() && text.starts_with("NETFILTER_DROP  suspicious"), "{text}");
    for part in ["means", "normal", "check", "change", "nft list ruleset"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let output = explain(&["no_socket", "-o", "json"])?;
    let both: Value = serde_json::from_slice(&output.stdout)?;
    let kinds: Vec<_> =
        both.as_array().context("a list")?.iter().map(|found| found["kind"].clone()).collect();
    assert_eq!(kinds, ["drop", "reset"]);
    assert!(both[0]["number"].is_u64(), "{both}");
    Ok(())
}

#[test]
fn what_nobody_knows_is_said_to_be_unknown_and_what_is_newer_is_shown_with_what_is_known() -> Result<()> {
    let output = explain(&["no_such_reason"])?;
    let told = String::from_utf8(output.stderr)?;
    assert_eq!(output.status.code(), Some(2));
    assert!(told.contains("NO_SUCH_REASON: no such reason is known"), "{told}");
    let output = explain(&["OVS_DROP_OF_2030"])?;
    let told = String::from_utf8(output.stderr)?;
    assert!(
        output.status.success() && told.contains("newer than this version") && told.contains("Open vSwitch"),
        "{told}"
    );
    Ok(())
}
