//! `inspector record`: what the kernel delivers, into a file that `inspector replay` runs plugins on.

use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};

use super::shared::Usage;
use super::{log, serve, terminal};
use crate::agent::record::{self, Options, Progress};
use crate::config::Config;
use crate::notify::Notify;

/// Record kernel events, counter tables and names into a file, to replay them later or elsewhere
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  inspector record -o fault.trace --for 30s
  inspector record -o web.trace --entity web --probe tcp-reset --probe skb-drop
  inspector replay fault.trace

It needs the privileges of `inspector serve`, loads the probes itself, and goes on until it is
interrupted or the time is up; the file is complete then. A file that is cut short, by a crash or a
full disk, can be replayed up to the cut.

A trace is as private as a packet capture: it holds addresses, names of pods and processes, and
kernel addresses. Only its owner can read it.

Exit status: 0 if there is a recording; 1 if nothing could be recorded; 2 for wrong usage, such as a
probe or an entity that does not exist.")]
pub struct Args {
    /// File to write
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Probe to record; may be repeated [default: all]
    #[arg(long = "probe", value_name = "NAME")]
    probes: Vec<String>,
    /// Record only what happens there, by the name that `list entity` shows; may be repeated
    #[arg(long = "entity", value_name = "NAME")]
    entities: Vec<String>,
    /// Stop after this time, e.g. 30s
    #[arg(long = "for", value_name = "TIME", value_parser = humantime::parse_duration)]
    time: Option<Duration>,
    /// Time between two readings of the counter tables [default: 5s]
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    interval: Option<Duration>,
    /// Configuration file, for the limits of probes and the folders of the kernel
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Name of this node in the trace; the host name by default
    #[arg(long = "node.name", value_name = "NAME", env = "NODE_NAME", hide_env_values = true)]
    node_name: Option<String>,
}

/// Records until SIGINT, SIGTERM, SIGHUP or the end of the time.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let mut config = args.config.as_deref().map_or_else(|| Ok(Config::default()), serve::read_config)?;
    if let Some(interval) = args.interval {
        // As in the configuration file: less would be nothing but reading.
        let shortest = Duration::from_millis(100);
        anyhow::ensure!(interval >= shortest, Usage("--interval must be at least 100ms".to_owned()));
        config.sources.interval = interval;
    }
    serve::name_node(&mut config, args.node_name)?;
    config.log.level = config.log.level.min(crate::config::LogLevel::Warn);
    log::start(&config.log);
    let options = Options {
        output: args.output.clone(),
        probes: args.probes.into_iter().collect(),
        entities: args.entities.into_iter().collect(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let recorded = runtime.block_on(record(config, options, args.time)).map_err(as_usage)?;
    let file = args.output.display();
    terminal::complain(&format!("{file}: {}", sum(&recorded)));
    for (stage, name, count) in &recorded.lost {
        terminal::complain(&format!("lost: {count} records of {name} ({stage})"));
    }
    Ok(ExitCode::SUCCESS)
}

/// A name that does not exist is wrong usage, though only a look at the node tells.
fn as_usage(error: anyhow::Error) -> anyhow::Error {
    match error.downcast_ref::<record::Error>() {
        Some(wrong) if wrong.is_usage() => Usage(wrong.to_string()).into(),
        _ => error,
    }
}

async fn record(config: Config, options: Options, time: Option<Duration>) -> anyhow::Result<Progress> {
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for signals")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for signals")?;
    // A terminal that is closed is no reason for a trace that is cut.
    let mut hangup = signal(SignalKind::hangup()).context("cannot listen for signals")?;
    let stop = Arc::new(Notify::default());
    let until = Arc::clone(&stop);
    let started = Instant::now();
    let mut recording = tokio::task::spawn_blocking(move || {
        let show = std::io::stderr().is_terminal();
        let mut begun = false;
        let recorded = record::run(&config, &options, &until, |progress| {
            if !std::mem::replace(&mut begun, true) {
                terminal::complain(&format!("recording to {}; Ctrl-C ends it", options.output.display()));
            } else if show {
                show_progress(started, progress);
            }
        });
        if show {
            // Whatever stood there.
            let _ = write!(std::io::stderr().lock(), "\r\x1b[K");
        }
        recorded
    });
    let time_is_up = async {
        match time {
            Some(time) => tokio::time::sleep(time).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        ended = &mut recording => return Ok(ended??),
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        _ = hangup.recv() => {}
        () = time_is_up => {}
    }
    stop.close();
    Ok(recording.await??)
}

fn show_progress(started: Instant, progress: &Progress) {
    let seconds = started.elapsed().as_secs();
    let line = format!("{seconds} s: {}", sum(progress));
    let _ = write!(std::io::stderr().lock(), "\r\x1b[K{line}");
}

fn sum(progress: &Progress) -> String {
    let Progress { records, snapshots, entities, bytes, .. } = progress;
    format!("{records} records, {snapshots} snapshots, {entities} entities, {} KiB", bytes.div_ceil(1024))
}
