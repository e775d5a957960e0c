//! Finds the network namespaces of this node and what they are called: the host, named ones
//! (`ip netns`), and those of pods and containers by the cgroup paths of their processes; and what the
//! kubelet and the container runtime call those pods.
//!
//! A scan is complete each time and cheap (one `readlink` per process, one visit per namespace);
//! `agent.rs` asks for one when `/run/netns` changes, when an event carries an unknown cookie, and
//! every few seconds. This adapter keeps what never changes only ([`Pods`]): who vanished is for
//! `entities.rs` to conclude.

mod cgroup;
mod evidence;
mod host_ports;
mod pods;

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::sys::statfs::{NSFS_MAGIC, statfs};

use crate::entities::{DiscoveredNetns, Kind, Unentered};
use crate::netns;
use crate::privilege::{self, Capability};
use crate::status::Gap;

use evidence::Evidence;

pub use host_ports::host_ports;
pub use pods::Pods;

/// Where namespaces are looked for.
#[derive(Debug, Clone)]
pub struct Places {
    /// The proc file system, seen from the host's PID namespace.
    pub proc: PathBuf,
    /// Directory of named namespaces.
    pub netns: PathBuf,
    /// Where the kubelet keeps the logs of pods.
    pub pod_logs: PathBuf,
    /// Where container runtimes keep the configurations of their tasks.
    pub runtimes: Vec<PathBuf>,
}

/// What one look at the node brought.
#[derive(Debug, Default)]
pub struct Scan {
    /// Namespaces that were entered.
    pub namespaces: Vec<DiscoveredNetns>,
    /// Namespaces that are there and could not be entered. One that has a name, and processes that
    /// may not be looked at, is here twice: nothing tells that the two are one.
    pub unentered: Vec<Unentered>,
    /// Why there may be processes, and so namespaces, that do not show at all; empty if all do.
    pub hidden: String,
    /// Init is protected even from those who may look at everybody.
    pub is_init_left_out: bool,
}

/// All evidence of one scan.
#[derive(Debug, Default)]
struct Found {
    by_inode: BTreeMap<u64, Evidence>,
    /// By fingerprint: what processes tell that may not be looked at.
    closed: HashMap<u64, Evidence>,
    /// Why they may not.
    refusal: String,
    hidden: String,
    is_init_left_out: bool,
}

/// Finds every namespace; blocking, and moves the calling thread about.
///
/// # Errors
/// The proc file system cannot be listed. What vanishes on the way is left out of the result.
pub fn scan(places: &Places, pods: &mut Pods) -> io::Result<Scan> {
    let mut found = Found { hidden: hidden(&places.proc), ..Found::default() };
    named(&places.netns, &mut found.by_inode);
    found.processes(&places.proc)?;
    // Behind the processes, so that whoever runs already has its name.
    pods.look(&places.pod_logs, &places.runtimes);
    let scan = found.visit(pods);
    netns::leave();
    Ok(scan)
}

impl Scan {
    /// The processes that do not show, if there may be any.
    pub fn hidden_processes(&self) -> Vec<Gap> {
        let lost = "not all processes of the machine are seen, nor the namespaces that only they tell of";
        let gap = Gap { lost: lost.to_owned(), cause: self.hidden.clone() };
        if self.hidden.is_empty() { vec![] } else { vec![gap] }
    }

    /// The namespaces that could not be entered, one for each cause.
    pub fn closed_namespaces(&self) -> Vec<Gap> {
        let mut by_cause = BTreeMap::<&str, Vec<&Unentered>>::new();
        for unentered in &self.unentered {
            by_cause.entry(&unentered.why).or_default().push(unentered);
        }
        let all = self.namespaces.len() + self.unentered.len();
        let gap = |(cause, namespaces): (&str, Vec<&Unentered>)| Gap {
            lost: format!(
                "{} of {all} network namespaces cannot be entered ({})",
                namespaces.len(),
                some_names(&namespaces)
            ),
            cause: cause.to_owned(),
        };
        by_cause.into_iter().map(gap).collect()
    }
}

