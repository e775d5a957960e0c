//! Decides what the files of the plugins directories mean: which is new, gone or another one than
//! before, which plugin runs from which of two files, and what the status says of those that do not run.
//!
//! A file that cannot be used leaves alone what runs. Nothing here does I/O or knows of wasmtime.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::status::{PluginState, PluginStatus};

/// What tells one version of a file from another without reading it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Stamp {
    pub(super) inode: u64,
    pub(super) size: u64,
    pub(super) modified: (i64, i64),
    pub(super) changed: (i64, i64),
}

/// The component files of each directory, or why it cannot be read.
pub(super) type Listing = BTreeMap<PathBuf, Result<Vec<(PathBuf, Stamp)>, String>>;

/// What another look at the directories has brought.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Changes {
    /// Plugins to be stopped, and their files, which are gone.
    pub(super) stopped: Vec<(String, PathBuf)>,
    /// Files to be looked into.
    pub(super) changed: Vec<PathBuf>,
}

/// Why what is in a file now does not run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Idle {
    /// It is being compiled, or waits for that; which one of how many.
    Compiling(String),
    /// It cannot be used.
    Refused(String),
    /// It is a plugin that runs from another file, or another plugin than the one that runs from this
    /// file: its name.
    Misplaced(String),
    /// The configuration disables the plugin of this name.
    Disabled(String),
}

/// A file, as it was last looked at. An earlier version of it may run.
struct Known {
    stamp: Stamp,
    idle: Option<Idle>,
}

/// What a plugin runs from.
struct Origin {
    path: PathBuf,
    sha256: String,
}

/// Every file, and every plugin that runs.
pub(super) struct Catalog {
    /// Names of plugins that are not run.
    disabled: Vec<String>,
    files: BTreeMap<PathBuf, Known>,
    /// Directories that cannot be read, and why.
    unreadable: BTreeMap<PathBuf, String>,
    /// By name.
    running: BTreeMap<String, Origin>,
}

impl Catalog {
    pub(super) fn new(disabled: Vec<String>) -> Self {
        let (files, unreadable, running) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Self { disabled, files, unreadable, running }
    }

    /// Takes note of what is there now. A directory that cannot be read is no reason to stop what runs
    /// from it.
    pub(super) fn update(&mut self, listing: Listing) -> Changes {
        let mut present = BTreeMap::new();
        self.unreadable.clear();
        for (directory, files) in listing {
            match files {
                Ok(files) => present.extend(files),
                Err(why) => {
                    let kept = self.files.iter().filter(|(path, _)| path.parent() == Some(&directory));
                    present.extend(kept.map(|(path, known)| (path.clone(), known.stamp)));
                    self.unreadable.insert(directory, why);
                }
            }
        }
        let stopped = self.forget_vanished(&present);
        let mut changed = Vec::new();
        for (path, stamp) in present {
            if self.files.get(&path).is_none_or(|known| known.stamp != stamp) {
                self.files.insert(path.clone(), Known { stamp, idle: None });
                changed.push(path);
            }
        }
        Changes { stopped, changed }
    }

    fn forget_vanished(&mut self, present: &BTreeMap<PathBuf, Stamp>) -> Vec<(String, PathBuf)> {
        let is_gone = |path: &PathBuf| !present.contains_key(path);
        if self.files.keys().any(is_gone) {
            // What was refused may have been so for the sake of what is gone: it is looked at again.
            let running: BTreeSet<_> = self.running.values().map(|origin| &origin.path).collect();
            self.files.retain(|path, _| !is_gone(path) && running.contains(path));
        }
        let stopped = self.running.extract_if(.., |_, origin| is_gone(&origin.path));
        stopped.map(|(name, origin)| (name, origin.path)).collect()
    }

    /// Whether the configuration disables a plugin.
    pub(super) fn is_disabled(&self, plugin: &str) -> bool {
        self.disabled.iter().any(|disabled| disabled == plugin)
    }

    /// The plugin that runs from a file, perhaps in an earlier version.
    pub(super) fn running_from(&self, path: &Path) -> Option<&str> {
        self.running.iter().find(|(_, origin)| origin.path == path).map(|(name, _)| name.as_str())
    }

    /// The plugin that runs exactly these bytes from this file.
    pub(super) fn running_version(&self, path: &Path, sha256: &str) -> Option<&str> {
        self.running_from(path).filter(|name| self.running[*name].sha256 == sha256)
    }

    /// Why the plugin that was found in a file cannot run from it, if it cannot.
    pub(super) fn objection(&self, path: &Path, plugin: &str) -> Option<String> {
        if let Some(other) = self.running.get(plugin).filter(|origin| origin.path != path) {
            return Some(format!("plugin {plugin} already runs from {}", other.path.display()));
        }
        let before = self.running_from(path).filter(|before| *before != plugin)?;
        Some(format!("it is called {plugin} now: remove the file first to replace {before}"))
    }

