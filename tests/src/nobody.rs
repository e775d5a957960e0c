//! A user without privileges, with a copy of the product that he can read.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

use anyhow::{Context as _, Result};
use tempfile::TempDir;

use crate::agent::binary;
use crate::plugins::built_in;

/// His number.
const NOBODY: u32 = 65_534;

/// The binary, its analyzers and a configuration where everybody can read them.
#[derive(Debug)]
pub struct Nobody(TempDir);

impl Nobody {
    /// The one of this process: compiling the analyzers once is enough.
    ///
    /// # Errors
    /// If the product is not built.
    pub fn get() -> Result<&'static Self> {
        static NOBODY: OnceLock<Result<Nobody, String>> = OnceLock::new();
        let made = NOBODY.get_or_init(|| Self::new().map_err(|error| format!("{error:#}")));
        made.as_ref().map_err(|error| anyhow::anyhow!("{error}"))
    }

    fn new() -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let plugins = dir.path().join("plugins");
        std::fs::create_dir(&plugins)?;
        std::fs::copy(binary()?, dir.path().join("inspector"))?;
        for file in std::fs::read_dir(built_in()?)?.flatten() {
            if file.path().extension().is_some_and(|extension| extension == "wasm") {
                std::fs::copy(file.path(), plugins.join(file.file_name()))?;
            }
        }
        for path in [dir.path(), &plugins] {
            std::fs::set_permissions(path, PermissionsExt::from_mode(0o755))?;
        }
        let (cache, config) = (dir.path().join("cache"), dir.path().join("inspector.toml"));
        std::fs::create_dir(&cache)?;
        std::fs::set_permissions(&cache, PermissionsExt::from_mode(0o700))?;
        std::os::unix::fs::chown(&cache, Some(NOBODY), Some(NOBODY))?;
        std::fs::write(&config, format!("plugins.cache_dir = '{}'\n", cache.display()))?;
        std::fs::set_permissions(&config, PermissionsExt::from_mode(0o644))?;
        Ok(Self(dir))
    }

    /// A file that he can read.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn put(&self, name: &str, bytes: &[u8]) -> Result<PathBuf> {
        let path = self.0.path().join(name);
        std::fs::write(&path, bytes)?;
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o644))?;
        Ok(path)
    }

    /// A folder that he can write to.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn folder(&self, name: &str) -> Result<PathBuf> {
        let path = self.0.path().join(name);
        std::fs::create_dir_all(&path)?;
        std::os::unix::fs::chown(&path, Some(NOBODY), Some(NOBODY))?;
        Ok(path)
    }

    /// Where the analyzers are.
    pub fn plugins(&self) -> PathBuf {
        self.0.path().join("plugins")
    }

    /// What makes a command run as him.
    pub fn through() -> Vec<String> {
        let nobody = NOBODY.to_string();
        let user = ["setpriv", "--reuid", &nobody, "--regid", &nobody, "--clear-groups"];
        let powers = ["--bounding-set=-all", "--inh-caps=-all", "--no-new-privs"];
        user.into_iter().chain(powers).map(str::to_owned).collect()
    }

    /// Runs the binary as him.
    ///
    /// # Errors
    /// If it cannot be run at all.
    pub fn run(&self, args: &[&str]) -> Result<Output> {
        let through = Self::through();
        let mut command = Command::new(&through[0]);
        command.args(&through[1..]).arg(self.0.path().join("inspector")).args(args);
        Ok(command.current_dir("/").env("NO_COLOR", "1").stdin(Stdio::null()).output()?)
    }

    /// The flags with which a command finds its analyzers and keeps them compiled.
    ///
    /// # Errors
    /// If the name of the temporary folder is not UTF-8.
    pub fn flags(&self) -> Result<[String; 4]> {
        let text = |path: &Path| path.to_str().map(str::to_owned).context("UTF-8");
        let (config, plugins) = (text(&self.0.path().join("inspector.toml"))?, text(&self.plugins())?);
        Ok(["--config".to_owned(), config, "--plugin-dir".to_owned(), plugins])
    }
}
