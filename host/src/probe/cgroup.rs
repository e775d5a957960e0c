//! Finds the root of the cgroup v2 tree, to which programs for the packets of all sockets attach.
//!
//! It is mounted alone (`/sys/fs/cgroup`), beside the v1 trees (hybrid: `/sys/fs/cgroup/unified`),
//! or not at all. In a container the mount may be a part of the tree only: the root is the one
//! cgroup without a file `cgroup.type`, also when a cgroup namespace calls another one `/`.

use std::fs;
use std::path::PathBuf;

const MOUNTS: &str = "/proc/self/mountinfo";

/// Where the root of the cgroup v2 tree is mounted.
///
/// # Errors
///
/// Says in users' words why there is none.
pub fn root() -> Result<PathBuf, String> {
    let mounts = fs::read_to_string(MOUNTS).map_err(|error| format!("reading {MOUNTS}: {error}"))?;
    let parts = mount_points(&mounts);
    let Some(first) = parts.first() else {
        return Err("no cgroup v2 tree is mounted here (nor a hybrid one)".to_owned());
    };
    let is_root = |part: &&PathBuf| part.join("cgroup.procs").exists() && !part.join("cgroup.type").exists();
    parts.iter().find(is_root).cloned().ok_or_else(|| {
        format!(
            "{} is not the root of the cgroup v2 tree but a part of it: mount the host's /sys/fs/cgroup",
            first.display()
        )
    })
}

/// Mount points of cgroup v2 in the text of mountinfo, in order.
fn mount_points(mounts: &str) -> Vec<PathBuf> {
    let point = |line: &str| {
        let (before, after) = line.split_once(" - ")?;
        let is_v2 = after.split(' ').next() == Some("cgroup2");
        before.split(' ').nth(4).filter(|_| is_v2).map(|path| PathBuf::from(unescaped(path)))
    };
    mounts.lines().filter_map(point).collect()
}

/// Blanks, tabs, line ends and backslashes are written as three octal digits.
fn unescaped(path: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(path.to_owned(), |path, (code, character)| path.replace(code, character))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_v2_tree_is_found_alone_and_beside_v1() {
        let alone = "24 1 0:22 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw\n";
        assert_eq!(mount_points(alone), [PathBuf::from("/sys/fs/cgroup")]);
        let hybrid = "32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu\n\
                      41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";
        assert_eq!(mount_points(hybrid), [PathBuf::from("/sys/fs/cgroup/unified")]);
    }

    #[test]
    fn a_blank_in_a_mount_point_is_read_and_nonsense_is_not() {
        let text = "41 31 0:38 / /mnt/a\\040b rw - cgroup2 none rw\nnonsense\n1 - cgroup2\n";
        assert_eq!(mount_points(text), [PathBuf::from("/mnt/a b")]);
        assert!(mount_points("31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n").is_empty());
    }
}
