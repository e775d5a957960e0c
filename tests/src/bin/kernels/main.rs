//! `make test-kernels`: the same static binary and objects on stock Debian kernels in qemu.
//!
//! - [`stock`]: fetches a kernel package and keeps it.
//! - [`initramfs`]: packs agent, analyzers and tools into the file that a guest boots from.
//! - [`guest`]: boots it and reads what `kernel-check` says in there.
//!
//! KVM is not needed: qemu interprets. Fails if a signal is missing on any kernel.

mod guest;
mod initramfs;
mod stock;

use std::process::ExitCode;

use anyhow::Result;
use inspector_tests::agent::binary;
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
    let check = guest::built_check()?;
    let mut verdicts = Vec::new();
    for meta in SERIES {
        let kernel = Kernel::fetch(meta)?;
        eprintln!("booting {} ...", kernel.release);
        let image = initramfs::pack(&kernel, &binary()?, &check, &built_in()?)?;
        let verdict = guest::boot(&kernel, &image)?;
        if !verdict.passed() {
            eprintln!("{}", verdict.console);
        }
        verdicts.push(verdict);
    }
    println!("{:<28} {}", "kernel", row(SIGNALS.iter().copied()));
    for verdict in &verdicts {
        println!("{:<28} {}", verdict.release, row(SIGNALS.iter().map(|signal| verdict.signal(signal))));
    }
    for verdict in &verdicts {
        println!("\n{}:", verdict.release);
        verdict.lines.iter().for_each(|line| println!("  {line}"));
    }
    let passed = verdicts.iter().all(Verdict::passed);
    Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
