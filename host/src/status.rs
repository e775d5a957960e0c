//! The state of every probe, source and plugin, as `list`, `/api/v1/*` and `/metrics` show it.
//!
//! Each adapter writes its own part; readers get a copy. The one thing that is decided here is whether
//! all of it together is ready.
//!
//! Longer than other files, because it is the one list of everything that has a state.

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::text::escape;

/// Bytes of what a panic says.
const MAX_PANIC: usize = 512;

/// States with the text that each has in JSON, in tables and in sentences. A text that this version does
/// not know, as an agent of another version may send, is kept as it is.
macro_rules! state_enum {
    ($(#[$of:meta])* $name:ident { $($(#[$meaning:meta])* $state:ident = $text:literal,)+ }) => {
        $(#[$of])*
        #[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(from = "String", into = "String")]
        pub enum $name {
            $($(#[$meaning])* $state,)+
            /// In the words of an agent of another version.
            Other(String),
        }

        impl $name {
            /// As in JSON.
            pub fn as_str(&self) -> &str {
                match self {
                    $(Self::$state => $text,)+
                    Self::Other(text) => text,
                }
            }
        }

        impl From<String> for $name {
            fn from(text: String) -> Self {
                match text.as_str() {
                    $($text => Self::$state,)+
                    _ => Self::Other(text),
                }
            }
        }

        impl From<$name> for String {
            fn from(state: $name) -> Self {
                state.as_str().to_owned()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

state_enum! {
    /// State of a hook of a probe.
    HookState {
        /// Its program runs.
        Attached = "attached",
        /// No plugin subscribes to its probe.
        #[default]
        Idle = "idle",
        /// This kernel lacks it.
        Missing = "missing",
        /// This kernel has it, and its program cannot be loaded or attached.
        Failed = "failed",
    }
}

state_enum! {
    /// State of a probe.
    ProbeState {
        /// Every hook is attached.
        Up = "up",
        /// Some hooks are attached.
        Partial = "partial",
        /// No plugin subscribes to it.
        #[default]
        Idle = "idle",
        /// No hook is attached.
        Down = "down",
    }
}

state_enum! {
    /// State of a source of counter tables.
    SourceState {
        /// It was read for every entity.
        Up = "up",
        /// This kernel does not have it, or not now.
        Absent = "absent",
        /// It cannot be read for some or all entities.
        Failing = "failing",
        /// It was not read in time.
        Late = "late",
        /// No plugin reads it.
        #[default]
        Idle = "idle",
    }
}

state_enum! {
    /// State of a plugin.
    PluginState {
        /// Its file is being compiled, or waits for that.
        #[default]
        Compiling = "compiling",
        /// It takes in what comes.
        Running = "running",
        /// It failed, and restarts soon.
        Backoff = "backoff",
        /// It failed too often, and restarts late.
        Quarantined = "quarantined",
        /// It never ran: its file cannot be used.
        Refused = "refused",
        /// It never ran: the configuration disables it.
        Disabled = "disabled",
        /// It has ended.
        Stopped = "stopped",
    }
}

state_enum! {
    /// State of a sink of events.
    SinkState {
        /// It had nothing to deliver yet.
        #[default]
        Idle = "idle",
        /// It delivered what came last.
        Up = "up",
        /// It could not; what comes waits.
        Failing = "failing",
    }
}

/// State of one hook of a probe.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HookStatus {
    /// Kernel hook, e.g. `tp_btf/kfree_skb`.
    pub hook: String,
    /// The program chosen for this kernel, empty if none fits.
    pub program: String,
    /// Whether it is attached.
    pub state: HookState,
    /// Why it is not attached and what is lost without it; empty when attached.
    pub reason: String,
    /// Runs since load; only while `kernel.bpf_stats_enabled` is 1.
    pub run_count: u64,
    /// Nanoseconds spent in the kernel since load; only while `kernel.bpf_stats_enabled` is 1.
    pub run_time_ns: u64,
    /// Runs since load that the kernel skipped, because the program was running on that CPU already
    /// in what they interrupted. Each may have been a record or nothing; no other count has them.
    #[serde(default)]
    pub missed: u64,
}

/// State of one probe.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeStatus {
    /// Probe name, e.g. `skb-drop`.
    pub name: String,
    /// Whether it is up.
    pub state: ProbeState,
    /// Why it is not up; empty when up.
    pub reason: String,
    /// Schema number of its records.
    pub schema: u16,
    /// What the kernel side wanted to deliver since start, in records or added up:
    /// `events` + `folded` + `lost`, once what is on its way has arrived.
    pub produced: u64,
    /// Delivered since start within the record of another one: a record of a sum stands for its
    /// count, of which one is in `events`.
    #[serde(default)]
    pub folded: u64,
    /// Records delivered since start.
    pub events: u64,
    /// Records lost in the kernel since start (full ring and limit).
    pub lost: u64,
    /// Its hooks.
    pub hooks: Vec<HookStatus>,
}

impl ProbeStatus {
    /// Why it is not up, without what that costs at each hook: the same text for all that one cause
    /// takes. What this kernel lacks anyway is no cause where something else is.
    pub fn cause(&self) -> String {
        let [failed, missing] = [HookState::Failed, HookState::Missing].map(|state| self.causes_of(&state));
        let causes = if failed.is_empty() { missing } else { failed };
        if causes.is_empty() { self.reason.clone() } else { causes.join("; ") }
    }

    fn causes_of(&self, state: &HookState) -> Vec<&str> {
        let mut causes = Vec::new();
        for hook in self.hooks.iter().filter(|hook| hook.state == *state) {
            let cause = hook.reason.split("; without it: ").next().unwrap_or_default();
            if !causes.contains(&cause) {
                causes.push(cause);
            }
        }
        causes
    }
}

/// State of one source of counter tables.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SourceStatus {
    /// Source name, e.g. `snmp`.
    pub name: String,
    /// What became of the last reading.
    pub state: SourceState,
    /// Tables read since start.
    pub reads: u64,
    /// Reads that failed since start.
    pub errors: u64,
    /// Intervals in which it was not read in time.
    pub late: u64,
    /// Why it is not up, with an entity where it could not be read; empty if it is up.
    pub last_error: String,
    /// The reason alone, in the same words as long as it is the same.
    #[serde(skip)]
    pub cause: String,
    /// Entities that it was read for in the last interval.
    #[serde(default)]
    pub entities_read: u64,
    /// Entities that it could not be read for in the last interval: they have no values.
    #[serde(default)]
    pub entities_failed: u64,
    /// Seconds that reading it took in the last interval, over all entities.
    pub last_seconds: f64,
    /// Seconds spent reading it since start.
    pub total_seconds: f64,
}

/// State of one HTTP server.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServerStatus {
    /// Connections that are open.
    pub connections: u64,
    /// Connections closed since start to make room for others: they waited longest.
    pub closed: u64,
    /// Connections refused since start, because all others were being answered.
    pub refused: u64,
}

/// Names of the analyzers that are shipped with the agent.
pub const BUILT_IN: [&str; 9] =
    ["diagnosis", "dns", "latency", "link", "packet-loss", "pod-counters", "socket", "softirq", "tcp"];

/// State of one plugin.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct PluginStatus {
    /// Name from its description.
    pub name: String,
    /// Version from its description.
    pub version: String,
    /// File it was loaded from.
    pub file: String,
    /// Hex sha256 of the component.
    pub sha256: String,
    /// What it does.
    pub state: PluginState,
    /// Why it does not run, or cannot show all that it counts; empty if it does.
    pub reason: String,
    /// A newer file that was refused while this version goes on; empty if there is none.
    pub rejected: String,
    /// Probes it receives.
    pub probes: Vec<String>,
    /// Sources it reads.
    #[serde(default)]
    pub sources: Vec<String>,
    /// Questions it answers.
    #[serde(default)]
    pub scenarios: Vec<Scenario>,
    /// Events handed to it since start.
    pub events: u64,
    /// Calls into the guest since start.
    pub calls: u64,
    /// Traps and timeouts since start.
    pub traps: u64,
    /// Seconds spent inside the guest since start.
    pub seconds: f64,
    /// Bytes of linear memory it holds now.
    pub memory_bytes: u64,
    /// Series it holds now.
    pub series: u64,
}

/// A question that a plugin answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scenario {
    /// Its name, e.g. `connect`.
    pub name: String,
    /// What it asks, for people.
    pub help: String,
}

/// A question that can be asked, with one of the plugins that answer it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScenarioRow {
    /// Its name, e.g. `connect`.
    pub name: String,
    /// The plugin.
    pub plugin: String,
    /// What it asks, in that plugin's words.
    pub help: String,
}

/// Something that the agent does not see at all, for want of a privilege or of a mount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// What is not seen, e.g. `5 of 6 network namespaces cannot be entered`.
    pub lost: String,
    /// Why, in the same words as long as the reason is the same.
    pub cause: String,
}

