//! The store of plugin series: plugins declare metrics, intern series and apply updates; the host
//! owns every value, so a plugin's restart or replacement resets no counter.
//!
//! What a guest says is checked where it enters (`declaration`, `series`). Each plugin has its own
//! lock, taken once per call and never while another one is held except to register. How values
//! are written out is in `exposition`; nothing here does I/O.
//!
//! Longer than other files, because all that changes the series of a plugin goes by its one lock.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use crate::entities::{Entities, EntityId};
use crate::loss::{Loss, Lost, Stage};
use crate::series::choice::Choice;
pub use crate::series::declaration::{Decl, DeclError, MetricKind};
use crate::series::family::{Family, Refused};
pub use crate::series::ids::SeriesError;
use crate::series::ids::Store;

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
        Self { per_plugin: 250_000, per_agent: 500_000 }
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
    choice: Choice,
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
    /// Family number of each declared metric, and whether it is shown.
    families: Vec<(u32, bool)>,
    entities: Arc<Entities>,
    refused: Lost,
}

type Plugins = BTreeMap<String, Arc<Mutex<Store>>>;

impl Metrics {
    /// An empty store.
    pub fn new(budget: Budget, entities: Arc<Entities>, loss: Arc<Loss>) -> Self {
        let choice = Choice::default();
        Self { plugins: Mutex::default(), samples: Arc::default(), budget, choice, entities, loss }
    }

    /// With these metrics only.
    pub fn choosing(self, choice: Choice) -> Self {
        Self { choice, ..self }
    }

    /// Patterns of the choice that match no metric of any plugin.
    pub fn strangers(&self) -> Vec<String> {
        let of = |entry: &Arc<Mutex<Store>>| {
            lock(entry).families().map(|(_, family)| family.decl.name.clone()).collect::<Vec<_>>()
        };
        let names: Vec<_> = lock(&self.plugins).values().flat_map(of).collect();
        self.choice.strangers(&names).cloned().collect()
    }

    /// Checks what a plugin declares and hands out its series; values of metrics that are declared
    /// as they were before are kept.
    ///
    /// # Errors
    /// The first declaration that is invalid or takes a name of another plugin or of the agent;
    /// nothing has changed then.
    pub fn register(&self, plugin: &str, decls: &[Decl]) -> Result<PluginSeries, DeclError> {
        if decls.len() > crate::series::declaration::MAX_METRICS {
            return Err(DeclError::TooMany);
        }
        let mut plugins = lock(&self.plugins);
        check_names(&plugins, plugin, decls)?;
        let entry = plugins.entry(plugin.to_owned()).or_insert_with(|| self.new_store());
        let (store, numbers) = (Arc::clone(entry), lock(entry).open(decls));
        let is_shown = decls.iter().map(|decl| self.choice.takes(&decl.name));
        let families = numbers.into_iter().zip(is_shown).collect();
        let (entities, refused) = (Arc::clone(&self.entities), self.loss.cell(Stage::Quota, plugin));
        Ok(PluginSeries { store, families, entities, refused })
    }

    /// Drops all metrics of a plugin that is gone; its handles are refused from now on.
    pub fn unregister(&self, plugin: &str) {
        if let Some(entry) = lock(&self.plugins).remove(plugin) {
            lock(&entry).drop_all();
        }
    }

    /// Takes a plugin that stopped for long out of the scrape: its last values would be read as the
    /// present ones. Counters and histograms keep what they counted, so none is reset.
    pub fn hide(&self, plugin: &str) {
        if let Some(entry) = lock(&self.plugins).get(plugin) {
            lock(entry).hide();
        }
    }

