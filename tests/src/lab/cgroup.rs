//! A control group for one test, on either version of the tree.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context as _, Result};

/// A group without members; removed with this value, so its members must have ended by then.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// A group in the tree of version 2, wherever that is mounted.
    ///
    /// # Errors
    /// If there is none, or without root.
    pub fn unified() -> Result<Self> {
        let tree = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"].into_iter().map(Path::new);
        let tree = tree.into_iter().find(|path| path.join("cgroup.controllers").exists());
        Self::below(tree.context("no cgroup tree of version 2 here")?)
    }

    /// A group of one controller of version 1, such as `cpu`.
    ///
    /// # Errors
    /// If that controller is not mounted as one of version 1, or without root.
    pub fn of(controller: &str) -> Result<Self> {
        Self::below(&Path::new("/sys/fs/cgroup").join(controller))
    }

    fn below(tree: &Path) -> Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = tree.join(format!("ins{}-{number}", std::process::id()));
        fs::create_dir(&path).with_context(|| path.display().to_string())?;
        Ok(Self { path })
    }

    /// Its folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Moves a process into it.
    ///
    /// # Errors
    /// If the process is gone.
    pub fn add(&self, pid: u32) -> Result<()> {
        self.set("cgroup.procs", &pid.to_string())
    }

    /// Writes one of its files, such as `cpu.cfs_quota_us`.
    ///
    /// # Errors
    /// If the kernel refuses the value.
    pub fn set(&self, file: &str, value: &str) -> Result<()> {
        fs::write(self.path.join(file), value).with_context(|| format!("{file} = {value}"))
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir(&self.path) {
            eprintln!("cgroup {} stays behind: {error}", self.path.display());
        }
    }
}
