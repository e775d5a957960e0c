//! `fd` and `io`: descriptors and input/output of an entity's processes.
//!
//! An entity's processes are those in its network namespace. That is the same set on cgroup v1, v2
//! and hybrid trees, holds for containers without a cgroup of their own, and is what the entity is.
//! Numbers are of the processes that live now: what ended takes its share along.
//!
//! A sum is over all of an entity's processes or it is not there: one that may not be looked at is an
//! error of its entity, and of all entities where it is not even known whose it is. Init is left out
//! where it is protected from everybody.
//!
//! The procfs crate takes 2.8 times as long for the descriptors (it opens and stats each of them),
//! which at hundreds of processes is most of what the agent costs; so /proc is read here.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::libc;

use super::rows::Rows;
use crate::netns;
use crate::privilege::{self, Capability};

/// `KCMP_FILES` of linux/kcmp.h.
const KCMP_FILES: libc::c_long = 2;

/// All processes by the inode of their network namespace, as of one moment. Threads of a process
/// share its descriptors, and its `io` is the sum over them: only processes are listed.
#[derive(Debug)]
pub(super) struct Processes {
    proc: PathBuf,
    by_netns: HashMap<u64, Vec<i32>>,
    /// Fingerprints of the namespaces of processes that may not be looked at ...
    closed: BTreeSet<u64>,
    /// ... and why they may not.
    refusal: String,
    /// Why there may be processes of which nothing is known; empty if there are none.
    hidden: String,
}

impl Processes {
    /// Lists them; one that ends meanwhile is left out.
    ///
    /// # Errors
    /// The proc file system cannot be listed.
    pub(super) fn list(proc: &Path) -> io::Result<Self> {
        let hidden = privilege::hides_processes(proc).map(|obstacle| obstacle.why());
        let mut all = Self {
            proc: proc.to_owned(),
            by_netns: HashMap::new(),
            closed: BTreeSet::new(),
            refusal: String::new(),
            hidden: hidden.unwrap_or_default(),
        };
        for entry in fs::read_dir(proc)?.flatten() {
            if let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) {
                all.add(pid, &entry.path());
            }
        }
        Ok(all)
    }

    fn add(&mut self, pid: i32, process: &Path) {
        let refused = match netns::of_process(process) {
            Ok(inode) => return self.by_netns.entry(inode).or_default().push(pid),
            Err(e) => e,
        };
        if netns::ended(&refused) || privilege::is_left_out(pid) {
            return;
        }
        if self.refusal.is_empty() {
            self.refusal = privilege::explained(&refused, Capability::SysPtrace);
        }
        match netns::fingerprint(process) {
            Ok(fingerprint) => drop(self.closed.insert(fingerprint)),
            Err(e) if netns::ended(&e) => {}
            Err(_) => self.hidden.clone_from(&self.refusal),
        }
    }

    /// One row: `processes` that are counted, `open` descriptors, `sockets` among them.
    ///
    /// # Errors
    /// A process that may not be looked at: a sum without it would be wrong.
    pub(super) fn descriptors(&self, netns: u64) -> io::Result<Rows> {
        let mut tables = Vec::<(i32, u64, u64)>::new();
        for pid in self.of(netns)? {
            let Some((open, sockets)) = self.look(pid, netns, count_descriptors)? else { continue };
            // Kernel threads have none.
            if open > 0 && !is_known(&tables, pid, open)? {
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
        for pid in self.of(netns)? {
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

    /// The processes of the namespace that the calling thread is in.
    fn of(&self, netns: u64) -> io::Result<impl Iterator<Item = i32>> {
        let refused = |why: &str| Err(io::Error::new(io::ErrorKind::PermissionDenied, why.to_owned()));
        if !self.hidden.is_empty() {
            return refused(&self.hidden);
        }
        if !self.closed.is_empty() && self.closed.contains(&netns::fingerprint_here()?) {
            return refused(&self.refusal);
        }
        Ok(self.by_netns.get(&netns).into_iter().flatten().copied())
    }

    /// What `read` says of a process, unless it ended or its number went to another one meanwhile.
    fn look<T>(&self, pid: i32, netns: u64, read: impl Fn(&Path) -> io::Result<T>) -> io::Result<Option<T>> {
        let process = self.proc.join(pid.to_string());
        let result = read(&process);
        match netns::of_process(&process) {
            Ok(now) if now == netns => {}
            Ok(_) => return Ok(None),
            Err(e) if netns::ended(&e) => return Ok(None),
            Err(e) => return Err(refused(&e, Capability::SysPtrace)),
        }
        match result {
            Ok(value) => Ok(Some(value)),
            Err(e) if netns::ended(&e) => Ok(None),
            // Its links may be read, its owner's files may not.
            Err(e) => Err(refused(&e, Capability::DacReadSearch)),
        }
    }
}

fn refused(e: &io::Error, needed: Capability) -> io::Error {
    io::Error::new(e.kind(), privilege::explained(e, needed))
}

/// Whether a process has a table of descriptors that is among these: one that is as full.
fn is_known(tables: &[(i32, u64, u64)], pid: i32, open: u64) -> io::Result<bool> {
    for (other, _, _) in tables.iter().filter(|(_, theirs, _)| *theirs == open) {
        if share_files(*other, pid)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Open descriptors and the sockets among them.
fn count_descriptors(process: &Path) -> io::Result<(u64, u64)> {
    let (mut open, mut sockets) = (0, 0);
    for entry in fs::read_dir(process.join("fd"))? {
        open += 1;
        match fs::read_link(entry?.path()) {
            Ok(target) => sockets += u64::from(target.as_os_str().as_encoded_bytes().starts_with(b"socket:")),
            // One that was closed meanwhile was open a moment ago.
            Err(e) if netns::ended(&e) => {}
            Err(e) => return Err(e),
        }
    }
    Ok((open, sockets))
}

/// Whether two processes have one table of descriptors (`clone` with `CLONE_FILES`). Where the
/// kernel never tells (no `CONFIG_KCMP`), they count as two.
fn share_files(one: i32, other: i32) -> io::Result<bool> {
    // SAFETY: kcmp takes numbers only and writes nothing; nix has no wrapper for it.
    let order = unsafe { libc::syscall(libc::SYS_kcmp, one, other, KCMP_FILES, 0, 0) };
    match Errno::result(order) {
        Ok(order) => Ok(order == 0),
        Err(Errno::ENOSYS | Errno::ESRCH) => Ok(false),
        Err(errno) => Err(refused(&errno.into(), Capability::SysPtrace)),
    }
}
