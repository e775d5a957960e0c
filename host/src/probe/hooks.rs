//! Chooses the program for each hook: of a tracepoint, the one whose argument count is the running
//! kernel's.

use inspector_ebpf::{Attach, Hook, Probe};

use super::btf::Btf;
use super::{cgroup, kprobe};
use crate::privilege::{self, Capability, Obstacle};
use crate::status::{HookState, HookStatus};

/// Name of the program for `hook` on this machine.
///
/// # Errors
///
/// Says in users' words why none fits.
pub fn choose(hook: &'static Hook, kernel: &Btf<'_>) -> Result<&'static str, String> {
    let program = match &hook.attach {
        Attach::TpBtf { tracepoint, variants } => match kernel.tracepoint_arguments(tracepoint) {
            None => Err(format!("this kernel has no tracepoint {tracepoint}")),
            Some(args) => {
                let fitting = variants.iter().find(|variant| variant.args == args);
                fitting.map(|variant| variant.program).ok_or_else(|| {
                    format!("this kernel's {tracepoint} has {args} arguments, for which there is no program")
                })
            }
        },
        Attach::CgroupSkb { program, .. } => cgroup::root().map(|_| *program),
        Attach::KProbe { symbols, program, .. } => kprobe::symbol(symbols).map(|_| *program),
    };
    program.map_err(|why| format!("{why}; without it: no {}", hook.gives))
}

/// The state of every hook of a probe that is not loaded: because nobody wants it, or because of
/// an obstacle that is not the kernel's want of the hook.
pub fn unloaded(probe: &'static Probe, kernel: Option<&Btf<'_>>, obstacle: Option<&str>) -> Vec<HookStatus> {
    let one = |hook: &'static Hook| match kernel.map(|kernel| choose(hook, kernel)) {
        Some(Ok(program)) => match obstacle {
            Some(why) => {
                status(hook, program, HookState::Failed, &format!("{why}; without it: no {}", hook.gives))
            }
            None => status(hook, program, HookState::Idle, ""),
        },
        Some(Err(reason)) => status(hook, "", HookState::Missing, &reason),
        None => status(hook, "", HookState::Missing, "the kernel does not describe its tracepoints (no BTF)"),
    };
    probe.hooks.iter().map(one).collect()
}

/// The state of a hook whose program the kernel refuses to load or to attach. Without a privilege each
/// is refused in words of its own; they have one cause.
pub fn refused(hook: &'static Hook, program: &str, why: &str) -> HookStatus {
    let why = privilege::missing_for_probes().unwrap_or_else(|| match obstacle(hook) {
        // If it has all it takes, the kernel's own words have to do.
        Obstacle::Other(_) | Obstacle::Seccomp(_) => why.to_owned(),
        obstacle => format!("{why}: {}", obstacle.why()),
    });
    status(hook, program, HookState::Failed, &format!("{why}; without it: no {}", hook.gives))
}

/// Why a hook is not attached, without what is lost by that.
pub fn cause(hook: &HookStatus) -> &str {
    hook.reason.split("; without it: ").next().unwrap_or_default()
}

/// What stands in the way of a hook that is refused.
pub fn obstacle(hook: &Hook) -> Obstacle {
    // All of them read the kernel's memory, which the verifier lets nobody do without CAP_PERFMON.
    let beside = match hook.attach {
        Attach::TpBtf { .. } | Attach::KProbe { .. } => &[][..],
        Attach::CgroupSkb { .. } => &[Capability::NetAdmin],
    };
    privilege::obstacle(Capability::Perfmon, &[&[Capability::Bpf], beside].concat())
}

/// The state of a hook, before it has run.
pub fn status(hook: &Hook, program: &str, state: HookState, reason: &str) -> HookStatus {
    HookStatus {
        hook: hook.name(),
        program: program.to_owned(),
        state,
        reason: reason.to_owned(),
        run_count: 0,
        run_time_ns: 0,
        missed: 0,
    }
}
