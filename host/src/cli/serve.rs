//! `inspector serve`: the agent itself. Turns flags and file into one [`Config`] and runs until
//! it is told to stop.

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use serde::de::DeserializeOwned;
use serde::de::IntoDeserializer;
use serde::de::value::{Error as ValueError, StrDeserializer};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

use super::log;
use super::shared::read_text;
use crate::agent;
use crate::config::address::Address;
use crate::config::sinks::{check_loki_address, check_otlp_endpoint};
use crate::config::{self, Config, LogFormat, LogLevel};

mod check;

/// Run the agent: load probes, run analyzers, serve metrics and events
#[derive(Debug, clap::Args)]
#[command(after_help = "\
A flag overrides the configuration file. Without a file every key has its default.

Examples:
  inspector serve --plugin-dir /usr/lib/inspector/plugins --web.listen-address :9102
  inspector serve --config /etc/inspector/inspector.toml --check

--check compiles the analyzers, which takes some seconds, and looks at all files, folders and addresses
that the configuration names. Exit status: 0 if all is good, 1 if something named is not there or cannot
be used, such as a port that another agent listens on; 2 if the configuration is refused.

SIGINT and SIGTERM end the agent in order, a second one at once. SIGHUP, SIGUSR1 and SIGUSR2 are ignored
with a line in the log: the configuration is read at start only.")]
pub struct Args {
    /// Configuration file (TOML); deploy/inspector.toml documents every key
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Folder of analyzers (*.wasm), watched while the agent runs; may be repeated
    #[arg(long = "plugin-dir", value_name = "DIR", value_parser = directory)]
    plugin_dirs: Vec<PathBuf>,
    /// Value of the `node` label; the host name by default
    #[arg(long = "node.name", value_name = "NAME", env = "NODE_NAME", hide_env_values = true)]
    node_name: Option<String>,
    /// Address to expose metrics on; may be repeated [default: :9102]
    #[arg(long = "web.listen-address", value_name = "ADDR")]
    web_listen: Vec<Address>,
    /// Path of the metrics [default: /metrics]
    #[arg(long = "web.telemetry-path", value_name = "PATH", value_parser = url_path)]
    telemetry_path: Option<String>,
    /// Address of the event server; may be repeated [default: 127.0.0.1:19102]
    #[arg(long = "events.listen-address", value_name = "ADDR")]
    events_listen: Vec<Address>,
    /// Grafana Loki to send events to: host, host:port or URL [default port: 3100]
    #[arg(long = "sinks.loki.address", value_name = "ADDR", value_parser = check_loki_address)]
    loki: Option<String>,
    /// OpenTelemetry collector to send events to: host, host:port or URL [default port: 4318]
    #[arg(long = "sinks.otlp.endpoint", value_name = "ADDR", value_parser = check_otlp_endpoint)]
    otlp: Option<String>,
    /// File to write events to, as JSON
    #[arg(long = "sinks.file.path", value_name = "FILE")]
    events_file: Option<PathBuf>,
    /// Write events to standard error, as JSON
    #[arg(long = "sinks.stderr")]
    events_stderr: bool,
    /// The host's procfs [default: /proc]
    #[arg(long = "path.procfs", value_name = "DIR", value_parser = directory)]
    procfs: Option<PathBuf>,
    /// error, warn, info, debug or trace [default: info]
    #[arg(long = "log.level", value_name = "LEVEL", value_parser = named::<LogLevel>)]
    log_level: Option<LogLevel>,
    /// text or json [default: text]
    #[arg(long = "log.format", value_name = "FORMAT", value_parser = named::<LogFormat>)]
    log_format: Option<LogFormat>,
    /// Check the configuration and everything that it names, print what was found, start nothing
    #[arg(long)]
    check: bool,
}

/// The configuration file could not be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read the configuration file {}", .path.display())]
pub struct ConfigFile {
    path: PathBuf,
    source: io::Error,
}

/// Runs the agent until SIGINT or SIGTERM.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let only_check = args.check;
    let config = args.into_config()?;
    if only_check {
        return check::run(&config);
    }
    agent::memory::keep_little();
    log::start(&config.log);
    warn_of_texts(&config.advice.file);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        // Nothing async computes: two threads keep a slow render from delaying an event.
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start the async threads")?;
    runtime.block_on(async {
        let stop = stop_signal().context("cannot listen for signals")?;
        ignore_signals().context("cannot listen for signals")?;
        agent::serve::run(config, stop).await?;
        Ok(ExitCode::SUCCESS)
    })
}

/// Texts that cannot be used stop no agent, since only `explain` reads them.
fn warn_of_texts(file: &Path) {
    if !file.as_os_str().is_empty()
        && let Err(error) = check::read_texts(file)
    {
        tracing::warn!(file = %file.display(), error, "advice.file cannot be used");
    }
}

/// Ready at the first SIGINT or SIGTERM; the second one ends the process at once, also while the
/// agent is still starting.
fn stop_signal() -> io::Result<impl Future<Output = ()> + Send + 'static> {
    let mut signals = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let (stop, stopped) = oneshot::channel();
    tokio::spawn(async move {
        let signal = end_signal(&mut signals).await;
        tracing::info!(signal, "stopping");
        // The agent may have failed meanwhile.
        let _ = stop.send(());
        let signal = end_signal(&mut signals).await;
        tracing::warn!(signal, "second signal: not waiting for an orderly end");
        std::process::exit(1);
    });
    Ok(async move { drop(stopped.await) })
}

