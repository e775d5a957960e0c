//! What this kernel and these privileges allow, and what is lost without the rest.
//!
//! Nothing is loaded: hooks are looked up in BTF, and the rest is asked with throw-away maps.

use std::fs;

use aya::maps::MapType;
use aya::sys::is_map_supported;
use inspector_ebpf::PROBES;

use super::btf::{self, Btf};
use super::{hooks, kallsyms, privilege};

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Check {
    /// What was looked at, e.g. `kernel types (BTF)`.
    pub what: String,
    /// It is as it should be.
    pub ok: bool,
    /// What was found.
    pub found: String,
    /// What is lost without it; empty if it is there.
    pub lost_without: String,
}

const EVERY_EVENT: &str = "all events; metrics from /proc are still served";

/// Looks at everything that the probes depend on.
pub fn doctor() -> Vec<Check> {
    let bytes = btf::read_vmlinux();
    let kernel = bytes.as_ref().ok().and_then(|bytes| Btf::parse(bytes));
    let mut checks = vec![
        match &bytes {
            Ok(bytes) => check("kernel types (BTF)", kernel.is_some(), &size(bytes.len()), EVERY_EVENT),
            Err(error) => {
                check("kernel types (BTF)", false, &format!("{}: {error}", btf::VMLINUX), EVERY_EVENT)
            }
        },
        capabilities(),
        ring_buffers(),
        lockdown(),
        symbols(),
        cookies(kernel.as_ref()),
        statistics(),
    ];
    if let Some(kernel) = &kernel {
        checks.extend(PROBES.iter().flat_map(|probe| probe.hooks.iter().map(move |hook| (probe, hook))).map(
            |(probe, hook)| {
                let what = format!("{}: {}", probe.name, hook.name());
                match hooks::choose(hook, kernel) {
                    Ok(program) => check(&what, true, &format!("program {program}"), ""),
                    Err(reason) => check(&what, false, &reason, hook.gives),
                }
            },
        ));
    }
    checks
}

fn capabilities() -> Check {
    match privilege::missing() {
        None => check("capabilities", true, "CAP_BPF and CAP_PERFMON, or CAP_SYS_ADMIN", ""),
        Some(missing) => check("capabilities", false, &missing, EVERY_EVENT),
    }
}

/// Creating a map also shows whether the system call itself is allowed.
fn ring_buffers() -> Check {
    let what = "bpf() and ring buffers";
    match is_map_supported(MapType::RingBuf) {
        Ok(true) => check(what, true, "allowed", ""),
        Ok(false) => check(what, false, "this kernel has no ring buffers (they came with 5.8)", EVERY_EVENT),
        Err(error) => check(what, false, &super::with_causes(&error), EVERY_EVENT),
    }
}

fn lockdown() -> Check {
    let lost = "addresses of dropped packets that no socket owns";
    check("lockdown", privilege::may_read_kernel(), &privilege::lockdown(), lost)
}

fn symbols() -> Check {
    let count = kallsyms::read(&kallsyms::Files::default()).len();
    let found = format!("{count} text symbols");
    check(
        "kernel symbols (/proc/kallsyms)",
        count > 0,
        &found,
        "names of the places where packets are dropped",
    )
}

fn cookies(kernel: Option<&Btf<'_>>) -> Check {
    let found = kernel.is_some_and(|kernel| kernel.has_field("net", "net_cookie"));
    let (found_text, lost) = match found {
        true => ("net->net_cookie", ""),
        false => ("inode numbers only", "certainty about namespaces: their inode numbers are reused"),
    };
    check("namespace cookies", found, found_text, lost)
}

/// A choice of the operator, not a fault.
fn statistics() -> Check {
    let enabled = fs::read_to_string("/proc/sys/kernel/bpf_stats_enabled").unwrap_or_default();
    let found = match enabled.trim() {
        "1" => "on",
        _ => "off (sysctl kernel.bpf_stats_enabled=1 shows the cost of each hook)",
    };
    check("run-time statistics", true, found, "")
}

fn check(what: &str, ok: bool, found: &str, lost_without: &str) -> Check {
    let lost_without = if ok { "" } else { lost_without };
    Check { what: what.to_owned(), ok, found: found.to_owned(), lost_without: lost_without.to_owned() }
}

fn size(bytes: usize) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}
