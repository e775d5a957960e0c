//! Finds the network namespaces of this node and what they are called: the host, named ones
//! (`ip netns`), and those of pods and containers by the cgroup paths of their processes.
//!
//! A scan is complete each time and cheap (one `readlink` per process, one visit per namespace);
//! `agent.rs` asks for one when `/run/netns` changes, when an event carries an unknown cookie, and
//! every few seconds. This door keeps no state: who vanished is for `entities.rs` to conclude.

mod cgroup;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::entities::{Kind, MAX_PIDS, Process, Sighting};
use crate::netns;

/// Where namespaces are looked for.
#[derive(Debug, Clone)]
pub struct Places {
    /// The proc file system, seen from the host's PID namespace.
    pub proc: PathBuf,
    /// Directory of named namespaces.
    pub netns: PathBuf,
}

/// What points at one namespace, before it was entered.
#[derive(Debug, Default)]
struct Evidence {
    path: PathBuf,
    netns_name: Option<String>,
    pids: Vec<Process>,
    cgroup: String,
    container: Option<cgroup::Container>,
    host: bool,
}

/// Finds every namespace; blocking, and moves the calling thread about.
///
/// # Errors
/// The proc file system cannot be listed. Anything else that vanishes or refuses on the way is
/// left out of the result.
pub fn scan(places: &Places) -> io::Result<Vec<Sighting>> {
    let mut found = BTreeMap::<u64, Evidence>::new();
    named(&places.netns, &mut found);
    processes(&places.proc, &mut found)?;
    let sightings =
        found.into_iter().filter_map(|(inode, evidence)| visit(inode, evidence, addresses)).collect();
    netns::leave();
    Ok(sightings)
}

/// Looks at one named namespace that was announced this moment, so that it has its name even if it
/// is gone before the next scan. `ip netns add` makes a file and mounts the namespace on it a
/// millisecond later: `None` means not yet.
///
/// # Errors
/// There is no such file any more.
pub fn glance(file: &Path) -> io::Result<Option<Sighting>> {
    let inode = fs::metadata(file)?.ino();
    let netns_name = file.file_name().map(|name| name.to_string_lossy().into_owned());
    // Any file can be opened, only a namespace can be entered. Addresses are left to the scan: the
    // lock that listing them takes is held for long while other namespaces are torn down.
    let evidence = Evidence { netns_name, path: file.to_owned(), ..Evidence::default() };
    let sighting = visit(inode, evidence, Vec::new);
    netns::leave();
    Ok(sighting)
}

fn named(directory: &Path, found: &mut BTreeMap<u64, Evidence>) {
    // No directory means that nobody ever ran `ip netns add` here.
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        let Ok(meta) = fs::metadata(&path) else { continue };
        let evidence = found.entry(meta.ino()).or_default();
        evidence.netns_name = Some(entry.file_name().to_string_lossy().into_owned());
        evidence.path = path;
    }
}

fn processes(proc: &Path, found: &mut BTreeMap<u64, Evidence>) -> io::Result<()> {
    // Init's link needs all of init's capabilities; kthreadd, where there is one, is at home too.
    let host = ["1", "2", "self"].iter().find_map(|process| netns_inode(&proc.join(process)));
    for entry in fs::read_dir(proc)?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        let process = entry.path();
        let Some(inode) = netns_inode(&process) else { continue };
        let evidence = found.entry(inode).or_default();
        evidence.host |= host == Some(inode);
        if evidence.path.as_os_str().is_empty() {
            evidence.path = process.join("ns/net");
        }
        // The host's are most of the machine's and say nothing.
        if evidence.host {
            continue;
        }
        if evidence.pids.len() < MAX_PIDS {
            evidence.pids.push(Process { pid, name: command(&process) });
        }
        if evidence.container.is_none() {
            let text = text(&process.join("cgroup"));
            evidence.container = cgroup::container(&text);
            if evidence.container.is_some() || evidence.cgroup.is_empty() {
                evidence.cgroup = cgroup::path(&text);
            }
        }
    }
    Ok(())
}

/// What a process calls itself, which may be any bytes but a line feed at the end.
fn command(process: &Path) -> String {
    text(&process.join("comm")).trim_end_matches('\n').to_owned()
}

/// A file as text; empty if it vanished. What is no UTF-8 shows as U+FFFD.
fn text(file: &Path) -> String {
    fs::read(file).map_or_else(|_| String::new(), |bytes| String::from_utf8_lossy(&bytes).into_owned())
}

/// Inode in the target `net:[4026531840]` of a process's namespace link.
fn netns_inode(process: &Path) -> Option<u64> {
    let target = fs::read_link(process.join("ns/net")).ok()?;
    target.to_str()?.strip_prefix("net:[")?.strip_suffix(']')?.parse().ok()
}

/// Enters the namespace for its cookie and what `look` finds there.
fn visit(inode: u64, evidence: Evidence, look: fn() -> Vec<IpAddr>) -> Option<Sighting> {
    let (cookie, entered) = netns::enter(&evidence.path).ok()?;
    // Another inode: the process behind the path died and its number went to a new one.
    (entered == inode).then(|| {
        let (kind, name) = evidence.identity(cookie);
        let Evidence { pids, cgroup, path, .. } = evidence;
        let (namespace, ips) = (String::new(), look());
        Sighting { cookie, inode, kind, namespace, name, ips, pids, cgroup, path }
    })
}

impl Evidence {
    /// A pod's namespace usually has a file in `/run/netns` too (`cni-…`), and a container's may:
    /// what runs inside says more than what the file is called, unless a person named it.
    fn identity(&self, cookie: u64) -> (Kind, String) {
        if self.host {
            return (Kind::Host, String::new());
        }
        match (&self.container, &self.netns_name) {
            (Some(cgroup::Container::Pod { uid }), _) => (Kind::Pod, uid.clone()),
            (_, Some(name)) => (Kind::Netns, name.clone()),
            (Some(cgroup::Container::Plain { id }), None) => (Kind::Container, id.clone()),
            (None, None) => (Kind::Anonymous, format!("netns-{cookie}")),
        }
    }
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