impl Gap {
    /// Both in one sentence.
    pub fn sentence(&self) -> String {
        format!("{}: {}", self.lost, self.cause)
    }
}

/// State of one sink of events: `produced` = `delivered` + `lost` + `waiting`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SinkStatus {
    /// Its name, e.g. `loki`.
    pub name: String,
    /// Where it delivers to: an address or a path.
    pub target: String,
    /// How that goes.
    pub state: SinkState,
    /// Why it fails; empty if it does not.
    pub reason: String,
    /// Events that came for it since start, those among them that an earlier run left on disk.
    pub produced: u64,
    /// Events that are where they were to go.
    pub delivered: u64,
    /// Events that never will be; `inspector_lost_total` tells why.
    pub lost: u64,
    /// Events that wait, in memory or on disk.
    pub waiting: u64,
    /// Bytes on disk.
    pub spool_bytes: u64,
    /// What the other side says of itself, e.g. `ready`; empty if it was not asked.
    pub server: String,
}

/// What gaps are of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Sight {
    /// The network namespaces of the node.
    Namespaces,
    /// The processes of the machine.
    Processes,
    /// Names of code addresses.
    Symbols,
}

impl Sight {
    /// As in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Namespaces => "namespaces",
            Self::Processes => "processes",
            Self::Symbols => "symbols",
        }
    }
}

