//! Running totals per entity, for metrics without a type.
//!
//! The host sets those to what it is given, so the sums are kept here. A total starts at 0 with its
//! entity, so that `rate()` sees the first one, and survives a reload by the snapshot, whose bytes
//! are little-endian words: entity, then one total per metric.

use std::ops::Range;

use crate::map::Map;
use crate::metrics::Gauge;
use crate::{EntityId, Error, entities};

/// More entities than a node has at a time.
const CROWD: usize = 4_096;

/// The totals of `N` metrics, by entity.
#[derive(Debug)]
pub struct Totals<const N: usize> {
    /// None of what this node cannot show.
    metrics: Vec<Option<Gauge>>,
    /// Those that have no value now.
    withheld: [bool; N],
    by_entity: Map<EntityId, Row<N>>,
}

#[derive(Debug, Clone, Copy)]
struct Row<const N: usize> {
    totals: [u64; N],
    /// Not published as they are now.
    changed: bool,
}

impl<const N: usize> Default for Row<N> {
    fn default() -> Self {
        Self { totals: [0; N], changed: true }
    }
}

impl<const N: usize> Totals<N> {
    /// The totals of declared metrics of kind `unknown`.
    ///
    /// # Errors
    /// A metric that is not declared.
    pub fn declared(names: [&str; N]) -> Result<Self, Error> {
        let metrics = names.into_iter().map(|name| Gauge::declared(name).map(Some));
        let metrics = metrics.collect::<Result<_, _>>()?;
        Ok(Self { metrics, withheld: [false; N], by_entity: Map::default() })
    }

    /// Never shows the metrics with these indexes: the probe that they rest on is missing here.
    pub fn hide(&mut self, metrics: Range<usize>) {
        if let Some(hidden) = self.metrics.get_mut(metrics) {
            hidden.fill_with(|| None);
        }
    }

    /// Shows no values of these metrics, because they would be false, or all values again.
    pub fn withhold(&mut self, metrics: [bool; N]) {
        if self.withheld != metrics {
            self.withheld = metrics;
            self.by_entity.values_mut().for_each(|row| row.changed = true);
        }
    }

    /// Adds to the metric with this index; nothing if there is none.
    pub fn add(&mut self, entity: EntityId, metric: usize, n: u64) {
        self.add_to(entity, std::iter::once(metric), n);
    }

    /// Adds to each of these metrics; the entity is looked up once.
    pub fn add_to(&mut self, entity: EntityId, metrics: impl Iterator<Item = usize>, n: u64) {
        let row = self.by_entity.entry(entity).or_default();
        for metric in metrics {
            if let Some(total) = row.totals.get_mut(metric) {
                *total += n;
                row.changed = true;
            }
        }
    }

    /// Starts entities at zero, unless they have totals already.
    pub fn start(&mut self, ids: &[EntityId]) {
        for entity in ids {
            self.by_entity.entry(*entity).or_default();
        }
    }

    /// Forgets entities that vanished.
    pub fn forget(&mut self, ids: &[EntityId]) {
        for entity in ids {
            self.by_entity.remove(entity);
        }
    }

    /// Sends what changed. Late news of vanished entities start them again, and nobody reports
    /// them as vanished twice, so those go when there are too many.
    pub fn publish(&mut self) {
        if self.by_entity.len() > CROWD {
            let live = entities::all();
            self.by_entity.retain(|entity, _| *entity == 0 || live.contains(entity));
        }
        for (entity, row) in self.by_entity.iter_mut().filter(|(_, row)| row.changed) {
            row.changed = false;
            let values = row.totals.into_iter().zip(self.withheld);
            for (metric, (total, is_withheld)) in self.metrics.iter_mut().zip(values) {
                if let Some(metric) = metric {
                    metric.set(*entity, (), if is_withheld { f64::NAN } else { total as f64 });
                }
            }
        }
    }

    /// The totals as bytes.
    pub fn save(&self) -> Vec<u8> {
        let words = |(entity, row): (&EntityId, &Row<N>)| [&[u64::from(*entity)], &row.totals[..]].concat();
        self.by_entity.iter().flat_map(words).flat_map(u64::to_le_bytes).collect()
    }

    /// Takes over the totals of [`Totals::save`].
    ///
    /// # Errors
    /// Bytes that are not whole rows; nothing has changed then.
    pub fn restore(&mut self, state: &[u8]) -> Result<(), Error> {
        let (words, rest) = state.as_chunks::<8>();
        if !rest.is_empty() || !words.len().is_multiple_of(N + 1) {
            return Err(Error::new("invalid", format!("{} bytes are no totals", state.len())));
        }
        let words: Vec<u64> = words.iter().map(|word| u64::from_le_bytes(*word)).collect();
        for row in words.chunks_exact(N + 1) {
            let (Ok(entity), Ok(totals)) = (EntityId::try_from(row[0]), <[u64; N]>::try_from(&row[1..]))
            else {
                continue;
            };
            self.by_entity.insert(entity, Row { totals, changed: true });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::host;
    use crate::{Description, MetricDecl};

    fn totals() -> Totals<2> {
        let metrics = ["a", "b"].map(|name| MetricDecl::unknown(name, ""));
        let description = metrics.into_iter().fold(Description::new("t", "1", ""), Description::metric);
        host::enter(host::World { entities: vec![5], ..host::World::default() }, &description);
        crate::series::declare(&description.metrics);
        Totals::declared(["a", "b"]).expect("declared")
    }

    fn published(totals: &mut Totals<2>, entity: EntityId) -> [Option<f64>; 2] {
        totals.publish();
        crate::series::flush();
        ["a", "b"].map(|name| host::value(name, entity, &[]))
    }

    #[test]
    fn a_total_starts_at_zero_and_survives_a_reload() {
        let mut totals = totals();
        totals.start(&[5]);
        assert_eq!(published(&mut totals, 5), [Some(0.0); 2]);
        totals.add(5, 1, 3);
        totals.add(5, 7, 3);
        let saved = totals.save();
        let mut totals = self::totals();
        totals.restore(&saved).expect("own bytes");
        totals.start(&[5]);
        totals.add(5, 1, 4);
        assert_eq!(published(&mut totals, 5), [Some(0.0), Some(7.0)]);
        totals.forget(&[5]);
        assert!(totals.save().is_empty());
    }

    #[test]
    fn what_is_withheld_has_no_value_until_it_is_shown_again() {
        let mut totals = totals();
        totals.start(&[5]);
        published(&mut totals, 5);
        totals.withhold([false, true]);
        totals.add(5, 1, 3);
        let [a, b] = published(&mut totals, 5);
        assert_eq!(a, Some(0.0));
        assert!(b.is_some_and(f64::is_nan), "{b:?}");
        totals.withhold([false, false]);
        assert_eq!(published(&mut totals, 5), [Some(0.0), Some(3.0)]);
    }

    #[test]
    fn foreign_bytes_are_refused() {
        assert!(totals().restore(&[1; 23]).is_err());
        assert!(totals().restore(&[1; 32]).is_err());
    }

    #[test]
    fn late_news_of_vanished_entities_do_not_pile_up() {
        let mut totals = totals();
        (0..10_000).for_each(|entity| totals.add(entity, 0, 1));
        totals.publish();
        assert_eq!(totals.save().len(), 2 * 3 * 8, "5, and 0 for unknown");
    }
}
