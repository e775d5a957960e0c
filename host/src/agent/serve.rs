//! The agent with its servers.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use super::api_server;
use super::diagnoser::Diagnoser;
use super::minute;
use super::running::{self, Agent, Error};
use super::sinks;
use crate::answers::question::{Answerer, Refusal};
use crate::config::Config;
use crate::events::log::EventLog;
use crate::http;
use crate::sink::Running;
use crate::view::View;

/// Runs the agent until `shutdown` is ready. What was delivered by then is still handled. The servers
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
    let view = running::view(&config);
    view.events.listens_on(listening);
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let until_stopped = || {
        let mut stopped = stopped.clone();
        async move { drop(stopped.wait_for(|stopped| *stopped).await) }
    };
    let (path, diagnoser) = (config.web.telemetry_path.clone(), Arc::<OnceLock<Arc<Diagnoser>>>::default());
    let metrics = tokio::spawn(http::serve_metrics(web, Arc::clone(&view), path, until_stopped()));
    let answerer = answerer(Arc::clone(&view), Arc::clone(&diagnoser));
    let events = tokio::spawn(http::serve_events(streams, Arc::clone(&view), answerer, until_stopped()));
    let flushing = tokio::spawn(flush_folded(Arc::clone(&view.events)));
    let node = view.node.as_str();
    tracing::info!(node, web = web_addresses, events = stream_addresses, "serving");

    let started = tokio::task::spawn_blocking({
        let view = Arc::clone(&view);
        let config = config.clone();
        move || Agent::start(&config, view)
    });
    let mut agent = started.await.expect("starting does not panic and is not cancelled")?;
    let sinks = sinks::start(&config.sinks, &view);
    drop(diagnoser.set(Arc::clone(&agent.diagnoser)));
    let loaded = agent.loaded.take().expect("nobody has waited for it");
    let announce = async {
        // An error is the end of the thread, which the status shows.
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
    let followed = api_server::follow(&config, running::known(&view), Arc::clone(&agent.take));
    let told = minute::tell(&config, &view, Arc::clone(&agent.diagnoser));
    tokio::select! {
        () = announce => {}
        () = followed => {}
        () = told => {}
        () = shutdown => {}
    }
    flushing.abort();
    let end = move || {
        agent.stop();
        // The last events are in the log now.
        Running::stop_all(&sinks);
    };
    let _ = tokio::task::spawn_blocking(end).await;
    let _ = stop.send(true);
    let _ = tokio::join!(metrics, events);
    Ok(())
}

/// Questions are refused until there is somebody to ask.
fn answerer(view: Arc<View>, diagnoser: Arc<OnceLock<Arc<Diagnoser>>>) -> Answerer {
    Arc::new(move |question| match diagnoser.get() {
        Some(diagnoser) => diagnoser.answer(question),
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