/// A kind of objects that the API server is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Resource {
    /// Pods of this node.
    Pods,
    /// Services.
    Services,
    /// Nodes.
    Nodes,
    /// Pods of all nodes.
    AllPods,
}

impl Resource {
    /// As in labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pods => "pods",
            Self::Services => "services",
            Self::Nodes => "nodes",
            Self::AllPods => "all-pods",
        }
    }

    /// For people.
    pub fn words(self) -> &'static str {
        match self {
            Self::Pods => "this node's pods",
            Self::Services => "Services",
            Self::Nodes => "nodes",
            Self::AllPods => "the pods of all nodes",
        }
    }

    /// What is known by it, for people.
    pub fn gives(self) -> &'static str {
        match self {
            Self::Pods => "owners and labels of pods",
            Self::Services => "names of Services",
            Self::Nodes => "names of nodes",
            Self::AllPods => "names of other nodes' pods",
        }
    }

    /// Objects that are kept. A kubelet runs some hundreds of pods at most; of the others there are fewer in
    /// the largest clusters that Kubernetes is tested with.
    pub fn kept(self) -> usize {
        match self {
            Self::Pods => 4_096,
            Self::Services | Self::Nodes => 50_000,
            Self::AllPods => 200_000,
        }
    }
}

/// How it goes with one kind of objects of the API server; read by whoever shows it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KubeStatus {
    /// Its watch has gone on at least once.
    pub was_reached: bool,
    /// Since when it fails; none if it does not.
    pub failing: Option<Instant>,
    /// Why it fails; empty if it does not.
    pub reason: String,
    /// Objects that it told of.
    pub objects: usize,
}

/// What became of the Events about pods that Kubernetes was given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PodEventsStatus {
    /// That it took.
    pub written: u64,
    /// That it did not take; they are not tried again, but a fault that lasts is told each minute.
    pub failed: u64,
    /// Why there is nothing to tell or it did not take the last one; empty if it did.
    pub reason: String,
}

impl KubeStatus {
    /// It has not told anything yet, or fails.
    pub fn is_away(&self) -> bool {
        !self.was_reached || self.failing.is_some()
    }

    /// How old what it told is: nothing while its watch goes on, since then it would have told of a change.
    /// None if it never told anything.
    pub fn age(&self) -> Option<Duration> {
        self.was_reached.then(|| self.failing.map_or(Duration::ZERO, |since| since.elapsed()))
    }
}

/// What the kernel says about this process; read by `http/`.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Process {
    /// User and system CPU time.
    pub cpu_seconds: f64,
    /// Resident memory.
    pub resident_bytes: u64,
    /// Address space.
    pub virtual_bytes: u64,
    /// Open file descriptors.
    pub open_fds: u64,
    /// Limit of open file descriptors.
    pub max_fds: u64,
    /// Start, seconds since the Unix epoch.
    pub start_time_seconds: f64,
}

/// The state of every part of the agent, shared by those who write it and those who show it.
#[derive(Debug, Default)]
pub struct Status {
    states: Mutex<States>,
}

