//! Why something of the kernel side could not be had.

use std::io;

use super::btf;
use crate::privilege;
use crate::text::cause::chain as with_causes;

/// Why something of the kernel side could not be had. Texts do not name the probe, so that one cause
/// reads the same for all that it takes.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The thread, its epoll or its eventfd; the only error that [`super::Probes::start`] returns.
    #[error("starting the reader of the rings: {0}")]
    Reader(#[source] io::Error),
    /// The kernel does not describe its types.
    #[error("no kernel types (BTF) at {path}: {source}", path = btf::VMLINUX)]
    KernelTypes {
        /// What reading or understanding it said.
        source: io::Error,
    },
    /// An object that the kernel or aya refuses.
    #[error("loading it: {}", with_causes(source.as_ref()))]
    Load {
        /// The probe.
        probe: &'static str,
        /// What aya says.
        source: Box<aya::EbpfError>,
    },
    /// An object that lacks a map, or has another kind of map of that name.
    #[error("its object has no usable map {map}")]
    Object {
        /// The probe.
        probe: &'static str,
        /// The map.
        map: &'static str,
    },
    /// A map that cannot be used as what it is.
    #[error("opening its map {map}: {source}")]
    Map {
        /// The probe.
        probe: &'static str,
        /// The map.
        map: &'static str,
        /// What aya says.
        source: Box<aya::maps::MapError>,
    },
    /// The control page could not be mapped.
    #[error("mapping its control page: {source}")]
    Control {
        /// The probe.
        probe: &'static str,
        /// What `mmap` said.
        source: io::Error,
    },
}

/// Why a probe is not loaded: without a privilege each load fails in words of its own, which have one
/// cause.
pub fn reason(error: &Error) -> String {
    match (error, privilege::missing_for_probes()) {
        (Error::Load { .. } | Error::Map { .. } | Error::Control { .. }, Some(missing)) => missing,
        _ => error.to_string(),
    }
}