/// The first names, and how many more there are.
fn some_names(namespaces: &[&Unentered]) -> String {
    const SHOWN: usize = 3;
    let name = |unentered: &&Unentered| match unentered.kind {
        Kind::Host => "host".to_owned(),
        _ if unentered.namespace.is_empty() => unentered.name.clone(),
        _ => format!("{}/{}", unentered.namespace, unentered.name),
    };
    let mut names: Vec<_> = namespaces.iter().take(SHOWN).map(name).collect();
    if namespaces.len() > SHOWN {
        names.push(format!("{} more", namespaces.len() - SHOWN));
    }
    names.join(", ")
}

fn hidden(proc: &Path) -> String {
    privilege::hides_processes(proc).map(|obstacle| obstacle.why()).unwrap_or_default()
}

/// Looks at one named namespace that was announced this moment, so that it has its name even if it
/// is gone before the next scan. `ip netns add` makes a file and mounts the namespace on it a
/// millisecond later: `None` means not yet.
///
/// # Errors
/// There is no such file any more.
pub fn inspect_named(file: &Path) -> io::Result<Option<DiscoveredNetns>> {
    let inode = fs::metadata(file)?.ino();
    let netns_name = file.file_name().map(|name| name.to_string_lossy().into_owned());
    // Any file can be opened, only a namespace can be entered. Addresses are left to the scan: the
    // lock that listing them takes is held for long while other namespaces are torn down.
    let evidence = Evidence { netns_name, path: file.to_owned(), ..Evidence::default() };
    let netns = visit(inode, &evidence)
        .ok()
        .flatten()
        .map(|cookie| evidence.netns(cookie, inode, vec![], &Pods::default()));
    netns::leave();
    Ok(netns)
}

fn named(directory: &Path, found: &mut BTreeMap<u64, Evidence>) {
    // No directory means that nobody ever ran `ip netns add` here.
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        // A file without a namespace on it: one that is being made, or what is left of one.
        if !statfs(&path).is_ok_and(|at| at.filesystem_type() == NSFS_MAGIC) {
            continue;
        }
        let Ok(meta) = fs::metadata(&path) else { continue };
        let evidence = found.entry(meta.ino()).or_default();
        evidence.netns_name = Some(entry.file_name().to_string_lossy().into_owned());
        evidence.path = path;
    }
}

impl Found {
    fn processes(&mut self, proc: &Path) -> io::Result<()> {
        let host = host(proc);
        for entry in fs::read_dir(proc)?.flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
                continue;
            };
            let process = entry.path();
            let Some(evidence) = self.evidence_of(pid, &process, &host) else { continue };
            if evidence.path.as_os_str().is_empty() {
                evidence.path = process.join("ns/net");
            }
            // The host's are most of the machine's and say nothing.
            if !evidence.host {
                evidence.add(pid, &process);
            }
        }
        Ok(())
    }

    /// The evidence that a process adds to; `None` if it ended, or shows nothing at all.
    fn evidence_of(&mut self, pid: i32, process: &Path, host: &Host) -> Option<&mut Evidence> {
        let refused = match netns::of_process(process) {
            Ok(inode) => {
                let evidence = self.by_inode.entry(inode).or_default();
                evidence.host |= host.inode == Some(inode);
                return Some(evidence);
            }
            Err(e) if netns::ended(&e) => return None,
            Err(e) => e,
        };
        self.is_init_left_out |= privilege::is_left_out(pid);
        if self.refusal.is_empty() {
            self.refusal = privilege::explained(&refused, Capability::SysPtrace);
        }
        match netns::fingerprint(process) {
            Ok(fingerprint) => {
                let evidence = self.closed.entry(fingerprint).or_default();
                evidence.host |= host.fingerprint == Some(fingerprint);
                Some(evidence)
            }
            Err(e) if netns::ended(&e) => None,
            Err(_) => {
                self.hidden.clone_from(&self.refusal);
                None
            }
        }
    }

    /// Enters each namespace for its cookie and its addresses. Who stands in it knows as well which
    /// of the processes that may not be looked at are there.
    fn visit(mut self, pods: &Pods) -> Scan {
        let is_init_left_out = self.is_init_left_out;
        let mut scan = Scan { hidden: self.hidden, is_init_left_out, ..Scan::default() };
        for (inode, mut evidence) in self.by_inode {
            match visit(inode, &evidence) {
                Ok(None) => {}
                Ok(Some(cookie)) => {
                    let here = netns::fingerprint_here().ok().and_then(|here| self.closed.remove(&here));
                    evidence.extend(here.unwrap_or_default());
                    scan.namespaces.push(evidence.netns(cookie, inode, addresses(), pods));
                }
                Err(e) if netns::gone(&e) => {}
                Err(e) => scan.unentered.push(evidence.unentered(inode, netns::refusal(&e), pods)),
            }
        }
        let closed = self.closed.into_values();
        scan.unentered.extend(closed.map(|evidence| evidence.unentered(0, self.refusal.clone(), pods)));
        scan.unentered.sort_by(|a, b| (a.kind, &a.name).cmp(&(b.kind, &b.name)));
        scan
    }
}

