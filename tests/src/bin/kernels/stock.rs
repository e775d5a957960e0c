//! Stock kernels as Debian packages, unpacked into the user's cache and fetched once.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use inspector_tests::lab::run;

/// An unpacked kernel package.
pub struct Kernel {
    /// Its release, as `uname -r` says.
    pub release: String,
    /// Where the package is unpacked.
    root: PathBuf,
}

impl Kernel {
    /// The kernel on which a meta package depends now.
    ///
    /// # Errors
    /// If there is no such package, or no room for it.
    pub fn fetch(meta: &str) -> Result<Self> {
        let package = newest(meta).or_else(|_| run("apt-get", "update -q").and_then(|_| newest(meta)))?;
        let release = package.strip_prefix("linux-image-").context("a kernel package")?.to_owned();
        let root = cache()?.join(&package);
        let kernel = Self { release, root };
        if !kernel.image().is_file() {
            kernel.unpack(&package).with_context(|| format!("cannot fetch {package}"))?;
        }
        Ok(kernel)
    }

    /// The bootable image.
    pub fn image(&self) -> PathBuf {
        self.root.join("boot").join(format!("vmlinuz-{}", self.release))
    }

    /// The folder of its modules.
    pub fn modules(&self) -> PathBuf {
        self.root.join("lib/modules").join(&self.release).join("kernel")
    }

    /// Downloads and unpacks beside the final place, so that an interrupted run leaves no half.
    fn unpack(&self, package: &str) -> Result<()> {
        eprintln!("fetching {package} ...");
        let dir = self.root.parent().context("the cache has a name")?;
        std::fs::create_dir_all(dir)?;
        let download = tempfile::tempdir_in(dir)?;
        in_dir(download.path(), "apt-get", &["download", "-q", package])?;
        let deb = std::fs::read_dir(download.path())?.next().context("nothing was downloaded")??.path();
        let unpacked = download.path().join("unpacked");
        in_dir(download.path(), "dpkg-deb", &["-x", &deb.to_string_lossy(), &unpacked.to_string_lossy()])?;
        std::fs::rename(unpacked, &self.root)?;
        Ok(())
    }
}

/// The package that a meta package stands for today.
fn newest(meta: &str) -> Result<String> {
    let depends = run("apt-cache", &format!("depends {meta}"))?;
    let package = depends.lines().find_map(|line| line.trim().strip_prefix("Depends: "));
    package.map(str::to_owned).with_context(|| format!("{meta} depends on no kernel"))
}

fn cache() -> Result<PathBuf> {
    let home = || Some(PathBuf::from(env::var_os("HOME")?).join(".cache"));
    let cache = env::var_os("XDG_CACHE_HOME").map(PathBuf::from).or_else(home);
    Ok(cache.context("neither XDG_CACHE_HOME nor HOME is set")?.join("inspector/kernels"))
}

fn in_dir(dir: &Path, program: &str, args: &[&str]) -> Result<()> {
    let output = Command::new(program).args(args).current_dir(dir).output()?;
    ensure!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
