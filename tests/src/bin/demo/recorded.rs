//! The demo without the privileges for eBPF: the same three faults, recorded on another day.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use inspector_tests::agent::binary;
use inspector_tests::plugins::{built_in, workspace};

use super::faults::FAULTS;
use super::show::Style;

/// What keeps this process from making the faults itself; nothing if it can.
pub fn obstacle() -> Option<String> {
    const NET_ADMIN: u64 = 1 << 12;
    const SYS_ADMIN: u64 = 1 << 21;
    if !nix::unistd::geteuid().is_root() {
        return Some("this is not root".to_owned());
    }
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = effective.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(0);
    let lacks = |capability| effective & capability == 0;
    // Network namespaces take CAP_SYS_ADMIN, which is also enough for eBPF.
    match (lacks(NET_ADMIN), lacks(SYS_ADMIN)) {
        (true, _) => Some("CAP_NET_ADMIN is missing".to_owned()),
        (_, true) => Some("CAP_SYS_ADMIN is missing".to_owned()),
        _ if fs::metadata("/sys/kernel/btf/vmlinux").is_err() => Some("this kernel shows no BTF".to_owned()),
        _ => None,
    }
}

/// Replays the three faults and shows what the analyzers say of them.
pub fn demo(style: Style, obstacle: &str) -> Result<()> {
    println!("{}", style.bold("Nothing happens live: this shows recorded traces of real faults,"));
    println!("because {obstacle}. What loading the probes needs is told by `inspector doctor`.");
    println!("The analyzers run now, in their sandbox, on what a kernel said on another day.");
    let mut last = String::new();
    for (number, fault) in FAULTS.iter().enumerate() {
        println!("\n{}", style.bold(&format!("{}. {}", number + 1, fault.title)));
        let output = replay(fault.trace)?;
        for (kind, place, word) in fault.events {
            let has = [format!("{kind} "), format!("-{} ", place.word()), (*word).to_owned()];
            println!("  event   {}", line(&output, |line| has.iter().all(|part| line.contains(part)), kind)?);
        }
        for (name, place, labels) in fault.metrics {
            let mut has = vec![format!("-{}\"", place.word())];
            has.extend(labels.iter().map(|(label, value)| format!("{label}=\"{value}\"")));
            let is_sample = |line: &str| line.starts_with(&format!("{name}{{")) && !line.ends_with(" 0");
            let is_it = |line: &str| is_sample(line) && has.iter().all(|part| line.contains(part));
            println!("  metric  {}", line(&output, is_it, name)?);
        }
        last = output;
    }
    let command = format!("inspector replay {}", trace(FAULTS[FAULTS.len() - 1].trace).display());
    style.command(&format!("{command}    # at its end, what the analyzers conclude"), report(&last)?);
    println!("\n{}", style.bold("All three faults were named, from their traces."));
    Ok(())
}

fn trace(case: &str) -> PathBuf {
    let trace = Path::new("tests/replay").join(case).join("trace");
    // `make` runs this in its checkout. Another one that shares the folder of builds may have built it.
    if trace.exists() { trace } else { workspace().join(trace) }
}

fn replay(case: &str) -> Result<String> {
    let output = Command::new(binary()?)
        .arg("replay")
        .arg(trace(case))
        .args(["--all", "--plugin-dir"])
        .arg(built_in()?)
        .output()?;
    ensure!(output.status.success(), "replay of {case}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).context("the output is UTF-8")
}

/// The diagnosis, which follows the last metric.
fn report(output: &str) -> Result<&str> {
    let mut samples = output.lines().filter(|line| line.starts_with("inspector_"));
    let last = samples.next_back().with_context(|| format!("the replay shows no metric:\n{output}"))?;
    let (_, report) = output.rsplit_once(last).context("it was found")?;
    ensure!(report.contains("accept-queue-overflow"), "the replay does not name the cause:\n{report}");
    Ok(report.trim())
}

fn line<'a>(output: &'a str, is_it: impl Fn(&str) -> bool, what: &str) -> Result<&'a str> {
    match output.lines().find(|line| is_it(line)) {
        Some(line) => Ok(line),
        None => bail!("the replay does not show {what}:\n{output}"),
    }
}
