//! Promise: what was recorded is replayed to the same output every time, by anybody, and a damaged
//! trace as far as it is whole.
//!
//! Each folder of `tests/replay` is one real fault, recorded by `make record-cases`, with what the
//! built-in analyzers say of it.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Output;

use anyhow::{Context, Result, ensure};
use inspector_tests::nobody::Nobody;
use inspector_tests::plugins::workspace;
use inspector_tests::{golden, lab};

/// Replays a trace as a user without privileges.
fn replay(trace: &Path, output: &str) -> Result<Output> {
    let nobody = Nobody::get()?;
    let flags = nobody.flags()?;
    // Every event, and nothing that depends on where and when it is replayed.
    let mut args = vec!["replay", trace.to_str().context("UTF-8")?, "-o", output, "--all", "--time", "none"];
    args.extend(flags.iter().map(String::as_str));
    nobody.run(&args)
}

fn cases() -> Result<Vec<PathBuf>> {
    let cases = std::fs::read_dir(workspace().join("tests/replay"))?.flatten().map(|entry| entry.path());
    let mut cases: Vec<_> = cases.filter(|case| case.is_dir()).collect();
    cases.sort();
    Ok(cases)
}

fn trace_of(case: &str) -> Result<Vec<u8>> {
    Ok(std::fs::read(workspace().join("tests/replay").join(case).join("trace"))?)
}

#[test]
fn every_recorded_fault_replays_to_its_golden_output_twice_without_privileges() -> Result<()> {
    let (public, cases) = (Nobody::get()?, cases()?);
    ensure!(cases.len() >= 10, "{} cases", cases.len());
    let mut wrong = Vec::new();
    for case in cases {
        let name = case.file_name().context("a name")?.to_string_lossy().into_owned();
        let trace = public.put(&format!("{name}.trace"), &std::fs::read(case.join("trace"))?)?;
        let (first, second) = (replay(&trace, "text")?, replay(&trace, "text")?);
        let told = String::from_utf8_lossy(&first.stderr).into_owned();
        ensure!(first.status.success() && told.is_empty(), "{name}: {:?}: {told}", first.status);
        ensure!(first.stdout == second.stdout, "{name}: two replays differ");
        wrong.extend(golden::check(&case.join("output.txt"), &first.stdout).err());
        let json = replay(&trace, "json")?.stdout;
        for line in json.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            serde_json::from_slice::<serde_json::Value>(line)?;
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.iter().map(|e| format!("{e:#}")).collect::<Vec<_>>().join("\n"));
    Ok(())
}

#[test]
fn each_fault_is_named_in_the_output_of_its_trace() -> Result<()> {
    let public = Nobody::get()?;
    for (case, words) in [
        ("closed-port", ["TCPRESET_NOSOCK", "NO_SOCKET"]),
        ("firewall-drop", ["PACKETLOSS", "NETFILTER_DROP"]),
        ("accept-queue-full", ["TCPLISTEN_OVERFLOW", "inspector_pod_tcpextlistenoverflows"]),
        ("reset-by-application", ["TCPRESET_", "TCP_RCV_RST_ESTAB"]),
    ] {
        let trace = public.put(&format!("{case}.named"), &trace_of(case)?)?;
        let text = String::from_utf8(replay(&trace, "text")?.stdout)?;
        assert!(words.iter().all(|word| text.contains(word)), "{case}: {words:?} in\n{text}");
    }
    Ok(())
}

#[test]
fn what_happens_in_real_life_is_explained_by_its_cause() -> Result<()> {
    let public = Nobody::get()?;
    for (case, code, place) in [
        ("dns-answer-too-late", "dns-timeout", "-client"),
        ("server-pause", "accept-queue-overflow", "-server"),
        ("server-throttled", "accept-queue-overflow", "-server"),
        ("gateway-502", "reset-by-application", "-server"),
        // Both clients retransmit; one of them because of a policy that is on this node.
        ("lossy-link", "tcp-loss", "-client"),
        ("policy-drop", "firewall-drop", "-server"),
    ] {
        let trace = public.put(&format!("{case}.explained"), &trace_of(case)?)?;
        let json = String::from_utf8(replay(&trace, "json")?.stdout)?;
        let mut lines = json.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        let report = lines.next_back().filter(|last| last["findings"].is_array()).context("a report")?;
        let first = &report["findings"][0];
        let at = first["entities"][0]["name"].as_str().unwrap_or_default();
        assert!(first["code"] == code && at.ends_with(place), "{case}: {report:#}");
    }
    Ok(())
}

