//! Follows the plugins directories: which file is new, gone, changed or touched, and what that means
//! for the plugin that runs from it.
//!
//! A file that cannot be used leaves the running version alone. What the board says of files that do
//! not run is written anew after each step, from one list, so that nothing is left there of files
//! that are gone or good again.
//!
//! Longer than other files, because it is the one place that decides what a changed file means.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::thread::{self, JoinHandle};

use super::inbox::Inbox;
use super::prepare::{self, Prepared};
use super::{Plugins, PrepareError, Running, folder, worker};
use crate::loss::Stage;
use crate::status::{PluginStatus, panic_words};

/// A file of the plugins directories, as it was last looked at.
struct Known {
    stamp: folder::Stamp,
    /// Name of the plugin that runs from it, if one does.
    plugin: Option<String>,
    /// Why what is in it now does not run; the plugin may be of an earlier version.
    idle: Option<Idle>,
}

/// Why the content of a file does not run.
enum Idle {
    /// It is being compiled, or waits for that; which one of how many.
    Compiling(String),
    /// It cannot be used.
    Refused(String),
    /// The configuration names the plugin.
    Disabled(String),
}

/// One running plugin.
pub(super) struct Slot {
    pub(super) inbox: Arc<Inbox>,
    pub(super) thread: JoinHandle<()>,
    path: PathBuf,
    sha256: String,
    probes: BTreeSet<String>,
    sources: BTreeSet<String>,
}

#[derive(Default)]
pub(super) struct Loaded {
    files: BTreeMap<PathBuf, Known>,
    /// Directories that cannot be read, and why.
    unreadable: BTreeMap<PathBuf, String>,
    pub(super) slots: BTreeMap<String, Slot>,
}

/// Makes the kernel's side ready for what plugins subscribe to.
pub type LoadProbes<'a> = &'a dyn Fn(&BTreeSet<String>);

impl Plugins {
    /// Looks at the directories and follows what changed: starts, replaces and stops plugins. What was
    /// compiled before starts at once and together; of the rest each starts when it is compiled.
    /// `load_probes` is told all probes that are wanted before a plugin is asked to start, and
    /// again once the rest is gone. Blocking; one call at a time.
    pub fn scan(&self, load_probes: LoadProbes<'_>) {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        let present = self.list(&mut loaded);
        self.stop_vanished(&mut loaded, &present);
        let changed = note_changes(&mut loaded, &present);
        let (compiled, uncompiled) = self.sort_out(&mut loaded, changed);
        self.show(&loaded);

        let ready: Vec<_> = compiled.iter().filter_map(|path| self.prepare(&mut loaded, path)).collect();
        // Of two new files with the same plugin, the one that has its name wins: the others wait.
        let (named, mut others): (Vec<_>, Vec<_>) = ready.into_iter().partition(has_its_name);
        self.start(&mut loaded, named, load_probes);
        for path in uncompiled {
            if self.closing.load(Ordering::Relaxed) {
                return;
            }
            match self.prepare(&mut loaded, &path) {
                Some(prepared) if has_its_name(&prepared) => {
                    self.start(&mut loaded, vec![prepared], load_probes);
                }
                prepared => others.extend(prepared),
            }
            self.show(&loaded);
        }
        self.start(&mut loaded, others, load_probes);
        load_probes(&loaded.slots.values().flat_map(|slot| slot.probes.clone()).collect());
    }

    /// Every component file. An unreadable directory is no reason to stop what runs from it.
    fn list(&self, loaded: &mut Loaded) -> BTreeMap<PathBuf, folder::Stamp> {
        let mut present = BTreeMap::new();
        for directory in &self.options.directories {
            match folder::list(directory) {
                Ok(files) => {
                    present.extend(files);
                    loaded.unreadable.remove(directory);
                }
                Err(e) => {
                    tracing::warn!(error = %e, "no plugins are loaded from there");
                    loaded.unreadable.insert(directory.clone(), e.to_string());
                    let kept = loaded.files.iter().filter(|(path, _)| path.parent() == Some(directory));
                    present.extend(kept.map(|(path, known)| (path.clone(), known.stamp)));
                }
            }
        }
        present
    }

