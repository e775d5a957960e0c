//! The smallest eBPF programs there are: each has one verdict for every packet.
//!
//! They are handed to the kernel as they stand, so that neither a compiler nor an object file is
//! needed where they run. What is attached is detached with its value.

use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use anyhow::{Context as _, Result};
use nix::errno::Errno;
use nix::libc;
use nix::net::if_::if_nametoindex;

use super::{Cgroup, Namespace};

/// Numbers of `enum bpf_cmd`, `bpf_prog_type` and `bpf_attach_type` in the kernel's `uapi/linux/bpf.h`.
const PROG_LOAD: u32 = 5;
const LINK_CREATE: u32 = 28;
const TYPE_XDP: u32 = 6;
const TYPE_CGROUP_SKB: u32 = 8;
const ATTACH_XDP: u32 = 37;
const XDP_DROP: u32 = 1;
const CGROUP_DROP: u32 = 0;

/// Where on its way a packet meets the program of a cgroup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Towards the cgroup's sockets.
    Ingress = 0,
    /// From them.
    Egress = 1,
}

/// By whom a link's XDP program is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Xdp {
    /// By the network stack, on any link.
    Generic = 1 << 1,
    /// By the driver.
    Native = 1 << 2,
}

/// A program at its place.
#[derive(Debug)]
pub struct Attached {
    _program: OwnedFd,
    _link: OwnedFd,
}

/// Drops everything that arrives at a link, before the network stack sees it.
///
/// # Errors
/// If the kernel refuses the program or the link.
pub fn drop_at_link(at: &Namespace, link: &str, how: Xdp) -> Result<Attached> {
    // The kernel looks the link up in the namespace of the calling thread.
    at.run(|| attach(load(TYPE_XDP, 0, XDP_DROP)?, if_nametoindex(link)?, ATTACH_XDP, how as u32))
}

/// Drops every packet of a cgroup's sockets in one direction.
///
/// # Errors
/// If the kernel refuses the program, or the cgroup is none of version 2.
pub fn drop_at_cgroup(cgroup: &Cgroup, direction: Direction) -> Result<Attached> {
    let dir = File::open(cgroup.path())?;
    let program = load(TYPE_CGROUP_SKB, direction as u32, CGROUP_DROP)?;
    attach(program, dir.as_raw_fd().cast_unsigned(), direction as u32, 0)
}

/// The first fields of the arguments of `BPF_PROG_LOAD`; the kernel takes the rest as zeros.
#[repr(C)]
#[derive(Default)]
struct Load {
    program_type: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
    interface: u32,
    attach_type: u32,
}

/// Those of `BPF_LINK_CREATE`.
#[repr(C)]
struct Attach {
    program: u32,
    target: u32,
    attach_type: u32,
    flags: u32,
}

/// `return verdict`.
fn load(program_type: u32, attach_type: u32, verdict: u32) -> Result<OwnedFd> {
    let instructions = [0xb7 | u64::from(verdict) << 32, 0x95];
    let arguments = Load {
        program_type,
        instruction_count: instructions.len() as u32,
        instructions: instructions.as_ptr().addr() as u64,
        license: c"GPL".as_ptr().addr() as u64,
        attach_type,
        ..Load::default()
    };
    bpf(PROG_LOAD, &arguments).context("cannot load an eBPF program")
}

fn attach(program: OwnedFd, target: u32, attach_type: u32, flags: u32) -> Result<Attached> {
    let arguments = Attach { program: program.as_raw_fd().cast_unsigned(), target, attach_type, flags };
    let link = bpf(LINK_CREATE, &arguments).context("cannot attach an eBPF program")?;
    Ok(Attached { _program: program, _link: link })
}

/// bpf(2), for commands that return a descriptor.
fn bpf<T>(command: u32, arguments: &T) -> nix::Result<OwnedFd> {
    // SAFETY: a pointer to live arguments with their size; what they point to lives in the caller.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, command, &raw const *arguments, size_of::<T>()) };
    let fd = Errno::result(fd)? as i32;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
