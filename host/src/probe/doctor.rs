//! What this kernel and these privileges allow, and what is lost without the rest.
//!
//! What is claimed is tried, with the code of the agent: every hook is attached, and taken off at
//! once. Nothing is read from it, and it stays no longer than a moment.

use std::fs;

use aya::maps::MapType;
use aya::sys::is_map_supported;
use inspector_ebpf::{Attach, Hook, Kernel, PROBES, Probe};
use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};

use super::btf::{self, Btf};
use super::error::{Error, reason};
use super::load::{Loaded, load_each};
use super::options::{LEAST_RING, Options};
use super::{hooks, kallsyms};
use crate::privilege::{self, Capability, Obstacle};
use crate::status::{HookState, HookStatus};
use crate::text::cause::chain as with_causes;

/// One thing that was tried.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Check {
    /// What was tried, e.g. `kernel types (BTF)`.
    pub what: String,
    /// It is as it should be.
    pub ok: bool,
    /// What was found.
    pub found: String,
    /// What is lost without it; empty if it is there.
    pub lost_without: String,
    /// How to get it; empty if it is there, or if another kernel is what it takes.
    pub remedy: String,
}

const EVERY_EVENT: &str = "all events; metrics from /proc are still served";

impl Check {
    /// Something that is as it should be.
    pub fn good(what: &str, found: &str) -> Self {
        let none = String::new;
        Self {
            what: what.to_owned(),
            ok: true,
            found: found.to_owned(),
            lost_without: none(),
            remedy: none(),
        }
    }

    /// Something that is not.
    pub fn bad(what: &str, found: &str, lost_without: &str, remedy: &str) -> Self {
        Self {
            ok: false,
            lost_without: lost_without.to_owned(),
            remedy: remedy.to_owned(),
            ..Self::good(what, found)
        }
    }
}

/// Tries everything that the probes depend on; takes a second or two.
pub fn doctor() -> Vec<Check> {
    let bytes = btf::read_vmlinux();
    let kernel = bytes.as_ref().ok().and_then(|bytes| Btf::parse(bytes));
    // Before 5.11 maps count against it; the agent does so as well, and may be refused as well.
    let _ = setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY);
    let mut checks = vec![
        kernel_types(&bytes, kernel.is_some()),
        capabilities(),
        ring_buffers(),
        lockdown(),
        symbols(),
        cookies(kernel.as_ref()),
        statistics(),
    ];
    checks.extend(all_hooks());
    checks
}

fn kernel_types(bytes: &std::io::Result<Vec<u8>>, is_understood: bool) -> Check {
    let what = "kernel types (BTF)";
    let lost = |found: &str| Check::bad(what, found, EVERY_EVENT, "a kernel with CONFIG_DEBUG_INFO_BTF");
    match bytes {
        Ok(bytes) if is_understood => Check::good(what, &size(bytes.len())),
        Ok(_) => lost(&format!("{} is malformed", btf::VMLINUX)),
        Err(error) => lost(&format!("{}: {error}", btf::VMLINUX)),
    }
}

fn capabilities() -> Check {
    let what = "capabilities for probes";
    match privilege::missing_for_probes() {
        None => Check::good(what, "CAP_BPF and CAP_PERFMON, or CAP_SYS_ADMIN"),
        Some(missing) => Check::bad(what, &missing, EVERY_EVENT, &bpf().remedy()),
    }
}

fn bpf() -> Obstacle {
    privilege::obstacle(Capability::Perfmon, &[Capability::Bpf])
}

/// Creating a map also shows whether the system call itself is allowed.
fn ring_buffers() -> Check {
    let what = "bpf() and ring buffers";
    match is_map_supported(MapType::RingBuf) {
        Ok(true) => Check::good(what, "allowed"),
        Ok(false) => {
            let found = format!("this kernel has no ring buffers (they came with {})", Kernel::FLOOR);
            Check::bad(what, &found, EVERY_EVENT, "")
        }
        Err(error) => Check::bad(what, &with_causes(&error), EVERY_EVENT, &bpf().remedy()),
    }
}

fn lockdown() -> Check {
    let (what, lost) = ("lockdown", "addresses of dropped packets that no socket owns");
    match privilege::may_read_kernel() {
        true => Check::good(what, &privilege::lockdown()),
        false => Check::bad(what, &privilege::lockdown(), lost, "boot with lockdown=integrity"),
    }
}

fn symbols() -> Check {
    let (what, lost) = ("kernel symbols (/proc/kallsyms)", "names of the places where packets are dropped");
    match kallsyms::read(&kallsyms::Files::default()).len() {
        0 => {
            let hidden = privilege::hides_symbols();
            Check::bad(what, &format!("no addresses: {}", hidden.why()), lost, &hidden.remedy())
        }
        count => Check::good(what, &format!("{count} text symbols")),
    }
}

fn cookies(kernel: Option<&Btf<'_>>) -> Check {
    let what = "namespace cookies";
    let lost = "certainty about namespaces: their inode numbers are reused";
    match kernel.is_some_and(|kernel| kernel.has_field("net", "net_cookie")) {
        true => Check::good(what, "net->net_cookie"),
        false => Check::bad(what, "inode numbers only", lost, ""),
    }
}

/// A choice of the operator, not a fault.
fn statistics() -> Check {
    let enabled = fs::read_to_string("/proc/sys/kernel/bpf_stats_enabled").unwrap_or_default();
    let found = match enabled.trim() {
        "1" => "on",
        _ => "off (sysctl kernel.bpf_stats_enabled=1 shows the cost of each hook)",
    };
    Check::good("run-time statistics", found)
}

/// Attaches the hooks of one probe after the other, as the agent would.
fn all_hooks() -> Vec<Check> {
    let mut checks = Vec::new();
    let probes: Vec<&'static Probe> = PROBES.iter().collect();
    let tunables = Options { ring_bytes: LEAST_RING, ..Options::default() }.tunables();
    // Without the kernel's types nothing can be tried, which its own check says.
    let _ = load_each(&probes, &tunables, |probe, kernel, loaded| {
        checks.extend(hooks_of(probe, kernel, loaded));
    });
    checks
}

fn hooks_of(probe: &'static Probe, kernel: &Btf<'_>, loaded: Result<Loaded, Error>) -> Vec<Check> {
    let states = match loaded {
        Ok(loaded) => loaded.hooks,
        Err(error) => hooks::unloaded(probe, Some(kernel), Some(&reason(&error))),
    };
    probe.hooks.iter().zip(states).map(|(hook, state)| of_hook(probe, hook, &state)).collect()
}

fn of_hook(probe: &Probe, hook: &Hook, state: &HookStatus) -> Check {
    let what = format!("{}: {}", probe.name, state.hook);
    let why = hooks::cause(state);
    match state.state {
        HookState::Attached => Check::good(&what, &format!("attached {}", state.program)),
        HookState::Failed => Check::bad(&what, why, hook.gives, &hooks::obstacle(hook).remedy()),
        _ => Check::bad(&what, why, hook.gives, &newer_kernel(hook)),
    }
}

/// How to get a hook that this kernel lacks. A tracepoint comes with a newer kernel; a cgroup v2 tree or
/// kprobes are a matter of how the machine is set up.
fn newer_kernel(hook: &Hook) -> String {
    match hook.attach {
        Attach::TpBtf { .. } => format!("Linux {} or later", hook.since),
        Attach::CgroupSkb { .. } | Attach::KProbe { .. } => String::new(),
    }
}

fn size(bytes: usize) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}