    fn stop_vanished(&self, loaded: &mut Loaded, present: &BTreeMap<PathBuf, folder::Stamp>) {
        let vanished: Vec<_> =
            loaded.files.keys().filter(|path| !present.contains_key(*path)).cloned().collect();
        if !vanished.is_empty() {
            // What was refused may have been so for the sake of what is gone: look again.
            loaded.files.retain(|path, known| known.plugin.is_some() || !present.contains_key(path));
        }
        for path in vanished {
            let plugin = loaded.files.remove(&path).and_then(|known| known.plugin).unwrap_or_default();
            let Some(slot) = loaded.slots.remove(&plugin) else { continue };
            slot.inbox.stop();
            let _ = slot.thread.join();
            self.context.metrics.unregister(&plugin);
            self.context.events.forget(&plugin);
            self.context.status.update().plugins.remove(&plugin);
            tracing::info!(plugin, file = %path.display(), "plugin stopped: its file is gone");
        }
        self.set_running(loaded);
    }

    /// Files that were compiled before, and those that have to be: without those that need not be
    /// looked into.
    fn sort_out(&self, loaded: &mut Loaded, changed: Vec<PathBuf>) -> (Vec<PathBuf>, Vec<PathBuf>) {
        let (mut compiled, mut uncompiled) = (Vec::new(), BTreeSet::new());
        for path in changed {
            let stem = folder::stem(&path);
            if self.is_disabled(&stem) {
                disable(loaded, &path, stem);
                continue;
            }
            match folder::read(&path) {
                Ok(file) if self.runs_well(loaded, &file) => {}
                Ok(file) if self.cache.has(&self.sandbox.engine, &file) => compiled.push(path),
                // The small ones first: they run soon, and do not hold up much.
                Ok(file) => drop(uncompiled.insert((file.bytes.len(), path))),
                Err(e) => self.refuse(loaded, &path, &e.to_string()),
            }
        }
        let uncompiled: Vec<_> = uncompiled.into_iter().map(|(_, path)| path).collect();
        for (at, path) in uncompiled.iter().enumerate() {
            let which = format!("{} of {}", at + 1, uncompiled.len());
            set_idle(loaded, path, Idle::Compiling(which));
        }
        (compiled, uncompiled)
    }

    /// Whether exactly these bytes run from this file. In quarantine they are tried again: whoever
    /// touches the file wants that.
    fn runs_well(&self, loaded: &Loaded, file: &folder::Component) -> bool {
        let of_file = loaded.slots.iter().find(|(_, slot)| slot.path == file.path);
        of_file.is_some_and(|(name, slot)| {
            let board = self.context.status.update();
            let state = board.plugins.get(name).map_or("", |status| status.state.as_str());
            slot.sha256 == file.sha256 && matches!(state, "running" | "backoff")
        })
    }

    /// Reads, compiles and checks a file; nothing if it is not to be run.
    fn prepare(&self, loaded: &mut Loaded, path: &Path) -> Option<Prepared> {
        if let Some(Known { idle: Some(Idle::Compiling(which)), .. }) = loaded.files.get(path) {
            tracing::info!(file = %path.display(), "compiling plugin {which}");
        }
        match self.prepare_aside(path) {
            Ok(prepared) if self.is_disabled(&prepared.description.name) => {
                disable(loaded, path, prepared.description.name);
            }
            Ok(prepared) => return Some(prepared),
            Err(e) => self.refuse(loaded, path, &e.to_string()),
        }
        None
    }

    /// On a thread of its own, which gives way to every other one, and so do the threads on which
    /// wasmtime compiles, since they inherit that: compiling must not compete with the event path.
    fn prepare_aside(&self, path: &Path) -> Result<Prepared, PrepareError> {
        let prepare = || {
            lower_priority();
            // Read again, since the bytes of many files together may be more than memory.
            prepare::prepare(&self.sandbox, &self.cache, &folder::read(path)?)
        };
        thread::scope(|scope| {
            let aside = thread::Builder::new().name("compiler".to_owned()).spawn_scoped(scope, prepare);
            let prepared = aside.map_err(folder::Error::from)?.join();
            prepared.unwrap_or_else(|panic| Err(PrepareError::Panic(panic_words(&*panic))))
        })
    }

