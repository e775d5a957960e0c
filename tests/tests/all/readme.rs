//! Promise: every command of the README does what it says, as it is written; also on a machine that
//! lacks what Inspector can do without.
//!
//! Each test has a machine of its own: a network and a mount namespace with the README's ports free,
//! a namespace `web` to ask about, names `node-1` and `node-2`, and something hidden.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use anyhow::{Context, Result, bail, ensure};
use inspector_tests::plugins::{outside_of_cargo, workspace};
use inspector_tests::wait;
use tempfile::TempDir;

/// Commands that were run by whoever runs this test.
const RUN_ALREADY: [&str; 2] = ["make build", "make test"];

/// What a machine may lack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lacks {
    Nothing,
    Kprobes,
    Btf,
    Iptables,
    Conntrack,
    CgroupV2,
}

impl Lacks {
    /// Shell text that hides it, in a mount namespace of its own.
    fn hide(self) -> &'static str {
        match self {
            Self::Nothing | Self::Iptables => "",
            Self::Kprobes => "mount -t tmpfs hidden /sys/bus/event_source/devices",
            Self::Btf => "mount -t tmpfs hidden /sys/kernel/btf",
            Self::Conntrack => {
                "[ ! -d /proc/sys/net/netfilter ] || mount -t tmpfs hidden /proc/sys/net/netfilter"
            }
            Self::CgroupV2 => {
                "while read -r _ at kind _; do [ $kind != cgroup2 ] || mount -t tmpfs hidden $at; done < <(cat /proc/mounts)"
            }
        }
    }

    /// Programs that are not found there: those whose names begin so.
    fn programs(self) -> &'static [&'static str] {
        match self {
            Self::Iptables => &["iptables", "ip6tables", "xtables"],
            Self::Conntrack => &["conntrack"],
            _ => &[],
        }
    }

    /// What a command says that cannot do its work without it.
    fn refusal(self, command: &str) -> Option<&'static str> {
        match self {
            Self::Btf if command.contains(" record ") => Some("no probe can be loaded"),
            // There is no recording then.
            Self::Btf if command.contains(" replay ") => Some("fault.trace"),
            _ => None,
        }
    }
}

#[test]
fn the_commands_of_the_readme_work_as_they_are_written() -> Result<()> {
    the_readme_holds(Lacks::Nothing)
}

#[test]
fn the_commands_of_the_readme_work_without_kprobes() -> Result<()> {
    the_readme_holds(Lacks::Kprobes)
}

#[test]
fn the_commands_of_the_readme_work_without_btf_or_say_that_it_is_missing() -> Result<()> {
    the_readme_holds(Lacks::Btf)
}

#[test]
fn the_commands_of_the_readme_work_without_iptables() -> Result<()> {
    the_readme_holds(Lacks::Iptables)
}

#[test]
fn the_commands_of_the_readme_work_without_connection_tracking() -> Result<()> {
    the_readme_holds(Lacks::Conntrack)
}

#[test]
fn the_commands_of_the_readme_work_without_cgroup_v2() -> Result<()> {
    the_readme_holds(Lacks::CgroupV2)
}

#[test]
fn the_demo_shows_recorded_traces_to_a_user_without_privileges() -> Result<()> {
    let machine = Machine::without(Lacks::Nothing)?;
    // The checkout may lie where only root can read.
    let only_reads = "--inh-caps=-all,+dac_read_search --ambient-caps=-all,+dac_read_search \
                      --bounding-set=-all,+dac_read_search";
    let demo = "make -o build demo";
    let output =
        machine.run(&format!("setpriv --reuid 65534 --regid 65534 --clear-groups {only_reads} {demo}"))?;
    let said = text(&output);
    ensure!(output.status.success(), "{said}");
    for part in ["Nothing happens live", "this is not root", "accept-queue-overflow", "from their traces"] {
        ensure!(said.contains(part), "{part:?} in\n{said}");
    }
    Ok(())
}

/// Runs all commands in the order of the README; what serves or watches goes on until the end.
fn the_readme_holds(lacks: Lacks) -> Result<()> {
    let machine = Machine::without(lacks)?;
    let mut serving = Vec::new();
    for command in commands()? {
        if RUN_ALREADY.contains(&command.as_str()) {
            continue;
        }
        if command.contains(" serve ") || command.ends_with(" watch") {
            serving.push((command.clone(), machine.start(&command)?));
            machine.becomes_ready()?;
            continue;
        }
        let output = machine.run(&command)?;
        let said = text(&output);
        match lacks.refusal(&command) {
            None => ensure!(output.status.success(), "`{command}` ends with {}:\n{said}", output.status),
            Some(why) => ensure!(
                output.status.code() == Some(1) && said.contains(why),
                "`{command}` ends with {} without {why:?}:\n{said}",
                output.status
            ),
        }
        ensure!(!said.contains("panicked"), "`{command}`:\n{said}");
        if command == "make demo" {
            let shown =
                if lacks == Lacks::Btf { "Nothing happens live" } else { "All three faults were seen" };
            ensure!(said.contains(shown) && said.contains("accept-queue-overflow"), "{shown:?} in\n{said}");
        }
    }
    ensure!(serving.len() == 2, "the README serves and watches: {serving:?}");
    if lacks != Lacks::Btf {
        machine.watch_shows_a_refused_connect(&serving[1].1)?;
    }
    for (command, running) in &mut serving {
        ensure!(running.child.try_wait()?.is_none(), "`{command}` ended:\n{}", running.said());
    }
    Ok(())
}