    /// Takes note that what is in a file runs now.
    pub(super) fn runs(&mut self, path: &Path, plugin: &str, sha256: &str) {
        let origin = Origin { path: path.to_owned(), sha256: sha256.to_owned() };
        self.running.insert(plugin.to_owned(), origin);
        if let Some(known) = self.files.get_mut(path) {
            known.idle = None;
        }
    }

    /// Takes note of why what is in a file does not run.
    pub(super) fn set_idle(&mut self, path: &Path, idle: Idle) {
        if let Some(known) = self.files.get_mut(path) {
            known.idle = Some(idle);
        }
    }

    /// Why what is in a file does not run.
    pub(super) fn idle(&self, path: &Path) -> Option<&Idle> {
        self.files.get(path)?.idle.as_ref()
    }

    /// Lets misplaced plugins change places, as after two files were exchanged, and names the files to
    /// be started or replaced. No plugin is lost by it: one that runs from such a file is found in
    /// another one of them, and one that is found in such a file runs from another one of them or not
    /// at all.
    pub(super) fn move_misplaced(&mut self) -> Vec<PathBuf> {
        let mut found: BTreeMap<String, PathBuf> = BTreeMap::new();
        for (path, known) in &self.files {
            let Some(Idle::Misplaced(plugin)) = &known.idle else { continue };
            if !found.contains_key(plugin) || has_its_name(path, plugin) {
                found.insert(plugin.clone(), path.clone());
            }
        }
        loop {
            let can_move = |plugin: &String, path: &PathBuf| {
                let origin = self.running.get(plugin).map(|origin| &origin.path);
                origin.is_none_or(|origin| found.values().any(|path| path == origin))
                    && self.running_from(path).is_none_or(|before| found.contains_key(before))
            };
            let movable: BTreeMap<_, _> =
                found.iter().filter(|(plugin, path)| can_move(plugin, path)).collect();
            if movable.len() == found.len() {
                break;
            }
            found = movable.into_iter().map(|(plugin, path)| (plugin.clone(), path.clone())).collect();
        }
        for (plugin, path) in &found {
            if let Some(origin) = self.running.get_mut(plugin) {
                origin.path.clone_from(path);
            }
        }
        found.into_values().collect()
    }

    /// Writes anew what the status says of files that do not run: a row each, or a remark at the plugin
    /// that runs in its place. So nothing is left there of files that are gone or good again.
    pub(super) fn show_in(&self, rows: &mut BTreeMap<String, PluginStatus>) {
        rows.retain(|_, row| has_run(&row.state));
        rows.values_mut().for_each(|row| row.rejected.clear());
        for (directory, why) in &self.unreadable {
            let name = directory.display().to_string();
            rows.insert(name.clone(), row(name, directory, PluginState::Refused, why.clone()));
        }
        for (path, known) in &self.files {
            let Some(idle) = &known.idle else { continue };
            let (name, state, reason) = self.shown(path, idle);
            // A plugin that has the file's name may run from another file.
            let stem = stem(path);
            let running = self.running_from(path).unwrap_or(&stem);
            let running = rows.get_mut(running).filter(|_| self.running.contains_key(running));
            match (running, &state) {
                (Some(running), PluginState::Refused) => running.rejected = reason,
                (Some(_), _) => {}
                (None, _) => drop(rows.insert(name.clone(), row(name, path, state, reason))),
            }
        }
    }

    fn shown(&self, path: &Path, idle: &Idle) -> (String, PluginState, String) {
        match idle {
            Idle::Compiling(which) => (stem(path), PluginState::Compiling, which.clone()),
            Idle::Refused(why) => (stem(path), PluginState::Refused, why.clone()),
            Idle::Misplaced(plugin) => {
                (stem(path), PluginState::Refused, self.objection(path, plugin).unwrap_or_default())
            }
            Idle::Disabled(name) => {
                (name.clone(), PluginState::Disabled, "plugins.disabled names it".to_owned())
            }
        }
    }
}

/// File name without `.wasm`.
pub(super) fn stem(path: &Path) -> String {
    path.file_stem().map_or_else(String::new, |stem| stem.to_string_lossy().into_owned())
}

/// Whether a file is called like the plugin in it: of two files with the same plugin, that one wins.
pub(super) fn has_its_name(path: &Path, plugin: &str) -> bool {
    stem(path) == plugin
}

/// Whether a plugin is or was running, as opposed to a file that is not used.
fn has_run(state: &PluginState) -> bool {
    !matches!(state, PluginState::Compiling | PluginState::Refused | PluginState::Disabled)
}

