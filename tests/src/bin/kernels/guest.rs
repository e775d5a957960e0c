//! One boot of one kernel, and what the check in there said on the serial console.

use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use inspector_tests::wait;
use tempfile::NamedTempFile;

use crate::stock::Kernel;

/// A busy machine interprets slowly: a boot with all its tests takes half a minute on a quiet one, and one
/// with the lab some ten minutes.
const LONGEST: Duration = Duration::from_secs(1800);

/// Every line of the check begins so; the console carries the kernel's own as well.
const MARK: &str = "kernel-check: ";

/// What the kernel does not know of these becomes the environment of `/init`.
const COMMAND_LINE: &str = "console=ttyS0 panic=-1 loglevel=4 PATH=/usr/sbin:/usr/bin:/sbin:/bin";

/// What one kernel showed.
pub struct Verdict {
    /// Its release.
    pub release: String,
    /// The lines of the check.
    pub lines: Vec<String>,
    /// Everything on the console, for the case of failure.
    pub console: String,
}

impl Verdict {
    /// All signals arrived, and the check came to its end.
    pub fn passed(&self) -> bool {
        self.lines.iter().any(|line| line == "passed")
    }

    /// `ok` or `MISSING`.
    pub fn signal(&self, name: &str) -> &'static str {
        let ok = format!("ok {name} ");
        let missing = format!("missing {name} ");
        let has = |start: &str| self.lines.iter().any(|line| line.starts_with(start));
        if has(&ok) && !has(&missing) { "ok" } else { "MISSING" }
    }
}

/// Boots a kernel to its power-off; `environment` is what `/init` finds in its own, as `NAME=value`.
///
/// # Errors
/// If qemu is missing or the guest does not end.
pub fn boot(kernel: &Kernel, initramfs: &NamedTempFile, environment: &str) -> Result<Verdict> {
    let console = NamedTempFile::new()?;
    let mut qemu = Qemu(start(&kernel.image(), initramfs.path(), environment, console.reopen()?)?);
    let ended = wait::within(LONGEST, "the guest to power off", || qemu.0.try_wait().ok().flatten());
    let console = String::from_utf8_lossy(&std::fs::read(console.path())?).into_owned();
    ended.with_context(|| console.clone())?;
    let lines =
        console.lines().filter_map(|line| line.split_once(MARK)).map(|(_, said)| said.trim().to_owned());
    Ok(Verdict { release: kernel.release.clone(), lines: lines.collect(), console })
}

struct Qemu(Child);

impl Drop for Qemu {
    fn drop(&mut self) {
        // It has usually ended; then there is nothing to kill.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn start(kernel: &Path, initramfs: &Path, environment: &str, console: File) -> Result<Child> {
    Command::new("qemu-system-x86_64")
        .args(["-M", "q35", "-accel", "tcg,thread=multi", "-cpu", "max", "-m", "1024", "-smp", "2"])
        .args(["-nographic", "-no-reboot", "-kernel"])
        .arg(kernel)
        // A network that leads nowhere: only the device's control queue is wanted.
        .args(["-netdev", "user,id=nowhere,restrict=on", "-device", "virtio-net-pci,netdev=nowhere"])
        .arg("-initrd")
        .arg(initramfs)
        .args(["-append", &format!("{COMMAND_LINE} {environment}")])
        .stdin(Stdio::null())
        .stdout(console.try_clone()?)
        .stderr(console)
        .spawn()
        .context("cannot start `qemu-system-x86_64`; run `make test-kernels`, which installs it")
}