/// All states at one moment.
#[derive(Debug, Clone, Default)]
pub struct States {
    /// By probe name.
    pub probes: BTreeMap<String, ProbeStatus>,
    /// By source name.
    pub sources: BTreeMap<String, SourceStatus>,
    /// By file stem until the plugin has told its name, by name from then on.
    pub plugins: BTreeMap<String, PluginStatus>,
    /// What is not seen at all.
    pub gaps: BTreeMap<Sight, Vec<Gap>>,
    /// Processes that are protected from everybody, and in no sum over processes.
    pub left_out_processes: u64,
    /// What the API server is asked for; nothing if it is not asked.
    pub kube: BTreeMap<Resource, KubeStatus>,
    /// Events that are written about pods; none if that is not configured.
    pub pod_events: Option<PodEventsStatus>,
    /// By sink name; nothing if none is configured.
    pub sinks: BTreeMap<String, SinkStatus>,
    /// By server name: `metrics` or `events`.
    pub servers: BTreeMap<String, ServerStatus>,
    /// The first scan for namespaces is over.
    pub namespaces_seen: bool,
    /// Every plugin file that was there at the start runs or is refused.
    pub plugins_seen: bool,
    /// Threads of the agent that ended before it did, in words.
    pub ended: Vec<String>,
}

impl States {
    /// Why the agent is not ready, a line each; nothing if it is.
    ///
    /// It is ready once it has looked at everything for the first time, and as long as what it ships
    /// works: a built-in analyzer that is refused or in quarantine makes it unready. None needs more
    /// than what every node has, so that is a defect. One that is missing or disabled does not, and
    /// neither does any analyzer of somebody else.
    pub fn unready(&self) -> Vec<String> {
        let mut lines = Vec::new();
        if !self.namespaces_seen {
            lines.push("waiting: the first scan for namespaces".to_owned());
        }
        if !self.plugins_seen {
            lines.extend(self.awaited_plugins());
        }
        let built_in = self.plugins.values().filter(|plugin| BUILT_IN.contains(&plugin.name.as_str()));
        let failed =
            built_in.filter(|plugin| matches!(plugin.state, PluginState::Refused | PluginState::Quarantined));
        let words = |plugin: &PluginStatus| {
            format!("failed: analyzer {} is {}: {}", plugin.name, plugin.state, plugin.reason)
        };
        lines.extend(failed.map(words));
        lines.extend(self.ended.iter().map(|thread| format!("failed: {thread}")));
        lines
    }

    fn awaited_plugins(&self) -> Vec<String> {
        let compiling = self.plugins.values().filter(|plugin| plugin.state == PluginState::Compiling);
        let mut lines: Vec<_> = compiling
            .map(|plugin| format!("waiting: analyzer {} (compiling, {})", plugin.name, plugin.reason))
            .collect();
        if lines.is_empty() {
            lines.push("waiting: the first look at plugin files".to_owned());
        }
        lines
    }

    /// Every question that can be asked, by name and plugin.
    pub fn scenarios(&self) -> Vec<ScenarioRow> {
        let row = |plugin: &PluginStatus, scenario: &Scenario| ScenarioRow {
            name: scenario.name.clone(),
            plugin: plugin.name.clone(),
            help: scenario.help.clone(),
        };
        let of = |plugin| Vec::from_iter(plugin_scenarios(plugin).map(|scenario| row(plugin, scenario)));
        let mut rows: Vec<_> = self.plugins.values().flat_map(of).collect();
        rows.sort_by(|a, b| (&a.name, &a.plugin).cmp(&(&b.name, &b.plugin)));
        rows
    }

    /// The plugins that answer a question, whether they run at the moment or not.
    pub fn answering(&self, scenario: &str) -> impl Iterator<Item = &PluginStatus> {
        self.plugins
            .values()
            .filter(move |plugin| plugin_scenarios(plugin).any(|known| known.name == scenario))
    }
}

/// What is left of a plugin that was stopped answers nothing.
fn plugin_scenarios(plugin: &PluginStatus) -> impl Iterator<Item = &Scenario> {
    plugin.scenarios.iter().filter(|_| plugin.state != PluginState::Stopped)
}

impl Status {
    /// Locks all states for an update; never held across a call into another part.
    pub fn update(&self) -> MutexGuard<'_, States> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Replaces the gaps of one kind and returns those whose cause was not there before.
    pub fn set_gaps(&self, of: Sight, gaps: Vec<Gap>) -> Vec<Gap> {
        let mut states = self.update();
        let before = states.gaps.insert(of, gaps.clone()).unwrap_or_default();
        let is_known = |gap: &Gap| before.iter().any(|known| known.cause == gap.cause);
        gaps.into_iter().filter(|gap| !is_known(gap)).collect()
    }

