//! One running `inspector serve`, with its log.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

use crate::http;
use crate::plugins;
use crate::scrape::Scrape;
use crate::wait;

/// How an agent is started; the default is the shipped configuration on free ports with the
/// built-in analyzers.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// Its configuration: TOML lines with dotted keys (`probes.ring_kib = 64`).
    pub config: String,
    /// Plugin directories; the built-in analyzers if there are none.
    pub plugin_dirs: Vec<PathBuf>,
    /// A command that runs the agent, such as `setpriv` with its arguments.
    pub through: Vec<String>,
    /// Further arguments of `serve`.
    pub args: Vec<String>,
    /// It compiles all its analyzers itself, as at the first start on a machine.
    pub is_first: bool,
}

/// How long an agent may take until it is ready: a slow machine that does something else as well compiles
/// the analyzers for more than a minute.
const START: Duration = Duration::from_secs(600);

/// A running agent; stopped, and its log shown if the test fails, when dropped.
#[derive(Debug)]
pub struct Agent {
    /// Where it serves metrics.
    pub web: SocketAddr,
    /// Where it serves events.
    pub events: SocketAddr,
    process: Process,
}

impl Agent {
    /// Starts an agent and waits until it says that it is ready.
    ///
    /// # Errors
    /// If it ends before, with its log.
    pub fn start(settings: &Settings) -> Result<Self> {
        Self::start_within(settings, START)
    }

    /// [`Agent::start`] on a machine that is slower than others.
    ///
    /// # Errors
    /// As there, or if it is not ready in time.
    pub fn start_within(settings: &Settings, patience: Duration) -> Result<Self> {
        Self::start_until("ready", settings, patience)
    }

    /// Starts an agent and waits until it says that its servers answer: earlier than that it is ready.
    ///
    /// # Errors
    /// If it ends before, with its log.
    pub fn start_serving(settings: &Settings) -> Result<Self> {
        Self::start_until("serving", settings, START)
    }

    fn start_until(said: &str, settings: &Settings, patience: Duration) -> Result<Self> {
        let process = Process::spawn(settings, &["127.0.0.1:0"], "127.0.0.1:0")?;
        let mut ended = None;
        let addresses = wait::within(patience, "the agent to start", || {
            ended = process.ended();
            let addresses = process.log().iter().find_map(|line| addresses(said, line));
            addresses.map(Some).or_else(|| ended.map(|_| None))
        });
        match addresses {
            Ok(Some((web, events))) => Ok(Self { web, events, process }),
            _ => bail!("the agent is not {said} ({ended:?}):\n{}", process.log().join("\n")),
        }
    }

    /// Its log so far, one JSON object per line.
    pub fn log(&self) -> Vec<String> {
        self.process.log()
    }

    /// Waits until a line of its log holds all these words.
    ///
    /// # Errors
    /// If none comes.
    pub fn wait_for_log(&self, words: &[&str]) -> Result<String> {
        wait::until(&format!("a log line with {words:?}"), || {
            self.log().into_iter().find(|line| words.iter().all(|word| line.contains(word)))
        })
    }

    /// Its metrics now.
    ///
    /// # Errors
    /// If the page is not served or does not parse.
    pub fn scrape(&self) -> Result<Scrape> {
        Scrape::of(self.web)
    }

    /// A document of its event server, such as `/api/v1/plugins`.
    ///
    /// # Errors
    /// If it is not served.
    pub fn api(&self, path: &str) -> Result<Value> {
        http::get_json(self.events, path)
    }

    /// Process id.
    pub fn pid(&self) -> u32 {
        self.process.child.lock().unwrap_or_else(PoisonError::into_inner).id()
    }

    /// Whether it still runs.
    pub fn is_running(&self) -> bool {
        self.process.ended().is_none()
    }

    /// Asks it to stop and waits for its end.
    ///
    /// # Errors
    /// If it does not end in time.
    pub fn stop(self) -> Result<ExitStatus> {
        kill(Pid::from_raw(self.pid().cast_signed()), Signal::SIGTERM)?;
        wait::until("the agent to stop", || self.process.ended())
    }
}

/// What an agent that cannot run leaves.
#[derive(Debug)]
pub struct Refusal {
    /// Exit status.
    pub status: ExitStatus,
    /// Everything it wrote to standard error.
    pub log: Vec<String>,
}

/// Starts an agent that is expected to refuse.
///
/// # Errors
/// If it goes on running.
pub fn refused(settings: &Settings, web: &[&str], events: &str) -> Result<Refusal> {
    let process = Process::spawn(settings, web, events)?;
    let status = wait::until("the agent to refuse", || process.ended())?;
    process.finish_reading();
    Ok(Refusal { status, log: process.log() })
}

