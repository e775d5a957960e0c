//! The kernel's event side: loads the eBPF programs with aya and drains their rings.
//!
//! - [`probes`]: what the rest of the agent sees of it; [`options`], [`error`].
//! - [`hooks`], [`load`]: which programs fit this kernel, and getting them in.
//! - [`cgroup`]: where the tree of cgroups begins, for hooks on the packets of sockets.
//! - [`kprobe`]: what a function is called here, for hooks on functions.
//! - [`reader`], [`feed`]: the one loop over all rings; what a probe's records go through.
//! - [`summary`]: what programs add up in the kernel, as records.
//! - [`runs`]: what programs cost, and the runs that the kernel skipped.
//! - [`control`], [`clock`]: what programs and reader share; the kernel's time in ours.
//! - [`btf`], [`names`], [`kallsyms`]: what the kernel calls its types, numbers and addresses.
//! - [`mod@doctor`]: what this kernel and these privileges allow, tried, and what is lost.
//! - [`layout`]: fields, constants and calls of a compiled object, for tests and for loading.
//!
//! Nothing here fails the agent: a kernel or a privilege that is missing becomes the state of the
//! probes that need it.

mod btf;
mod cgroup;
mod clock;
mod control;
mod doctor;
mod error;
mod feed;
mod hooks;
mod kallsyms;
mod kprobe;
mod layout;
mod load;
mod names;
mod options;
mod probes;
mod reader;
mod runs;
mod summary;

pub use doctor::{Check, doctor};
pub use error::Error;
pub use layout::{enumeration, helpers, struct_layout};
pub use names::{kernel_names, kernel_reasons};
pub use options::Options;
pub use probes::Probes;
