//! Looks into the components of directories without running any: each is compiled and asked to
//! describe itself, as if it was to be started.

use std::path::{Path, PathBuf};

use super::folder;
use super::guest::{PrepareError, Sandbox, SandboxError, prepare};

/// What was found in one file, or in a directory that cannot be used.
#[derive(Debug)]
pub struct Look {
    /// The file, or the directory.
    pub path: PathBuf,
    /// What the component says of itself, or why it would be refused.
    pub found: Result<Described, String>,
}

/// A component that can be started.
#[derive(Debug)]
pub struct Described {
    /// Name of the plugin.
    pub name: String,
    /// Its version.
    pub version: String,
}

/// Looks into every component of the directories; some seconds of CPU time, nothing is written.
///
/// # Errors
/// The host refuses what wasmtime needs (executable memory).
pub fn look(directories: &[PathBuf]) -> Result<Vec<Look>, SandboxError> {
    let sandbox = Sandbox::new(None)?;
    let mut looks = Vec::new();
    for directory in directories {
        match folder::list(directory) {
            Ok(files) => looks.extend(files.into_iter().map(|(path, _)| {
                let found = describe(&sandbox, &path).map_err(|error| error.to_string());
                Look { path, found }
            })),
            Err(error) => looks.push(Look { path: directory.clone(), found: Err(error.to_string()) }),
        }
    }
    Ok(looks)
}

fn describe(sandbox: &Sandbox, path: &Path) -> Result<Described, PrepareError> {
    let prepared = prepare(sandbox, &folder::read(path)?)?;
    Ok(Described { name: prepared.description.name, version: prepared.description.version })
}
