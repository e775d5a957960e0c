//! The system's own tools (`ip`, `nft`), with their complaints kept.

use std::io::Write;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

/// Runs a tool, its arguments separated by blanks, and returns what it printed.
///
/// # Errors
/// If it cannot be started or fails; the error holds what it said.
pub fn run(program: &str, args: &str) -> Result<String> {
    feed(program, args, "")
}

/// [`run`] with `input` on its standard input.
///
/// # Errors
/// If it cannot be started or fails; the error holds what it said.
pub fn feed(program: &str, args: &str, input: &str) -> Result<String> {
    let mut child = Command::new(program)
        .args(args.split_whitespace())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start `{program}`; run `make setup`"))?;
    // Taken out, so that it is closed before the tool is waited for. A tool that does not read its
    // input may close it first, which is no failure.
    drop(child.stdin.take().map(|mut stdin| stdin.write_all(input.as_bytes())));
    let output = child.wait_with_output()?;
    ensure!(
        output.status.success(),
        "`{program} {args}` failed ({}): {}",
        output.status,
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
