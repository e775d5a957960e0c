//! What this node itself says of its pods: their names, whether or not an API server answers.
//!
//! - The kubelet names the folder of each pod's logs `NAMESPACE_NAME_UID`, with the uid that stands in
//!   the cgroup path, and makes it before the pod has a network (`pkg/kubelet/kuberuntime`, 1.14 and later).
//! - A container runtime keeps the OCI configuration of each task. That of a sandbox is annotated with the
//!   pod's name and names the file of its network namespace, before any process runs there: containerd
//!   (`io.kubernetes.cri.sandbox-…`) and CRI-O (`io.kubernetes.pod.…`).

use std::collections::{BTreeSet, HashMap};
use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::cgroup::{self, Container};
use crate::pods::{NamedBy, ObjectName};

/// Bytes of a configuration; containerd's are some 20 KiB.
const MAX_CONFIGURATION: u64 = 1 << 20;
/// Maximum number of pods, and of tasks, that are looked at: many times what a kubelet runs.
const MAX_PODS: usize = 16 << 10;

/// What is known of this node's pods. Kept from scan to scan, since a configuration never changes.
#[derive(Debug, Default)]
pub struct Pods {
    tasks: HashMap<PathBuf, Option<Sandbox>>,
    by_uid: HashMap<String, (ObjectName, NamedBy)>,
    /// Uids, by the file of the namespace in `/run/netns`.
    by_netns: HashMap<String, String>,
}

/// A pod by its runtime's configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Sandbox {
    uid: String,
    name: ObjectName,
    /// What the file of its network namespace is called, if it is one of `/run/netns`.
    netns: Option<String>,
}

impl Pods {
    /// Reads what came since the last look. What cannot be read is not there: most nodes have one
    /// runtime, and many no kubelet.
    pub(super) fn look(&mut self, logs: &Path, runtimes: &[PathBuf]) {
        let tasks: BTreeSet<_> = runtimes.iter().flat_map(|runtime| entries(runtime)).collect();
        self.tasks.retain(|path, _| tasks.contains(path));
        for path in tasks {
            if self.tasks.contains_key(&path) {
                continue;
            }
            // One that is being written, or is no task, is tried again at the next scan.
            let files = [path.join("config.json"), path.join("userdata/config.json")];
            if let Some(configuration) = files.iter().find_map(|file| read(file)) {
                self.tasks.insert(path, configuration.sandbox());
            }
        }
        self.index(logs);
    }

    fn index(&mut self, logs: &Path) {
        let sandboxes = || self.tasks.values().flatten();
        let by_runtime = sandboxes().map(|s| (s.uid.clone(), (s.name.clone(), NamedBy::Runtime)));
        let folders = entries(logs).filter_map(|path| named(path.file_name()?.to_str()?));
        let by_logs = folders.map(|(uid, name)| (uid, (name, NamedBy::PodLogs)));
        self.by_uid = by_runtime.chain(by_logs).collect();
        self.by_netns = sandboxes().filter_map(|s| Some((s.netns.clone()?, s.uid.clone()))).collect();
    }

    /// The pod whose sandbox was given a namespace of `/run/netns`, by the name of that file.
    pub(super) fn uid_in(&self, netns: &str) -> Option<&str> {
        self.by_netns.get(netns).map(String::as_str)
    }

    /// What a pod is called, and who said so.
    pub(super) fn name(&self, uid: &str) -> Option<(&ObjectName, NamedBy)> {
        self.by_uid.get(uid).map(|(name, by)| (name, *by))
    }
}

fn entries(directory: &Path) -> impl Iterator<Item = PathBuf> {
    fs::read_dir(directory).into_iter().flatten().flatten().take(MAX_PODS).map(|entry| entry.path())
}

/// `NAMESPACE_NAME_UID`; neither of the three can have an underscore.
fn named(folder: &str) -> Option<(String, ObjectName)> {
    let mut parts = folder.split('_');
    let (namespace, name, uid) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() || !cgroup::is_uid(uid) {
        return None;
    }
    Some((uid.to_owned(), ObjectName::new(namespace, name)?))
}

