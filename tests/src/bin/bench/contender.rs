//! Whom the drops are shown to. All of them are kept on one CPU, not the one that makes drops.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Mutex;

use anyhow::{Context, Result, bail, ensure};
use inspector_ebpf::{Record, SkbDrop};
use inspector_tests::agent::{Agent, Settings};
use inspector_tests::lab::{self, Namespace};
use inspector_tests::plugins::{PluginDir, workspace};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::CONSUMER_CPU;
use crate::cost::Cost;

/// The rival of the probe, as its users type it. The second probe only says that the first is attached.
const BPFTRACE: &str =
    "tracepoint:skb:kfree_skb { @[args->reason] = count(); } interval:ms:200 { printf(\"ready\\n\"); }";
/// bpftrace wants both file systems; mounted for itself alone, so that the host stays as it is.
const WITH_TRACEFS: &str =
    "mount -t debugfs none /sys/kernel/debug; mount -t tracefs none /sys/kernel/tracing; exec \"$@\"";

/// One of those that are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Contender {
    /// No program is attached: what a packet costs anyway.
    Nobody,
    /// The agent with one analyzer, packet-loss.
    Inspector,
    /// C and libbpf, looking at its ring every millisecond.
    ByClock,
    /// C and libbpf with its default, a wake-up per record.
    Woken,
    /// A one-liner that counts in the kernel.
    Bpftrace,
}

/// What all contenders need: built once.
#[derive(Debug)]
pub struct Stage {
    /// Where the drops happen.
    pub namespace: Namespace,
    plugins: PluginDir,
    files: TempDir,
}

/// A contender at work.
#[derive(Debug)]
pub struct Running {
    process: Process,
}

#[derive(Debug)]
enum Process {
    None,
    Agent(Agent),
    Floor(Floor),
    Bpftrace(Reaped),
}

#[derive(Debug)]
struct Floor {
    // Its standard input is held open here; it ends when that does.
    child: Reaped,
    says: Mutex<BufReader<ChildStdout>>,
}

/// A child that is ended and waited for when dropped.
#[derive(Debug)]
struct Reaped(Child);

impl Drop for Reaped {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

impl Stage {
    /// Makes the namespace and compiles the floors.
    ///
    /// # Errors
    /// If a tool is missing, with its name.
    pub fn set() -> Result<Self> {
        let plugins = PluginDir::new()?;
        plugins.put_built_in("packet-loss")?;
        let stage = Self { namespace: Namespace::new("bench")?, plugins, files: tempfile::tempdir()? };
        let sources = workspace().join("tests/bench");
        stage.compile_probe(&sources, Contender::ByClock, "BPF_RB_NO_WAKEUP")?;
        stage.compile_probe(&sources, Contender::Woken, "0")?;
        let (source, binary) = (sources.join("floor_consumer.c"), stage.consumer());
        let args = format!("-O2 -Wall {} -o {} -l:libbpf.a -lelf -lz", source.display(), binary.display());
        lab::run("gcc", &args)?;
        Ok(stage)
    }

    /// Starts a contender and waits until its program is attached.
    ///
    /// # Errors
    /// If it cannot run here, with what it said.
    pub fn start(&self, contender: Contender) -> Result<Running> {
        let process = match contender {
            Contender::Nobody => Process::None,
            Contender::Inspector => Process::Agent(Agent::start(&self.agent())?),
            Contender::ByClock => Process::Floor(self.floor(contender, "clock")?),
            Contender::Woken => Process::Floor(self.floor(contender, "wake")?),
            Contender::Bpftrace => Process::Bpftrace(bpftrace()?),
        };
        Ok(Running { process })
    }

    /// The shipped configuration, but that nothing is suppressed: the floors suppress nothing.
    fn agent(&self) -> Settings {
        Settings {
            is_first: true,
            config: "probes.limit_per_second = 10_000_000\nprobes.limit_burst = 10_000_000\n".to_owned(),
            plugin_dirs: vec![self.plugins.path().to_owned()],
            through: ["taskset".to_owned(), "-c".to_owned(), CONSUMER_CPU.to_string()].into(),
            args: Vec::new(),
        }
    }

