//! Kernel counter tables, read inside each entity's network namespace: one pass per interval for
//! all plugins.
//!
//! A source is one line in [`SOURCES`] and one parser. A source that fails costs its own table
//! and a line in its status, nothing else. This door decides nothing about what the numbers mean.

mod proc_net;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use crate::entities::Entity;
use crate::netns;
use crate::status::{SourceStatus, Status};
use crate::table::{Columns, Snapshot, Table};

/// One kind of table.
struct Source {
    name: &'static str,
    /// Files below `/proc/net` that it is made of; the first must exist.
    files: &'static [&'static str],
    parse: fn(&[String]) -> proc_net::Rows,
}

/// Every source there is.
const SOURCES: &[Source] = &[
    Source { name: "snmp", files: &["snmp", "snmp6"], parse: proc_net::snmp },
    Source { name: "netstat", files: &["netstat"], parse: proc_net::netstat },
    Source { name: "netdev", files: &["dev"], parse: proc_net::netdev },
    Source { name: "sockstat", files: &["sockstat", "sockstat6"], parse: proc_net::sockstat },
];

/// Reads sources for entities; belongs to one thread, which it moves between namespaces.
#[derive(Debug)]
pub struct Reader {
    columns: Arc<Columns>,
    status: Arc<Status>,
    totals: BTreeMap<&'static str, SourceStatus>,
}

impl Reader {
    /// Learns the columns of every source from the namespace of the caller. A source that cannot
    /// be read here has no columns, and plugins that need it are told so.
    pub fn new(status: Arc<Status>) -> Self {
        let mut columns = Columns::new();
        let mut totals = BTreeMap::new();
        for source in SOURCES {
            let mut total = SourceStatus { name: source.name.to_owned(), ..SourceStatus::default() };
            match read_rows(source) {
                Ok(rows) => drop(columns.insert(source.name, rows.columns)),
                Err(e) => total.last_error = e.to_string(),
            }
            totals.insert(source.name, total);
        }
        let reader = Self { columns: Arc::new(columns), status, totals };
        reader.publish();
        reader
    }

    /// Column names by source.
    pub fn columns(&self) -> Arc<Columns> {
        Arc::clone(&self.columns)
    }

    /// Reads the wanted sources of every entity; blocking.
    pub fn read(&mut self, wanted: &BTreeSet<String>, entities: &[Arc<Entity>], now_ns: u64) -> Snapshot {
        let mut snapshot = Snapshot::at(now_ns);
        let wanted: Vec<_> = SOURCES.iter().filter(|s| wanted.contains(s.name)).collect();
        for source in &wanted {
            self.total(source).last_seconds = 0.0;
        }
        for entity in entities.iter().filter(|_| !wanted.is_empty()) {
            match netns::enter(&entity.path) {
                Ok((cookie, _)) if cookie == entity.cookie => {
                    for source in &wanted {
                        self.read_one(source, entity, &mut snapshot);
                    }
                }
                // The path leads to a younger namespace by now, or nowhere: the next scan knows.
                Ok(_) => {}
                Err(e) if gone(&e) => {}
                Err(e) => {
                    for source in &wanted {
                        self.fail(source, &format!("{}: {e}", entity.display()));
                    }
                }
            }
        }
        self.publish();
        snapshot
    }

    fn read_one(&mut self, source: &Source, entity: &Entity, snapshot: &mut Snapshot) {
        let start = Instant::now();
        let read = read_rows(source);
        let seconds = start.elapsed().as_secs_f64();
        let total = self.total(source);
        total.reads += 1;
        total.last_seconds += seconds;
        total.total_seconds += seconds;
        match (read, self.columns.get(source.name)) {
            (Ok(rows), Some(columns)) => snapshot.insert(entity.id, source.name, rows.under(columns)),
            (Ok(_), None) => {}
            (Err(e), _) => self.fail(source, &format!("{}: {e}", entity.display())),
        }
    }

    fn fail(&mut self, source: &Source, error: &str) {
        let total = self.total(source);
        total.errors += 1;
        error.clone_into(&mut total.last_error);
    }

    fn total(&mut self, source: &Source) -> &mut SourceStatus {
        self.totals.entry(source.name).or_default()
    }

    fn publish(&self) {
        let mut board = self.status.update();
        board.sources = self.totals.iter().map(|(name, total)| ((*name).to_owned(), total.clone())).collect();
    }
}

fn gone(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidInput)
}

/// Reads a source in the namespace of the calling thread.
fn read_rows(source: &Source) -> io::Result<proc_net::Rows> {
    // thread-self, because /proc/net follows the thread-group leader, which stays at home.
    let directory = Path::new("/proc/thread-self/net");
    let mut texts = Vec::with_capacity(source.files.len());
    for (i, file) in source.files.iter().enumerate() {
        match std::fs::read(directory.join(file)) {
            Ok(bytes) => texts.push(String::from_utf8_lossy(&bytes).into_owned()),
            Err(e) if i > 0 && gone(&e) => texts.push(String::new()),
            Err(e) => return Err(e),
        }
    }
    Ok((source.parse)(&texts))
}

impl proc_net::Rows {
    /// The rows as a table under `columns`; a column this namespace lacks is 0.
    fn under(self, columns: &[String]) -> Table {
        if self.columns == columns {
            return Table { numbers: self.numbers, strings: self.strings };
        }
        let places: Vec<_> = columns.iter().map(|c| self.columns.iter().position(|own| own == c)).collect();
        let rows = self.numbers.chunks_exact(self.columns.len().max(1));
        let numbers = rows.flat_map(|row| places.iter().map(|p| p.map_or(0, |p| row[p]))).collect();
        Table { numbers, strings: self.strings }
    }
}
