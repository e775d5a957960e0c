//! Tells the binary what it was built from.

use std::process::Command;

fn main() {
    let revision = git(&["rev-parse", "--short=12", "HEAD"]);
    println!("cargo::rustc-env=INSPECTOR_REVISION={}", revision.as_deref().unwrap_or("unknown"));
    println!("cargo::rustc-env=INSPECTOR_TARGET={}", std::env::var("TARGET").expect("cargo sets it"));
    println!("cargo::rerun-if-changed=build.rs");
    // HEAD's log grows with each commit and checkout, whichever branch is checked out.
    if let Some(log) = git(&["rev-parse", "--path-format=absolute", "--git-path", "logs/HEAD"]) {
        println!("cargo::rerun-if-changed={log}");
    }
}

/// What git prints; nothing if there is no git or no repository, as in a source archive.
fn git(args: &[&str]) -> Option<String> {
    let output = Command::new("git").args(args).output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
}
