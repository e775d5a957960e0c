//! What points at one namespace before it is entered, and who it is by that.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use super::cgroup::{self, Container};
use super::pods::Pods;
use crate::entities::{DiscoveredNetns, Kind, MAX_PIDS, Process, Unentered};
use crate::pods::{NamedBy, ObjectName};

/// What points at one namespace, before it was entered.
#[derive(Debug, Default)]
pub(super) struct Evidence {
    pub(super) path: PathBuf,
    pub(super) netns_name: Option<String>,
    pub(super) pids: Vec<Process>,
    pub(super) cgroup: String,
    pub(super) container: Option<Container>,
    pub(super) host: bool,
}

impl Evidence {
    /// Adds what a process tells.
    pub(super) fn add(&mut self, pid: i32, process: &Path) {
        if self.pids.len() < MAX_PIDS {
            self.pids.push(Process { pid, name: command(process) });
        }
        if self.container.is_none() {
            let text = text(&process.join("cgroup"));
            self.container = cgroup::container(&text);
            if self.container.is_some() || self.cgroup.is_empty() {
                self.cgroup = cgroup::path(&text);
            }
        }
    }

    /// Adds what other processes of the same namespace tell.
    pub(super) fn extend(&mut self, other: Self) {
        self.host |= other.host;
        if self.host {
            return;
        }
        let room = MAX_PIDS - self.pids.len();
        self.pids.extend(other.pids.into_iter().take(room));
        if self.container.is_none() && (other.container.is_some() || self.cgroup.is_empty()) {
            (self.container, self.cgroup) = (other.container, other.cgroup);
        }
    }

    pub(super) fn netns(self, cookie: u64, inode: u64, ips: Vec<IpAddr>, pods: &Pods) -> DiscoveredNetns {
        let identity = self.identity(&format!("netns-{cookie}"), pods);
        let Identity { kind, namespace, name, pod_uid, named_by } = identity;
        let Self { pids, cgroup, path, .. } = self;
        DiscoveredNetns { cookie, inode, kind, namespace, name, pod_uid, named_by, ips, pids, cgroup, path }
    }

    /// `inode` is 0 if only processes are known.
    pub(super) fn unentered(self, inode: u64, why: String, pods: &Pods) -> Unentered {
        let process = || self.pids.first().map(|process| format!("netns of {}", process.name));
        let nameless = match inode {
            0 => process().unwrap_or_default(),
            inode => format!("netns:{inode}"),
        };
        let Identity { kind, namespace, name, named_by, .. } = self.identity(&nameless, pods);
        Unentered { kind, namespace, name, named_by, inode, pids: self.pids, cgroup: self.cgroup, why }
    }

    /// A pod's namespace usually has a file in `/run/netns` too (`cni-…`), and a container's may:
    /// what runs inside says more than what the file is called, unless a person named it.
    fn identity(&self, nameless: &str, pods: &Pods) -> Identity {
        let of = |kind, name: &str, named_by| Identity {
            kind,
            name: name.to_owned(),
            named_by,
            ..Identity::default()
        };
        if self.host {
            return of(Kind::Host, "", NamedBy::Nobody);
        }
        let told = self.netns_name.as_deref().and_then(|name| pods.uid_in(name));
        match (&self.container, told, &self.netns_name) {
            (Some(Container::Pod { uid }), _, _) => Identity::of_pod(uid, pods),
            (_, Some(uid), _) => Identity::of_pod(uid, pods),
            (_, None, Some(name)) => of(Kind::Netns, name, NamedBy::Netns),
            (Some(Container::Plain { id }), None, None) => of(Kind::Container, id, NamedBy::Cgroup),
            (None, None, None) => of(Kind::Anonymous, nameless, NamedBy::Nobody),
        }
    }
}

/// Who an entity is.
#[derive(Debug, Default)]
struct Identity {
    kind: Kind,
    namespace: String,
    name: String,
    pod_uid: String,
    named_by: NamedBy,
}

impl Identity {
    fn of_pod(uid: &str, pods: &Pods) -> Self {
        let (namespace, name, named_by) = match pods.name(uid) {
            Some((ObjectName { namespace, name }, by)) => (namespace.clone(), name.clone(), by),
            None => (String::new(), uid.to_owned(), NamedBy::Cgroup),
        };
        Self { kind: Kind::Pod, namespace, name, pod_uid: uid.to_owned(), named_by }
    }
}

/// What a process calls itself, which may be any bytes but a line feed at the end.
fn command(process: &Path) -> String {
    text(&process.join("comm")).trim_end_matches('\n').to_owned()
}

/// A file as text; empty if it vanished. What is no UTF-8 shows as U+FFFD.
fn text(file: &Path) -> String {
    fs::read(file).map_or_else(|_| String::new(), |bytes| String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_that_may_not_be_looked_at_name_the_namespace_that_was_entered() {
        let uid = "6c5e8a3b-1f0d-4f6e-9c55-0a1b2c3d4e5f";
        let mut named = Evidence { netns_name: Some("cni-1".to_owned()), ..Evidence::default() };
        named.extend(Evidence {
            pids: vec![Process { pid: 9, name: "nginx".to_owned() }],
            cgroup: format!("/kubepods/pod{uid}/x"),
            container: Some(Container::Pod { uid: uid.to_owned() }),
            ..Evidence::default()
        });
        let netns = named.netns(5, 7, vec![], &Pods::default());
        assert_eq!((netns.kind, netns.name.as_str(), netns.pids.len()), (Kind::Pod, uid, 1));
    }

    #[test]
    fn a_namespace_that_only_a_process_tells_of_is_called_after_it() {
        let pids = vec![Process { pid: 9, name: "nginx".to_owned() }];
        let evidence = Evidence { pids, ..Evidence::default() };
        let shown = evidence.unentered(0, "no ptrace".to_owned(), &Pods::default());
        assert_eq!((shown.kind, shown.name.as_str()), (Kind::Anonymous, "netns of nginx"));
    }
}