/// The parts of an OCI configuration that tell of a pod.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Configuration {
    annotations: HashMap<String, String>,
    linux: Linux,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Linux {
    cgroups_path: String,
    namespaces: Vec<Namespace>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Namespace {
    r#type: String,
    path: PathBuf,
}

fn read(file: &Path) -> Option<Configuration> {
    let mut text = Vec::new();
    File::open(file).ok()?.take(MAX_CONFIGURATION).read_to_end(&mut text).ok()?;
    serde_json::from_slice(&text).ok()
}

impl Configuration {
    /// `None` for a task of no pod.
    fn sandbox(self) -> Option<Sandbox> {
        let of = |keys: [&str; 2]| keys.iter().find_map(|key| self.annotations.get(*key));
        let namespace = of(["io.kubernetes.cri.sandbox-namespace", "io.kubernetes.pod.namespace"])?;
        let name = of(["io.kubernetes.cri.sandbox-name", "io.kubernetes.pod.name"])?;
        // The cgroup's uid first: the annotation of a static pod may be that of its mirror.
        let uid = match cgroup::container(&format!("0::{}", self.linux.cgroups_path)) {
            Some(Container::Pod { uid }) => uid,
            // containerd 1.6 has no annotation for it.
            _ => of(["io.kubernetes.cri.sandbox-uid", "io.kubernetes.pod.uid"])?.clone(),
        };
        let netns = self.linux.namespaces.iter().find(|namespace| namespace.r#type == "network");
        let file = netns
            .map(|namespace| namespace.path.as_path())
            .filter(|path| path.parent().is_some_and(|parent| parent.ends_with("netns")));
        let netns = file.and_then(|path| Some(path.file_name()?.to_str()?.to_owned()));
        Some(Sandbox { uid, name: ObjectName::new(namespace, name)?, netns })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "6c5e8a3b-1f0d-4f6e-9c55-0a1b2c3d4e5f";
    const HASH: &str = "0123456789abcdef0123456789abcdef";

    fn shown(of: Option<(&ObjectName, NamedBy)>) -> Option<(String, NamedBy)> {
        of.map(|(name, by)| (name.to_string(), by))
    }

    #[test]
    fn the_folder_of_its_logs_names_a_pod_and_a_static_pod() {
        let logs = tempfile::tempdir().expect("a folder");
        for folder in [
            format!("shop_cart-1_{UID}"),
            format!("kube-system_etcd-n1_{HASH}"),
            "shop_cart-2_no-uid".to_owned(),
            format!("shop_a\u{7}b_{UID}"),
            format!("shop_more_of_{UID}"),
        ] {
            fs::create_dir(logs.path().join(folder)).expect("created");
        }
        let mut pods = Pods::default();
        pods.look(logs.path(), &[]);
        assert_eq!(shown(pods.name(UID)), Some(("shop/cart-1".to_owned(), NamedBy::PodLogs)));
        assert_eq!(shown(pods.name(HASH)), Some(("kube-system/etcd-n1".to_owned(), NamedBy::PodLogs)));
        assert_eq!(pods.by_uid.len(), 2);
    }

    fn task(runtime: &Path, id: &str, file: &str, text: &str) {
        let file = runtime.join(id).join(file);
        fs::create_dir_all(file.parent().expect("a folder")).expect("created");
        fs::write(file, text).expect("written");
    }

    #[test]
    fn a_sandbox_is_named_by_containerd_and_by_cri_o_before_it_runs() {
        let runtime = tempfile::tempdir().expect("a folder");
        let containerd = format!(
            r#"{{"annotations":{{"io.kubernetes.cri.sandbox-name":"cart-1","io.kubernetes.cri.sandbox-namespace":"shop"}},
            "linux":{{"cgroupsPath":"kubepods-burstable-pod{}.slice:cri-containerd:abc",
            "namespaces":[{{"type":"pid"}},{{"type":"network","path":"/var/run/netns/cni-1"}}]}}}}"#,
            UID.replace('-', "_")
        );
        let crio = format!(
            r#"{{"annotations":{{"io.kubernetes.pod.name":"etcd","io.kubernetes.pod.namespace":"kube-system",
            "io.kubernetes.pod.uid":"{HASH}"}},"linux":{{"namespaces":[{{"type":"network","path":"/proc/7/ns/net"}}]}}}}"#
        );
        task(runtime.path(), "a", "config.json", &containerd);
        task(runtime.path(), "b", "userdata/config.json", &crio);
        task(runtime.path(), "c", "config.json", r#"{"annotations":{}}"#);
        task(runtime.path(), "d", "config.json", "{ half");
        let (mut pods, runtimes) = (Pods::default(), [runtime.path().to_owned()]);
        pods.look(Path::new("/nonexistent"), &runtimes);
        assert_eq!((pods.uid_in("cni-1"), pods.uid_in("net")), (Some(UID), None));
        assert_eq!(shown(pods.name(UID)), Some(("shop/cart-1".to_owned(), NamedBy::Runtime)));
        assert_eq!(shown(pods.name(HASH)), Some(("kube-system/etcd".to_owned(), NamedBy::Runtime)));
        assert_eq!(pods.tasks.len(), 3, "what is half written is read again");

        fs::remove_dir_all(runtime.path().join("a")).expect("removed");
        task(runtime.path(), "d", "config.json", &containerd.replace("cart-1", "cart-2"));
        pods.look(Path::new("/nonexistent"), &runtimes);
        assert_eq!(shown(pods.name(UID)), Some(("shop/cart-2".to_owned(), NamedBy::Runtime)));
    }
}
