//! What a process cost so far, as the kernel counts it.

use std::fs::{read_dir, read_to_string};
use std::os::fd::OwnedFd;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::time::{clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;

/// Counters of one process; the difference of two is what lay between.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cost {
    /// CPU time of all its threads, in user space and in system calls.
    pub cpu: Duration,
    /// Times its reader thread was woken.
    pub wakeups: u64,
    /// Times any of its threads was woken.
    pub wakeups_of_all: u64,
    /// Runs of its eBPF programs, while [`program_statistics`] are held.
    pub runs: u64,
    /// Time in them.
    pub run_time: Duration,
}

impl Cost {
    /// Reads the counters of a process; `reader` is the name of the thread that reads its ring.
    ///
    /// # Errors
    /// If it is gone.
    pub fn of(pid: u32, reader: &str) -> Result<Self> {
        let clock = clock_getcpuclockid(Pid::from_raw(pid.cast_signed())).context("the process is gone")?;
        let mut cost = Self { cpu: clock_gettime(clock)?.into(), ..Self::default() };
        for task in read_dir(format!("/proc/{pid}/task"))?.flatten() {
            // A thread may end between the listing and the look.
            let Ok(status) = read_to_string(task.path().join("status")) else { continue };
            let wakeups = number(&status, "voluntary_ctxt_switches:");
            cost.wakeups_of_all += wakeups;
            if field(&status, "Name:") == Some(reader) {
                cost.wakeups += wakeups;
            }
        }
        let mut programs = Vec::new();
        for descriptor in read_dir(format!("/proc/{pid}/fdinfo"))?.flatten() {
            let Ok(info) = read_to_string(descriptor.path()) else { continue };
            let id = field(&info, "prog_id:").map(str::to_owned);
            if id.is_none() || field(&info, "run_cnt:").is_none() || programs.contains(&id) {
                continue;
            }
            programs.push(id);
            cost.runs += number(&info, "run_cnt:");
            cost.run_time += Duration::from_nanos(number(&info, "run_time_ns:"));
        }
        Ok(cost)
    }

    /// What was added since `before`.
    pub fn since(self, before: Self) -> Self {
        Self {
            cpu: self.cpu - before.cpu,
            wakeups: self.wakeups - before.wakeups,
            wakeups_of_all: self.wakeups_of_all - before.wakeups_of_all,
            runs: self.runs - before.runs,
            run_time: self.run_time - before.run_time,
        }
    }
}

/// Has the kernel time every run of every eBPF program, until the value is dropped. That itself
/// costs some 50 ns per run, so what a send takes is measured without.
///
/// # Errors
/// Before Linux 5.8.
pub fn program_statistics() -> Result<OwnedFd> {
    Ok(aya::sys::enable_stats(aya::sys::Stats::RunTime)?)
}

fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim)
}

fn number(text: &str, name: &str) -> u64 {
    field(text, name).and_then(|value| value.parse().ok()).unwrap_or(0)
}
