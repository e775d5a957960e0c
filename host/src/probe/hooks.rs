//! Chooses the program for each hook: the one whose argument count is the running kernel's.

use inspector_ebpf::{Hook, Probe, Variant};

use super::btf::Btf;
use crate::status::HookStatus;

/// The variants of `hook` against this kernel.
///
/// # Errors
///
/// Says in users' words why none fits.
pub fn choose(hook: &'static Hook, kernel: &Btf<'_>) -> Result<&'static Variant, String> {
    let Some(args) = kernel.tracepoint_arguments(hook.tracepoint) else {
        return Err(format!(
            "this kernel has no tracepoint {}; without it: no {}",
            hook.tracepoint, hook.gives
        ));
    };
    hook.variants.iter().find(|variant| variant.args == args).ok_or_else(|| {
        format!(
            "this kernel's {} has {args} arguments, for which there is no program; without it: no {}",
            hook.tracepoint, hook.gives
        )
    })
}

/// The state of every hook of a probe that is not loaded: because nobody wants it, or because of
/// an obstacle that is not the kernel's want of the hook.
pub fn unloaded(probe: &'static Probe, kernel: Option<&Btf<'_>>, obstacle: Option<&str>) -> Vec<HookStatus> {
    let one = |hook: &'static Hook| match kernel.map(|kernel| choose(hook, kernel)) {
        Some(Ok(variant)) => match obstacle {
            Some(why) => {
                status(hook, variant.program, "failed", &format!("{why}; without it: no {}", hook.gives))
            }
            None => status(hook, variant.program, "idle", ""),
        },
        Some(Err(reason)) => status(hook, "", "missing", &reason),
        None => status(hook, "", "missing", "the kernel does not describe its tracepoints (no BTF)"),
    };
    probe.hooks.iter().map(one).collect()
}

/// A hook's line on the board.
pub fn status(hook: &Hook, program: &str, state: &str, reason: &str) -> HookStatus {
    HookStatus {
        hook: format!("tp_btf/{}", hook.tracepoint),
        program: program.to_owned(),
        state: state.to_owned(),
        reason: reason.to_owned(),
        run_count: 0,
        run_time_ns: 0,
    }
}