    /// Starts plugins, or replaces what runs from their files.
    fn start(&self, loaded: &mut Loaded, ready: Vec<Prepared>, load_probes: LoadProbes<'_>) {
        if !ready.is_empty() {
            let coming = ready.iter().flat_map(probes_of);
            let wanted = loaded.slots.values().flat_map(|slot| slot.probes.clone()).chain(coming).collect();
            load_probes(&wanted);
        }
        for prepared in ready {
            self.start_or_replace(loaded, prepared);
        }
        self.set_running(loaded);
        self.show(loaded);
    }

    fn set_running(&self, loaded: &Loaded) {
        let inboxes = loaded.slots.values().map(|slot| Arc::clone(&slot.inbox)).collect();
        let sources: BTreeSet<_> = loaded.slots.values().flat_map(|slot| slot.sources.clone()).collect();
        let mut running = self.running.write().unwrap_or_else(PoisonError::into_inner);
        if !sources.is_subset(&running.sources) {
            self.sources_wanted.ring();
        }
        *running = Running { inboxes, sources };
    }

    fn start_or_replace(&self, loaded: &mut Loaded, prepared: Prepared) {
        let (path, name) = (prepared.path.clone(), prepared.description.name.clone());
        if let Err(why) = self.run(loaded, prepared) {
            return self.refuse(loaded, &path, &why);
        }
        if let Some(known) = loaded.files.get_mut(&path) {
            (known.plugin, known.idle) = (Some(name), None);
        }
    }

    fn run(&self, loaded: &mut Loaded, prepared: Prepared) -> Result<(), String> {
        let (path, name) = (prepared.path.clone(), prepared.description.name.clone());
        if let Some(other) = loaded.slots.get(&name).filter(|slot| slot.path != path) {
            return Err(format!("plugin {name} already runs from {}", other.path.display()));
        }
        let before = loaded.files.get(&path).and_then(|known| known.plugin.as_ref());
        if let Some(before) = before.filter(|before| **before != name) {
            return Err(format!("it is called {name} now: remove the file first to replace {before}"));
        }
        match loaded.slots.get_mut(&name) {
            Some(slot) => replace(slot, prepared),
            None => {
                let slot = self.launch(prepared)?;
                loaded.slots.insert(name, slot);
                Ok(())
            }
        }
    }

    /// Starts a plugin that does not run yet.
    fn launch(&self, prepared: Prepared) -> Result<Slot, String> {
        let (path, sha256) = (prepared.path.clone(), prepared.sha256.clone());
        let (name, version) = (prepared.description.name.clone(), prepared.description.version.clone());
        let (probes, sources) = (probes_of(&prepared).collect(), sources_of(&prepared));
        let inbox = Arc::new(Inbox::new(&name, self.context.loss.cell(Stage::Queue, &name)));
        // Before the plugin can be seen to run: from then on it misses no event. Until it
        // subscribes the inbox takes in nothing, and [`Plugins::start`] removes the inbox of a plugin
        // that did not start.
        let mut running = self.running.write().unwrap_or_else(PoisonError::into_inner);
        running.inboxes.push(Arc::clone(&inbox));
        drop(running);
        let (own, context) = (Arc::clone(&inbox), Arc::clone(&self.context));
        let thread = worker::start(prepared, own, context, self.options.limits)?;
        tracing::info!(plugin = name, version, file = %path.display(), "plugin started");
        Ok(Slot { inbox, thread, path, sha256, probes, sources })
    }

    fn is_disabled(&self, plugin: &str) -> bool {
        self.options.disabled.iter().any(|disabled| disabled == plugin)
    }

    /// Says why a file is not used; [`Plugins::show`] shows it.
    fn refuse(&self, loaded: &mut Loaded, path: &Path, why: &str) {
        let file = path.display();
        let running = loaded.files.get(path).and_then(|known| known.plugin.as_deref());
        match running {
            Some(plugin) => {
                tracing::warn!(file = %file, plugin, error = why, "new plugin file refused, the running version stays");
            }
            None => tracing::warn!(file = %file, error = why, "plugin file refused"),
        }
        set_idle(loaded, path, Idle::Refused(why.to_owned()));
    }

