//! Names that only the running kernel knows: numbers of drop and reset reasons differ on every
//! kernel. Filled by `probe/` from the kernel's BTF and from /proc/kallsyms, or from a trace;
//! nothing here reads a file.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::kernel::symbols::{Symbol, Symbols};

/// What one kernel calls its numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reasons {
    /// `enum skb_drop_reason` and the subsystems' enums, without `SKB_DROP_REASON_`.
    pub drop: BTreeMap<u32, String>,
    /// `enum sk_rst_reason` without `SK_RST_REASON_` (6.10 and later).
    pub reset: BTreeMap<u32, String>,
    /// States of `struct sock_common`, without `TCP_`.
    pub tcp_states: BTreeMap<u32, String>,
    /// `enum tcp_ca_state` without `TCP_CA_`.
    pub congestion_states: BTreeMap<u32, String>,
}

/// All names of one kernel.
#[derive(Debug, Clone)]
pub struct KernelNames {
    /// Of numbers.
    pub reasons: Reasons,
    /// Of code addresses.
    pub symbols: Arc<dyn Symbols>,
}

impl Default for KernelNames {
    fn default() -> Self {
        Self { reasons: Reasons::default(), symbols: Arc::new(HashMap::new()) }
    }
}

impl KernelNames {
    /// Name of a drop reason; its number where the kernel gives no name.
    pub fn drop_reason(&self, code: u32) -> String {
        named(&self.reasons.drop, "REASON", code)
    }

    /// Name of a reset reason; its number where the kernel gives no name.
    pub fn reset_reason(&self, code: u32) -> String {
        named(&self.reasons.reset, "REASON", code)
    }

    /// Name of a TCP state, e.g. `ESTABLISHED`; its number where the kernel gives no name.
    pub fn tcp_state(&self, code: u32) -> String {
        named(&self.reasons.tcp_states, "STATE", code)
    }

    /// Name of a state of congestion control, e.g. `Recovery`; its number where there is none.
    pub fn congestion_state(&self, code: u32) -> String {
        named(&self.reasons.congestion_states, "STATE", code)
    }

    /// The function that covers an address.
    pub fn symbol_at(&self, address: u64) -> Option<Symbol> {
        self.symbols.at(address)
    }
}

fn named(names: &BTreeMap<u32, String>, kind: &str, code: u32) -> String {
    names.get(&code).cloned().unwrap_or_else(|| format!("{kind}_{code}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_number_is_shown_as_such() {
        let names = KernelNames::default();
        assert_eq!(names.drop_reason(9), "REASON_9");
        assert_eq!(names.tcp_state(77), "STATE_77");
    }
}
