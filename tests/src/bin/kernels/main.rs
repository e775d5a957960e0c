//! `make test-kernels`: the same static binary and objects on stock Debian kernels in qemu.
//!
//! - [`stock`]: fetches a kernel package and keeps it.
//! - [`initramfs`]: packs agent, analyzers and tools into the file that a guest boots from.
//! - [`guest`]: boots it and reads what `kernel-check` says in there.
//!
//! KVM is not needed: qemu interprets. Fails if a signal is missing on any kernel. `kernels --lab`
//! (`make lab-kernels`) asks in there what the agent concludes of the cases of the lab instead.

mod guest;
mod initramfs;
mod stock;

use std::process::ExitCode;

use anyhow::Result;
use inspector_tests::agent::{beside, binary};
use inspector_tests::plugins::built_in;

use crate::guest::Verdict;
use crate::stock::Kernel;

/// Debian's meta packages, each with the newest kernel of a series.
const SERIES: &[&str] = &["linux-image-cloud-amd64", "linux-image-6.12-cloud-amd64"];

/// What `kernel-check` looks for.
const SIGNALS: &[&str] =
    &["drop", "reset", "retransmission", "queue", "receive", "softirq", "virtio-command", "route"];

fn row<'a>(cells: impl Iterator<Item = &'a str>) -> String {
    cells.map(|cell| format!("{cell:<15}")).collect()
}

fn main() -> Result<ExitCode> {
    let lab = std::env::args().any(|arg| arg == "--lab");
    let check = beside("kernel-check")?;
    let mut verdicts = Vec::new();
    for meta in SERIES {
        let kernel = Kernel::fetch(meta)?;
        eprintln!("booting {} ...", kernel.release);
        let image = initramfs::pack(&kernel, &binary()?, &check, &built_in()?)?;
        let verdict = guest::boot(&kernel, &image, if lab { "LAB=1" } else { "" })?;
        if !verdict.passed() {
            eprintln!("{}", verdict.console);
        }
        verdicts.push(verdict);
    }
    if !lab {
        signals(&verdicts);
    }
    for verdict in &verdicts {
        println!("\n{}:", verdict.release);
        verdict.lines.iter().for_each(|line| println!("  {line}"));
    }
    let passed = verdicts.iter().all(Verdict::passed);
    Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Which kernel showed what.
fn signals(verdicts: &[Verdict]) {
    println!("{:<28} {}", "kernel", row(SIGNALS.iter().copied()));
    for verdict in verdicts {
        println!("{:<28} {}", verdict.release, row(SIGNALS.iter().map(|signal| verdict.signal(signal))));
    }
}
