//! The demo with real faults: two namespaces, a running agent, and what it says.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use inspector_tests::agent::{Agent, Settings, binary};
use inspector_tests::lab::cases::{Case, Place};
use inspector_tests::lab::{Family, Scene, Topology};
use inspector_tests::scrape::Scrape;
use serde_json::Value;

use super::Started;
use super::faults::{FAULTS, Fault};
use super::show::Style;

/// Within this time a fault must be seen; in practice it takes a fraction of it.
const PATIENCE: Duration = Duration::from_secs(30);

/// The probes whose events are shown. Whatever else is missing is no obstacle.
const NEEDED: [&str; 3] = ["skb-drop", "tcp-reset", "tcp-retransmit"];

/// What came of it.
pub enum Shown {
    /// The faults were made and seen.
    Faults,
    /// Nothing could be shown live, and why.
    Nothing(String),
}

/// Makes the faults and shows what the product says of them.
///
/// # Errors
/// If a fault could not be made, or was not seen.
pub fn demo(style: Style, started: &Started) -> Result<Shown> {
    let start = Instant::now();
    let made = || Scene::new(Topology::Direct, Family::V4);
    let scene = style.step("making two namespaces and a link between them", made)?;
    let settings = Settings { config: "sources.interval = \"1s\"\n".to_owned(), ..Settings::default() };
    let agent = style.step("starting the agent: probes, analyzers, servers", || Agent::start(&settings))?;
    to_end(started, agent.pid());
    if let Some(obstacle) = missing(&agent)? {
        return Ok(Shown::Nothing(obstacle));
    }
    let watch = Watch::start(&agent)?;
    to_end(started, watch.child.id());
    println!();
    println!("  client  {:<22} {}", scene.client().name(), scene.client_ip());
    println!("  server  {:<22} {}", scene.server().name(), scene.server_ip());
    println!("  agent   metrics http://{}/metrics, events {}", agent.web, agent.events);

    let show = Show { agent: &agent, watch: &watch, style, scene: &scene };
    // One that is not seen does not hide the others.
    let failed: Vec<_> =
        FAULTS.iter().enumerate().filter_map(|(number, fault)| show.fault(number + 1, fault).err()).collect();
    for error in &failed {
        eprintln!("\n  FAIL  {error:#}");
    }
    ensure!(failed.is_empty(), "{} of 3 faults were not shown", failed.len());
    let seconds = start.elapsed().as_secs_f64();
    println!("\n{}", style.bold(&format!("All three faults were seen and named, in {seconds:.0} s.")));
    println!("Try `make run`, and `target/release/inspector diagnose` on your own traffic.");
    Ok(Shown::Faults)
}

fn to_end(started: &Started, pid: u32) {
    started.lock().unwrap_or_else(PoisonError::into_inner).push(pid);
}

/// Tells which probes this machine does not have; the reason if the demo needs one of them.
fn missing(agent: &Agent) -> Result<Option<String>> {
    let probes = agent.api("/api/v1/probes")?;
    let down = |probe: &&Value| probe["state"] == "down";
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    for probe in probes.as_array().context("a list of probes")?.iter().filter(down) {
        let (name, reason) = (text(&probe["name"]), text(&probe["reason"]));
        if NEEDED.contains(&name.as_str()) {
            return Ok(Some(format!("probe {name} cannot be loaded: {reason}")));
        }
        println!("  info  without probe {name}, which the demo does not need: {reason}");
    }
    Ok(None)
}

/// What each fault is shown with.
struct Show<'a> {
    agent: &'a Agent,
    watch: &'a Watch,
    style: Style,
    scene: &'a Scene,
}

impl Show<'_> {
    /// Shows a fault while it lasts: that is when people ask.
    fn fault(&self, number: usize, fault: &Fault) -> Result<()> {
        println!("\n{}", self.style.bold(&format!("{number}. {}", fault.title)));
        let before = self.agent.scrape()?;
        let _held = Case::named(fault.case)?.make(self.scene)?;
        for (kind, place, word) in fault.events {
            self.said(&[kind, self.at(*place), word])?;
        }
        for (name, place, labels) in fault.metrics {
            self.moved(&before, name, &[&[("pod", self.at(*place))], *labels].concat())?;
        }
        let at = format!("{}:", self.scene.server_ip());
        fault.concluded.map_or(Ok(()), |code| self.explained(&[code, &at]))
    }

    /// The name of a host.
    fn at(&self, place: Place) -> &str {
        if place == Place::Client { self.scene.client().name() } else { self.scene.server().name() }
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

    /// Asks why connections to the server fail, until the answer has all these words, and shows it.
    fn explained(&self, words: &[&str]) -> Result<()> {
        let events = self.agent.events.to_string();
        // The two faults before are in the answer as well, if it looks back as far as they happened.
        let server = self.at(Place::Server);
        let args = ["diagnose", "connect", "--entity", server, "--last", "5s", "-e", &events];
        let answer = self.wait(&format!("a diagnosis with {words:?}"), || {
            let output = Command::new(binary()?).args(args).output()?;
            ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            let text = String::from_utf8(output.stdout)?;
            // Lines are as wide as a page, so that an address may begin the next one.
            let joined = text.split_whitespace().collect::<Vec<_>>().join(" ");
            Ok(words.iter().all(|word| joined.contains(word)).then_some(text))
        })?;
        self.style.command(&format!("inspector {}", args.join(" ")), &answer);
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

/// A running `inspector watch` and what it printed.
struct Watch {
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Watch {
    fn start(agent: &Agent) -> Result<Self> {
        let mut command = Command::new(binary()?);
        // From the backlog too: the first fault may be made before it has connected.
        command.args(["watch", "--since", "5m", "-e", &agent.events.to_string()]);
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
