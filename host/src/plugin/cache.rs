//! Compiled components on disk, so that a restart takes a fraction of a millisecond per plugin.
//!
//! Deserialising runs whatever bytes it is given, so only bytes are read that this program wrote:
//! into a directory that is its own and closed to others, under a key of everything that went
//! into them, and with a digest that a flipped byte breaks. Any doubt means compiling again.

use std::fs::{self, DirBuilder};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};
use wasmtime::Engine;
use wasmtime::component::Component;

use super::folder;

const DIGEST: usize = 32;

/// The cache, or nothing where its directory cannot be trusted.
#[derive(Debug)]
pub(super) struct Cache {
    directory: Option<PathBuf>,
}

impl Cache {
    pub(super) fn new(directory: Option<&Path>) -> Self {
        let usable = |directory: &Path| {
            let _ = DirBuilder::new().recursive(true).mode(0o700).create(directory);
            let meta = fs::symlink_metadata(directory).ok()?;
            let own =
                meta.is_dir() && meta.uid() == nix::unistd::geteuid().as_raw() && meta.mode() & 0o077 == 0;
            if !own {
                tracing::warn!(directory = %directory.display(), "not using the cache: the directory must be the agent's own, mode 0700");
            }
            own.then(|| directory.to_owned())
        };
        Self { directory: directory.and_then(usable) }
    }

    /// The compiled component, from the cache or compiled now.
    pub(super) fn component(&self, engine: &Engine, file: &folder::Component) -> wasmtime::Result<Component> {
        let path = self.directory.as_ref().map(|directory| directory.join(key(engine, &file.sha256)));
        if let Some(found) = path.as_deref().and_then(|path| load(engine, path)) {
            return Ok(found);
        }
        let component = Component::from_binary(engine, &file.bytes)?;
        if let Some(path) = path
            && let Err(e) = store(&component, &path)
        {
            tracing::warn!(path = %path.display(), error = %e, "cannot cache a compiled plugin");
        }
        Ok(component)
    }
}

fn key(engine: &Engine, sha256: &str) -> String {
    let mut hasher = DefaultHasher::new();
    engine.precompile_compatibility_hash().hash(&mut hasher);
    format!("{sha256}-{:016x}.cwasm", hasher.finish())
}

fn load(engine: &Engine, path: &Path) -> Option<Component> {
    let mut bytes = Vec::new();
    folder::open_own(path).ok()?.read_to_end(&mut bytes).ok()?;
    let (code, digest) = bytes.split_at_checked(bytes.len().checked_sub(DIGEST)?)?;
    if Sha256::digest(code).as_slice() != digest {
        tracing::warn!(path = %path.display(), "damaged cache entry: compiling anew");
        return None;
    }
    // SAFETY: these bytes were written by `store` below: they lie in a directory that only this
    // user can enter, and their digest matches.
    unsafe { Component::deserialize(engine, code) }.ok()
}

fn store(component: &Component, path: &Path) -> wasmtime::Result<()> {
    let code = component.serialize()?;
    // Written aside and renamed, so that a crash leaves no half entry under the real name.
    let temporary = path.with_extension(format!("{}.tmp", std::process::id()));
    let mut file =
        fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    file.write_all(&code)?;
    file.write_all(&Sha256::digest(&code))?;
    fs::rename(&temporary, path)?;
    Ok(())
}
