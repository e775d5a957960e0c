//! `make demo`: three real faults between two network namespaces, and what Inspector says of them.
//!
//! Everything shown comes from the running product: event lines from `inspector watch`, metrics
//! from a scrape before and after. A fault that Inspector does not see fails the demo. Whatever
//! ends it, also Ctrl-C, the agent is stopped and the namespaces are deleted.
//! Without the privileges for that it shows recorded traces instead, and says so ([`recorded`]).

mod recorded;

use std::io::{BufRead, BufReader, IsTerminal, Write as _};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use inspector_tests::agent::{Agent, Settings, binary};
use inspector_tests::lab::{Family, Pair, end_in_order, faults};
use inspector_tests::scrape::Scrape;
use nix::sys::signal::Signal;

/// Within this time a fault must be seen; in practice it takes a fraction of it.
const PATIENCE: Duration = Duration::from_secs(15);

fn main() -> ExitCode {
    let started = Arc::<Mutex<Vec<u32>>>::default();
    let to_end = Arc::clone(&started);
    let ready = end_in_order(move || {
        for pid in to_end.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid.cast_signed()), Signal::SIGKILL);
        }
    });
    if let Err(e) = ready {
        eprintln!("{e:#}");
        return ExitCode::FAILURE;
    }
    match demo(&started) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("\ndemo failed: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn demo(started: &Mutex<Vec<u32>>) -> Result<()> {
    let style = Style { colour: std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none() };
    println!("{}\n", style.bold("Inspector demo: three real faults between two network namespaces"));
    if let Some(obstacle) = recorded::obstacle() {
        return recorded::demo(style, &obstacle);
    }
    let start = Instant::now();
    let pair = step("making two namespaces and a link between them", Pair::new)?;
    let settings = Settings { config: "sources.interval = \"1s\"\n".to_owned(), ..Settings::default() };
    let agent = step("starting the agent: probes, analyzers, servers", || Agent::start(&settings))?;
    started.lock().unwrap_or_else(PoisonError::into_inner).push(agent.pid());
    probes_are_up(&agent)?;
    let watch = Watch::start(&agent)?;
    started.lock().unwrap_or_else(PoisonError::into_inner).push(watch.child.id());
    println!();
    println!("  client  {:<22} {}", pair.client.name(), pair.client_ip(Family::V4));
    println!("  server  {:<22} {}", pair.server.name(), pair.server_ip(Family::V4));
    println!("  agent   metrics http://{}/metrics, events {}", agent.web, agent.events);

    let scene =
        Scene { agent: &agent, watch: &watch, style, server: pair.server.name(), client: pair.client.name() };
    scene.closed_port(&pair)?;
    scene.firewall_drop(&pair)?;
    scene.full_accept_queue(&pair)?;

    println!(
        "\n{}",
        style.bold(&format!(
            "All three faults were seen and named, in {:.0} s.",
            start.elapsed().as_secs_f64()
        ))
    );
    println!("Try `make run` and `target/release/inspector watch` on your own traffic.");
    Ok(())
}

/// What each fault is shown with.
struct Scene<'a> {
    agent: &'a Agent,
    watch: &'a Watch,
    style: Style,
    server: &'a str,
    client: &'a str,
}

