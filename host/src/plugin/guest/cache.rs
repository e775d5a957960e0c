//! Compiled components on disk, so that a restart takes a fraction of a millisecond per plugin.
//!
//! Deserialising runs whatever bytes it is given, so only bytes are read that this program wrote:
//! into a directory that is its own and closed to others, under a key of everything that went
//! into them, and with a digest of key and code that a flipped byte breaks, and so does another
//! name. Any doubt means compiling again.
//!
//! The [`ENTRIES`] that were used last are kept, so that replaced analyzers and older engines do not
//! fill the disk. A modification time is the time of the last use.

use std::fs::{self, DirBuilder};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use sha2::{Digest as _, Sha256};
use wasmtime::Engine;
use wasmtime::component::Component;

use crate::plugin::folder;

const DIGEST: usize = 32;
/// Rises when an entry is laid out in another way.
const FORMAT: u32 = 2;
/// More than the versions of all analyzers that one machine is likely to go back and forth between.
const ENTRIES: usize = 64;
/// Writing an entry takes a fraction of a second: what is older was left behind by a crash.
const LEFT_BEHIND: Duration = Duration::from_secs(3600);

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
        let directory = directory.and_then(usable);
        directory.as_deref().into_iter().for_each(remove_left_behind);
        Self { directory }
    }

    /// Whether an entry is there, though perhaps a damaged one.
    pub(super) fn has(&self, engine: &Engine, file: &folder::Component) -> bool {
        self.path(engine, file).is_some_and(|path| path.exists())
    }

    fn path(&self, engine: &Engine, file: &folder::Component) -> Option<PathBuf> {
        self.directory.as_ref().map(|directory| directory.join(key(engine, &file.sha256)))
    }

    /// The compiled component, from the cache or compiled now.
    pub(super) fn component(&self, engine: &Engine, file: &folder::Component) -> wasmtime::Result<Component> {
        let path = self.path(engine, file);
        if let Some(found) = path.as_deref().and_then(|path| load(engine, path)) {
            return Ok(found);
        }
        let component = Component::from_binary(engine, &file.bytes)?;
        if let Some(path) = path
            && let Err(e) = store(&component, &path)
        {
            tracing::warn!(path = %path.display(), error = %e, "cannot cache a compiled plugin");
        }
        self.directory.as_deref().into_iter().for_each(prune);
        Ok(component)
    }
}

fn key(engine: &Engine, sha256: &str) -> String {
    let mut hasher = DefaultHasher::new();
    (FORMAT, engine.precompile_compatibility_hash()).hash(&mut hasher);
    format!("{sha256}-{:016x}.cwasm", hasher.finish())
}

/// Of the code and of the name that it is kept under, which says what it was compiled from: code that
/// was moved to another name is not what that name promises.
fn digest(path: &Path, code: &[u8]) -> [u8; DIGEST] {
    let key = path.file_name().unwrap_or_default();
    // All keys have one length, so nothing can be moved from one to the other.
    Sha256::new().chain_update(key.as_encoded_bytes()).chain_update(code).finalize().into()
}

fn load(engine: &Engine, path: &Path) -> Option<Component> {
    let mut bytes = Vec::new();
    let mut file = folder::open_own(path).ok()?;
    file.read_to_end(&mut bytes).ok()?;
    let (code, written) = bytes.split_at_checked(bytes.len().checked_sub(DIGEST)?)?;
    if digest(path, code) != written {
        tracing::warn!(path = %path.display(), "damaged cache entry: compiling anew");
        return None;
    }
    // In vain on a file system that is read-only by now, where nothing is pruned either.
    let _ = file.set_modified(SystemTime::now());
    // SAFETY: these bytes were written by `store` below: they lie in a directory that only this
    // user can enter, and their digest matches.
    unsafe { Component::deserialize(engine, code) }.ok()
}

fn store(component: &Component, path: &Path) -> wasmtime::Result<()> {
    let code = component.serialize()?;
    // Written aside and renamed, so that a crash leaves no half entry under the real name.
    let temporary = path.with_extension(format!("{}.tmp", std::process::id()));
    let written =
        write(&temporary, &[&code, &digest(path, &code)]).and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        // Half an entry must not take the last room of a full disk.
        let _ = fs::remove_file(&temporary);
    }
    Ok(written?)
}

fn write(path: &Path, parts: &[&[u8]]) -> io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    parts.iter().try_for_each(|part| file.write_all(part))
}

/// Files of the cache with an extension, and when they were last used.
fn files(directory: &Path, extension: &str) -> Vec<(SystemTime, PathBuf)> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let ours = entries.filter(|entry| entry.path().extension().is_some_and(|found| found == extension));
    ours.filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path()))).collect()
}

fn remove_left_behind(directory: &Path) {
    let is_old = |used: &SystemTime| used.elapsed().is_ok_and(|age| age >= LEFT_BEHIND);
    for (_, path) in files(directory, "tmp").into_iter().filter(|(used, _)| is_old(used)) {
        remove(&path);
    }
}

