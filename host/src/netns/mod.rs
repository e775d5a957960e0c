//! Standing inside another network namespace, and asking the kernel by netlink there: the one adapter
//! that other adapters may use, because `discover/` reads a namespace's cookie there, `source/` its
//! counters, and `check/` what a finding asks to be looked at.
//!
//! Entering changes the calling thread for good, so it belongs on threads that do nothing else.
//! No namespace file is held open between visits: that would keep a deleted namespace alive.

pub mod netlink;

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::errno::Errno;
use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use crate::privilege::{self, Capability};

/// Moves the calling thread into the namespace behind `path` and tells its cookie and inode.
///
/// The cookie is `net->net_cookie` (`SO_NETNS_COOKIE`, 5.14 and later); before that the inode
/// number, as the eBPF programs do.
///
/// A thread that is there already moves without any privilege: the host's own counters need none.
///
/// # Errors
/// The namespace is gone, or CAP_SYS_ADMIN is missing.
pub fn enter(path: &Path) -> io::Result<(u64, u64)> {
    let file = File::open(path)?;
    let inode = file.metadata()?.ino();
    let here = File::open("/proc/thread-self/ns/net").and_then(|own| own.metadata());
    if !here.is_ok_and(|own| own.ino() == inode) {
        setns(&file, CloneFlags::CLONE_NEWNET)?;
    }
    Ok((cookie().unwrap_or(inode), inode))
}

/// Why a namespace could not be entered, for people: a process is looked at to find its namespace,
/// and may not be looked at.
pub fn refusal(error: &io::Error) -> String {
    let looking = error.raw_os_error() == Some(Errno::EACCES as i32);
    privilege::explained(error, if looking { Capability::SysPtrace } else { Capability::SysAdmin })
}

/// Inode number of the namespace of a process, from the target `net:[4026531840]` of its link.
///
/// # Errors
/// The process ended, or may not be looked at.
pub fn of_process(process: &Path) -> io::Result<u64> {
    let target = fs::read_link(process.join("ns/net"))?;
    let inode = target.to_str().and_then(|text| text.strip_prefix("net:[")?.strip_suffix(']')?.parse().ok());
    inode.ok_or_else(|| io::Error::other(format!("{} is no namespace", target.display())))
}

/// A number that differs between the namespaces that there are, for processes that may not be looked
/// at: the inode of `/proc/PID/net/dev`, of which each namespace has its own and which is shown to
/// everybody. It has nothing to do with the inode of the namespace.
///
/// # Errors
/// The process ended, or is hidden altogether.
pub fn fingerprint(process: &Path) -> io::Result<u64> {
    Ok(fs::metadata(process.join("net/dev"))?.ino())
}

/// The [`fingerprint`] of the calling thread's namespace.
///
/// # Errors
/// There is no procfs.
pub fn fingerprint_here() -> io::Result<u64> {
    fingerprint(Path::new("/proc/thread-self"))
}

/// Whether an error says that a process ended. ESRCH comes from files of it that were open already.
pub fn ended(error: &io::Error) -> bool {
    matches!(Errno::from_raw(error.raw_os_error().unwrap_or(0)), Errno::ENOENT | Errno::ESRCH)
}

/// Whether an error of [`enter`] says that no namespace is there any more.
pub fn gone(error: &io::Error) -> bool {
    ended(error) || error.raw_os_error() == Some(Errno::EINVAL as i32)
}

/// Moves the calling thread back to the namespace of the process, so that it keeps no deleted one
/// alive. A thread that may not is there already: it could not have left.
pub fn leave() {
    // The leader of the thread group is never moved.
    drop(File::open("/proc/self/ns/net").map(|home| setns(home, CloneFlags::CLONE_NEWNET)));
}

/// Inode number of the calling thread's namespace.
///
/// # Errors
/// There is no procfs.
pub fn here() -> io::Result<u64> {
    Ok(File::open("/proc/thread-self/ns/net")?.metadata()?.ino())
}

/// The cookie of the calling thread's namespace.
fn cookie() -> Option<u64> {
    let socket: OwnedFd =
        socket(AddressFamily::Unix, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None).ok()?;
    let mut cookie = 0u64;
    let mut length = size_of::<u64>() as nix::libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes to `cookie`, which is that long; nix has
    // no wrapper for SO_NETNS_COOKIE.
    let status = unsafe {
        nix::libc::getsockopt(
            socket.as_raw_fd(),
            nix::libc::SOL_SOCKET,
            nix::libc::SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    (status == 0).then_some(cookie)
}
