//! What this process may do with BPF, asked without trying it.

use std::fs;

/// Bits of `CapEff` in /proc/self/status.
const CAP_SYS_ADMIN: u64 = 1 << 21;
const CAP_PERFMON: u64 = 1 << 38;
const CAP_BPF: u64 = 1 << 39;

/// The capability that loading a probe lacks; `None` if it lacks none.
pub fn missing() -> Option<String> {
    missing_from(effective()?)
}

fn missing_from(capabilities: u64) -> Option<String> {
    let has = |bit| capabilities & bit != 0;
    if has(CAP_SYS_ADMIN) {
        return None;
    }
    let lacking: Vec<_> = [(CAP_BPF, "CAP_BPF"), (CAP_PERFMON, "CAP_PERFMON")]
        .into_iter()
        .filter(|(bit, _)| !has(*bit))
        .map(|(_, name)| name)
        .collect();
    (!lacking.is_empty()).then(|| format!("no {}", lacking.join(", no ")))
}

/// `None` where /proc does not tell.
fn effective() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

/// Lockdown's mode, `none` where there is no lockdown.
pub fn lockdown() -> String {
    let modes = fs::read_to_string("/sys/kernel/security/lockdown").unwrap_or_default();
    active_mode(&modes).unwrap_or("none").to_owned()
}

/// Whether programs may use `bpf_probe_read_kernel`, without which packets have no addresses.
pub fn may_read_kernel() -> bool {
    lockdown() != "confidentiality"
}

fn active_mode(modes: &str) -> Option<&str> {
    modes.split_once('[')?.1.split_once(']').map(|(mode, _)| mode)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_lacks_nothing_and_others_are_told_what() {
        assert_eq!(missing_from(CAP_SYS_ADMIN), None);
        assert_eq!(missing_from(CAP_BPF | CAP_PERFMON), None);
        assert_eq!(missing_from(CAP_BPF).as_deref(), Some("no CAP_PERFMON"));
        assert_eq!(missing_from(0).as_deref(), Some("no CAP_BPF, no CAP_PERFMON"));
    }

    #[test]
    fn the_mode_in_brackets_is_the_active_one() {
        assert_eq!(active_mode("none [integrity] confidentiality\n"), Some("integrity"));
        assert_eq!(active_mode(""), None);
    }
}
