//! Components to run in an agent: the built-in analyzers, and the test plugins of
//! `tests/plugins/`, built on first use.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

/// A component of `tests/plugins/`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TestPlugin {
    /// Counts what it receives of skb-drop, version 1.0.0.
    Counting,
    /// The same in version 2.0.0.
    CountingSecond,
    /// Traps on every batch.
    Trapping,
    /// Never returns from a batch.
    Looping,
    /// Answers the questions `node` and `loss`.
    Concluding,
    /// Answers questions as badly as it can.
    Lying,
    /// Says of itself and of its failure far more than anybody reads.
    Wordy,
}

impl TestPlugin {
    /// The component's bytes.
    ///
    /// # Errors
    /// If it does not compile.
    pub fn wasm(self) -> Result<Vec<u8>> {
        let built = built()?;
        let file = match self {
            Self::Counting => "counting-1.wasm",
            Self::CountingSecond => "counting-2.wasm",
            Self::Trapping => "trapping.wasm",
            Self::Looping => "looping.wasm",
            Self::Concluding => "concluding.wasm",
            Self::Lying => "lying.wasm",
            Self::Wordy => "wordy.wasm",
        };
        Ok(std::fs::read(built.join(file))?)
    }
}

/// The folder with the built-in analyzers: `INSPECTOR_PLUGINS`, or what `make build` made.
///
/// # Errors
/// If it is not there.
pub fn built_in() -> Result<PathBuf> {
    let made = || workspace().join("target/plugins");
    let dir = std::env::var_os("INSPECTOR_PLUGINS").map_or_else(made, PathBuf::from);
    ensure!(dir.is_dir(), "no components in {}; run `make build` or set INSPECTOR_PLUGINS", dir.display());
    Ok(dir)
}

/// A plugin directory of our own that the agent watches.
#[derive(Debug)]
pub struct PluginDir {
    dir: TempDir,
}

impl PluginDir {
    /// An empty one.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn new() -> Result<Self> {
        Ok(Self { dir: tempfile::tempdir()? })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Puts a file in or replaces it, in one step as an installer does (write, then rename).
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn put(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let half = self.dir.path().join(format!(".{name}.part"));
        std::fs::write(&half, bytes)?;
        Ok(std::fs::rename(half, self.dir.path().join(name))?)
    }

    /// Copies a built-in analyzer in.
    ///
    /// # Errors
    /// If there is no such analyzer.
    pub fn put_built_in(&self, name: &str) -> Result<()> {
        let file = format!("{name}.wasm");
        let bytes = std::fs::read(built_in()?.join(&file)).with_context(|| format!("built-in {file}"))?;
        self.put(&file, &bytes)
    }
}

/// Root of the workspace.
pub fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the workspace")
}

/// Lets a program see the environment of a person's shell, without what `cargo test` tells its tests: build
/// scripts look at that, and would compile everything behind them again, for other tests too.
pub fn outside_of_cargo(command: &mut Command) -> &mut Command {
    const OF_A_PACKAGE: [&str; 5] =
        ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_", "CARGO_PRIMARY_"];
    for (name, _) in std::env::vars_os() {
        if OF_A_PACKAGE.iter().any(|prefix| name.to_string_lossy().starts_with(prefix)) {
            command.env_remove(name);
        }
    }
    command
}

/// The folder of built test plugins; made once per run.
fn built() -> Result<&'static Path> {
    static BUILT: OnceLock<Result<TempDir, String>> = OnceLock::new();
    match BUILT.get_or_init(|| build().map_err(|error| format!("{error:#}"))) {
        Ok(dir) => Ok(dir.path()),
        Err(error) => anyhow::bail!("the test plugins do not build: {error}"),
    }
}

fn build() -> Result<TempDir> {
    let dir = tempfile::tempdir()?;
    let copy = |name: &str, to: &str| -> Result<()> {
        let from = target_dir()?.join("wasm32-wasip2/release").join(format!("inspector_test_{name}.wasm"));
        std::fs::copy(&from, dir.path().join(to)).with_context(|| from.display().to_string())?;
        Ok(())
    };
    for name in ["trapping", "looping", "concluding", "lying", "wordy"] {
        component(name, &[])?;
        copy(name, &format!("{name}.wasm"))?;
    }
    component("counting", &[])?;
    copy("counting", "counting-1.wasm")?;
    component("counting", &["--features", "second"])?;
    copy("counting", "counting-2.wasm")?;
    Ok(dir)
}

fn component(name: &str, more: &[&str]) -> Result<()> {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(workspace()).args(["rustc", "--quiet", "--release", "--target", "wasm32-wasip2"]);
    command.args(["-p", &format!("inspector-test-{name}"), "--crate-type", "cdylib"]);
    let output = command.arg("--target-dir").arg(target_dir()?).args(more).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// Cargo's own folder: this test lies in `<target>/<triple>/release/deps`.
fn target_dir() -> Result<PathBuf> {
    let exe = std::env::current_exe()?;
    Ok(exe.ancestors().nth(4).context("the test does not lie in a target folder")?.to_owned())
}