/// The host's namespace, as far as it can be told.
struct Host {
    inode: Option<u64>,
    fingerprint: Option<u64>,
}

/// Init's link needs all of init's capabilities; kthreadd, where there is one, is at home too. Where
/// neither may be looked at, fingerprints tell whether this process is at home.
fn host(proc: &Path) -> Host {
    let first = |of: fn(&Path) -> io::Result<u64>| ["1", "2"].iter().find_map(|pid| of(&proc.join(pid)).ok());
    let own = Path::new("/proc/self");
    let (inode, fingerprint) = (first(netns::of_process), first(netns::fingerprint));
    let is_home = || fingerprint.is_none() || fingerprint == netns::fingerprint(own).ok();
    let own_inode = || netns::of_process(own).ok().filter(|_| is_home());
    Host { inode: inode.or_else(own_inode), fingerprint }
}

/// Enters the namespace and tells its cookie; `None` if another one is there by now: the process
/// behind the path died and its number went to a new one.
fn visit(inode: u64, evidence: &Evidence) -> io::Result<Option<u64>> {
    let (cookie, entered) = netns::enter(&evidence.path)?;
    Ok((entered == inode).then_some(cookie))
}

/// Addresses in the namespace of the calling thread, without loopback.
fn addresses() -> Vec<IpAddr> {
    let Ok(interfaces) = nix::ifaddrs::getifaddrs() else { return Vec::new() };
    let mut ips: Vec<IpAddr> = interfaces
        .filter_map(|interface| {
            let address = interface.address?;
            let v4 = address.as_sockaddr_in().map(|a| IpAddr::V4(a.ip()));
            v4.or_else(|| address.as_sockaddr_in6().map(|a| IpAddr::V6(a.ip())))
        })
        .filter(|ip| !ip.is_loopback())
        .collect();
    ips.sort_unstable();
    ips.dedup();
    ips
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pods::NamedBy;

    fn unentered(kind: Kind, name: &str, why: &str) -> Unentered {
        let (pids, cgroup) = (Vec::new(), String::new());
        let (namespace, named_by) = (String::new(), NamedBy::Nobody);
        Unentered {
            kind,
            namespace,
            name: name.to_owned(),
            named_by,
            inode: 7,
            pids,
            cgroup,
            why: why.to_owned(),
        }
    }

    #[test]
    fn namespaces_that_cannot_be_entered_are_told_once_for_each_cause() {
        let netns = |name| unentered(Kind::Netns, name, "no setns");
        let scan = Scan {
            unentered: vec![
                unentered(Kind::Host, "", "no ptrace"),
                netns("a"),
                netns("b"),
                netns("c"),
                netns("d"),
            ],
            ..Scan::default()
        };
        let said: Vec<_> = scan.closed_namespaces().iter().map(Gap::sentence).collect();
        assert_eq!(
            said,
            [
                "1 of 5 network namespaces cannot be entered (host): no ptrace",
                "4 of 5 network namespaces cannot be entered (a, b, c, 1 more): no setns",
            ]
        );
        assert!(scan.hidden_processes().is_empty());
    }
}