impl Scene<'_> {
    fn closed_port(&self, pair: &Pair) -> Result<()> {
        let to = pair.server_at(Family::V4, faults::CLOSED_PORT);
        self.title(1, &format!("A closed port: the client connects to {to}, where nobody listens"));
        let before = self.agent.scrape()?;
        faults::connect_to_closed_port(&pair.client, to)?;
        self.said(&["TCPRESET_NOSOCK", self.server, "reason=NO_SOCKET"])?;
        self.said(&["TCPCONNECT_FAILED", self.client, "ECONNREFUSED"])?;
        self.moved(&before, "inspector_pod_tcpoutrsts", &[("pod", self.server)])?;
        self.moved(&before, "inspector_pod_tcpattemptfails", &[("pod", self.client)])?;
        self.moved(&before, "inspector_drops_total", &[("pod", self.server), ("reason", "NO_SOCKET")])
    }

    fn firewall_drop(&self, pair: &Pair) -> Result<()> {
        let to = pair.server_at(Family::V4, 80);
        self.title(2, &format!("A firewall: the server's nftables drop what comes in for {to}"));
        let before = self.agent.scrape()?;
        faults::drop_incoming(&pair.server, "tcp", 80)?;
        let connecting = faults::start_connect(&pair.client, to)?;
        self.said(&["PACKETLOSS", self.server, "NETFILTER_DROP"])?;
        self.said(&["TCPRETRANS", self.client])?;
        self.moved(&before, "inspector_pod_packetloss_netfilter", &[("pod", self.server)])?;
        self.moved(&before, "inspector_tcp_retransmits_total", &[("pod", self.client), ("kind", "syn")])?;
        drop(connecting);
        faults::stop_dropping(&pair.server)
    }

    fn full_accept_queue(&self, pair: &Pair) -> Result<()> {
        let before = self.agent.scrape()?;
        let full = faults::fill_accept_queue(pair, Family::V4)?;
        self.title(3, &format!("A full accept queue: the server at {} never calls accept", full.at));
        self.said(&["TCPLISTEN_OVERFLOW", self.server])?;
        self.moved(&before, "inspector_pod_tcpextlistenoverflows", &[("pod", self.server)])?;
        self.moved(&before, "inspector_pod_tcpextlistendrops", &[("pod", self.server)])?;
        self.moved(&before, "inspector_pod_tcpexttcpsynretrans", &[("pod", self.client)])
    }

    fn title(&self, number: u32, text: &str) {
        println!("\n{}", self.style.bold(&format!("{number}. {text}")));
    }

    /// Waits for an event line with all these words, and shows it.
    fn said(&self, words: &[&str]) -> Result<()> {
        let line = self.wait(&format!("an event with {words:?}"), || Ok(self.watch.line_with(words)))?;
        println!("  event   {line}");
        Ok(())
    }

    /// Waits until a metric is larger than before, and shows it.
    fn moved(&self, before: &Scrape, name: &str, labels: &[(&str, &str)]) -> Result<()> {
        let old = before.sum(name, labels).unwrap_or(0.0);
        let new = self.wait(&format!("{name} to rise"), || {
            Ok(self.agent.scrape()?.sum(name, labels).filter(|new| *new > old))
        })?;
        let labels: Vec<_> = labels.iter().map(|(key, value)| format!("{key}=\"{value}\"")).collect();
        println!("  metric  {name}{{{}}}  {old} -> {}", labels.join(","), self.style.bold(&new.to_string()));
        Ok(())
    }

    fn wait<T>(&self, what: &str, mut look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            if let Some(found) = look()? {
                return Ok(found);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        let log = self.agent.log();
        bail!(
            "waited {PATIENCE:?} in vain for {what}; the agent's log ends with\n{}",
            log[log.len().saturating_sub(10)..].join("\n")
        )
    }
}

/// Without the probes there is nothing to show, and the reason is worth more than a failure later.
fn probes_are_up(agent: &Agent) -> Result<()> {
    let probes = agent.api("/api/v1/probes")?;
    let probes = probes.as_array().or_else(|| probes["probes"].as_array()).context("a list of probes")?;
    if let Some(probe) = probes.iter().find(|probe| probe["state"] == "down") {
        bail!("probe {} is down: {}; see `inspector doctor`", probe["name"], probe["reason"]);
    }
    Ok(())
}

/// A running `inspector watch` and what it printed.
struct Watch {
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Watch {
    fn start(agent: &Agent) -> Result<Self> {
        let mut command = Command::new(binary()?);
        command.args(["watch", "-e", &agent.events.to_string()]);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
        let lines = Arc::<Mutex<Vec<String>>>::default();
        let out = child.stdout.take().context("stdout is piped")?;
        std::thread::spawn({
            let lines = Arc::clone(&lines);
            move || {
                for line in BufReader::new(out).lines().map_while(Result::ok) {
                    lines.lock().unwrap_or_else(PoisonError::into_inner).push(line);
                }
            }
        });
        Ok(Self { child, lines })
    }

    fn line_with(&self, words: &[&str]) -> Option<String> {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().find(|line| words.iter().all(|word| line.contains(word))).cloned()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // It runs until it is told to stop.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Shows what is being done while it is done.
fn step<T>(what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    print!("  ....  {what}");
    std::io::stdout().flush()?;
    let start = Instant::now();
    let done = work();
    let mark = if done.is_ok() { "ok" } else { "FAIL" };
    println!("\r  {mark:<4}  {what} ({:.1} s)", start.elapsed().as_secs_f64());
    done
}

#[derive(Clone, Copy)]
struct Style {
    colour: bool,
}

impl Style {
    fn bold(self, text: &str) -> String {
        if self.colour { format!("\x1b[1m{text}\x1b[0m") } else { text.to_owned() }
    }
}
