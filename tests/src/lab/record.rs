//! A fault, recorded by the product.

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::Namespace;
use crate::agent::binary;

/// Records what happens to some namespaces while `fault` runs.
///
/// # Errors
/// If the recording or the fault fails.
pub fn record(file: &Path, hosts: &[&Namespace], fault: impl FnOnce() -> Result<()>) -> Result<()> {
    let mut command = Command::new(binary()?);
    command.arg("record").arg("-o").arg(file).args(["--node.name", "n1", "--interval", "1s"]);
    for namespace in hosts {
        command.args(["--entity", namespace.name()]);
    }
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
    let mut told = BufReader::new(child.stderr.take().context("stderr is piped")?);
    // What the agent has to say of the node comes before.
    let (mut before, mut has_begun) = (String::new(), false);
    while !has_begun && told.read_line(&mut before)? > 0 {
        has_begun = before.lines().next_back().is_some_and(|line| line.starts_with("recording to"));
    }
    let done = if has_begun { fault() } else { Ok(()) };
    // It may have ended by itself, with an error that it tells.
    let _ = kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGINT);
    let mut rest = String::new();
    told.read_to_string(&mut rest)?;
    ensure!(child.wait()?.success() && has_begun, "inspector record: {before}{rest}");
    done
}
