//! What the rest of Inspector knows of a probe. The list of all probes is in `lib.rs`.

use std::fmt;

use crate::hook::Hook;
use crate::record::{Constants, Field};
use crate::sum;

/// See [`Probe::append_sum`].
pub type AppendSum = fn(&mut Vec<u64>, u64, &sum::Key, &sum::Sum);

/// How a probe's cost grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// With what goes wrong, or with connections.
    Low,
    /// With the traffic.
    Medium,
    /// With every packet or call.
    High,
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Class::Low => "low",
            Class::Medium => "medium",
            Class::High => "high",
        })
    }
}

/// What a mirror says of its probe beside the layout of its record; each mirror has one.
#[derive(Debug)]
pub struct Description {
    /// How its cost grows.
    pub class: Class,
    /// See [`Probe::answers`].
    pub answers: &'static [&'static str],
    /// Its hooks; each is optional.
    pub hooks: &'static [Hook],
    /// See [`Probe::append_sum`].
    pub append_sum: Option<AppendSum>,
}

/// A fixed eBPF program set that delivers one kind of record.
#[derive(Debug)]
pub struct Probe {
    /// Number by which batches refer to it: its index in [`crate::PROBES`].
    pub id: u16,
    /// Name in plugins, metrics and on the command line, e.g. `skb-drop`.
    pub name: &'static str,
    /// Schema number of its records.
    pub schema: u16,
    /// Bytes per record.
    pub stride: u16,
    /// Tag of the record's struct in C, by which the layout test finds it.
    pub c_name: &'static str,
    /// Fields of the record, by offset; predicates may name those of at most 8 bytes.
    pub fields: &'static [Field],
    /// Constants of the record's fields that C and Rust share.
    pub constants: &'static [Constants],
    /// How its cost grows.
    pub class: Class,
    /// Scenarios of `inspector diagnose` whose fault would go unseen without this probe, so that
    /// without it an answer is doubtful. The scenario `node` rests on all that any other rests on
    /// and is not named. Empty if the probe only tells causes apart.
    pub answers: &'static [&'static str],
    /// Its hooks; each is optional.
    pub hooks: &'static [Hook],
    /// Appends the words of the record that stands for a sum, at a time; none if the probe's
    /// programs add up nothing.
    pub append_sum: Option<AppendSum>,
    /// The CO-RE object.
    #[cfg(feature = "objects")]
    pub object: &'static [u8],
}

/// ELF headers are read in place, so the bytes must lie as an ELF file would in memory.
#[cfg(feature = "objects")]
#[repr(C, align(8))]
pub(crate) struct Aligned<const N: usize>(pub(crate) [u8; N]);

/// Declares the modules of all probes and makes [`crate::PROBES`] of them: everything in it is taken
/// from the mirror, and the object is the one of the C file beside it.
macro_rules! probes {
    ($($module:ident::$record:ident,)*) => {
        $(
            pub mod $module;
            pub use $module::$record;
        )*

        /// Ids are numbered in the order of the list.
        #[repr(u16)]
        enum Id {
            $($record,)*
        }

        /// All probes, by id.
        pub const PROBES: &[Probe] = &[$(Probe {
            id: Id::$record as u16,
            name: <$record as Record>::PROBE,
            schema: <$record as Record>::SCHEMA,
            stride: size_of::<$record>() as u16,
            c_name: <$record as Record>::C_NAME,
            fields: <$record as Record>::FIELDS,
            constants: $module::CONSTANTS,
            class: $module::DESCRIPTION.class,
            answers: $module::DESCRIPTION.answers,
            hooks: $module::DESCRIPTION.hooks,
            append_sum: $module::DESCRIPTION.append_sum,
            #[cfg(feature = "objects")]
            object: &catalog::Aligned(*include_bytes!(concat!(
                env!("OUT_DIR"), "/", stringify!($module), ".bpf.o"
            ))).0,
        },)*];
    };
}
pub(crate) use probes;