/// The lines of the README's shell examples, without comments, in their order.
fn commands() -> Result<Vec<String>> {
    let readme = fs::read_to_string(workspace().join("README.md"))?;
    let blocks = readme.split("```sh\n").skip(1).filter_map(|rest| rest.split_once("```"));
    let lines = blocks.flat_map(|(block, _)| block.lines());
    let commands: Vec<_> =
        lines.map(|line| line.split(" #").next().unwrap_or(line).trim().to_owned()).collect();
    ensure!(commands.len() >= 10, "the README has no commands any more: {commands:?}");
    // Root needs no sudo, and CI's machine may have none.
    Ok(commands
        .into_iter()
        .map(|command| command.trim_start_matches("sudo ").replace("| sudo ", "| "))
        .collect())
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// A machine to follow the README on.
struct Machine {
    /// Where its commands run: looks like the checkout.
    checkout: TempDir,
    path: String,
    holder: Child,
}

/// A command that goes on.
#[derive(Debug)]
struct Running {
    child: Child,
    output: PathBuf,
}

impl Machine {
    fn without(lacks: Lacks) -> Result<Self> {
        let checkout = tempfile::tempdir()?;
        for entry in fs::read_dir(workspace())?.flatten() {
            symlink(entry.path(), checkout.path().join(entry.file_name()))?;
        }
        let path = search_path(&checkout.path().join(".bin"), lacks.programs())?;
        fs::write(checkout.path().join(".hosts"), "127.0.0.1 localhost node-1 node-2\n")?;
        let set_up = format!(
            "ip link set lo up\n\
             mkdir -p /run/netns && mount -t tmpfs own /run/netns\n\
             mount -t tmpfs own /var/cache\n\
             mount --bind .hosts /etc/hosts\n\
             {}\n\
             ip netns add web\n\
             touch .ready\n\
             exec sleep infinity",
            lacks.hide()
        );
        let mut unshare = Command::new("unshare");
        unshare.args(["--mount", "--net", "--kill-child", "bash", "-euc", &set_up]);
        let holder = unshare.current_dir(checkout.path()).stdin(Stdio::null()).spawn()?;
        let mut machine = Self { checkout, path, holder };
        let ready = machine.checkout.path().join(".ready");
        wait::until("the machine to be set up", || {
            let ended = machine.holder.try_wait().ok().flatten();
            ended.map(|status| bail!("setting it up: {status}")).or_else(|| ready.exists().then_some(Ok(())))
        })??;
        Ok(machine)
    }

    /// A command there, in a shell as people have it.
    fn command(&self, command: &str) -> Command {
        let mut inside = Command::new("nsenter");
        inside.args(["--target", &self.inside().to_string(), "--mount", "--net", "--root"]);
        inside.arg(format!("--wd={}", self.checkout.path().display()));
        inside.args(["--", "timeout", "--kill-after=10", "300", "bash", "-o", "pipefail", "-c", command]);
        outside_of_cargo(&mut inside).env("PATH", &self.path).env("NO_COLOR", "1").stdin(Stdio::null());
        inside
    }

    /// The process in it: `unshare` waits outside for its child.
    fn inside(&self) -> u32 {
        let pid = self.holder.id();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        children.split_whitespace().next().and_then(|child| child.parse().ok()).unwrap_or(pid)
    }

    fn run(&self, command: &str) -> Result<Output> {
        self.command(command).output().with_context(|| command.to_owned())
    }

    fn start(&self, command: &str) -> Result<Running> {
        let output = tempfile::NamedTempFile::new_in(&self.checkout)?.keep()?.1;
        let file = fs::File::create(&output)?;
        let child = self.command(command).stdout(file.try_clone()?).stderr(file).spawn()?;
        Ok(Running { child, output })
    }

    fn becomes_ready(&self) -> Result<()> {
        let ready = "curl -sf localhost:9102/readyz";
        wait::until("the agent to be ready", || self.run(ready).ok().filter(|o| o.status.success())).map(drop)
    }

    fn watch_shows_a_refused_connect(&self, watch: &Running) -> Result<()> {
        wait::until("`inspector watch` to show a refused connect", || {
            // Nobody listens on port 9; each try may be the first after the stream has begun.
            self.run("exec 3<>/dev/tcp/127.0.0.1/9").ok()?;
            watch.said().contains("NO_SOCKET").then_some(())
        })
        .with_context(|| watch.said())
    }
}

impl Running {
    fn said(&self) -> String {
        fs::read_to_string(&self.output).unwrap_or_default()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // `timeout` passes it on to what it runs.
        let pid = nix::unistd::Pid::from_raw(self.child.id().cast_signed());
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        let _ = self.child.wait();
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

/// This process's search path; without programs whose names begin so, if any.
fn search_path(dir: &Path, without: &[&str]) -> Result<String> {
    let path = std::env::var("PATH")?;
    if without.is_empty() {
        return Ok(path);
    }
    fs::create_dir(dir)?;
    for entry in path.split(':').filter_map(|folder| fs::read_dir(folder).ok()).flatten().flatten() {
        let name = entry.file_name();
        let is_hidden = without.iter().any(|program| name.to_string_lossy().starts_with(program));
        // The first folder of the path wins, so a name that is there already stays.
        if !is_hidden && !dir.join(&name).is_symlink() {
            symlink(entry.path(), dir.join(&name))?;
        }
    }
    Ok(dir.display().to_string())
}
