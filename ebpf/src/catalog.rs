//! Every probe there is. Adding one: its two files, one line here, its kernel test.

use crate::record::Field;

/// All probes, by id.
pub const PROBES: &[Probe] = &[];

/// A fixed eBPF program set that delivers one kind of record.
#[derive(Debug)]
pub struct Probe {
    /// Number by which batches refer to it: its index in [`PROBES`].
    pub id: u16,
    /// Name in plugins, metrics and on the command line, e.g. `skb-drop`.
    pub name: &'static str,
    /// Schema number of its records.
    pub schema: u16,
    /// Bytes per record.
    pub stride: u16,
    /// Integer fields that a predicate may name.
    pub fields: &'static [Field],
    /// Its hooks; each is optional.
    pub hooks: &'static [Hook],
    /// The CO-RE object.
    #[cfg(feature = "objects")]
    pub object: &'static [u8],
}

/// One kernel hook of a probe.
#[derive(Debug)]
pub struct Hook {
    /// Tracepoint as BTF names it, without `btf_trace_`.
    pub tracepoint: &'static str,
    /// Programs for it; the one whose argument count is the running kernel's is loaded.
    pub variants: &'static [Variant],
    /// What is lost without it, in users' words.
    pub gives: &'static str,
}

/// A program for one shape of a tracepoint.
#[derive(Debug)]
pub struct Variant {
    /// Arguments of the tracepoint, without the context.
    pub args: usize,
    /// Program name in the object.
    pub program: &'static str,
}