/// Removes what was not used for the longest time, beyond [`ENTRIES`].
fn prune(directory: &Path) {
    let mut entries = files(directory, "cwasm");
    entries.sort_by(|(a, _), (b, _)| b.cmp(a));
    entries.iter().skip(ENTRIES).for_each(|(_, path)| remove(path));
}

fn remove(path: &Path) {
    match fs::remove_file(path) {
        Ok(()) => tracing::debug!(path = %path.display(), "removed from the cache"),
        Err(e) => tracing::warn!(path = %path.display(), error = %e, "cannot remove it from the cache"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A component that exports a type under a name, so that it can be told from others.
    fn component(name: &str) -> folder::Component {
        let length = name.len() as u8;
        let mut bytes = b"\0asm\x0d\0\x01\0".to_vec();
        // Section 7: one type, u32.
        bytes.extend_from_slice(&[7, 2, 1, 0x79]);
        // Section 11: one export, a plain name, type 0, nothing ascribed.
        bytes.extend_from_slice(&[11, length + 6, 1, 0, length]);
        bytes.extend_from_slice(name.as_bytes());
        bytes.extend_from_slice(&[3, 0, 0]);
        folder::Component { path: name.into(), sha256: folder::hex(&Sha256::digest(&bytes)), bytes }
    }

    fn cache() -> (tempfile::TempDir, Cache, Engine) {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let cache = Cache::new(Some(&dir.path().join("cache")));
        (dir, cache, Engine::default())
    }

    /// What the component exports: whose code it is.
    fn exports(engine: &Engine, component: &Component) -> Vec<String> {
        component.component_type().exports(engine).map(|(name, _)| name.to_owned()).collect()
    }

    fn age(path: &Path, age: Duration) {
        let file = fs::File::options().write(true).open(path).expect("there");
        file.set_modified(SystemTime::now() - age).expect("set");
    }

    #[test]
    fn two_entries_that_were_exchanged_are_both_compiled_anew() {
        let (_dir, cache, engine) = cache();
        let [a, b] = ["a", "b"].map(component);
        for file in [&a, &b] {
            cache.component(&engine, file).expect("valid");
        }
        let [path_a, path_b] = [&a, &b].map(|file| cache.path(&engine, file).expect("usable"));
        let aside = path_a.with_extension("aside");
        fs::rename(&path_a, &aside).expect("moved");
        fs::rename(&path_b, &path_a).expect("moved");
        fs::rename(&aside, &path_b).expect("moved");
        assert!(load(&engine, &path_a).is_none() && load(&engine, &path_b).is_none());
        assert_eq!(exports(&engine, &cache.component(&engine, &a).expect("valid")), ["a"]);
        assert_eq!(exports(&engine, &load(&engine, &path_a).expect("written anew")), ["a"]);
    }

    #[test]
    fn a_flipped_byte_is_noticed() {
        let (_dir, cache, engine) = cache();
        let a = component("a");
        cache.component(&engine, &a).expect("valid");
        let path = cache.path(&engine, &a).expect("usable");
        let mut bytes = fs::read(&path).expect("there");
        bytes[100] ^= 1;
        fs::write(&path, &bytes).expect("written");
        assert!(load(&engine, &path).is_none());
    }

    #[test]
    fn only_the_entries_that_were_used_last_are_kept() {
        let (_dir, cache, engine) = cache();
        let first = component("first");
        cache.component(&engine, &first).expect("valid");
        let path = cache.path(&engine, &first).expect("usable");
        let directory = path.parent().expect("a directory");
        for n in 0..ENTRIES {
            let other = directory.join(format!("{n}.cwasm"));
            fs::write(&other, "").expect("written");
            age(&other, Duration::from_secs(60 + n as u64));
        }
        age(&path, Duration::from_secs(86_400));
        // Used, so it is no longer the oldest.
        cache.component(&engine, &first).expect("valid");
        cache.component(&engine, &component("second")).expect("valid");
        let kept = files(directory, "cwasm");
        assert_eq!(kept.len(), ENTRIES);
        assert!(path.exists() && cache.has(&engine, &component("second")));
        assert!(!directory.join(format!("{}.cwasm", ENTRIES - 1)).exists());
    }

    #[test]
    fn what_a_crash_left_behind_is_removed_and_what_is_being_written_is_not() {
        let (dir, cache, _) = cache();
        drop(cache);
        let directory = dir.path().join("cache");
        for (name, seconds) in [("old.1.tmp", 7200), ("new.1.tmp", 1)] {
            fs::write(directory.join(name), "half").expect("written");
            age(&directory.join(name), Duration::from_secs(seconds));
        }
        Cache::new(Some(&directory));
        assert!(!directory.join("old.1.tmp").exists() && directory.join("new.1.tmp").exists());
    }

    #[test]
    fn an_entry_that_could_not_be_written_leaves_nothing() {
        let (_dir, cache, engine) = cache();
        let a = component("a");
        let path = cache.path(&engine, &a).expect("usable");
        // What is in the way of the last step.
        fs::create_dir_all(path.join("full")).expect("made");
        cache.component(&engine, &a).expect("compiled all the same");
        assert!(files(path.parent().expect("a directory"), "tmp").is_empty());
    }
}