    /// A copy of everything.
    pub fn snapshot(&self) -> States {
        self.update().clone()
    }
}

/// What a panic said, for the state of the part that panicked.
pub fn panic_words(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    escape::admit(text.unwrap_or("it said nothing").to_owned(), MAX_PANIC)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_cause_reads_the_same_whatever_it_costs() {
        use HookState::{Failed, Missing};
        let hook = |state, reason: &str| HookStatus {
            state,
            reason: format!("{reason}; without it: no x"),
            ..HookStatus::default()
        };
        let of = |hooks| ProbeStatus { reason: "a; b".to_owned(), hooks, ..ProbeStatus::default() }.cause();
        assert_eq!(of(vec![hook(Failed, "refused"), hook(Failed, "refused")]), "refused");
        assert_eq!(of(vec![hook(Missing, "absent"), hook(Failed, "refused")]), "refused");
        assert_eq!(of(vec![hook(Missing, "absent"), hook(Missing, "older")]), "absent; older");
        assert_eq!(of(Vec::new()), "a; b");
    }

    #[test]
    fn a_gap_is_news_when_its_cause_is_and_not_when_its_extent_is() {
        let gap = |lost: &str, cause: &str| Gap { lost: lost.to_owned(), cause: cause.to_owned() };
        let status = Status::default();
        let set = |gaps: &[Gap]| status.set_gaps(Sight::Namespaces, gaps.to_vec()).len();
        assert_eq!(set(&[gap("5 of 6", "no setns")]), 1);
        assert_eq!(set(&[gap("6 of 7", "no setns"), gap("1 of 7", "no ptrace")]), 1);
        assert_eq!(set(&[]), 0);
        assert_eq!(set(&[gap("5 of 6", "no setns")]), 1, "it was mended in between");
    }

    #[test]
    fn a_state_of_another_version_is_kept_as_it_is() {
        let read = |text: &str| serde_json::from_str::<ProbeState>(text).expect("a string");
        assert_eq!(read(r#""partial""#), ProbeState::Partial);
        let newer = read(r#""paused""#);
        assert_eq!(newer, ProbeState::Other("paused".to_owned()));
        assert_eq!(
            (newer.as_str(), serde_json::to_string(&newer).expect("text")),
            ("paused", r#""paused""#.to_owned())
        );
    }

    fn states(plugins: &[(&str, PluginState, &str)]) -> States {
        let status = |(name, state, reason): &(&str, PluginState, &str)| PluginStatus {
            name: (*name).to_owned(),
            state: state.clone(),
            reason: (*reason).to_owned(),
            ..PluginStatus::default()
        };
        let plugins = plugins.iter().map(|plugin| (plugin.0.to_owned(), status(plugin))).collect();
        States { plugins, namespaces_seen: true, plugins_seen: true, ..States::default() }
    }

    #[test]
    fn who_waits_is_told_what_for() {
        let mut states =
            states(&[("tcp", PluginState::Compiling, "3 of 9"), ("dns", PluginState::Running, "")]);
        (states.plugins_seen, states.namespaces_seen) = (false, false);
        let waiting = ["waiting: the first scan for namespaces", "waiting: analyzer tcp (compiling, 3 of 9)"];
        assert_eq!(states.unready(), waiting);
        states.plugins.clear();
        assert_eq!(states.unready()[1], "waiting: the first look at plugin files");
    }

    #[test]
    fn a_built_in_analyzer_that_failed_makes_the_agent_unready_and_nobody_elses_does() {
        use PluginState::{Backoff, Compiling, Disabled, Quarantined, Refused};
        let failed = [("pod-counters", Quarantined, "trap"), ("tcp", Refused, "half"), ("mine", Refused, "")];
        let lines =
            ["failed: analyzer pod-counters is quarantined: trap", "failed: analyzer tcp is refused: half"];
        assert_eq!(states(&failed).unready(), lines);
        let other = [("tcp", Backoff, "trap"), ("latency", Disabled, ""), ("mine", Compiling, "1 of 1")];
        assert!(states(&other).unready().is_empty());
    }

    #[test]
    fn a_panic_is_told_in_its_own_words() {
        let words = |panic: Box<dyn Any + Send>| panic_words(&*panic);
        assert_eq!(words(Box::new("plain")), "plain");
        assert_eq!(words(Box::new("with\na line".to_owned())), r"with\na line");
        assert_eq!(words(Box::new(7)), "it said nothing");
    }
}
