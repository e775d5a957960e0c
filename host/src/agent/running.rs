//! The agent without its servers: a node whose frames go to analyzers, and whom questions are asked.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::analysis::Analysis;
use super::diagnoser::Diagnoser;
use super::known::Known;
use super::node::{self, Node, Unstarted};
use super::threads::{Threads, pause};
use super::{memory, options};
use crate::config::{self, Config};
use crate::entities::Entities;
use crate::events::log::{EventLog, Who};
use crate::frame::Take;
use crate::http;
use crate::loss::Loss;
use crate::notify::{Notify, Wake};
use crate::peers::Peers;
use crate::plugin::{self, Plugins, Shared};
use crate::series::metrics::Metrics;
use crate::status::Status;
use crate::view::View;
use crate::view::identity::LabelNames;

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
    /// Nothing can be had of the kernel.
    #[error(transparent)]
    Node(#[from] node::Error),
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Self::Node(node::Error::Thread(error))
    }
}

/// Everything that is shown, before anything has happened.
pub(super) fn view(config: &Config) -> Arc<View> {
    let (entities, loss) = (Arc::<Entities>::default(), Arc::<Loss>::default());
    let (node, peers) = (config.node.name.clone(), Arc::<Peers>::default());
    let metrics = Metrics::new(options::budget(config), Arc::clone(&entities), Arc::clone(&loss))
        .choosing(options::choice(config));
    let who = Who { entities: Arc::clone(&entities), peers: Arc::clone(&peers) };
    let events = EventLog::new(options::event_limits(config), who, Arc::clone(&loss), &node);
    Arc::new(View {
        metrics: Arc::new(metrics),
        events: Arc::new(events),
        entities,
        peers,
        status: Arc::<Status>::default(),
        loss,
        node,
        revision: crate::REVISION,
        labels: LabelNames::default(),
    })
}

/// The same, for whoever keeps it up to date.
pub(super) fn known(view: &View) -> Known {
    Known {
        entities: Arc::clone(&view.entities),
        peers: Arc::clone(&view.peers),
        loss: Arc::clone(&view.loss),
        status: Arc::clone(&view.status),
    }
}

/// The parts that run on threads of their own.
pub(super) struct Agent {
    pub(super) diagnoser: Arc<Diagnoser>,
    /// Tells when every plugin file that was there at the start has been looked at.
    pub(super) loaded: Option<oneshot::Receiver<()>>,
    /// Takes what comes in beside the node's own frames.
    pub(super) take: Arc<dyn Take>,
    view: Arc<View>,
    node: Arc<Node>,
    plugins: Arc<Plugins>,
    threads: Threads,
}

impl Agent {
    /// Starts everything but plugins, which come while the rest runs; blocking.
    pub(super) fn start(config: &Config, view: Arc<View>) -> Result<Self, Error> {
        let node = Unstarted::new(config, known(&view))?;
        let shared = Shared {
            node: view.node.clone(),
            kernel: node::kernel_release(),
            clock: Arc::default(),
            entities: Arc::clone(&view.entities),
            names: Arc::clone(&node.names),
            columns: node.columns(),
            metrics: Arc::clone(&view.metrics),
            events: Arc::clone(&view.events),
            loss: Arc::clone(&view.loss),
            status: Arc::clone(&view.status),
        };
        let more_sources = Arc::<Notify>::default();
        let plugins = Arc::new(Plugins::new(options::plugins(config), shared, Arc::clone(&more_sources))?);
        let analysis = Analysis { analyzers: Arc::clone(&plugins), metrics: Arc::clone(&view.metrics) };
        let reading = Arc::clone(&plugins);
        let take: Arc<dyn Take> = Arc::new(analysis);
        let node = node.start(config, Arc::clone(&take), move || reading.sources(), more_sources)?;
        let node = Arc::new(node);
        let diagnoser = Diagnoser {
            view: Arc::clone(&view),
            plugins: Arc::clone(&plugins),
            node: Arc::clone(&node),
            procfs: config.paths.procfs.clone(),
        };
        let (diagnoser, threads) = (Arc::new(diagnoser), Threads::new(Arc::clone(&view.status)));
        let mut agent = Self { diagnoser, loaded: None, take, view, node, plugins, threads };
        agent.follow_plugin_files(config)?;
        agent.node.wait_for_symbols();
        Ok(agent)
    }

    /// Starts, replaces and stops plugins as their files change.
    fn follow_plugin_files(&mut self, config: &Config) -> Result<(), Error> {
        let wake = Arc::new(Notify::default());
        for directory in &config.plugins.directories {
            let ring = Arc::clone(&wake);
            self.threads.watch(directory, move |_| ring.notify());
        }
        let (plugins, node) = (Arc::clone(&self.plugins), Arc::clone(&self.node));
        let load = move |wanted: &BTreeSet<String>| {
            node.want_probes(wanted);
            memory::return_free();
        };
        let (waiting, status) = (Arc::clone(&wake), Arc::clone(&self.view.status));
        let (configured, metrics) = (config.plugins.clone(), Arc::clone(&self.view.metrics));
        let (loaded, wait) = oneshot::channel();
        self.loaded = Some(wait);
        Ok(self.threads.spawn("plugin-files", wake, move || {
            plugins.scan(&load);
            warn_of_strangers(&configured, &status);
            for pattern in metrics.strangers() {
                tracing::warn!(pattern, "metrics.allow or metrics.deny has a pattern that no metric matches");
            }
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
        })?)
    }

    /// Stops in the order of the data: no new frames, then let plugins handle those that they have.
    pub(super) fn stop(self) {
        self.plugins.close();
        self.threads.stop();
        self.node.stop();
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
