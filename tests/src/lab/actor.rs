//! A process of its own in a namespace: what is to be stopped, killed, throttled or limited by a
//! cgroup cannot be a thread of the test. Its program is `src/bin/actor.rs`.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{Cgroup, Namespace};
use crate::agent::beside;

/// A running actor; killed with this value.
#[derive(Debug)]
pub struct Actor {
    child: Child,
    /// Its end would end the process.
    _stdin: ChildStdin,
    told: BufReader<ChildStdout>,
}

impl Actor {
    /// Starts one in a namespace, and in cgroups before it opens a socket; returns when it has said
    /// that it is ready. `args` are those of the program.
    ///
    /// # Errors
    /// If it cannot do what it is asked to.
    pub fn start(at: &Namespace, cgroups: &[&Cgroup], args: &str) -> Result<Self> {
        let mut child = at.run(|| {
            let mut command = Command::new(beside("actor")?);
            command.args(args.split_whitespace()).stdin(Stdio::piped()).stdout(Stdio::piped());
            command.spawn().context("cannot start an actor")
        })?;
        let mut stdin = child.stdin.take().context("a pipe")?;
        let told = BufReader::new(child.stdout.take().context("a pipe")?);
        cgroups.iter().try_for_each(|cgroup| cgroup.add(child.id()))?;
        stdin.write_all(b"go\n")?;
        let mut actor = Self { child, _stdin: stdin, told };
        let first = actor.next_line()?;
        ensure!(first == "ready", "actor {args}: {first:?}");
        Ok(actor)
    }

    /// Waits for the next line that it says.
    ///
    /// # Errors
    /// If it has ended.
    pub fn next_line(&mut self) -> Result<String> {
        let mut line = String::new();
        ensure!(self.told.read_line(&mut line)? > 0, "the actor ended");
        Ok(line.trim_end().to_owned())
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// If it has ended.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill(Pid::from_raw(self.child.id().cast_signed()), signal)?)
    }
}

impl Drop for Actor {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
