//! The store of plugin series: plugins declare metrics, intern series and apply updates; the host
//! owns every value, so a plugin's restart or replacement resets no counter.
//!
//! What a guest says is checked where it enters (`declaration`, `series`). Each plugin has its own
//! lock, taken once per call and never while another one is held except to register. How values
//! are written out is in `exposition`; nothing here does I/O.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

pub use crate::declaration::{Decl, DeclError, MetricKind};
use crate::entities::{Entities, EntityId};
use crate::loss::{Loss, Lost, Stage};
pub use crate::series::SeriesError;
use crate::series::{Family, Refused, Store};

/// How many samples a scrape may show.
#[derive(Debug, Clone, Copy)]
pub struct Budget {
    /// Of one plugin; a histogram series counts its buckets, sum and count.
    pub per_plugin: u32,
    /// Of all plugins together.
    pub per_agent: u32,
}

impl Default for Budget {
    fn default() -> Self {
        Self { per_plugin: 100_000, per_agent: 200_000 }
    }
}

/// A metric as `list metric` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FamilyInfo {
    /// Plugin that declares it.
    pub plugin: String,
    /// Name as it is exposed.
    pub name: String,
    /// What `apply` does.
    pub kind: MetricKind,
    /// Its help text.
    pub help: String,
    /// Names of its own labels.
    pub labels: Vec<String>,
    /// Label sets it has now.
    pub series: u64,
}

/// All metrics of all plugins.
#[derive(Debug)]
pub struct Metrics {
    plugins: Mutex<Plugins>,
    /// Samples of all plugins.
    samples: Arc<AtomicU64>,
    budget: Budget,
    entities: Arc<Entities>,
    loss: Arc<Loss>,
}

/// A plugin instance's handle to its series.
///
/// Two instances of one plugin may hold handles at the same time, while one replaces the other:
/// they share the families that both declare alike. A family that no live handle declares goes
/// as soon as there is a live handle, so values outlast a restart, and a replacement that fails
/// takes nothing away from the instance that goes on.
#[derive(Debug)]
pub struct PluginSeries {
    store: Arc<Mutex<Store>>,
    /// Family number of each declared metric.
    families: Vec<u32>,
    entities: Arc<Entities>,
    refused: Lost,
}

type Plugins = BTreeMap<String, Arc<Mutex<Store>>>;

impl Metrics {
    /// An empty store.
    pub fn new(budget: Budget, entities: Arc<Entities>, loss: Arc<Loss>) -> Self {
        Self { plugins: Mutex::default(), samples: Arc::default(), budget, entities, loss }
    }

    /// Checks what a plugin declares and hands out its series; values of metrics that are declared
    /// as they were before are kept.
    ///
    /// # Errors
    /// The first declaration that is invalid or takes a name of another plugin or of the agent;
    /// nothing has changed then.
    pub fn register(&self, plugin: &str, decls: &[Decl]) -> Result<PluginSeries, DeclError> {
        if decls.len() > crate::declaration::MAX_METRICS {
            return Err(DeclError::TooMany);
        }
        let mut plugins = lock(&self.plugins);
        check_names(&plugins, plugin, decls)?;
        let entry = plugins.entry(plugin.to_owned()).or_insert_with(|| self.new_store());
        let (store, families) = (Arc::clone(entry), lock(entry).open(decls));
        let (entities, refused) = (Arc::clone(&self.entities), self.loss.cell(Stage::Quota, plugin));
        Ok(PluginSeries { store, families, entities, refused })
    }

    /// Drops all metrics of a plugin that is gone; its handles are refused from now on.
    pub fn unregister(&self, plugin: &str) {
        if let Some(entry) = lock(&self.plugins).remove(plugin) {
            lock(&entry).drop_all();
        }
    }

    /// Drops the series of entities that vanished, and those that late events have made since for
    /// entities that are forgotten by now.
    pub fn remove_entities(&self, ids: &[EntityId]) {
        let mut kept: HashMap<EntityId, bool> = ids.iter().map(|id| (*id, false)).collect();
        let mut keep = |id| *kept.entry(id).or_insert_with(|| is_known(&self.entities, id));
        let stores: Vec<_> = lock(&self.plugins).values().cloned().collect();
        for store in stores {
            lock(&store).retain_entities(&mut keep);
        }
    }

    /// Every metric that is exposed, by name.
    pub fn families(&self) -> Vec<FamilyInfo> {
        let describe = |exposed: Exposed| {
            exposed.read(|family| FamilyInfo {
                plugin: exposed.plugin.clone(),
                name: family.decl.name.clone(),
                kind: family.decl.kind,
                help: family.decl.help.clone(),
                labels: family.decl.labels.clone(),
                series: family.series.len() as u64,
            })
        };
        self.exposed().into_iter().filter_map(describe).collect()
    }

