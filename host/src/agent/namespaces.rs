//! Keeps the entity table true: at once when a namespace is named in `/run/netns`, when a pod gets its
//! folder of logs or its runtime a task, when an event has an unknown cookie, or when a question is asked; within [`RESCAN`] otherwise.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::gaps;
use super::known::Known;
use super::on_demand::OnDemand;
use super::threads::{Threads, pause};
use crate::clock::unix_ns;
use crate::discover::{self, Places};
use crate::frame::{Frame, Take};
use crate::notify::{Notify, Wake};

/// A namespace that nothing announces is found within this time.
const RESCAN: Duration = Duration::from_secs(5);
/// What made a scan necessary goes on for a while: a namespace gets its addresses, its processes and the
/// cgroup that names its pod after its name. So the next scan comes after this time, and each one after
/// it twice as late as the one before: what is known is never older than half of its age.
const FIRST_RESCAN: Duration = Duration::from_millis(100);
/// Minimum time between two scans for unknown namespaces.
pub(super) const SCAN_PAUSE: Duration = Duration::from_millis(50);
/// `ip netns add` makes a file before it mounts the namespace on it: how often the file is looked at ...
const NAME_POLL: Duration = Duration::from_micros(500);
/// ... and for how long; after that it is left to the scans.
const NAME_PATIENCE: Duration = Duration::from_millis(100);
/// Maximum number of names that wait to be looked at; what is beyond is left to the scans.
const MAX_NAMES: usize = 1024;

/// Maximum time for which a batch waits for the names of new namespaces ...
const HOLD: Duration = Duration::from_millis(10);
/// ... and minimum time before the next batch waits, if that was in vain.
const HOLD_PAUSE: Duration = Duration::from_millis(30);

/// Names that appeared in `/run/netns` and whose namespace is not known yet.
#[derive(Debug, Default)]
pub(super) struct PendingNames {
    state: Mutex<Waiting>,
    settled: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    /// Each with the moment when it appeared.
    names: Vec<(PathBuf, Instant)>,
    /// Number of those that are being looked at.
    looked_at: usize,
    /// When a batch waited in vain last.
    held: Option<Instant>,
}

impl PendingNames {
    fn add(&self, paths: &[PathBuf]) {
        let mut state = self.lock();
        let room = MAX_NAMES - state.names.len().min(MAX_NAMES);
        state.names.extend(paths.iter().take(room).map(|path| (path.clone(), Instant::now())));
    }

    fn take(&self) -> Vec<(PathBuf, Instant)> {
        let mut state = self.lock();
        let names = std::mem::take(&mut state.names);
        state.looked_at += names.len();
        names
    }

    fn set_looked_at(&self, looked_at: usize) {
        self.lock().looked_at = looked_at;
        self.settled.notify_all();
    }

    /// Waits for at most [`HOLD`] until every name that appeared has its namespace: otherwise an event of a
    /// namespace that is a millisecond old would be reported without its name.
    pub(super) fn settle(&self) {
        let state = self.lock();
        if state.held.is_some_and(|held| held.elapsed() < HOLD_PAUSE) {
            return;
        }
        let unsettled = |state: &mut Waiting| state.looked_at > 0 || !state.names.is_empty();
        let (mut state, in_vain) =
            self.settled.wait_timeout_while(state, HOLD, unsettled).unwrap_or_else(PoisonError::into_inner);
        state.held = in_vain.timed_out().then(Instant::now);
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What looking for namespaces needs.
pub(super) struct Scans {
    pub(super) places: Places,
    pub(super) pods: discover::Pods,
    pub(super) known: Known,
    pub(super) scans: Arc<OnDemand<()>>,
    pub(super) take: Arc<dyn Take>,
}

/// Starts the threads that look for namespaces; returns after the first scan.
pub(super) fn follow(threads: &mut Threads, mut of: Scans, pending: Arc<PendingNames>) -> io::Result<()> {
    let (named, scans) = (Arc::<Notify>::default(), Arc::clone(&of.scans));
    let (names, ring, scan) = (Arc::clone(&pending), Arc::clone(&named), Arc::clone(&scans.wake));
    threads.watch(&of.places.netns, move |created| {
        scan.notify();
        if !created.is_empty() {
            names.add(created);
            ring.notify();
        }
    });
    // What tells of pods is there before they have a process. Most nodes have one runtime, or none.
    for directory in of.places.runtimes.iter().chain([&of.places.pod_logs]).filter(|path| path.is_dir()) {
        let scan = Arc::clone(&scans.wake);
        threads.watch(directory, move |_| scan.notify());
    }
    follow_names(threads, of.known.clone(), Arc::clone(&of.take), pending, named)?;

    let first = scans.ask();
    threads.spawn("namespaces", Arc::clone(&scans.wake), move || {
        let mut patience = FIRST_RESCAN;
        loop {
            let asking = scans.take();
            of.scan();
            asking.give(&());
            patience = match scans.wake.wait(patience) {
                Wake::Closed => return,
                Wake::Notified => FIRST_RESCAN,
                Wake::Timeout => (patience * 2).min(RESCAN),
            };
            // Many short-lived namespaces must not turn into a busy loop.
            if pause(&scans.wake, SCAN_PAUSE) {
                return;
            }
        }
    })?;
    // Without names an agent is still better than none.
    let _: Option<()> = first.wait();
    Ok(())
}

/// Names namespaces the moment they are mounted, so that those that live for milliseconds have
/// their names: a scan of all processes may come too late for them.
fn follow_names(
    threads: &mut Threads,
    known: Known,
    take: Arc<dyn Take>,
    pending: Arc<PendingNames>,
    wake: Arc<Notify>,
) -> io::Result<()> {
    let waiting = Arc::clone(&wake);
    threads.spawn("names", wake, move || {
        let mut unmounted = Vec::new();
        loop {
            let moment = if unmounted.is_empty() { Duration::MAX } else { NAME_POLL };
            if waiting.wait(moment) == Wake::Closed {
                return;
            }
            unmounted.extend(pending.take());
            unmounted.retain(|(path, since): &(PathBuf, Instant)| match discover::inspect_named(path) {
                Ok(Some(netns)) => {
                    let changes = known.entities.discovered(netns, unix_ns(), Instant::now());
                    if !changes.added.is_empty() {
                        take.take(Frame::Entities(changes));
                    }
                    false
                }
                Ok(None) => since.elapsed() < NAME_PATIENCE,
                Err(_) => false,
            });
            pending.set_looked_at(unmounted.len());
        }
    })
}

impl Scans {
    fn scan(&mut self) {
        let began = Instant::now();
        let scan = match discover::scan(&self.places, &mut self.pods) {
            Ok(scan) => scan,
            Err(error) => {
                let path = self.places.proc.display();
                return tracing::error!(%path, %error, "cannot look for namespaces");
            }
        };
        gaps::tell_of_scan(&self.known.status, &scan);
        self.known.entities.set_unentered(scan.unentered);
        let changes = self.known.entities.apply_scan(scan.namespaces, unix_ns(), began);
        self.take.take(Frame::Entities(changes));
    }
}