async fn end_signal((interrupt, terminate): &mut (Signal, Signal)) -> &'static str {
    tokio::select! {
        _ = interrupt.recv() => "SIGINT",
        _ = terminate.recv() => "SIGTERM",
    }
}

/// Signals that would end the process, and by which people ask other programs for something. SIGPIPE
/// is ignored by every Rust program.
fn ignore_signals() -> io::Result<()> {
    let ignored = [
        (SignalKind::hangup(), "SIGHUP", "the configuration is read at start only: restart the agent"),
        (SignalKind::user_defined1(), "SIGUSR1", "it means nothing to this agent"),
        (SignalKind::user_defined2(), "SIGUSR2", "it means nothing to this agent"),
    ];
    for (kind, name, why) in ignored {
        let mut came = signal(kind)?;
        tokio::spawn(async move {
            while came.recv().await.is_some() {
                tracing::warn!(signal = name, why, "signal ignored");
            }
        });
    }
    Ok(())
}

impl Args {
    /// The file, with the flags over it.
    fn into_config(self) -> anyhow::Result<Config> {
        let mut config = match &self.config {
            Some(path) => read_config(path)?,
            None => Config::default(),
        };
        replace(&mut config.plugins.directories, self.plugin_dirs);
        replace(&mut config.web.listen, self.web_listen);
        replace(&mut config.events.listen, self.events_listen);
        set(&mut config.web.telemetry_path, self.telemetry_path);
        set(&mut config.sinks.loki.address, self.loki);
        set(&mut config.sinks.otlp.endpoint, self.otlp);
        set(&mut config.sinks.file.path, self.events_file);
        config.sinks.stderr.enabled |= self.events_stderr;
        set(&mut config.paths.procfs, self.procfs);
        set(&mut config.log.level, self.log_level);
        set(&mut config.log.format, self.log_format);
        name_node(&mut config, self.node_name)?;
        Ok(config)
    }
}

/// Gives the node its name: the flag's, the file's, or the host's.
pub fn name_node(config: &mut Config, flag: Option<String>) -> anyhow::Result<()> {
    set(&mut config.node.name, flag);
    if config.node.name.is_empty() {
        let host = nix::unistd::gethostname().context("cannot read the host name")?;
        config.node.name = host.to_string_lossy().into_owned();
    }
    Ok(())
}

/// Reads and checks a configuration file.
pub fn read_config(path: &Path) -> anyhow::Result<Config> {
    let text = read_text(path).map_err(|source| ConfigFile { path: path.to_owned(), source })?;
    Ok(Config::parse(&path.display().to_string(), &text)?)
}

fn set<T>(value: &mut T, flag: Option<T>) {
    if let Some(flag) = flag {
        *value = flag;
    }
}

fn replace<T>(list: &mut Vec<T>, flags: Vec<T>) {
    if !flags.is_empty() {
        *list = flags;
    }
}

/// A flag with the names that the configuration file has for the same thing.
fn named<T: DeserializeOwned>(text: &str) -> Result<T, ValueError> {
    let text: StrDeserializer<'_, ValueError> = text.into_deserializer();
    T::deserialize(text)
}

fn url_path(text: &str) -> Result<String, &'static str> {
    config::check_url_path(text)?;
    Ok(text.to_owned())
}

fn directory(text: &str) -> Result<PathBuf, &'static str> {
    let path = PathBuf::from(text);
    config::check_directory(&path)?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Flags {
        #[command(flatten)]
        args: Args,
    }

    fn config(flags: &[&str]) -> anyhow::Result<Config> {
        Flags::try_parse_from(["serve"].iter().chain(flags))?.args.into_config()
    }

    #[test]
    fn a_flag_overrides_the_file_and_the_rest_of_the_file_stays() -> anyhow::Result<()> {
        let dir = tempfile::tempdir()?;
        let file = dir.path().join("x.toml");
        std::fs::write(&file, "[web]\nlisten = [\":1\"]\n[sources]\ninterval = \"7s\"\n")?;
        let file = file.to_str().context("utf-8")?;
        let config = config(&["--config", file, "--web.listen-address", ":2", "--log.level", "debug"])?;
        assert_eq!(config.web.listen, [Address::all(2)]);
        assert_eq!(config.sources.interval.as_secs(), 7);
        assert_eq!(config.log.level, LogLevel::Debug);
        Ok(())
    }

    #[test]
    fn a_node_without_a_name_is_called_as_its_host() -> anyhow::Result<()> {
        assert!(!config(&[])?.node.name.is_empty());
        assert_eq!(config(&["--node.name", "n1"])?.node.name, "n1");
        Ok(())
    }

    #[test]
    fn a_flag_is_checked_as_the_file_is() {
        for (flag, value) in [
            ("--web.listen-address", "9102"),
            ("--web.telemetry-path", "metrics"),
            ("--web.telemetry-path", "/readyz"),
            ("--path.procfs", ""),
            ("--plugin-dir", ""),
            ("--sinks.loki.address", "ftp://loki"),
            ("--log.level", "loud"),
            ("--log.format", "xml"),
            ("--config", "/nonexistent/x.toml"),
        ] {
            let refusal = format!("{:#}", config(&[flag, value]).expect_err(flag));
            assert!(refusal.contains(value), "{refusal}");
        }
    }
}
