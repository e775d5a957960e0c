//! What the kernel says about this process.

use std::fs;

use nix::sys::resource::{Resource, UsageWho, getrlimit, getrusage};

use crate::status::Process;

/// Kernel ticks per second in /proc; the same on every architecture that Linux shows to users.
const USER_HZ: f64 = 100.0;

/// Reads this process; what cannot be read is 0.
pub(super) fn read() -> Process {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    Process {
        cpu_seconds: cpu_seconds().unwrap_or_default(),
        resident_bytes: kib(&status, "VmRSS:").unwrap_or_default() << 10,
        virtual_bytes: kib(&status, "VmSize:").unwrap_or_default() << 10,
        // One of them is the directory that is being read.
        open_fds: fs::read_dir("/proc/self/fd").map_or(0, |fds| fds.count() as u64).saturating_sub(1),
        max_fds: getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(soft, _)| soft),
        start_time_seconds: start_time_seconds().unwrap_or_default(),
    }
}

fn cpu_seconds() -> Option<f64> {
    let usage = getrusage(UsageWho::RUSAGE_SELF).ok()?;
    let seconds = |time: nix::sys::time::TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
    Some(seconds(usage.user_time()) + seconds(usage.system_time()))
}

fn kib(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().strip_suffix(" kB")?.parse().ok()
}

fn start_time_seconds() -> Option<f64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // The second field is the name, in parentheses, and may contain anything; the third follows.
    let ticks: f64 = stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()?;
    let system = fs::read_to_string("/proc/stat").ok()?;
    let boot: f64 = system.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()?;
    Some(boot + ticks / USER_HZ)
}

#[cfg(test)]
mod tests {
    use std::time::{SystemTime, UNIX_EPOCH};

    use super::*;

    #[test]
    fn this_process_runs_and_began_a_while_ago() {
        let process = read();
        assert!(process.resident_bytes > 0 && process.virtual_bytes > process.resident_bytes);
        assert!(process.open_fds >= 3 && process.max_fds > process.open_fds);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs_f64();
        assert!((now - 86_400.0..now + 2.0).contains(&process.start_time_seconds));
    }
}
