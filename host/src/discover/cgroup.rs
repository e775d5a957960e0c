//! What a cgroup path says about the container a process runs in. Text in, name out; no I/O.

/// The container of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Container {
    /// A Kubernetes pod, by its uid with dashes.
    Pod {
        /// Pod uid.
        uid: String,
    },
    /// A container outside of Kubernetes, by the first 12 digits of its id.
    Plain {
        /// Short container id.
        id: String,
    },
}

/// Reads `/proc/PID/cgroup`: cgroup v1 (a line per controller), v2 (one line) and hybrid.
pub(super) fn container(text: &str) -> Option<Container> {
    let paths = || text.lines().filter_map(|line| line.splitn(3, ':').nth(2));
    paths().find_map(pod).or_else(|| paths().find_map(plain))
}

/// The path to show: the one that tells of a container; else that of cgroup v2; else, on v1, the
/// longest, because many a controller leaves every process in its root.
pub(super) fn path(text: &str) -> String {
    let lines =
        || text.lines().map(|line| (line.starts_with("0::"), line.splitn(3, ':').nth(2).unwrap_or("")));
    let told = lines().map(|(_, path)| path).find(|path| pod(path).or_else(|| plain(path)).is_some());
    let unified = || lines().find(|(v2, path)| *v2 && *path != "/").map(|(_, path)| path);
    let longest = || lines().map(|(_, path)| path).max_by_key(|path| path.len());
    told.or_else(unified).or_else(longest).unwrap_or_default().to_owned()
}

/// `/kubepods/burstable/pod<uid>/<id>` (cgroupfs) or
/// `/kubepods.slice/kubepods-pod<uid with underscores>.slice/cri-containerd-<id>.scope` (systemd), which
/// in an OCI configuration is `kubepods-pod<uid with underscores>.slice:cri-containerd:<id>`. What users of the
/// machine call folders in the part that is theirs tells of no pod.
fn pod(path: &str) -> Option<Container> {
    (path.contains("kubepods") && !path.starts_with("/user.slice/")).then_some(())?;
    path.split(['/', ':']).find_map(|segment| {
        let segment = segment.strip_suffix(".slice").unwrap_or(segment);
        let (before, uid) = segment.rsplit_once("pod")?;
        let uid = uid.replace('_', "-");
        (is_uid(&uid) && (before.is_empty() || before.ends_with('-'))).then_some(Container::Pod { uid })
    })
}

/// Whether this is the uid of a pod; that of a static pod is the MD5 of its file.
pub(super) fn is_uid(text: &str) -> bool {
    let is_hash = text.len() == 32 && text.bytes().all(|b| b.is_ascii_hexdigit());
    is_hash || (text.len() == 36 && text.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-'))
}

/// `/docker/<id>`, `…/docker-<id>.scope`, `…/libpod-<id>.scope`, `…/cri-containerd-<id>.scope`.
fn plain(path: &str) -> Option<Container> {
    path.split('/').find_map(|segment| {
        let segment = segment.strip_suffix(".scope").unwrap_or(segment);
        let id = segment.rsplit_once('-').map_or(segment, |(_, id)| id);
        let is_id = id.len() == 64 && id.bytes().all(|b| b.is_ascii_hexdigit());
        is_id.then(|| Container::Plain { id: id[..12].to_owned() })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
    const UID: &str = "6c5e8a3b-1f0d-4f6e-9c55-0a1b2c3d4e5f";

    fn pod_uid(text: &str) -> Option<String> {
        match container(text) {
            Some(Container::Pod { uid }) => Some(uid),
            _ => None,
        }
    }

    #[test]
    fn a_folder_of_a_user_is_no_pod() {
        let folder = format!("0::/user.slice/user-1000.slice/user@1000.service/kubepods/pod{UID}");
        assert_eq!(container(&folder), None);
    }

    #[test]
    fn a_pod_is_known_under_every_driver_and_cgroup_version() {
        let underscored = UID.replace('-', "_");
        for text in [
            format!("0::/kubepods/burstable/pod{UID}/{ID}\n"),
            format!("12:memory:/kubepods/pod{UID}/{ID}\n1:name=systemd:/kubepods/pod{UID}/{ID}\n"),
            format!(
                "0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{underscored}.slice/cri-containerd-{ID}.scope\n"
            ),
        ] {
            assert_eq!(pod_uid(&text).as_deref(), Some(UID), "{text}");
        }
    }

    #[test]
    fn a_container_outside_of_kubernetes_has_its_short_id() {
        for text in [format!("0::/system.slice/docker-{ID}.scope\n"), format!("4:cpu:/docker/{ID}\n")] {
            assert_eq!(container(&text), Some(Container::Plain { id: "0123456789ab".to_owned() }), "{text}");
        }
    }

    #[test]
    fn an_ordinary_process_is_in_no_container() {
        assert_eq!(container("0::/user.slice/user-0.slice/session-1.scope\n"), None);
        assert_eq!(container("0::/system.slice/tripod.service\nnonsense\n"), None);
    }

    #[test]
    fn the_path_shown_is_the_containers_on_v1_v2_and_hybrid() {
        assert_eq!(path(&format!("0::/user.slice\n4:cpu:/docker/{ID}\n")), format!("/docker/{ID}"));
        assert_eq!(path("12:pids:/user.slice/deep/deeper\n0::/user.slice\n"), "/user.slice");
        assert_eq!(path("12:pids:/user.slice\n3:cpuset:/\n"), "/user.slice");
        assert_eq!(path("0::/\n"), "/");
        assert_eq!(path("gone"), "");
    }
}
