//! Diagnoses where no agent runs: an agent without servers in this process, for some seconds.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow};
use tokio::signal::unix::{SignalKind, signal};

use crate::agent::once;
use crate::answers::question::{Question, Refusal};
use crate::answers::report::Report;
use crate::cli::progress;
use crate::cli::shared::Usage;
use crate::cli::{log, serve, terminal};
use crate::config::{Config, LogLevel};
use crate::notify::Notify;
use crate::privilege;

/// The configuration of an agent, with the flags over it.
pub fn config(
    file: Option<&Path>,
    plugin_dirs: Vec<PathBuf>,
    node_name: Option<String>,
) -> anyhow::Result<Config> {
    let mut config = file.map_or_else(|| Ok(Config::default()), serve::read_config)?;
    if !plugin_dirs.is_empty() {
        config.plugins.directories = plugin_dirs;
    }
    serve::name_node(&mut config, node_name)?;
    // What matters of it is in the answer, or is why there is none.
    config.log.level = config.log.level.min(LogLevel::Error);
    log::start(&config.log);
    Ok(config)
}

/// Looks for that long, or until it is interrupted, and answers.
pub async fn diagnose(config: Config, question: Question, time: Duration) -> anyhow::Result<Report> {
    if let Some(missing) = privilege::missing_for_probes() {
        // Now and not with the answer, for whoever would not wait for that.
        terminal::complain(&format!(
            "{missing}: the kernel's events are not seen, only its counters; run it as root"
        ));
    }
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for signals")?;
    let stop = Arc::new(Notify::default());
    let started = Instant::now();
    // Milliseconds from the start until it began to look; 0 = it has not.
    let begun = Arc::new(AtomicU64::new(0));
    let looking = tokio::task::spawn_blocking({
        let (stop, begun) = (Arc::clone(&stop), Arc::clone(&begun));
        move || {
            let began = || begun.store(started.elapsed().as_millis().max(1) as u64, Ordering::Relaxed);
            once::run(&config, &question, time, &stop, began)
        }
    });
    let progress = |passed: Duration| match begun.load(Ordering::Relaxed) {
        0 => format!("starting probes and analyzers ({} s)", passed.as_secs()),
        begun => {
            let looked = passed.saturating_sub(Duration::from_millis(begun)).as_secs();
            format!("looking: {looked} of {} s; Ctrl-C answers now", time.as_secs())
        }
    };
    let work = async {
        tokio::pin!(looking);
        tokio::select! {
            answer = &mut looking => return answer,
            _ = interrupt.recv() => stop.close(),
        }
        looking.await
    };
    let answer = progress::shown(progress, work).await??;
    answer.map_err(|refusal| match refusal {
        Refusal::NoAnalyzer { .. } => anyhow!("{refusal} (--plugin-dir names the folder of analyzers)"),
        Refusal::Starting(_) => refusal.into(),
        Refusal::Scenario { .. }
        | Refusal::Entity { .. }
        | Refusal::Unentered { .. }
        | Refusal::TooMany(_)
        | Refusal::NoWindow => Usage(refusal.to_string()).into(),
    })
}
