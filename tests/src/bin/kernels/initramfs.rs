//! The file system that a guest boots from: cloud kernels can mount nothing of the host's, so
//! everything a guest needs travels in its initramfs.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use inspector_tests::lab::run;
use tempfile::NamedTempFile;

use crate::stock::Kernel;

/// The host's own tools that the lab runs, with the libraries that they load.
const TOOLS: &[&str] = &["ip", "nft", "tc"];

/// What the lab needs and these kernels have as modules or built in, in an order in which they load.
const MODULES: &[&str] = &[
    "libcrc32c",
    "nfnetlink",
    "nf_tables",
    "veth",
    "sch_tbf",
    "sch_ingress",
    "cls_bpf",
    "tun",
    "llc",
    "stp",
    "bridge",
    // The guest's own device, by way of PCI.
    "virtio_ring",
    "virtio",
    "virtio_pci_legacy_dev",
    "virtio_pci_modern_dev",
    "virtio_pci",
    "failover",
    "net_failover",
    "virtio_net",
];

/// Packs an initramfs for one kernel; `check` becomes its `/init`.
///
/// # Errors
/// If a part is missing.
pub fn pack(kernel: &Kernel, agent: &Path, check: &Path, plugins: &Path) -> Result<NamedTempFile> {
    let root = tempfile::tempdir()?;
    let root = root.path();
    for dir in ["dev", "proc", "sys", "run", "tmp", "etc", "modules", "plugins"] {
        fs::create_dir(root.join(dir))?;
    }
    program(check, &root.join("init"))?;
    program(agent, &root.join("inspector"))?;
    for entry in fs::read_dir(plugins)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "wasm") {
            fs::copy(&path, root.join("plugins").join(path.file_name().context("a file has a name")?))?;
        }
    }
    for tool in TOOLS {
        add_tool(tool, root)?;
    }
    for (index, name) in MODULES.iter().enumerate() {
        // Loaded in the order of their names.
        let to = root.join("modules").join(format!("{index:02}-{name}.ko"));
        add_module(&kernel.modules(), name, &to).with_context(|| format!("module {name}"))?;
    }
    archive(root)
}

/// A program that loads no libraries.
fn program(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to).with_context(|| from.display().to_string())?;
    Ok(fs::set_permissions(to, PermissionsExt::from_mode(0o755))?)
}

/// Copies a tool and its libraries to where they are on the host.
fn add_tool(name: &str, root: &Path) -> Result<()> {
    let path = which(name)?;
    let libraries = run("ldd", &path.to_string_lossy())?;
    let libraries = libraries.split_whitespace().filter(|word| word.starts_with('/'));
    for file in libraries.map(|word| PathBuf::from(word.trim_end_matches(':'))).chain([path.clone()]) {
        let to = root.join(file.strip_prefix("/")?);
        fs::create_dir_all(to.parent().context("a file has a folder")?)?;
        program(&file, &to)?;
    }
    Ok(())
}

fn which(name: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|dir| dir.join(name)).find(|path| path.is_file());
    found.with_context(|| format!("no `{name}` here; run `make setup`"))
}

fn add_module(modules: &Path, name: &str, to: &Path) -> Result<()> {
    let Some(file) = find(modules, name)? else {
        let builtin = fs::read_to_string(modules.with_file_name("modules.builtin"))?;
        let is_it = |line: &str| Path::new(line).file_stem().is_some_and(|stem| stem == name);
        ensure!(builtin.lines().any(is_it), "this kernel does not have it");
        return Ok(());
    };
    if file.extension().is_some_and(|extension| extension == "ko") {
        fs::copy(file, to)?;
        return Ok(());
    }
    let output = Command::new("xz").arg("-dc").arg(file).output().context("cannot start `xz`")?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(fs::write(to, output.stdout)?)
}

/// The file of a module, compressed or not.
fn find(dir: &Path, name: &str) -> Result<Option<PathBuf>> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let file = path.file_name().unwrap_or_default().to_string_lossy();
        if path.is_dir() {
            if let Some(found) = find(&path, name)? {
                return Ok(Some(found));
            }
        } else if file.split('.').next() == Some(name) {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

fn archive(root: &Path) -> Result<NamedTempFile> {
    let image = NamedTempFile::new()?;
    let mut find = Command::new("find").arg(".").current_dir(root).stdout(Stdio::piped()).spawn()?;
    let names = find.stdout.take().context("stdout is piped")?;
    let output = Command::new("cpio")
        .args(["--create", "--quiet", "--format=newc"])
        .current_dir(root)
        .stdin(names)
        .stdout(image.reopen()?)
        .stderr(Stdio::piped())
        .output()
        .context("cannot start `cpio`; run `make test-kernels`, which installs it")?;
    ensure!(find.wait()?.success() && output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(image)
}
