//! `fd` and `io`: descriptors and input/output of an entity's processes.
//!
//! An entity's processes are those in its network namespace. That is the same set on cgroup v1, v2
//! and hybrid trees, holds for containers without a cgroup of their own, and is what the entity is.
//! Numbers are of the processes that live now: what ended takes its share along.
//!
//! The procfs crate takes 2.8 times as long for the descriptors (it opens and stats each of them),
//! which at hundreds of processes is most of what the agent costs; so /proc is read here.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::libc;

use super::rows::Rows;

/// `KCMP_FILES` of linux/kcmp.h.
const KCMP_FILES: libc::c_long = 2;

/// All processes by the inode of their network namespace, as of one moment. Threads of a process
/// share its descriptors, and its `io` is the sum over them: only processes are listed.
#[derive(Debug)]
pub(super) struct Processes {
    proc: PathBuf,
    by_netns: HashMap<u64, Vec<i32>>,
}

impl Processes {
    /// Lists them; one that ends meanwhile is left out.
    ///
    /// # Errors
    /// The proc file system cannot be listed.
    pub(super) fn list(proc: &Path) -> io::Result<Self> {
        let mut by_netns = HashMap::<u64, Vec<i32>>::new();
        for entry in fs::read_dir(proc)?.flatten() {
            let pid = entry.file_name().to_str().and_then(|name| name.parse().ok());
            let Some(pid) = pid else { continue };
            if let Some(inode) = netns_inode(&entry.path()) {
                by_netns.entry(inode).or_default().push(pid);
            }
        }
        Ok(Self { proc: proc.to_owned(), by_netns })
    }

    /// One row: `processes` that are counted, `open` descriptors, `sockets` among them.
    ///
    /// # Errors
    /// A process that may not be looked at: a sum without it would be wrong.
    pub(super) fn descriptors(&self, netns: u64) -> io::Result<Rows> {
        let mut tables = Vec::<(i32, u64, u64)>::new();
        for pid in self.of(netns) {
            let Some((open, sockets)) = self.look(pid, netns, count_descriptors)? else { continue };
            // Kernel threads have none; a table is the same only if it is as full.
            let shared = |(other, theirs, _): &(i32, u64, u64)| *theirs == open && share_files(*other, pid);
            if open > 0 && !tables.iter().any(shared) {
                tables.push((pid, open, sockets));
            }
        }
        let (open, sockets) = tables.iter().fold((0, 0), |sum, table| (sum.0 + table.1, sum.1 + table.2));
        Ok(Rows::one(&["processes", "open", "sockets"], vec![tables.len() as u64, open, sockets]))
    }

    /// One row: what `/proc/PID/io` tells, `syscr`, `syscw`, `read_bytes`, `write_bytes` and so on.
    ///
    /// # Errors
    /// A process that may not be looked at: a sum without it would be wrong.
    pub(super) fn io(&self, netns: u64) -> io::Result<Rows> {
        let columns =
            ["rchar", "wchar", "syscr", "syscw", "read_bytes", "write_bytes", "cancelled_write_bytes"];
        let mut sums = [0u64; 7];
        for pid in self.of(netns) {
            let read = |process: &Path| fs::read_to_string(process.join("io"));
            let Some(text) = self.look(pid, netns, read)? else { continue };
            for (name, value) in text.lines().filter_map(|line| line.split_once(": ")) {
                if let Some(at) = columns.iter().position(|column| *column == name) {
                    sums[at] = sums[at].wrapping_add(value.parse().unwrap_or(0));
                }
            }
        }
        Ok(Rows::one(&columns, sums.to_vec()))
    }

    fn of(&self, netns: u64) -> impl Iterator<Item = i32> {
        self.by_netns.get(&netns).into_iter().flatten().copied()
    }

    /// What `read` says of a process, unless it ended or its number went to another one meanwhile.
    fn look<T>(&self, pid: i32, netns: u64, read: impl Fn(&Path) -> io::Result<T>) -> io::Result<Option<T>> {
        let process = self.proc.join(pid.to_string());
        let result = read(&process);
        if netns_inode(&process) != Some(netns) {
            return Ok(None);
        }
        match result {
            Ok(value) => Ok(Some(value)),
            Err(e) if vanished(&e) => Ok(None),
            Err(e) => Err(io::Error::new(e.kind(), format!("process {pid}: {e}"))),
        }
    }
}

/// Open descriptors and the sockets among them.
fn count_descriptors(process: &Path) -> io::Result<(u64, u64)> {
    let (mut open, mut sockets) = (0, 0);
    for entry in fs::read_dir(process.join("fd"))? {
        open += 1;
        // One that was closed meanwhile was open a moment ago.
        let target = fs::read_link(entry?.path()).unwrap_or_default();
        sockets += u64::from(target.as_os_str().as_encoded_bytes().starts_with(b"socket:"));
    }
    Ok((open, sockets))
}

/// Whether two processes have one table of descriptors (`clone` with `CLONE_FILES`). Where the
/// kernel does not tell (no `CONFIG_KCMP`, a seccomp filter), they count as two.
fn share_files(one: i32, other: i32) -> bool {
    // SAFETY: kcmp takes numbers only and writes nothing; nix has no wrapper for it.
    let order = unsafe { libc::syscall(libc::SYS_kcmp, one, other, KCMP_FILES, 0, 0) };
    order == 0
}

/// Inode in the target `net:[4026531840]` of a process's namespace link.
fn netns_inode(process: &Path) -> Option<u64> {
    let target = fs::read_link(process.join("ns/net")).ok()?;
    target.to_str()?.strip_prefix("net:[")?.strip_suffix(']')?.parse().ok()
}

/// ESRCH comes from files of a process that ended after they were opened.
fn vanished(e: &io::Error) -> bool {
    e.kind() == io::ErrorKind::NotFound || e.raw_os_error() == Some(libc::ESRCH)
}
