//! The demo without the privileges for eBPF: the same three faults, recorded on another day.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use inspector_tests::agent::binary;
use inspector_tests::plugins::{built_in, workspace};

use super::show::Style;

/// A recorded fault: its case, what it is, and the words by which its events and metrics are known.
struct Fault {
    case: &'static str,
    title: &'static str,
    events: &'static [&'static str],
    metrics: &'static [&'static str],
}

const FAULTS: &[Fault] = &[
    Fault {
        case: "closed-port",
        title: "A closed port: the client connects to 10.9.0.2:9, where nobody listens",
        events: &["TCPRESET_NOSOCK", "TCPCONNECT_FAILED"],
        metrics: &["inspector_pod_tcpoutrsts", "inspector_pod_tcpattemptfails", "inspector_drops_total"],
    },
    Fault {
        case: "firewall-drop",
        title: "A firewall: the server's nftables drop what comes in for 10.9.0.2:80",
        events: &["PACKETLOSS", "TCPRETRANS"],
        metrics: &["inspector_pod_packetloss_netfilter", "inspector_tcp_retransmits_total"],
    },
    Fault {
        case: "accept-queue-full",
        title: "A full accept queue: the server never calls accept",
        events: &["TCPLISTEN_OVERFLOW"],
        metrics: &["inspector_pod_tcpextlistenoverflows", "inspector_pod_tcpextlistendrops"],
    },
];

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
        let output = replay(fault.case)?;
        for kind in fault.events {
            let is_event = |line: &str| line.split(' ').any(|word| word == *kind);
            println!("  event   {}", line(&output, is_event, kind)?);
        }
        for name in fault.metrics {
            let is_sample = |line: &str| line.starts_with(&format!("{name}{{")) && !line.ends_with(" 0");
            println!("  metric  {}", line(&output, is_sample, name)?);
        }
        last = output;
    }
    let command = format!("inspector replay {}", trace(FAULTS[FAULTS.len() - 1].case).display());
    style.command(&format!("{command}    # at its end, what the analyzers conclude"), report(&last)?);
    println!("\n{}", style.bold("All three faults were named, from their traces."));
    Ok(())
}

fn trace(case: &str) -> PathBuf {
    workspace().join("tests/replay").join(case).join("trace")
}

fn replay(case: &str) -> Result<String> {
    let output = Command::new(binary()?)
        .arg("replay")
        .arg(trace(case))
        .arg("--plugin-dir")
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