    /// Samples that a plugin exposes now.
    pub fn series_count(&self, plugin: &str) -> u64 {
        lock(&self.plugins).get(plugin).map_or(0, |entry| lock(entry).samples())
    }

    /// The families to expose, by name, such that no two of them share a sample's name: while one
    /// version of a plugin replaces another, the newer family of a name is shown.
    pub(crate) fn exposed(&self) -> Vec<Exposed> {
        let mut all = Vec::new();
        for (plugin, entry) in lock(&self.plugins).iter() {
            let store = lock(entry);
            let mut claimed = HashSet::new();
            for (number, family) in store.families() {
                let claims = family.decl.claims();
                if claims.iter().any(|name| claimed.contains(name)) {
                    continue;
                }
                claimed.extend(claims);
                let (name, store) = (family.decl.name.clone(), Arc::clone(entry));
                all.push(Exposed { plugin: plugin.clone(), name, store, number });
            }
        }
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    fn new_store(&self) -> Arc<Mutex<Store>> {
        let (plugin, agent) = (self.budget.per_plugin.into(), self.budget.per_agent.into());
        Arc::new(Mutex::new(Store::new(plugin, Arc::clone(&self.samples), agent)))
    }
}

/// A family that is to be exposed.
pub(crate) struct Exposed {
    plugin: String,
    name: String,
    store: Arc<Mutex<Store>>,
    number: u32,
}

impl Exposed {
    /// Looks at the family under its plugin's lock; `None` if it is gone by now.
    pub(crate) fn read<T>(&self, look: impl FnOnce(&Family) -> T) -> Option<T> {
        lock(&self.store).family(self.number).map(look)
    }
}

impl PluginSeries {
    /// The id of a series: `metric` is an index into the declarations, `labels` their values.
    ///
    /// Past the budget it is that of the entity's series whose labels all say `other`.
    ///
    /// # Errors
    /// See [`SeriesError`].
    pub fn series(&self, metric: u32, entity: EntityId, labels: Vec<String>) -> Result<u32, SeriesError> {
        let number = *self.families.get(metric as usize).ok_or(SeriesError::NotFound)?;
        if !is_known(&self.entities, entity) {
            return Err(SeriesError::NotFound);
        }
        let interned = lock(&self.store).intern(number, entity, &labels);
        let over = matches!(&interned, Err(SeriesError::Quota)) || interned.as_ref().is_ok_and(|i| i.folded);
        self.refused.add(over.into());
        Ok(interned?.id)
    }

    /// Applies `values[i]` to `series[i]` and returns how many were refused.
    ///
    /// Senseless values count as loss. Updates of series that went away with their entity do
    /// not: that is what is meant to happen to them.
    pub fn apply(&self, series: &[u32], values: &[f64]) -> u32 {
        let mut store = lock(&self.store);
        let (mut stale, mut senseless) = (0, series.len().abs_diff(values.len()) as u32);
        for (id, value) in series.iter().zip(values) {
            match store.apply(*id, *value) {
                Ok(()) => {}
                Err(Refused::Stale) => stale += 1,
                Err(Refused::Value) => senseless += 1,
            }
        }
        self.refused.add(senseless.into());
        stale + senseless
    }
}

impl Drop for PluginSeries {
    fn drop(&mut self) {
        lock(&self.store).close(&self.families);
    }
}

/// Refuses invalid declarations and names that are taken, also by samples of a histogram.
fn check_names(plugins: &Plugins, plugin: &str, decls: &[Decl]) -> Result<(), DeclError> {
    let mut taken = BTreeMap::new();
    for (owner, entry) in plugins.iter().filter(|(owner, _)| *owner != plugin) {
        let store = lock(entry);
        let claims = store.families().flat_map(|(_, family)| family.decl.claims());
        taken.extend(claims.map(|name| (name, owner.clone())));
    }
    for decl in decls {
        decl.check()?;
        for claim in decl.claims() {
            if let Some(owner) = taken.insert(claim, plugin.to_owned()) {
                return Err(DeclError::Taken { name: decl.name.clone(), owner });
            }
        }
    }
    Ok(())
}

/// Whether there is such an entity, also if it vanished a moment ago; 0 is "unknown", not nobody.
fn is_known(entities: &Entities, id: EntityId) -> bool {
    id == 0 || entities.get(id).is_some()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
