//! Keeps the entity table true: at once when a namespace is named in `/run/netns` or an event has an
//! unknown cookie, within [`RESCAN`] otherwise.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::{Core, Error, now_ns, pause};
use crate::bell::{Bell, Wake};
use crate::config::Config;
use crate::discover::{self, Places};
use crate::plugin::Plugins;
use crate::view::View;

/// A namespace that nothing announces is found within this time.
const RESCAN: Duration = Duration::from_secs(5);
/// Two scans for unknown namespaces are at least so far apart.
const SCAN_PAUSE: Duration = Duration::from_millis(50);
/// A name is there before its namespace is mounted on it: it is looked at so often ...
const GLANCE: Duration = Duration::from_micros(500);
/// ... for so long, and left to the scans then.
const GLANCES: Duration = Duration::from_millis(100);
/// Names that wait to be looked at; what is beyond is left to the scans.
const MAX_NAMES: usize = 1024;

/// Names that appeared, each with the moment when it did.
#[derive(Debug, Default)]
struct Announced(Mutex<Vec<(PathBuf, Instant)>>);

impl Announced {
    fn add(&self, paths: &[PathBuf]) {
        let mut waiting = self.lock();
        let room = MAX_NAMES - waiting.len().min(MAX_NAMES);
        waiting.extend(paths.iter().take(room).map(|path| (path.clone(), Instant::now())));
    }

    fn take(&self) -> Vec<(PathBuf, Instant)> {
        std::mem::take(&mut *self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, Vec<(PathBuf, Instant)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Core {
    /// Returns after the first scan.
    pub(super) fn follow_namespaces(&mut self, config: &Config, bell: Arc<Bell>) -> Result<(), Error> {
        let places = Places { proc: config.paths.procfs.clone(), netns: config.paths.netns.clone() };
        let (announced, named) = (Arc::<Announced>::default(), Arc::<Bell>::default());
        let (names, ring, scan) = (Arc::clone(&announced), Arc::clone(&named), Arc::clone(&bell));
        self.watch(&places.netns, move |created| {
            scan.ring();
            if !created.is_empty() {
                names.add(created);
                ring.ring();
            }
        });
        self.follow_names(announced, named)?;

        let (view, plugins) = (Arc::clone(&self.view), Arc::clone(&self.plugins));
        let (first, done) = std::sync::mpsc::sync_channel(1);
        let waiting = Arc::clone(&bell);
        self.follow("namespaces", bell, move || {
            let mut first = Some(first);
            loop {
                scan_namespaces(&places, &view, &plugins);
                drop(first.take());
                // Many short-lived namespaces must not turn into a busy loop.
                if waiting.wait(RESCAN) == Wake::Closed || pause(&waiting, SCAN_PAUSE) {
                    return;
                }
            }
        })?;
        // The sender is dropped after the first scan.
        let _: Result<(), _> = done.recv();
        Ok(())
    }

    /// Names namespaces the moment they are mounted, so that those that live for milliseconds have
    /// their names: a scan of all processes may come too late for them.
    fn follow_names(&mut self, announced: Arc<Announced>, bell: Arc<Bell>) -> Result<(), Error> {
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
                    Some(sighting) => {
                        let changes = view.entities.sighted(sighting, now_ns(), Instant::now());
                        if !changes.added.is_empty() {
                            plugins.entities_changed(&changes);
                        }
                        false
                    }
                    None => since.elapsed() < GLANCES,
                });
            }
        })
    }
}

fn scan_namespaces(places: &Places, view: &View, plugins: &Plugins) {
    let began = Instant::now();
    let scan = match discover::scan(places) {
        Ok(scan) => scan,
        Err(e) => {
            return tracing::error!(path = %places.proc.display(), error = %e, "cannot look for namespaces");
        }
    };
    let changes = view.entities.seen(scan, now_ns(), began);
    if !changes.added.is_empty() || !changes.removed.is_empty() {
        plugins.entities_changed(&changes);
    }
    view.metrics.remove_entities(&changes.forgotten);
}
