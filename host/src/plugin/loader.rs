//! Loads plugins and follows their files: carries out what the [`Catalog`] decides of files that are new,
//! gone, changed or touched.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use super::catalog::{self, Catalog, Changes, Idle, Listing};
use super::guest::{self, PrepareError, Prepared, Sandbox, SandboxError};
use super::inbox::Inbox;
use super::options::Options;
use super::running::Running;
use super::shared::Shared;
use super::{folder, worker};
use crate::loss::Stage;
use crate::notify::Notify;
use crate::status::{PluginState, panic_words};

/// One running plugin.
struct Slot {
    inbox: Arc<Inbox>,
    thread: JoinHandle<()>,
    probes: BTreeSet<String>,
    sources: BTreeSet<String>,
}

/// Every file, and every thread of a plugin.
pub(super) struct Loader {
    sandbox: Sandbox,
    options: Options,
    shared: Arc<Shared>,
    catalog: Catalog,
    /// By name of the plugin.
    slots: BTreeMap<String, Slot>,
    /// Told of every change of the slots.
    running: Arc<Running>,
    /// Notified when more sources are read than before.
    sources_wanted: Arc<Notify>,
}

/// Makes the kernel's side ready for what plugins subscribe to.
pub type LoadProbes<'a> = &'a dyn Fn(&BTreeSet<String>);

impl Loader {
    pub(super) fn new(
        options: Options,
        shared: Arc<Shared>,
        running: Arc<Running>,
        sources_wanted: Arc<Notify>,
    ) -> Result<Self, SandboxError> {
        let sandbox = Sandbox::new(options.cache.as_deref())?;
        let (catalog, slots) = (Catalog::new(options.disabled.clone()), BTreeMap::new());
        Ok(Self { sandbox, options, shared, catalog, slots, running, sources_wanted })
    }

    /// Follows what changed. What was compiled before starts at once and together; of the rest each
    /// starts when it is compiled.
    pub(super) fn scan(&mut self, load_probes: LoadProbes<'_>, closing: &AtomicBool) {
        let Changes { stopped, changed } = self.catalog.update(self.list());
        self.stop_vanished(stopped);
        let (compiled, uncompiled) = self.sort_out(&changed);
        self.show();

        // Of two new files with the same plugin, the one that has its name wins: the others wait.
        let ready = self.prepare_all(&compiled);
        let (named, mut others): (Vec<_>, Vec<_>) = ready.into_iter().partition(has_its_name);
        self.start(named, load_probes);
        for path in &uncompiled {
            if closing.load(Ordering::Relaxed) {
                return;
            }
            match self.prepare(path) {
                Some(prepared) if has_its_name(&prepared) => self.start(vec![prepared], load_probes),
                prepared => others.extend(prepared),
            }
            self.show();
        }
        self.start(others, load_probes);
        let moved = self.catalog.move_misplaced();
        let moved = self.prepare_all(&moved);
        self.start(moved, load_probes);
        for path in &changed {
            if let Some(Idle::Misplaced(plugin)) = self.catalog.idle(path) {
                self.log_refusal(path, &self.catalog.objection(path, plugin).unwrap_or_default());
            }
        }
        load_probes(&self.probes());
    }

    /// Ends every plugin once it has handled what waits for it.
    pub(super) fn stop(&mut self) {
        let slots = std::mem::take(&mut self.slots);
        self.set_running();
        for slot in slots.values() {
            slot.inbox.stop();
        }
        for slot in slots.into_values() {
            let _ = slot.thread.join();
        }
    }

    fn list(&self) -> Listing {
        let list = |directory: &PathBuf| {
            let files = folder::list(directory).map_err(|e| {
                tracing::warn!(error = %e, "no plugins are loaded from there");
                e.to_string()
            });
            (directory.clone(), files)
        };
        self.options.directories.iter().map(list).collect()
    }

