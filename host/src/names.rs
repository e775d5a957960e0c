//! Names that only the running kernel knows: numbers of drop and reset reasons differ on every
//! kernel. Filled once by `probe/` from the kernel's BTF and from /proc/kallsyms; nothing here
//! reads a file.

use std::collections::HashMap;

/// Tables of one kernel.
#[derive(Debug, Clone, Default)]
pub struct KernelNames {
    /// `enum skb_drop_reason` and the subsystems' enums, without `SKB_DROP_REASON_`.
    pub drop_reasons: HashMap<u32, String>,
    /// `enum sk_rst_reason` without `SK_RST_REASON_` (6.10 and later).
    pub reset_reasons: HashMap<u32, String>,
    /// Text symbols by address, ascending.
    pub symbols: Vec<(u64, String)>,
}

impl KernelNames {
    /// Name of a drop reason; its number where the kernel gives no name.
    pub fn drop_reason(&self, code: u32) -> String {
        self.drop_reasons.get(&code).cloned().unwrap_or_else(|| format!("REASON_{code}"))
    }

    /// Name of a reset reason; its number where the kernel gives no name.
    pub fn reset_reason(&self, code: u32) -> String {
        self.reset_reasons.get(&code).cloned().unwrap_or_else(|| format!("REASON_{code}"))
    }

    /// The symbol that covers an address, and the offset into it.
    pub fn symbol_at(&self, address: u64) -> Option<(&str, u32)> {
        let after = self.symbols.partition_point(|(start, _)| *start <= address);
        let (start, name) = self.symbols.get(after.checked_sub(1)?)?;
        Some((name, u32::try_from(address - start).ok()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_reason_is_shown_by_number() {
        assert_eq!(KernelNames::default().drop_reason(9), "REASON_9");
    }

    #[test]
    fn an_address_inside_a_function_has_its_name_and_offset() {
        let names =
            KernelNames { symbols: vec![(16, "a".into()), (32, "b".into())], ..KernelNames::default() };
        assert_eq!(names.symbol_at(20), Some(("a", 4)));
        assert_eq!(names.symbol_at(32), Some(("b", 0)));
        assert_eq!(names.symbol_at(8), None);
    }
}
