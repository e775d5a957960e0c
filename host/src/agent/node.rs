//! What the kernel of this machine gives: records of probes, counter tables, and whose they are.
//!
//! An agent and a recording stand on the same node, so that a trace holds what an agent would have had.

use std::collections::BTreeSet;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use super::known::Known;
use super::namespaces::{self, PendingNames, Scans};
use super::on_demand::{Asked, OnDemand};
use super::tables::{self, Tables};
use super::threads::Threads;
use super::{gaps, options};
use crate::config::Config;
use crate::discover;
use crate::frame::{Frame, Take};
use crate::kernel::names::KernelNames;
use crate::kernel::table::{Columns, Snapshot};
use crate::loss::History;
use crate::notify::Notify;
use crate::probe::{self, Probes};
use crate::source;

/// Why there is nothing to give at all; everything less degrades and is shown.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The reader of the rings could not be started.
    #[error(transparent)]
    Probes(#[from] probe::Error),
    /// The system has no room for another thread.
    #[error("cannot start a thread: {0}")]
    Thread(#[from] io::Error),
}

/// A node before it gives anything.
pub(super) struct Unstarted {
    pub(super) known: Known,
    pub(super) names: Arc<KernelNames>,
    tables: source::Reader,
}

/// A node that gives frames.
pub(super) struct Node {
    pub(super) known: Known,
    pub(super) names: Arc<KernelNames>,
    pub(super) columns: Arc<Columns>,
    /// What was lost, as of each reading of the tables.
    pub(super) losses: Arc<History>,
    scans: Arc<OnDemand<()>>,
    tables: Arc<OnDemand<Arc<Snapshot>>>,
    probes: Mutex<Option<Probes>>,
    threads: Mutex<Option<Threads>>,
}

impl Unstarted {
    /// Learns what the kernel calls things, and what can be read.
    ///
    /// # Errors
    /// The system has no room for another thread.
    pub(super) fn new(config: &Config, known: Known) -> Result<Self, Error> {
        // First, since the kernel takes its time to list its symbols.
        let names = Arc::new(probe::kernel_names());
        let tables = source::Reader::new(&config.paths.procfs, Arc::clone(&known.status))?;
        Ok(Self { known, names, tables })
    }

    pub(super) fn columns(&self) -> Arc<Columns> {
        self.tables.columns()
    }

    /// Starts to give frames; blocks until the first scan for namespaces is over. No probe is loaded yet:
    /// see [`Node::want_probes`]. `sources` says which tables are read in the next interval; ringing
    /// `more_sources` does not wait for it.
    ///
    /// # Errors
    /// See [`Error`].
    pub(super) fn start(
        self,
        config: &Config,
        take: Arc<dyn Take>,
        sources: impl Fn() -> BTreeSet<String> + Send + 'static,
        more_sources: Arc<Notify>,
    ) -> Result<Node, Error> {
        let Self { known, names, tables: reader } = self;
        let columns = reader.columns();
        let scans = Arc::new(OnDemand::new(Arc::default()));
        let tables = Arc::new(OnDemand::new(more_sources));
        let (pending, losses) = (Arc::<PendingNames>::default(), Arc::<History>::default());
        let probes = {
            let (table, scans, pending) =
                (Arc::clone(&known.entities), Arc::clone(&scans), Arc::clone(&pending));
            let (take, symbols) = (Arc::clone(&take), Arc::clone(&names.symbols));
            let sink = move |batch| {
                if table.take_unnamed() {
                    scans.wake.notify();
                    pending.settle();
                }
                // The first records come when the listing is read, or nearly so; the ring keeps them.
                symbols.wait();
                take.take(Frame::Batch(batch));
            };
            let Known { entities, loss, status, .. } = known.clone();
            Probes::start(options::probes(config), entities, loss, status, sink)?
        };
        let mut threads = Threads::new(Arc::clone(&known.status));
        let places = options::places(config);
        let pods = discover::Pods::default();
        let of =
            Scans { places, pods, known: known.clone(), scans: Arc::clone(&scans), take: Arc::clone(&take) };
        namespaces::follow(&mut threads, of, pending)?;
        known.status.update().namespaces_seen = true;
        let of = Tables {
            reader,
            interval: config.sources.interval,
            known: known.clone(),
            tables: Arc::clone(&tables),
            losses: Arc::clone(&losses),
            take,
        };
        tables::follow(&mut threads, of, sources)?;
        let (probes, threads) = (Mutex::new(Some(probes)), Mutex::new(Some(threads)));
        Ok(Node { known, names, columns, losses, scans, tables, probes, threads })
    }
}

impl Node {
    /// Loads the probes that are wanted and unloads the others; blocks for some 100 ms for each.
    pub(super) fn want_probes(&self, wanted: &BTreeSet<String>) {
        if let Some(probes) = &*self.probes.lock().unwrap_or_else(PoisonError::into_inner) {
            probes.set_wanted(wanted);
        }
    }

    /// Waits until the kernel has listed its symbols, and tells if it hides them.
    pub(super) fn wait_for_symbols(&self) {
        gaps::tell_of_symbols(&self.known.status, &*self.names.symbols);
    }

    /// Asks for a scan for namespaces.
    pub(super) fn scan(&self) -> Asked<()> {
        self.scans.ask()
    }

    /// Asks for the counter tables as they are now, beside those of the next interval.
    pub(super) fn read_tables(&self) -> Asked<Arc<Snapshot>> {
        self.tables.ask()
    }

    /// Gives the last records, and then nothing more.
    pub(super) fn stop(&self) {
        let threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner).take();
        threads.into_iter().for_each(Threads::stop);
        drop(self.probes.lock().unwrap_or_else(PoisonError::into_inner).take());
    }
}

/// Release of the running kernel.
pub(super) fn kernel_release() -> String {
    nix::sys::utsname::uname()
        .map_or_else(|_| String::new(), |uname| uname.release().to_string_lossy().into_owned())
}
