//! Asks the running kernel what it calls its numbers and addresses.
//!
//! Drop and reset reasons come from BTF, of the kernel and of the modules that add their own
//! (mac80211, openvswitch: their values carry the subsystem in the upper half). Nothing here
//! fails: what cannot be read stays empty, and numbers are shown then.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use super::btf::{self, Btf};
use super::kallsyms;
use crate::names::KernelNames;

/// What this kernel calls drop reasons, reset reasons and addresses; empty where unreadable.
pub fn kernel_names() -> KernelNames {
    let symbols = kallsyms::read();
    let Ok(bytes) = btf::read_vmlinux() else {
        return KernelNames { symbols, ..KernelNames::default() };
    };
    let Some(kernel) = Btf::parse(&bytes) else {
        return KernelNames { symbols, ..KernelNames::default() };
    };
    let mut drop_reasons = reasons(kernel.enumerations_ending("drop_reason"), "SKB_DROP_REASON_");
    for module in module_blobs() {
        if let Some(module) = Btf::parse_module(&module, &kernel) {
            let theirs = module.enumerations_ending("drop_reason");
            drop_reasons.extend(reasons(theirs, "").into_iter().filter(|(code, _)| *code > 0xffff));
        }
    }
    if drop_reasons.is_empty() {
        // Before 5.17 there are no reasons, and the probe delivers 0.
        drop_reasons.insert(0, "NOT_SPECIFIED".to_owned());
    }
    let reset_reasons = reasons(kernel.enumeration("sk_rst_reason"), "SK_RST_REASON_");
    KernelNames { drop_reasons, reset_reasons, symbols }
}

fn reasons(values: Vec<(&str, u32)>, prefix: &str) -> HashMap<u32, String> {
    values
        .into_iter()
        .map(|(name, code)| (code, name.strip_prefix(prefix).unwrap_or(name)))
        // Bounds and masks are no reasons; the former share their number with nothing that is.
        .filter(|(_, name)| !name.ends_with("MAX") && !name.ends_with("SUBSYS_MASK"))
        .map(|(code, name)| (code, name.to_owned()))
        .collect()
}

fn module_blobs() -> Vec<Vec<u8>> {
    ["mac80211", "openvswitch"]
        .into_iter()
        .filter_map(|module| fs::read(Path::new(btf::MODULES).join(module)).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_loses_its_prefix_and_bounds_are_no_reasons() {
        let values = vec![("SKB_DROP_REASON_NO_SOCKET", 3), ("SKB_CONSUMED", 1), ("SKB_DROP_REASON_MAX", 9)];
        let names = reasons(values, "SKB_DROP_REASON_");
        assert_eq!(names.get(&3).map(String::as_str), Some("NO_SOCKET"));
        assert_eq!(names.get(&1).map(String::as_str), Some("SKB_CONSUMED"));
        assert_eq!(names.get(&9), None);
    }
}