    /// Shows a plugin again that runs again.
    pub fn show(&self, plugin: &str) {
        if let Some(entry) = lock(&self.plugins).get(plugin) {
            lock(entry).show();
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

    /// Whether a plugin gets no further series, because its budget or that of all is used up.
    pub fn is_full(&self, plugin: &str) -> bool {
        lock(&self.plugins).get(plugin).is_some_and(|entry| lock(entry).is_full())
    }

    /// The families to expose, by name, such that no two of them share a sample's name: while one
    /// version of a plugin replaces another, the newer family of a name is shown.
    pub(crate) fn exposed(&self) -> Vec<Exposed> {
        let mut all = Vec::new();
        for (plugin, entry) in lock(&self.plugins).iter() {
            let store = lock(entry);
            if store.is_hidden() {
                continue;
            }
            let mut claimed = HashSet::new();
            for (number, family) in store.families() {
                let claims = family.decl.claims();
                if !self.choice.takes(&family.decl.name) {
                    continue;
                }
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
        let (number, is_shown) = *self.families.get(metric as usize).ok_or(SeriesError::NotFound)?;
        if !is_known(&self.entities, entity) {
            return Err(SeriesError::NotFound);
        }
        // Of a metric that is not shown all series are one, so that its analyzer need not know.
        let (entity, labels) =
            if is_shown { (entity, labels) } else { (0, vec![String::new(); labels.len()]) };
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
        let updates = series.iter().zip(values).map(|(id, value)| store.apply(*id, *value));
        self.count_refused(updates, series.len().abs_diff(values.len()))
    }

    /// Observes `values[i]` `times[i]` times in the histogram `series[i]` and returns how many of
    /// these were refused; what is no histogram or has no value counts as loss.
    pub fn observe(&self, series: &[u32], values: &[f64], times: &[u64]) -> u32 {
        let mut store = lock(&self.store);
        let [shortest, .., longest] = sorted([series.len(), values.len(), times.len()]);
        let entries = series.iter().zip(values).zip(times);
        let updates = entries.map(|((id, value), times)| store.observe(*id, *value, *times));
        self.count_refused(updates, longest - shortest)
    }

    /// How many were refused, `unmatched` among them: entries of one list without one in another.
    fn count_refused(&self, updates: impl Iterator<Item = Result<(), Refused>>, unmatched: usize) -> u32 {
        let (mut stale, mut senseless) = (0, unmatched as u32);
        for update in updates {
            match update {
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
        let numbers: Vec<u32> = self.families.iter().map(|(number, _)| *number).collect();
        lock(&self.store).close(&numbers);
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

fn sorted<const N: usize>(mut lengths: [usize; N]) -> [usize; N] {
    lengths.sort_unstable();
    lengths
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::Process;
    use crate::view::View;
    use crate::view::exposition::Format;

    const HITS: &str = "hits_total";

    fn counter(labels: &[&str]) -> Decl {
        Decl::test(HITS, MetricKind::Counter, labels)
    }

    /// The lines of plugin series in a scrape.
    fn scrape(view: &View) -> Vec<String> {
        let bytes = view.scrape(&Process::default(), Format::Text, 0);
        let text = String::from_utf8(bytes).expect("UTF-8");
        let ours = |line: &&str| !line.starts_with(['#', 'i', 'p']);
        text.lines().filter(ours).map(str::to_owned).collect()
    }

    fn count(view: &View) -> String {
        let line = scrape(view).into_iter().find(|line| line.starts_with(HITS));
        line.map_or_else(String::new, |line| line.rsplit_once(' ').expect("a value").1.to_owned())
    }

    #[test]
    fn a_restart_keeps_what_is_declared_alike_and_drops_the_rest() {
        let view = View::test();
        let old = [counter(&[]), Decl::test("x", MetricKind::Gauge, &["a"])];
        let first = view.metrics.register("p", &old).expect("valid");
        let id = first.series(0, 0, vec![]).expect("room");
        first.series(1, 0, vec!["v".into()]).expect("room");
        assert_eq!(first.apply(&[id], &[2.0]), 0);
        drop(first);
        assert_eq!(count(&view), "2");
        let new = [Decl::test("x", MetricKind::Gauge, &["b"]), counter(&[])];
        let second = view.metrics.register("p", &new).expect("valid");
        let id = second.series(1, 0, vec![]).expect("room");
        second.apply(&[id], &[3.0]);
        assert_eq!(count(&view), "5");
        assert_eq!(view.metrics.series_count("p"), 1);
    }

    #[test]
    fn a_replacement_that_fails_takes_nothing_from_the_one_that_goes_on() {
        let view = View::test();
        let old = view.metrics.register("p", &[counter(&["a"])]).expect("valid");
        let id = old.series(0, 0, vec!["v".into()]).expect("room");
        let new = view.metrics.register("p", &[counter(&["b"])]).expect("valid");
        let other = new.series(0, 0, vec!["w".into()]).expect("room");
        new.apply(&[other], &[9.0]);
        assert_eq!(scrape(&view).len(), 1, "two families of one name are never shown together");
        drop(new);
        assert_eq!(old.apply(&[id], &[1.0]), 0);
        assert_eq!(count(&view), "1");
        assert_eq!(view.metrics.series_count("p"), 1);
    }

    #[test]
    fn a_plugin_that_stopped_shows_nothing_and_goes_on_counting_where_it_was() {
        let view = View::test();
        let decls = [counter(&[]), Decl::test("depth", MetricKind::Gauge, &[])];
        let series = view.metrics.register("p", &decls).expect("valid");
        let ids = [0, 1].map(|metric| series.series(metric, 0, vec![]).expect("room"));
        series.apply(&ids, &[2.0, 7.0]);
        drop(series);
        view.metrics.hide("p");
        assert!(scrape(&view).is_empty(), "{:?}", scrape(&view));
        assert!(view.metrics.families().is_empty());
        let again = view.metrics.register("p", &decls).expect("valid");
        assert!(scrape(&view).is_empty(), "it does not run yet");
        view.metrics.show("p");
        assert_eq!(scrape(&view).len(), 1, "what the gauge was is not what it is: {:?}", scrape(&view));
        let id = again.series(0, 0, vec![]).expect("room");
        again.apply(&[id], &[3.0]);
        assert_eq!(count(&view), "5");
    }

    #[test]
    fn an_id_of_a_removed_series_never_means_another_one() {
        let view = View::test();
        let (a, b) = (view.test_entity(1, "a"), view.test_entity(2, "b"));
        let series = view.metrics.register("p", &[counter(&[])]).expect("valid");
        let old = series.series(0, a, vec![]).expect("room");
        view.metrics.remove_entities(&[a]);
        let new = series.series(0, b, vec![]).expect("room");
        assert_ne!(old, new);
        assert_eq!(series.apply(&[old, new, u32::MAX], &[5.0, 1.0, 1.0]), 2);
        assert_eq!(scrape(&view), [r#"hits_total{namespace="",pod="b",node="n1"} 1"#]);
        assert_eq!(series.series(0, 77, vec![]), Err(SeriesError::NotFound));
        view.metrics.unregister("p");
        assert_eq!(series.apply(&[new], &[1.0]), 1);
        assert_eq!(series.series(0, b, vec![]), Err(SeriesError::NotFound));
    }

    #[test]
    fn label_sets_over_budget_are_one_series_per_entity_and_counted() {
        let view = View::test();
        let (a, b) = (view.test_entity(1, "a"), view.test_entity(2, "b"));
        let decl = Decl { max_series: 3, ..counter(&["port"]) };
        let series = view.metrics.register("p", &[decl]).expect("valid");
        for port in 0..10 {
            let id = series.series(0, a, vec![port.to_string()]).expect("folded");
            series.apply(&[id], &[1.0]);
        }
        let id = series.series(0, b, vec!["1".into()]).expect("folded");
        series.apply(&[id], &[1.0]);
        let lines = scrape(&view);
        assert_eq!(lines.len(), 5, "{lines:?}");
        assert!(lines.contains(&r#"hits_total{namespace="",pod="a",node="n1",port="other"} 7"#.to_owned()));
        assert!(lines.contains(&r#"hits_total{namespace="",pod="b",node="n1",port="other"} 1"#.to_owned()));
        assert_eq!(view.loss.cell(Stage::Quota, "p").get(), 8);
    }

    #[test]
    fn no_plugin_gets_more_samples_than_its_budget() {
        let loss = Arc::<Loss>::default();
        let budget = Budget { per_plugin: 80, per_agent: 100 };
        let metrics = Metrics::new(budget, Arc::default(), Arc::clone(&loss));
        let histogram = Decl::test("x_seconds", MetricKind::Histogram, &["a"]);
        let p = metrics.register("p", std::slice::from_ref(&histogram)).expect("valid");
        let q = metrics.register("q", &[counter(&["a"])]).expect("valid");
        for i in 0..1000 {
            let _ = p.series(0, 0, vec![i.to_string()]);
            let _ = q.series(0, 0, vec![i.to_string()]);
        }
        assert!(metrics.series_count("p") <= 80 && metrics.series_count("q") <= 80);
        assert!(metrics.series_count("p") + metrics.series_count("q") <= 100);
        drop((p, q));
        metrics.unregister("p");
        metrics.unregister("q");
        let r = metrics.register("r", &[histogram]).expect("valid");
        assert!(r.series(0, 0, vec!["v".into()]).is_ok(), "what is gone is not counted");
        assert_eq!(metrics.series_count("r"), 5);
    }

    #[test]
    fn senseless_values_are_refused_and_counted() {
        let view = View::test();
        let decls = [counter(&[]), Decl::test("x", MetricKind::Histogram, &[])];
        let series = view.metrics.register("p", &decls).expect("valid");
        let (hits, x) =
            (series.series(0, 0, vec![]).expect("room"), series.series(1, 0, vec![]).expect("room"));
        let values = [-1.0, f64::NAN, f64::INFINITY, 1.0, f64::NAN, 0.5];
        assert_eq!(series.apply(&[hits, hits, hits, hits, x, x, x], &values), 5);
        assert_eq!(count(&view), "1");
        assert_eq!(view.loss.cell(Stage::Quota, "p").get(), 5);
        assert_eq!(series.series(0, 0, vec!["v".into()]), Err(SeriesError::Invalid));
        assert_eq!(series.series(2, 0, vec![]), Err(SeriesError::NotFound));
    }

    #[test]
    fn what_was_counted_elsewhere_is_observed_at_once() {
        let view = View::test();
        let decls = [counter(&[]), Decl::test("x", MetricKind::Histogram, &[])];
        let series = view.metrics.register("x", &decls).expect("valid");
        let (hits, x) =
            (series.series(0, 0, vec![]).expect("room"), series.series(1, 0, vec![]).expect("room"));
        assert_eq!(series.observe(&[x, x, x], &[0.1, 0.25, 5.0], &[4, 2, 1]), 0);
        assert_eq!(series.apply(&[x], &[0.25]), 0);
        let bytes = view.scrape(&Process::default(), Format::Text, 0);
        let text = String::from_utf8(bytes).expect("UTF-8");
        let sample = |name: &str, le: &str| {
            let line = text.lines().find(|line| line.starts_with(name) && line.contains(le));
            line.and_then(|line| line.rsplit_once(' ')).map(|(_, value)| value.to_owned())
        };
        let buckets = ["0.1", "1.0", "+Inf"].map(|le| sample("x_bucket", &format!("le=\"{le}\"")));
        assert_eq!(buckets, ["4", "7", "8"].map(|n| Some(n.to_owned())));
        assert_eq!((sample("x_count", ""), sample("x_sum", "")), (Some("8".into()), Some("6.15".into())));
        // No histogram, no such series, no finite sum, no count for the last value.
        assert_eq!(series.observe(&[hits, u32::MAX, x, x], &[1.0, 1.0, f64::MAX, 1.0], &[1, 1, u64::MAX]), 4);
        assert_eq!(view.loss.cell(Stage::Quota, "x").get(), 3, "an id that is gone is no loss");
        assert_eq!(count(&view), "0");
    }

    #[test]
    fn counts_of_a_guest_end_at_the_largest_number_and_buckets_never_go_down() {
        let view = View::test();
        let decls = [counter(&[]), Decl::test("x", MetricKind::Histogram, &[])];
        let series = view.metrics.register("x", &decls).expect("valid");
        for (cookie, name) in [(1, "web"), (2, "web")] {
            let entity = view.test_entity(cookie, name);
            let [hits, x] = [0, 1].map(|metric| series.series(metric, entity, vec![]).expect("room"));
            let times = [8, u64::MAX, u64::MAX, u64::MAX];
            assert_eq!(series.observe(&[x; 4], &[0.1, 0.1, 0.5, 5.0], &times), 0);
            assert_eq!(series.apply(&[hits; 3], &[f64::MAX, f64::MAX, 1.0]), 1, "no sum is infinite");
        }
        let buckets: Vec<f64> = scrape(&view)
            .iter()
            .filter(|line| line.starts_with("x_bucket") || line.starts_with("x_count"))
            .map(|line| line.rsplit_once(' ').expect("a value").1.parse().expect("a number"))
            .collect();
        assert_eq!(buckets, [u64::MAX as f64; 4], "of two entities with one name");
        assert_eq!(view.loss.cell(Stage::Quota, "x").get(), 2);
    }

    #[test]
    fn a_name_belongs_to_one_plugin() {
        let view = View::test();
        let histogram = Decl::test("x", MetricKind::Histogram, &[]);
        let _p = view.metrics.register("p", &[histogram]).expect("valid");
        for name in ["x", "x_sum", "x_count", "x_bucket"] {
            let taken = view.metrics.register("q", &[Decl::test(name, MetricKind::Gauge, &[])]);
            assert!(matches!(taken, Err(DeclError::Taken { owner, .. }) if owner == "p"), "{name}");
        }
        let twice = [counter(&[]), Decl::test("hits", MetricKind::Gauge, &[])];
        assert!(view.metrics.register("q", &twice).is_err(), "one OpenMetrics family twice");
        assert_eq!(view.metrics.families().len(), 1);
    }
}