    /// Writes anew what the board says of files that do not run: a row each, or a remark at the
    /// plugin that runs in its place. So nothing is left there of files that are gone or good again.
    fn show(&self, loaded: &Loaded) {
        let mut board = self.context.status.update();
        board.plugins.retain(|_, status| has_run(status));
        board.plugins.values_mut().for_each(|status| status.rejected.clear());
        for (directory, why) in &loaded.unreadable {
            let key = directory.display().to_string();
            board.plugins.insert(key.clone(), row(key, directory, "refused", why));
        }
        for (path, known) in &loaded.files {
            let Some(idle) = &known.idle else { continue };
            let stem = folder::stem(path);
            // A plugin that has this name may run from another file.
            let running =
                known.plugin.as_ref().or_else(|| loaded.slots.get_key_value(&stem).map(|(name, _)| name));
            let running = running.and_then(|name| board.plugins.get_mut(name));
            match (idle, running) {
                (Idle::Refused(why), Some(status)) => why.clone_into(&mut status.rejected),
                (_, Some(_)) => {}
                (Idle::Refused(why), None) => {
                    board.plugins.insert(stem.clone(), row(stem, path, "refused", why));
                }
                (Idle::Compiling(which), None) => {
                    board.plugins.insert(stem.clone(), row(stem, path, "compiling", which));
                }
                (Idle::Disabled(name), None) => {
                    let why = "plugins.disabled names it";
                    board.plugins.insert(name.clone(), row(name.clone(), path, "disabled", why));
                }
            }
        }
    }
}

/// Takes note of every file that is new or another one than before, and names them.
fn note_changes(loaded: &mut Loaded, present: &BTreeMap<PathBuf, folder::Stamp>) -> Vec<PathBuf> {
    let mut changed = Vec::new();
    for (path, stamp) in present {
        let known = loaded.files.get(path);
        if known.is_none_or(|known| known.stamp != *stamp) {
            let plugin = known.and_then(|known| known.plugin.clone());
            loaded.files.insert(path.clone(), Known { stamp: *stamp, plugin, idle: None });
            changed.push(path.clone());
        }
    }
    changed
}

fn set_idle(loaded: &mut Loaded, path: &Path, idle: Idle) {
    if let Some(known) = loaded.files.get_mut(path) {
        known.idle = Some(idle);
    }
}

fn disable(loaded: &mut Loaded, path: &Path, plugin: String) {
    tracing::info!(plugin, file = %path.display(), "plugin not run: it is disabled");
    set_idle(loaded, path, Idle::Disabled(plugin));
}

/// Swaps in another version of a running plugin.
fn replace(slot: &mut Slot, prepared: Prepared) -> Result<(), String> {
    let (probes, sources) = (probes_of(&prepared).collect(), sources_of(&prepared));
    let sha256 = prepared.sha256.clone();
    let (reply, answer) = std::sync::mpsc::sync_channel(1);
    slot.inbox.replace(prepared, reply);
    answer.recv().unwrap_or_else(|_| Err("the agent panicked over it".into()))?;
    (slot.probes, slot.sources, slot.sha256) = (probes, sources, sha256);
    Ok(())
}

/// A row of the board for what does not run.
fn row(name: String, file: &Path, state: &str, reason: &str) -> PluginStatus {
    let (file, state, reason) = (file.display().to_string(), state.to_owned(), reason.to_owned());
    PluginStatus { name, file, state, reason, ..PluginStatus::default() }
}

/// Lets every other thread go before the calling one and those that it starts.
fn lower_priority() {
    // SAFETY: plain numbers; 0 means the calling thread, and Linux keeps a nice value per thread.
    let _ = unsafe { nix::libc::setpriority(nix::libc::PRIO_PROCESS, 0, 10) };
}

fn has_its_name(prepared: &Prepared) -> bool {
    folder::stem(&prepared.path) == prepared.description.name
}

/// Whether a plugin is or was running, as opposed to a file that is not used.
fn has_run(status: &PluginStatus) -> bool {
    !matches!(status.state.as_str(), "compiling" | "refused" | "disabled")
}

fn probes_of(prepared: &Prepared) -> impl Iterator<Item = String> {
    prepared.selections.iter().map(|selection| selection.probe.name.to_owned())
}

fn sources_of(prepared: &Prepared) -> BTreeSet<String> {
    let description = &prepared.description;
    description.sources.iter().cloned().collect()
}
