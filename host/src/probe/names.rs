//! Asks the running kernel what it calls its numbers and addresses.
//!
//! Reasons and states come from BTF, of the kernel and of the modules that add reasons of their
//! own (mac80211, openvswitch: their values carry the subsystem in the upper half). Nothing here
//! fails: what cannot be read stays empty, and numbers are shown then.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use super::btf::{self, Btf};
use super::kallsyms::{Files, Kallsyms};
use crate::kernel::names::{KernelNames, Reasons};

/// What this kernel calls reasons, states and addresses. Returns before the addresses are known:
/// they are read in the background, since listing them takes the kernel 80 ms and more.
pub fn kernel_names() -> KernelNames {
    let symbols = Arc::new(Kallsyms::start(Files::default()));
    KernelNames { reasons: kernel_reasons(), symbols }
}

/// What this kernel calls reasons and states; empty where it does not say.
pub fn kernel_reasons() -> Reasons {
    let bytes = btf::read_vmlinux().unwrap_or_default();
    Btf::parse(&bytes).map(|kernel| of(&kernel)).unwrap_or_default()
}

fn of(kernel: &Btf<'_>) -> Reasons {
    let mut drop = reasons(kernel.enumerations_ending("drop_reason"), "SKB_DROP_REASON_");
    for module in module_blobs() {
        if let Some(module) = Btf::parse_module(&module, kernel) {
            let theirs = module.enumerations_ending("drop_reason");
            drop.extend(reasons(theirs, "").into_iter().filter(|(code, _)| *code > 0xffff));
        }
    }
    if drop.is_empty() {
        // Before 5.17 there are no reasons, and the probe delivers 0.
        drop.insert(0, "NOT_SPECIFIED".to_owned());
    }
    Reasons {
        drop,
        reset: reasons(kernel.enumeration("sk_rst_reason"), "SK_RST_REASON_"),
        // The enum of the states has no name.
        tcp_states: reasons(kernel.enumeration_with("TCP_ESTABLISHED"), "TCP_"),
        congestion_states: reasons(kernel.enumeration("tcp_ca_state"), "TCP_CA_"),
    }
}

fn reasons(values: Vec<(&str, u32)>, prefix: &str) -> BTreeMap<u32, String> {
    values
        .into_iter()
        // mac80211 lists each twice, once with underscores before it.
        .map(|(name, code)| (code, name.trim_start_matches('_')))
        .map(|(code, name)| (code, name.strip_prefix(prefix).unwrap_or(name)))
        // Bounds and masks are no reasons; the former share their number with nothing that is.
        .filter(|(_, name)| !name.ends_with("MAX") && !name.starts_with("MAX_") && !is_mask(name))
        .map(|(code, name)| (code, name.to_owned()))
        .collect()
}

fn is_mask(name: &str) -> bool {
    name.ends_with("SUBSYS_MASK") || name == "OVS_DROP_REASON"
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
        let values = vec![
            ("SKB_DROP_REASON_NO_SOCKET", 3),
            ("SKB_CONSUMED", 1),
            ("SKB_DROP_REASON_MAX", 9),
            ("___RX_DROP_U_DUP", 0x1_0004),
        ];
        let names = reasons(values, "SKB_DROP_REASON_");
        assert_eq!(names.get(&3).map(String::as_str), Some("NO_SOCKET"));
        assert_eq!(names.get(&1).map(String::as_str), Some("SKB_CONSUMED"));
        assert_eq!(names.get(&9), None);
        assert_eq!(names.get(&0x1_0004).map(String::as_str), Some("RX_DROP_U_DUP"));
    }

    #[test]
    fn a_bound_of_the_states_is_no_state() {
        let states = vec![("TCP_ESTABLISHED", 1), ("TCP_CLOSING", 11), ("TCP_MAX_STATES", 14)];
        let names = reasons(states, "TCP_");
        assert_eq!(names.into_values().collect::<Vec<_>>(), ["ESTABLISHED", "CLOSING"]);
    }
}
