//! `make record-cases`: makes the faults of the replay tests anew and records them.
//!
//! One folder of `tests/replay` per fault: `trace`, and `output.txt`, which the test writes with
//! `INSPECTOR_BLESS=1`. Arguments name the folders to record, all without any; `--to DIR` writes them
//! elsewhere.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use inspector_tests::exam::Exam;
use inspector_tests::lab;
use inspector_tests::plugins::workspace;

/// What is recorded: the name of its folder, and the case of the lab that makes it.
const RECORDED: &[(&str, &str)] = &[
    ("accept-queue-full", "listen_overflow"),
    ("blackhole-route", "route_blackhole_forward"),
    ("closed-port", "tcp_closed_port"),
    ("closed-port-ipv6", "tcp_closed_port/6"),
    ("closed-udp-port", "udp_closed_port"),
    ("dns-answer-too-late", "life_late_dns_answer"),
    ("firewall-drop", "nft_drop_in"),
    ("forwarding-disabled", "ip_forward_off"),
    ("gateway-502", "life_gateway_502"),
    ("lossy-link", "tcp_loss"),
    ("neighbour-unresolved", "arp_fail"),
    ("policy-drop", "var_policy_drop"),
    ("receive-buffer-full", "udp_rcvbuf_overflow"),
    ("reset-by-application", "app_linger0"),
    ("reset-unread-data", "app_close_unread"),
    ("reverse-path-filter", "rp_filter"),
    ("route-missing", "no_route_forward"),
    ("segments-lost", "nft_random_loss"),
    ("server-pause", "life_server_pause"),
    ("server-throttled", "life_cpu_throttled"),
    ("ttl-exceeded", "ttl_exceeded"),
];

/// One more reading of the counters, and retransmissions of what the case holds.
const MORE: Duration = Duration::from_millis(2500);

fn main() -> Result<()> {
    ensure!(nix::unistd::geteuid().is_root(), "it makes namespaces and loads eBPF programs: run it as root");
    let (mut wanted, mut to) = (Vec::new(), workspace().join("tests/replay"));
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--to" => to = PathBuf::from(args.next().context("--to DIR")?),
            _ => wanted.push(arg),
        }
    }
    for name in &wanted {
        ensure!(RECORDED.iter().any(|(known, _)| known == name), "no fault is recorded as {name}");
    }
    for (name, case) in RECORDED {
        if wanted.is_empty() || wanted.iter().any(|wanted| wanted == name) {
            record(&to.join(name), case).with_context(|| (*name).to_owned())?;
        }
    }
    println!("now: INSPECTOR_BLESS=1 cargo test --release --workspace replay, and look at the difference");
    Ok(())
}

/// Records a case of the lab into a folder.
fn record(dir: &Path, case: &str) -> Result<()> {
    std::fs::create_dir_all(dir)?;
    let trace = dir.join("trace");
    let exam = Exam::named(case)?;
    let scene = exam.scene()?;
    let hosts: Vec<_> = scene.hosts().collect();
    lab::record(&trace, &hosts, || {
        let _held = exam.case.make(&scene)?;
        sleep(MORE);
        Ok(())
    })?;
    std::fs::set_permissions(&trace, PermissionsExt::from_mode(0o644))?;
    println!("{}: {} bytes", dir.display(), std::fs::metadata(&trace)?.len());
    Ok(())
}
