//! Joins all doors: the only place that knows which part feeds which.
//!
//! Data flows one way: probes deliver batches to plugins, sources deliver snapshots to plugins,
//! plugins write the nouns, http shows them. Each follower below is a thread that waits for its
//! bell; nothing here runs per event but [`Plugins::deliver`]. [`record`] joins the kernel's side
//! to a file, [`replay`] a file to the plugins, [`diagnose`] a question to all of it.

pub mod diagnose;
pub mod record;
pub mod replay;

mod confirm;
mod gaps;
pub mod memory;
mod namespaces;
mod on_demand;
mod tables;

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::oneshot;

use crate::answers::question::{Answerer, Refusal};
use crate::config::{self, Config};
use crate::entities::Entities;
use crate::events::log::{EventLog, Limits};
use crate::http;
use crate::loss::Loss;
use crate::notify::{Notify, Wake};
use crate::plugin::{self, Plugins, Shared};
use crate::probe::{self, Probes};
use crate::series::metrics::{Budget, Metrics};
use crate::source;
use crate::status::{self, Status};
use crate::view::View;
use crate::view::identity::LabelNames;
use crate::watch::{self, Watcher};

use diagnose::Desk;
use namespaces::Announced;

/// A burst of changes is looked at once, this long after it began: files are written in pieces.
const SETTLE: Duration = Duration::from_millis(100);