/// A row for what does not run.
fn row(name: String, file: &Path, state: PluginState, reason: String) -> PluginStatus {
    PluginStatus { name, file: file.display().to_string(), state, reason, ..PluginStatus::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIRECTORY: &str = "/plugins";

    fn path(file: &str) -> PathBuf {
        Path::new(DIRECTORY).join(format!("{file}.wasm"))
    }

    /// Files by name and the number of their version.
    fn listing(files: &[(&str, u64)]) -> Listing {
        let files = files.iter().map(|(file, version)| {
            let stamp = Stamp { inode: *version, ..Stamp::default() };
            (path(file), stamp)
        });
        BTreeMap::from([(PathBuf::from(DIRECTORY), Ok(files.collect()))])
    }

    /// What a look at the files and the plugins in those that changed leads to: where each plugin runs.
    fn look(catalog: &mut Catalog, files: &[(&str, u64)], plugins: &[(&str, &str)]) -> Vec<(String, String)> {
        let plugin = |file: &Path| plugins.iter().find(|(name, _)| path(name) == file).expect("known").1;
        let changed = catalog.update(listing(files)).changed;
        start(catalog, &changed, plugin);
        let moved = catalog.move_misplaced();
        start(catalog, &moved, plugin);
        catalog.running.iter().map(|(name, origin)| (name.clone(), stem(&origin.path))).collect()
    }

    fn start<'a>(catalog: &mut Catalog, files: &[PathBuf], plugin: impl Fn(&Path) -> &'a str) {
        for path in files {
            let plugin = plugin(path);
            match catalog.objection(path, plugin) {
                Some(_) => catalog.set_idle(path, Idle::Misplaced(plugin.to_owned())),
                None => catalog.runs(path, plugin, "1"),
            }
        }
    }

    fn places(places: &[(&str, &str)]) -> Vec<(String, String)> {
        places.iter().map(|(plugin, file)| ((*plugin).to_owned(), (*file).to_owned())).collect()
    }

    /// State, reason and remark of each row.
    fn rows(catalog: &Catalog, mut rows: BTreeMap<String, PluginStatus>) -> Vec<(String, String)> {
        catalog.show_in(&mut rows);
        let text = |row: PluginStatus| format!("{} {}{}", row.state, row.reason, row.rejected);
        rows.into_iter().map(|(name, row)| (name, text(row).trim_end().to_owned())).collect()
    }

    fn running(plugins: &[&str]) -> BTreeMap<String, PluginStatus> {
        let row = |name: &str| PluginStatus {
            name: name.to_owned(),
            state: PluginState::Running,
            ..PluginStatus::default()
        };
        plugins.iter().map(|name| ((*name).to_owned(), row(name))).collect()
    }

    #[test]
    fn only_what_is_new_or_another_file_than_before_is_looked_into() {
        let mut catalog = Catalog::new(Vec::new());
        assert_eq!(catalog.update(listing(&[("a", 1), ("b", 1)])).changed, [path("a"), path("b")]);
        catalog.runs(&path("a"), "a", "1");
        catalog.runs(&path("b"), "b", "1");
        assert_eq!(catalog.update(listing(&[("a", 1), ("b", 2)])).changed, [path("b")]);
        assert_eq!(catalog.update(listing(&[("a", 1), ("b", 2)])), Changes::default());
        let changes = catalog.update(listing(&[("a", 1)]));
        assert_eq!(changes.stopped, [("b".to_owned(), path("b"))]);
        assert!(changes.changed.is_empty());
    }

    #[test]
    fn a_directory_that_cannot_be_read_stops_nothing_and_has_a_row() {
        let mut catalog = Catalog::new(Vec::new());
        look(&mut catalog, &[("a", 1)], &[("a", "a")]);
        let unreadable = BTreeMap::from([(PathBuf::from(DIRECTORY), Err("no".to_owned()))]);
        assert_eq!(catalog.update(unreadable), Changes::default());
        let shown = [(DIRECTORY.to_owned(), "refused no".to_owned()), ("a".to_owned(), "running".to_owned())];
        assert_eq!(rows(&catalog, running(&["a"])), shown);
        catalog.update(listing(&[("a", 1)]));
        assert_eq!(rows(&catalog, running(&["a"])), shown[1..]);
    }

    #[test]
    fn a_plugin_runs_from_one_file_and_from_the_other_once_that_is_gone() {
        let mut catalog = Catalog::new(Vec::new());
        let both = [("other", "a"), ("a", "a")];
        let files = [("a", 1), ("other", 1)];
        assert_eq!(look(&mut catalog, &files, &both), places(&[("a", "a")]));
        let why = "refused plugin a already runs from /plugins/a.wasm".to_owned();
        assert_eq!(rows(&catalog, running(&["a"]))[1], ("other".to_owned(), why));
        assert_eq!(look(&mut catalog, &[("other", 1)], &both), places(&[("a", "other")]));
    }

    #[test]
    fn a_file_with_another_plugin_than_before_leaves_the_old_one_running() {
        let mut catalog = Catalog::new(Vec::new());
        look(&mut catalog, &[("a", 1)], &[("a", "a")]);
        assert_eq!(look(&mut catalog, &[("a", 2)], &[("a", "c")]), places(&[("a", "a")]));
        let why = "running it is called c now: remove the file first to replace a".to_owned();
        assert_eq!(rows(&catalog, running(&["a"])), [("a".to_owned(), why)]);
    }

    #[test]
    fn the_plugins_of_two_files_that_were_exchanged_change_places() {
        let mut catalog = Catalog::new(Vec::new());
        look(&mut catalog, &[("a", 1), ("b", 2)], &[("a", "a"), ("b", "b")]);
        let exchanged = look(&mut catalog, &[("a", 2), ("b", 1)], &[("a", "b"), ("b", "a")]);
        assert_eq!(exchanged, places(&[("a", "b"), ("b", "a")]));
        let shown = [("a".to_owned(), "running".to_owned()), ("b".to_owned(), "running".to_owned())];
        assert_eq!(rows(&catalog, running(&["a", "b"])), shown);
        let back = look(&mut catalog, &[("a", 1), ("b", 2)], &[("a", "a"), ("b", "b")]);
        assert_eq!(back, places(&[("a", "a"), ("b", "b")]));
    }

    #[test]
    fn three_files_may_change_places_and_one_after_the_other() {
        let mut catalog = Catalog::new(Vec::new());
        let own = [("a", "a"), ("b", "b"), ("c", "c")];
        look(&mut catalog, &[("a", 1), ("b", 1), ("c", 1)], &own);
        let moved = [("a", "b"), ("b", "c"), ("c", "a")];
        let unmoved = places(&own);
        assert_eq!(look(&mut catalog, &[("a", 2), ("b", 1), ("c", 1)], &moved), unmoved);
        assert_eq!(look(&mut catalog, &[("a", 2), ("b", 2), ("c", 1)], &moved), unmoved);
        let places = places(&[("a", "c"), ("b", "a"), ("c", "b")]);
        assert_eq!(look(&mut catalog, &[("a", 2), ("b", 2), ("c", 2)], &moved), places);
    }

    #[test]
    fn a_plugin_whose_file_was_away_during_the_exchange_finds_its_place() {
        let mut catalog = Catalog::new(Vec::new());
        look(&mut catalog, &[("a", 1), ("b", 2)], &[("a", "a"), ("b", "b")]);
        assert_eq!(look(&mut catalog, &[("a", 2)], &[("a", "b")]), places(&[("a", "a")]));
        let exchanged = look(&mut catalog, &[("a", 2), ("b", 1)], &[("a", "b"), ("b", "a")]);
        assert_eq!(exchanged, places(&[("a", "b"), ("b", "a")]));
    }

    #[test]
    fn no_plugin_changes_places_if_another_one_would_be_lost() {
        let mut catalog = Catalog::new(Vec::new());
        look(&mut catalog, &[("a", 1), ("b", 1)], &[("a", "a"), ("b", "b")]);
        let half = look(&mut catalog, &[("a", 2), ("b", 2)], &[("a", "b"), ("b", "c")]);
        assert_eq!(half, places(&[("a", "a"), ("b", "b")]));
    }

    #[test]
    fn what_is_said_of_a_file_stands_at_what_runs_in_its_place() {
        let mut catalog = Catalog::new(vec!["off".to_owned()]);
        look(
            &mut catalog,
            &[("a", 1), ("b", 1), ("c", 1), ("d", 1)],
            &[("a", "a"), ("b", "b"), ("c", "c"), ("d", "d")],
        );
        catalog.running.retain(|name, _| name == "a");
        catalog.set_idle(&path("a"), Idle::Refused("bad".to_owned()));
        catalog.set_idle(&path("b"), Idle::Refused("worse".to_owned()));
        catalog.set_idle(&path("c"), Idle::Compiling("1 of 2".to_owned()));
        catalog.set_idle(&path("d"), Idle::Disabled("off".to_owned()));
        assert!(catalog.is_disabled("off"));
        let shown = [
            ("a", "running bad"),
            ("b", "refused worse"),
            ("c", "compiling 1 of 2"),
            ("off", "disabled plugins.disabled names it"),
        ];
        assert_eq!(rows(&catalog, running(&["a"])), places(&shown));
        catalog.update(listing(&[]));
        assert!(rows(&catalog, BTreeMap::new()).is_empty());
    }
}