    fn stop_vanished(&mut self, stopped: Vec<(String, PathBuf)>) {
        for (plugin, path) in stopped {
            let Some(slot) = self.slots.remove(&plugin) else { continue };
            slot.inbox.stop();
            let _ = slot.thread.join();
            self.shared.metrics.unregister(&plugin);
            self.shared.events.forget(&plugin);
            self.shared.status.update().plugins.remove(&plugin);
            tracing::info!(plugin, file = %path.display(), "plugin stopped: its file is gone");
        }
        self.set_running();
    }

    /// Files that were compiled before, and those that have to be: without those that need not be
    /// looked into.
    fn sort_out(&mut self, changed: &[PathBuf]) -> (Vec<PathBuf>, Vec<PathBuf>) {
        let (mut compiled, mut uncompiled) = (Vec::new(), BTreeSet::new());
        for path in changed {
            let stem = catalog::stem(path);
            if self.catalog.is_disabled(&stem) {
                self.disable(path, stem);
                continue;
            }
            match folder::read(path) {
                Ok(file) if self.runs_well(&file) => {}
                Ok(file) if self.sandbox.has_compiled(&file) => compiled.push(path.clone()),
                // The small ones first: they run soon, and do not hold up much.
                Ok(file) => drop(uncompiled.insert((file.bytes.len(), path.clone()))),
                Err(e) => self.refuse(path, &e.to_string()),
            }
        }
        let uncompiled: Vec<_> = uncompiled.into_iter().map(|(_, path)| path).collect();
        for (at, path) in uncompiled.iter().enumerate() {
            let which = format!("{} of {}", at + 1, uncompiled.len());
            self.catalog.set_idle(path, Idle::Compiling(which));
        }
        (compiled, uncompiled)
    }

    /// Whether exactly these bytes run from this file. In quarantine they are tried again: whoever
    /// touches the file wants that.
    fn runs_well(&self, file: &folder::Component) -> bool {
        let Some(plugin) = self.catalog.running_version(&file.path, &file.sha256) else { return false };
        let states = self.shared.status.update();
        let state = states.plugins.get(plugin).map(|status| &status.state);
        matches!(state, Some(PluginState::Running | PluginState::Backoff))
    }

    fn prepare_all(&mut self, files: &[PathBuf]) -> Vec<Prepared> {
        files.iter().filter_map(|path| self.prepare(path)).collect()
    }

    /// Reads, compiles and checks a file; nothing if it is not to be run.
    fn prepare(&mut self, path: &Path) -> Option<Prepared> {
        if let Some(Idle::Compiling(which)) = self.catalog.idle(path) {
            tracing::info!(file = %path.display(), "compiling plugin {which}");
        }
        match self.prepare_aside(path) {
            Ok(prepared) if self.catalog.is_disabled(&prepared.description.name) => {
                self.disable(path, prepared.description.name);
            }
            Ok(prepared) => return Some(prepared),
            Err(e) => self.refuse(path, &e.to_string()),
        }
        None
    }

    /// On a thread of its own, which gives way to every other one, and so do the threads on which
    /// wasmtime compiles, since they inherit that: compiling must not compete with the event path.
    fn prepare_aside(&self, path: &Path) -> Result<Prepared, PrepareError> {
        let prepare = || {
            lower_priority();
            // Read again, since the bytes of many files together may be more than memory.
            guest::prepare(&self.sandbox, &folder::read(path)?)
        };
        thread::scope(|scope| {
            let aside = thread::Builder::new().name("compiler".to_owned()).spawn_scoped(scope, prepare);
            let prepared = aside.map_err(folder::Error::from)?.join();
            prepared.unwrap_or_else(|panic| Err(PrepareError::Panic(panic_words(&*panic))))
        })
    }

    /// Starts plugins, or replaces what runs from their files.
    fn start(&mut self, ready: Vec<Prepared>, load_probes: LoadProbes<'_>) {
        if !ready.is_empty() {
            let mut wanted = self.probes();
            wanted.extend(ready.iter().flat_map(probes_of));
            load_probes(&wanted);
        }
        for prepared in ready {
            self.start_or_replace(prepared);
        }
        self.set_running();
        self.show();
    }