/// The binary under test: `INSPECTOR_BIN`, or the one built beside this test.
///
/// # Errors
/// If there is none.
pub fn binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("INSPECTOR_BIN") {
        return Ok(path.into());
    }
    beside("inspector").context("run `make build` or set INSPECTOR_BIN")
}

/// A program of this package, or the agent, built beside this one.
///
/// # Errors
/// If there is none.
pub fn beside(name: &str) -> Result<PathBuf> {
    let exe = std::env::current_exe()?;
    let found = exe.ancestors().skip(1).take(2).map(|dir| dir.join(name)).find(|path| path.is_file());
    found.with_context(|| format!("no `{name}` beside {}", exe.display()))
}

/// A child with its log read on a thread.
#[derive(Debug)]
struct Process {
    child: Mutex<Child>,
    log: Arc<Mutex<Vec<String>>>,
    reader: Mutex<Option<JoinHandle<()>>>,
    // Holds the configuration, and a cache of the agent's own, as long as it runs.
    _home: TempDir,
}

impl Process {
    fn spawn(settings: &Settings, web: &[&str], events: &str) -> Result<Self> {
        let home = tempfile::tempdir()?;
        let config = home.path().join("inspector.toml");
        let own = || home.path().join("cache");
        let shared = if settings.is_first || !settings.through.is_empty() { None } else { shared_cache() };
        let cache = format!("\nplugins.cache_dir = '{}'\n", shared.unwrap_or_else(own).display());
        std::fs::write(&config, settings.config.clone() + &cache)?;
        open_to_all(home.path())?;
        let mut command = command(settings)?;
        command.arg("serve").arg("--config").arg(config).args(["--log.format", "json"]);
        for at in web {
            command.args(["--web.listen-address", at]);
        }
        command.args(["--events.listen-address", events]);
        if settings.plugin_dirs.is_empty() {
            command.arg("--plugin-dir").arg(plugins::built_in()?);
        }
        for dir in &settings.plugin_dirs {
            command.arg("--plugin-dir").arg(dir);
        }
        command.args(&settings.args).env("NO_COLOR", "1");
        end_with_this_thread(&mut command);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
        let stderr = child.stderr.take().context("stderr is piped")?;
        let log = Arc::<Mutex<Vec<String>>>::default();
        let reader = std::thread::spawn({
            let log = Arc::clone(&log);
            move || {
                for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                    log.lock().unwrap_or_else(PoisonError::into_inner).push(line);
                }
            }
        });
        Ok(Self { child: Mutex::new(child), log, reader: Mutex::new(Some(reader)), _home: home })
    }

    fn log(&self) -> Vec<String> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn ended(&self) -> Option<ExitStatus> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner).try_wait().ok().flatten()
    }

    /// Waits for the end of standard error, after the end of the process.
    fn finish_reading(&self) {
        let reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(reader.map(JoinHandle::join));
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.ended().is_none() {
            let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
            // It may end by itself between the look and the signal.
            drop(child.kill());
            drop(child.wait());
        }
        if std::thread::panicking() {
            eprintln!("log of the agent:\n{}", self.log().join("\n"));
        }
    }
}

/// The start of the command line, up to the agent's own arguments.
fn command(settings: &Settings) -> Result<Command> {
    let binary = binary()?;
    let Some((through, args)) = settings.through.split_first() else { return Ok(Command::new(binary)) };
    let mut command = Command::new(through);
    command.args(args).arg(binary);
    Ok(command)
}

/// Whatever ends a test, its agents end too.
fn end_with_this_thread(command: &mut Command) {
    use std::os::unix::process::CommandExt as _;
    // SAFETY: between fork and exec, one system call and nothing else.
    unsafe { command.pre_exec(|| Ok(nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?)) };
}

/// An agent without privileges must be able to read its configuration.
fn open_to_all(dir: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    Ok(std::fs::set_permissions(dir, PermissionsExt::from_mode(0o755))?)
}

/// Where agents of all tests find what one of them has compiled: each plugin is compiled once. `None` where
/// there is no checkout, as on another kernel.
fn shared_cache() -> Option<PathBuf> {
    use std::os::unix::fs::DirBuilderExt;
    let target = plugins::workspace().join("target");
    let cache = target.join("tests-cache");
    // It is there already, most of the time.
    let _ = std::fs::DirBuilder::new().mode(0o700).create(&cache);
    cache.is_dir().then_some(cache)
}

/// The addresses in the line by which the agent says that it is serving or ready.
fn addresses(said: &str, line: &str) -> Option<(SocketAddr, SocketAddr)> {
    let line: Value = serde_json::from_str(line).ok()?;
    let address = |name: &str| {
        // Several addresses are a list; the first one will do.
        let text = line[name].as_str()?.trim_matches(['[', ']', '"']);
        text.split([',', ' ', '"']).next()?.parse().ok()
    };
    (line["message"] == said).then(|| Some((address("web")?, address("events")?)))?
}
