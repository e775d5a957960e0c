//! Keeps the entity table true: at once when a namespace is named in `/run/netns`, when an event has
//! an unknown cookie, or when a question is asked; within [`RESCAN`] otherwise.

use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::{Core, Error, gaps, now_ns, pause};
use crate::config::Config;
use crate::discover::{self, Places};
use crate::notify::{Notify, Wake};
use crate::plugin::Plugins;
use crate::view::View;

/// A namespace that nothing announces is found within this time.
const RESCAN: Duration = Duration::from_secs(5);
/// What made a scan necessary goes on for a while (a namespace gets its addresses, its processes and
/// the cgroup that names its pod after its name): the next scan comes so soon, and each one after it
/// twice as late as the one before, so that what is known is never older than half of its age.
pub(super) const YOUNG: Duration = Duration::from_millis(100);
/// Two scans for unknown namespaces are at least so far apart.
pub(super) const SCAN_PAUSE: Duration = Duration::from_millis(50);
/// A name is there before its namespace is mounted on it: it is looked at so often ...
const GLANCE: Duration = Duration::from_micros(500);
/// ... for so long, and left to the scans then.
const GLANCES: Duration = Duration::from_millis(100);
/// Names that wait to be looked at; what is beyond is left to the scans.
const MAX_NAMES: usize = 1024;

/// What waits for a name is held back for at most so long ...
const HOLD: Duration = Duration::from_millis(10);
/// ... and not again within this time if that was in vain.
const HOLD_PAUSE: Duration = Duration::from_millis(30);

/// Names that appeared and have not been looked at with success.
#[derive(Debug, Default)]
pub(super) struct Announced {
    state: Mutex<Waiting>,
    settled: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    /// Each with the moment when it appeared.
    names: Vec<(PathBuf, Instant)>,
    /// Those that are being looked at.
    young: usize,
    /// Somebody waited in vain.
    held: Option<Instant>,
}

impl Announced {
    fn add(&self, paths: &[PathBuf]) {
        let mut state = self.lock();
        let room = MAX_NAMES - state.names.len().min(MAX_NAMES);
        state.names.extend(paths.iter().take(room).map(|path| (path.clone(), Instant::now())));
    }

    fn take(&self) -> Vec<(PathBuf, Instant)> {
        let mut state = self.lock();
        let names = std::mem::take(&mut state.names);
        state.young += names.len();
        names
    }

    fn looked(&self, young: usize) {
        self.lock().young = young;
        self.settled.notify_all();
    }

    /// Waits a moment until every name that appeared has its namespace: an event of one that is a
    /// millisecond old would be told under no name otherwise.
    pub(super) fn settle(&self) {
        let state = self.lock();
        if state.held.is_some_and(|held| held.elapsed() < HOLD_PAUSE) {
            return;
        }
        let unsettled = |state: &mut Waiting| state.young > 0 || !state.names.is_empty();
        let (mut state, in_vain) =
            self.settled.wait_timeout_while(state, HOLD, unsettled).unwrap_or_else(PoisonError::into_inner);
        state.held = in_vain.timed_out().then(Instant::now);
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Core {
    /// Returns after the first scan.
    pub(super) fn follow_namespaces(
        &mut self,
        config: &Config,
        announced: Arc<Announced>,
    ) -> Result<(), Error> {
        let places = Places { proc: config.paths.procfs.clone(), netns: config.paths.netns.clone() };
        let (named, bell) = (Arc::<Notify>::default(), Arc::clone(&self.desk.scans.bell));
        let (names, ring, scan) = (Arc::clone(&announced), Arc::clone(&named), Arc::clone(&bell));
        self.watch(&places.netns, move |created| {
            scan.notify();
            if !created.is_empty() {
                names.add(created);
                ring.notify();
            }
        });
        self.follow_names(announced, named)?;

        let (view, plugins) = (Arc::clone(&self.view), Arc::clone(&self.plugins));
        let desk = Arc::clone(&self.desk);
        let first = desk.scans.ask();
        self.follow("namespaces", bell, move || {
            let mut patience = YOUNG;
            loop {
                let asking = desk.scans.take();
                scan_namespaces(&places, &view, &plugins);
                asking.give(&());
                patience = match desk.scans.bell.wait(patience) {
                    Wake::Closed => return,
                    Wake::Notified => YOUNG,
                    Wake::Timeout => calmer(patience),
                };
                // Many short-lived namespaces must not turn into a busy loop.
                if pause(&desk.scans.bell, SCAN_PAUSE) {
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
    fn follow_names(&mut self, announced: Arc<Announced>, bell: Arc<Notify>) -> Result<(), Error> {
        let (view, plugins) = (Arc::clone(&self.view), Arc::clone(&self.plugins));
        let waiting = Arc::clone(&bell);
        self.follow("names", bell, move || {
            let mut young = Vec::new();
            loop {
                let moment = if young.is_empty() { Duration::MAX } else { GLANCE };
                if waiting.wait(moment) == Wake::Closed {
                    return;
                }
                young.extend(announced.take());
                young.retain(|(path, since): &(PathBuf, Instant)| match discover::glance(path) {
                    Ok(Some(sighting)) => {
                        let changes = view.entities.sighted(sighting, now_ns(), Instant::now());
                        if !changes.added.is_empty() {
                            plugins.entities_changed(&changes);
                        }
                        false
                    }
                    Ok(None) => since.elapsed() < GLANCES,
                    Err(_) => false,
                });
                announced.looked(young.len());
            }
        })
    }
}

/// How long to wait for the next scan, if nothing asks for it.
pub(super) fn calmer(patience: Duration) -> Duration {
    (patience * 2).min(RESCAN)
}

fn scan_namespaces(places: &Places, view: &View, plugins: &Plugins) {
    let began = Instant::now();
    let scan = match discover::scan(places) {
        Ok(scan) => scan,
        Err(e) => {
            return tracing::error!(path = %places.proc.display(), error = %e, "cannot look for namespaces");
        }
    };
    gaps::tell_of_scan(&view.status, &scan);
    view.entities.set_unentered(scan.unentered);
    let changes = view.entities.seen(scan.sightings, now_ns(), began);
    if !changes.added.is_empty() || !changes.removed.is_empty() {
        plugins.entities_changed(&changes);
    }
    view.metrics.remove_entities(&changes.forgotten);
}