    fn start_or_replace(&mut self, prepared: Prepared) {
        let (path, sha256) = (prepared.path.clone(), prepared.sha256.clone());
        let name = prepared.description.name.clone();
        if self.catalog.objection(&path, &name).is_some() {
            // It may still change places with another one.
            return self.catalog.set_idle(&path, Idle::Misplaced(name));
        }
        let done = match self.slots.get_mut(&name) {
            Some(slot) => replace(slot, prepared),
            None => self.launch(prepared).map(|slot| drop(self.slots.insert(name.clone(), slot))),
        };
        match done {
            Ok(()) => self.catalog.runs(&path, &name, &sha256),
            Err(why) => self.refuse(&path, &why),
        }
    }

    /// Starts a plugin that does not run yet.
    fn launch(&self, prepared: Prepared) -> Result<Slot, String> {
        let path = prepared.path.clone();
        let (name, version) = (prepared.description.name.clone(), prepared.description.version.clone());
        let (probes, sources) = (probes_of(&prepared).collect(), sources_of(&prepared));
        let inbox = Arc::new(Inbox::new(&name, self.shared.loss.cell(Stage::Queue, &name)));
        // Before the plugin can be seen to run: from then on it misses no event. Until it
        // subscribes the inbox takes in nothing, and [`Loader::start`] removes the inbox of a plugin
        // that did not start.
        self.running.add(Arc::clone(&inbox));
        let (own, shared) = (Arc::clone(&inbox), Arc::clone(&self.shared));
        let thread = worker::start(prepared, own, shared, self.options.limits)?;
        tracing::info!(plugin = name, version, file = %path.display(), "plugin started");
        Ok(Slot { inbox, thread, probes, sources })
    }

    fn set_running(&self) {
        let inboxes = self.slots.values().map(|slot| Arc::clone(&slot.inbox)).collect();
        let sources = self.slots.values().flat_map(|slot| slot.sources.iter().cloned()).collect();
        if self.running.set(inboxes, sources) {
            self.sources_wanted.notify();
        }
    }

    fn probes(&self) -> BTreeSet<String> {
        self.slots.values().flat_map(|slot| slot.probes.iter().cloned()).collect()
    }

    fn disable(&mut self, path: &Path, plugin: String) {
        tracing::info!(plugin, file = %path.display(), "plugin not run: it is disabled");
        self.catalog.set_idle(path, Idle::Disabled(plugin));
    }

    fn refuse(&mut self, path: &Path, why: &str) {
        self.log_refusal(path, why);
        self.catalog.set_idle(path, Idle::Refused(why.to_owned()));
    }

    fn log_refusal(&self, path: &Path, why: &str) {
        let file = path.display();
        match self.catalog.running_from(path) {
            Some(plugin) => {
                tracing::warn!(file = %file, plugin, error = why, "new plugin file refused, the running version stays");
            }
            None => tracing::warn!(file = %file, error = why, "plugin file refused"),
        }
    }

    fn show(&self) {
        self.catalog.show_in(&mut self.shared.status.update().plugins);
    }
}

/// Swaps in another version of a running plugin.
fn replace(slot: &mut Slot, prepared: Prepared) -> Result<(), String> {
    let (probes, sources) = (probes_of(&prepared).collect(), sources_of(&prepared));
    let (reply, replaced) = std::sync::mpsc::sync_channel(1);
    slot.inbox.replace(prepared, reply);
    replaced.recv().unwrap_or_else(|_| Err("the agent panicked over it".into()))?;
    (slot.probes, slot.sources) = (probes, sources);
    Ok(())
}

/// Lets every other thread go before the calling one and those that it starts.
fn lower_priority() {
    // SAFETY: plain numbers; 0 means the calling thread, and Linux keeps a nice value per thread.
    let _ = unsafe { nix::libc::setpriority(nix::libc::PRIO_PROCESS, 0, 10) };
}

fn has_its_name(prepared: &Prepared) -> bool {
    catalog::has_its_name(&prepared.path, &prepared.description.name)
}

fn probes_of(prepared: &Prepared) -> impl Iterator<Item = String> {
    prepared.selections.iter().map(|selection| selection.probe.name.to_owned())
}

fn sources_of(prepared: &Prepared) -> BTreeSet<String> {
    prepared.description.sources.iter().cloned().collect()
}