    fn floor(&self, contender: Contender, mode: &str) -> Result<Floor> {
        let mut command = pinned(&self.consumer().display().to_string());
        command.arg(self.object(contender)).arg(mode).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = Reaped(command.spawn().context("cannot start the floor")?);
        let says = BufReader::new(child.0.stdout.take().context("stdout is piped")?);
        let floor = Floor { child, says: Mutex::new(says) };
        ensure!(floor.line()? == "ready", "the floor does not load on this kernel");
        Ok(floor)
    }

    fn compile_probe(&self, sources: &Path, contender: Contender, flags: &str) -> Result<()> {
        let clang = std::env::var("CLANG").unwrap_or_else(|_| "clang".to_owned());
        let args = format!(
            "-target bpfel -mcpu=v3 -O2 -g -Wall -I{} -DSUBMIT_FLAGS={flags} -DRECORD_BYTES={} -c {} -o {}",
            workspace().join("ebpf/src").display(),
            size_of::<SkbDrop>(),
            sources.join("floor_probe.bpf.c").display(),
            self.object(contender).display()
        );
        lab::run(&clang, &args).map(drop)
    }

    fn object(&self, contender: Contender) -> PathBuf {
        self.files.path().join(format!("{contender:?}.bpf.o"))
    }

    fn consumer(&self) -> PathBuf {
        self.files.path().join("floor_consumer")
    }
}

impl Running {
    /// What it cost so far.
    ///
    /// # Errors
    /// If it has ended.
    pub fn cost(&self) -> Result<Cost> {
        match &self.process {
            Process::None => Ok(Cost::default()),
            Process::Agent(agent) => Cost::of(agent.pid(), "probe-reader"),
            Process::Floor(floor) => Cost::of(floor.child.0.id(), "floor_consumer"),
            Process::Bpftrace(child) => Cost::of(child.0.id(), "bpftrace"),
        }
    }

    /// Events that reached its user space so far; none for those that deliver no events.
    ///
    /// # Errors
    /// If it has ended.
    pub fn received(&self) -> Result<Option<u64>> {
        match &self.process {
            Process::None | Process::Bpftrace(_) => Ok(None),
            Process::Floor(floor) => floor.received().map(Some),
            Process::Agent(agent) => {
                let probes = agent.api("/api/v1/probes")?;
                let rows = probes.as_array().context("a list of probes")?;
                let row = rows.iter().find(|row| row["name"] == SkbDrop::PROBE);
                Ok(row.and_then(|row| row["events"].as_u64()))
            }
        }
    }
}

impl Floor {
    fn received(&self) -> Result<u64> {
        kill(Pid::from_raw(self.child.0.id().cast_signed()), Signal::SIGUSR1)?;
        let line = self.line()?;
        let events = line.split(' ').next().and_then(|events| events.parse().ok());
        events.with_context(|| format!("the floor says {line:?}"))
    }

    fn line(&self) -> Result<String> {
        let mut line = String::new();
        self.says.lock().expect("one thread asks").read_line(&mut line)?;
        Ok(line.trim().to_owned())
    }
}

fn pinned(program: &str) -> Command {
    let mut command = Command::new("taskset");
    command.arg("-c").arg(CONSUMER_CPU.to_string()).arg(program);
    command
}

fn bpftrace() -> Result<Reaped> {
    let mut command = pinned("unshare");
    command.args(["--mount", "sh", "-c", WITH_TRACEFS, "sh", "bpftrace", "-B", "line", "-e", BPFTRACE]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = Reaped(command.spawn().context("cannot start bpftrace")?);
    let mut lines = BufReader::new(child.0.stdout.take().context("stdout is piped")?).lines();
    let Some(_) = lines.find_map(|line| line.ok().filter(|line| line == "ready")) else {
        bail!("bpftrace ended: {:?}", child.0.wait()?);
    };
    // Whoever writes to a closed pipe is ended by it.
    std::thread::spawn(move || lines.for_each(drop));
    Ok(child)
}
