//! Kernel counters of every network namespace, under the names of the original exporter.
//!
//! [`counters`] is the table of what is shown; here it is read and published on every tick. A
//! counter that this kernel does not have is declared and never shown: a zero would claim that
//! nothing happened.

pub mod counters;

use std::time::Duration;

use inspector_sdk::metrics::Gauges;
use inspector_sdk::source::{Source, Table};
use inspector_sdk::{Analyzer, Description, EntityId, Error, InitArgs, MetricDecl, Timestamp, entities, log};

use crate::counters::{Counter, MODULES, SOURCES};

/// The least time between two readings; the host's own interval (`[sources] interval`) is longer
/// unless an operator shortens it.
const INTERVAL: Duration = Duration::from_secs(1);

/// Columns that are 1 in the rows that make up the sum: interfaces that no other one counts, queueing
/// disciplines that no other one includes.
const SELECTORS: [&str; 2] = ["counted", "root"];

/// The analyzer.
#[derive(Debug)]
pub struct PodCounters {
    sources: Vec<Published>,
    /// Sources that this node does not have, or not yet: a module may be loaded later.
    missing: Vec<&'static str>,
}

/// A source and what is published of it.
#[derive(Debug)]
struct Published {
    source: Source,
    /// Position of the column that selects rows; without one, all rows add up.
    selector: Option<usize>,
    gauges: Gauges,
    /// For each gauge the positions of the columns that add up to it.
    columns: Vec<Vec<usize>>,
}

inspector_sdk::export!(PodCounters with ticker, entity_watch);

impl Analyzer for PodCounters {
    fn describe() -> Description {
        let description = Description::new(
            "pod-counters",
            env!("CARGO_PKG_VERSION"),
            "Kernel counters of each network namespace: protocols, sockets, interfaces, queues, conntrack, processes",
        );
        let description = SOURCES.iter().fold(description, |d, source| d.source(source));
        let counters = MODULES.iter().flat_map(|module| module.counters());
        let metrics = counters.map(|counter| MetricDecl::unknown(&counter.metric(), &counter.help()));
        metrics.fold(description.tick_every(INTERVAL), Description::metric)
    }

    fn init(_: &InitArgs) -> Result<Self, Error> {
        let mut analyzer = Self { sources: Vec::new(), missing: SOURCES.to_vec() };
        analyzer.open_missing()?;
        for name in &analyzer.missing {
            log!(INFO, "this node has no source {name} now; its counters are missing");
        }
        Ok(analyzer)
    }

    fn tick(&mut self, _: Timestamp) {
        if let Err(error) = self.open_missing() {
            log!(WARN, "{}", error.message);
        }
        for entity in entities::all() {
            for published in &mut self.sources {
                published.update(entity);
            }
        }
    }
}

impl PodCounters {
    fn open_missing(&mut self) -> Result<(), Error> {
        for name in std::mem::take(&mut self.missing) {
            match Source::open(name) {
                Ok(source) => self.sources.push(Published::of(source, name)?),
                Err(_) => self.missing.push(name),
            }
        }
        Ok(())
    }
}

impl Published {
    fn of(source: Source, name: &str) -> Result<Self, Error> {
        let (mut names, mut columns) = (Vec::new(), Vec::new());
        let counters = MODULES.iter().flat_map(|module| module.counters());
        for counter in counters.filter(|counter| counter.source == name) {
            let found = positions(&source, &counter);
            if found.is_empty() {
                log!(DEBUG, "{}: this kernel has no {}", counter.metric(), counter.help());
            } else {
                names.push(counter.metric());
                columns.push(found);
            }
        }
        let selector = SELECTORS.iter().find_map(|name| source.column(name));
        Ok(Self { selector, source, gauges: Gauges::declared(&names)?, columns })
    }

    fn update(&mut self, entity: EntityId) {
        let table = match self.source.read(entity) {
            Ok(table) => table,
            // It vanished since the list was made, or the host could not read it and says so: what
            // was read before must not look as if it were read now.
            Err(error) => {
                self.gauges.miss(entity);
                return log!(DEBUG, "entity {entity}: {}", error.message);
            }
        };
        let sums = self.columns.iter().map(|columns| sum(&table, columns, self.selector) as f64);
        self.gauges.set(entity, sums);
    }
}

fn positions(source: &Source, counter: &Counter) -> Vec<usize> {
    counter.columns.iter().filter_map(|column| source.column(column)).collect()
}

/// Adds up columns over all rows that `selector` selects.
fn sum(table: &Table, columns: &[usize], selector: Option<usize>) -> u64 {
    let rows = table.rows().filter(|row| selector.is_none_or(|column| row[column] == 1));
    rows.flat_map(|row| columns.iter().map(|&column| row[column])).fold(0, u64::wrapping_add)
}