/// Why the agent cannot run at all; everything else degrades and is shown.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An address is taken or not this machine's.
    #[error(transparent)]
    Http(#[from] http::Error),
    /// No WebAssembly, no analyzers.
    #[error(transparent)]
    Plugins(#[from] plugin::Error),
    /// The reader of the rings could not be started.
    #[error(transparent)]
    Probes(#[from] probe::Error),
    /// The system has no room for another thread.
    #[error("cannot start a thread: {0}")]
    Thread(#[from] std::io::Error),
}

/// Runs the agent until `shutdown` is ready. What was delivered by then is still digested. The servers
/// answer from the first moment on, and say what they still wait for.
///
/// # Errors
/// Only what leaves nothing to run; see [`Error`].
pub async fn run(config: Config, shutdown: impl Future<Output = ()> + Send + 'static) -> Result<(), Error> {
    let web = http::bind(&config.web.listen, "--web.listen-address")?;
    let streams = http::bind(&config.events.listen, "--events.listen-address")?;
    let addresses =
        |bound: &[http::Bound]| bound.iter().map(|b| b.address().to_string()).collect::<Vec<_>>().join(",");
    let (web_addresses, stream_addresses) = (addresses(&web), addresses(&streams));

    let listening = web.iter().chain(&streams).map(http::Bound::address).collect();

    let began = Instant::now();
    let view = view(&config);
    view.events.listens_on(listening);
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let until_stopped = || {
        let mut stopped = stopped.clone();
        async move { drop(stopped.wait_for(|stopped| *stopped).await) }
    };
    let (path, desk) = (config.web.telemetry_path.clone(), Arc::<OnceLock<Arc<Desk>>>::default());
    let metrics = tokio::spawn(http::serve_metrics(web, Arc::clone(&view), path, until_stopped()));
    let answerer = answerer(Arc::clone(&view), Arc::clone(&desk));
    let events = tokio::spawn(http::serve_events(streams, Arc::clone(&view), answerer, until_stopped()));
    let flushing = tokio::spawn(flush_folded(Arc::clone(&view.events)));
    let node = view.node.as_str();
    tracing::info!(node, web = web_addresses, events = stream_addresses, "serving");

    let started = tokio::task::spawn_blocking({
        let view = Arc::clone(&view);
        move || Core::start(&config, view)
    });
    let mut core = started.await.expect("starting does not panic and is not cancelled")?;
    drop(desk.set(Arc::clone(&core.desk)));
    let loaded = core.loaded.take().expect("nobody has waited for it");
    let announce = async {
        // An error is the end of the thread, which is on the board.
        let _ = loaded.await;
        match view.status.snapshot().unready() {
            why if why.is_empty() => {
                let seconds = began.elapsed().as_secs_f64();
                tracing::info!(node, web = web_addresses, events = stream_addresses, seconds, "ready");
            }
            why => tracing::error!(why = why.join("; "), "not ready"),
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = announce => {}
        () = shutdown => {}
    }
    flushing.abort();
    let _ = tokio::task::spawn_blocking(move || core.stop()).await;
    let _ = stop.send(true);
    let _ = tokio::join!(metrics, events);
    Ok(())
}

/// Everything that is shown, before anything has happened.
fn view(config: &Config) -> Arc<View> {
    let (entities, loss) = (Arc::<Entities>::default(), Arc::<Loss>::default());
    let node = config.node.name.clone();
    let metrics = Metrics::new(budget(config), Arc::clone(&entities), Arc::clone(&loss));
    let events = EventLog::new(event_limits(config), Arc::clone(&entities), Arc::clone(&loss), &node);
    Arc::new(View {
        metrics: Arc::new(metrics),
        events: Arc::new(events),
        entities,
        status: Arc::<Status>::default(),
        loss,
        node,
        revision: crate::REVISION,
        labels: LabelNames::default(),
    })
}

/// Questions are refused until there is somebody to ask.
fn answerer(view: Arc<View>, desk: Arc<OnceLock<Arc<Desk>>>) -> Answerer {
    Arc::new(move |question| match desk.get() {
        Some(desk) => desk.answer(question),
        None => Err(Refusal::Starting(view.status.snapshot().unready())),
    })
}

/// Gives folded events their count once their window is over.
async fn flush_folded(events: Arc<EventLog>) {
    let mut second = tokio::time::interval(Duration::from_secs(1));
    loop {
        second.tick().await;
        events.flush(Instant::now());
    }
}

/// The parts that run on threads of their own.
struct Core {
    view: Arc<View>,
    probes: Arc<Probes>,
    plugins: Arc<Plugins>,
    desk: Arc<Desk>,
    followers: Vec<Follower>,
    watchers: Vec<Watcher>,
    /// Tells when every plugin file that was there at the start has been looked at.
    loaded: Option<oneshot::Receiver<()>>,
}

/// A thread and the bell that ends it.
struct Follower {
    bell: Arc<Notify>,
    thread: JoinHandle<()>,
}

impl Core {
    /// Starts everything but plugins, which come while the rest runs; blocking.
    fn start(config: &Config, view: Arc<View>) -> Result<Self, Error> {
        // First, since the kernel takes its time to list its symbols.
        let names = Arc::new(probe::kernel_names());
        let reader = source::Reader::new(&config.paths.procfs, Arc::clone(&view.status))?;
        let shared = Shared {
            node: view.node.clone(),
            kernel: kernel_release(),
            clock: Arc::default(),
            entities: Arc::clone(&view.entities),
            names: Arc::clone(&names),
            columns: reader.columns(),
            metrics: Arc::clone(&view.metrics),
            events: Arc::clone(&view.events),
            loss: Arc::clone(&view.loss),
            status: Arc::clone(&view.status),
        };
        let sources_wanted = Arc::<Notify>::default();
        let plugins = Arc::new(Plugins::new(plugin_options(config), shared, Arc::clone(&sources_wanted))?);

        let symbols = Arc::clone(&names.symbols);
        let (unknown, announced) = (Arc::<Notify>::default(), Arc::<Announced>::default());
        let probes = {
            let (plugins, table) = (Arc::clone(&plugins), Arc::clone(&view.entities));
            let (unknown, announced) = (Arc::clone(&unknown), Arc::clone(&announced));
            let sink = move |batch| {
                if table.take_unnamed() {
                    unknown.notify();
                    announced.settle();
                }
                // The first records come when the listing is read, or nearly so; the ring keeps them.
                names.symbols.wait();
                plugins.deliver(&batch);
            };
            let (table, loss) = (Arc::clone(&view.entities), Arc::clone(&view.loss));
            let status = Arc::clone(&view.status);
            Arc::new(Probes::start(probe_options(config), table, loss, status, sink)?)
        };
        let columns = reader.columns();
        let desk =
            Arc::new(Desk::new(Arc::clone(&view), Arc::clone(&plugins), columns, unknown, sources_wanted));
        let (followers, watchers, loaded) = (Vec::new(), Vec::new(), None);
        let mut core = Self { view, probes, plugins, desk, followers, watchers, loaded };
        core.follow_namespaces(config, announced)?;
        core.view.status.update().namespaces_seen = true;
        core.follow_plugin_files(config)?;
        core.follow_sources(config, reader)?;
        gaps::tell_of_symbols(&core.view.status, &*symbols);
        Ok(core)
    }

    /// Starts, replaces and stops plugins as their files change.
    fn follow_plugin_files(&mut self, config: &Config) -> Result<(), Error> {
        let bell = Arc::new(Notify::default());
        for directory in &config.plugins.directories {
            let ring = Arc::clone(&bell);
            self.watch(directory, move |_| ring.notify());
        }
        let (plugins, probes) = (Arc::clone(&self.plugins), Arc::clone(&self.probes));
        let load = move |wanted: &BTreeSet<String>| {
            probes.set_wanted(wanted);
            memory::return_free();
        };
        let (waiting, status) = (Arc::clone(&bell), Arc::clone(&self.view.status));
        let configured = config.plugins.clone();
        let (loaded, wait) = oneshot::channel();
        self.loaded = Some(wait);
        self.follow("plugin-files", bell, move || {
            plugins.scan(&load);
            warn_of_strangers(&configured, &status);
            memory::return_free();
            status.update().plugins_seen = true;
            // Nobody waits any more if the agent is being stopped.
            let _ = loaded.send(());
            while waiting.wait(Duration::MAX) != Wake::Closed {
                if pause(&waiting, SETTLE) {
                    return;
                }
                plugins.scan(&load);
                memory::return_free();
            }
        })
    }

    /// A directory that cannot be watched is looked at less often, and said so.
    fn watch(&mut self, directory: &Path, changed: impl Fn(&[PathBuf]) + Send + 'static) {
        match watch::directory(directory, changed) {
            Ok(watcher) => self.watchers.push(watcher),
            Err(e) => tracing::warn!(error = %e, "changes there are not noticed at once"),
        }
    }

    fn follow(
        &mut self,
        name: &str,
        bell: Arc<Notify>,
        body: impl FnOnce() + Send + 'static,
    ) -> Result<(), Error> {
        let (name, status) = (name.to_owned(), Arc::clone(&self.view.status));
        let thread = thread::Builder::new().name(name.clone()).spawn(move || {
            // The rest of the agent goes on without it, and says so.
            if let Err(panic) = catch_unwind(AssertUnwindSafe(body)) {
                let why = status::panic_words(&*panic);
                tracing::error!(
                    thread = name,
                    why,
                    "a thread of the agent panicked and is missing from now on"
                );
                status.update().ended.push(format!("thread {name} panicked: {why}"));
            }
        })?;
        self.followers.push(Follower { bell, thread });
        Ok(())
    }

    /// Stops in the order of the data: no new events, then let plugins digest.
    fn stop(self) {
        self.plugins.close();
        for follower in &self.followers {
            follower.bell.close();
        }
        for follower in self.followers {
            let _ = follower.thread.join();
        }
        drop(self.probes);
        self.plugins.stop();
        self.view.events.flush(Instant::now());
    }
}

/// A name in `plugins.disabled` that no analyzer has is a typing error, and the one that was meant runs.
fn warn_of_strangers(config: &config::Plugins, status: &Status) {
    let known: Vec<String> = status.snapshot().plugins.into_keys().collect();
    for name in config.strangers(&known) {
        let known = known.join(", ");
        tracing::warn!(name, known, "plugins.disabled names an analyzer that is not there");
    }
}

/// Waits a moment, gathering further rings; true if the bell was closed.
fn pause(bell: &Notify, moment: Duration) -> bool {
    let end = Instant::now() + moment;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        match bell.wait(left) {
            Wake::Closed => return true,
            Wake::Notified if !left.is_zero() => {}
            _ => return false,
        }
    }
}

fn budget(config: &Config) -> Budget {
    Budget { per_plugin: config.plugins.max_series, per_agent: config.plugins.max_series_total }
}

fn event_limits(config: &Config) -> Limits {
    Limits {
        backlog: config.events.backlog as usize,
        per_second: config.plugins.events_per_second,
        burst: config.plugins.events_burst,
    }
}

fn plugin_options(config: &Config) -> plugin::Options {
    let plugins = &config.plugins;
    plugin::Options {
        directories: plugins.directories.clone(),
        disabled: plugins.disabled.clone(),
        cache: (!plugins.cache_dir.as_os_str().is_empty()).then(|| plugins.cache_dir.clone()),
        limits: plugin::Limits {
            memory_bytes: (plugins.memory_mib as usize) << 20,
            deadline: plugins.batch_deadline,
        },
    }
}

fn probe_options(config: &Config) -> probe::Options {
    let probes = &config.probes;
    probe::Options {
        ring_bytes: probes.ring_kib << 10,
        limit_per_second: probes.limit_per_second,
        limit_burst: probes.limit_burst,
    }
}

/// Wall clock in nanoseconds since the Unix epoch.
fn now_ns() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64)
}

fn kernel_release() -> String {
    nix::sys::utsname::uname()
        .map_or_else(|_| String::new(), |uname| uname.release().to_string_lossy().into_owned())
}