#[test]
fn a_cut_or_damaged_trace_is_replayed_as_far_as_it_is_whole() -> Result<()> {
    let (public, whole) = (Nobody::get()?, trace_of("firewall-drop")?);
    let told = |output: &Output| String::from_utf8_lossy(&output.stderr).into_owned();

    let cut = replay(&public.put("cut", &whole[..whole.len() * 9 / 10])?, "text")?;
    assert_eq!(cut.status.code(), Some(1));
    assert!(told(&cut).contains("the file ends within it"), "{}", told(&cut));
    assert!(told(&cut).contains("it was cut short"), "{}", told(&cut));
    assert!(cut.stdout.len() < replay(&public.put("whole", &whole)?, "text")?.stdout.len());

    // The frame behind the first one is whole, so its entries are replayed.
    let mut damaged = whole.clone();
    damaged[60] ^= 1;
    let damaged = replay(&public.put("damaged", &damaged)?, "text")?;
    assert_eq!(damaged.status.code(), Some(1));
    assert!(told(&damaged).contains("frame 0 at byte 12: its checksum does not match"), "{}", told(&damaged));
    assert!(String::from_utf8_lossy(&damaged.stdout).contains("PACKETLOSS"), "{}", told(&damaged));

    for (name, bytes, why) in
        [("empty", &b""[..], "not a trace"), ("elf", b"\x7fELF\0\0\0\0\0\0\0\0\0", "not a trace")]
    {
        let refused = replay(&public.put(name, bytes)?, "text")?;
        assert!(refused.status.code() == Some(1) && told(&refused).contains(why), "{}", told(&refused));
    }
    Ok(())
}

#[test]
fn recording_without_privileges_or_an_unknown_probe_says_what_is_missing() -> Result<()> {
    let public = Nobody::get()?;
    let file = public.folder("traces")?.join("x.trace");
    let file = file.to_str().context("UTF-8")?;
    let refused = public.run(&["record", "-o", file, "--for", "1s"])?;
    let told = String::from_utf8_lossy(&refused.stderr);
    assert!(refused.status.code() == Some(1) && told.contains("no probe can be loaded"), "{told}");
    let refused = public.run(&["record", "-o", file, "--probe", "nonsense"])?;
    let told = String::from_utf8_lossy(&refused.stderr);
    assert!(
        refused.status.code() == Some(2) && told.contains("\"nonsense\"") && told.contains("skb-drop"),
        "{told}"
    );
    Ok(())
}

#[test]
fn a_fresh_recording_of_a_fault_can_be_replayed() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("fresh.trace");
    let pair = lab::Pair::new()?;
    lab::record(&file, &[&pair.client, &pair.server], || {
        let to = pair.server_at(lab::Family::V6, lab::faults::CLOSED_PORT);
        lab::faults::connect_to_closed_port(&pair.client, to).map(drop)
    })?;
    let mode = std::fs::metadata(&file)?.permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "a trace is private");
    let public = Nobody::get()?;
    let replayed = replay(&public.put("fresh", &std::fs::read(&file)?)?, "text")?;
    let text = String::from_utf8(replayed.stdout)?;
    assert!(replayed.status.success(), "{}", String::from_utf8_lossy(&replayed.stderr));
    let reset = text.lines().find(|line| line.contains("TCPRESET_NOSOCK")).context("the reset")?;
    assert!(reset.contains(pair.server.name()) && reset.contains("fd00:9::2"), "{reset}");
    Ok(())
}
