//! The one configuration file: TOML text to checked values.
//!
//! Every key has a default, so that an empty file is a valid one; `deploy/inspector.toml` shows
//! them all and a test keeps it equal to [`Config::default`]. A key that is not known here and a
//! value out of its bounds are refused with file, line and key, because a typing error that is
//! silently ignored is found weeks later. Nothing here reads a file.
//!
//! Longer than other files, because all of the sections together are the reference of what can
//! be set.

pub mod address;
mod bounds;
pub mod sinks;

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Deserializer, de};
use toml::de::DeTable;

use crate::config::address::Address;
use crate::config::bounds::between;
use crate::config::sinks::Sinks;
use crate::series::choice::Profile;
use crate::text::escape::{self, MAX_REASON};

/// Bytes of a key in an error.
const MAX_KEY: usize = 128;

/// Port of the event server where none is given.
pub const EVENTS_PORT: u16 = 19102;

/// Everything that an operator can set.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Who this node is.
    pub node: Node,
    /// The server that Prometheus scrapes.
    pub web: Web,
    /// What Prometheus gets.
    pub metrics: Metrics,
    /// The server of events and state.
    pub events: Events,
    /// Where events are sent.
    pub sinks: Sinks,
    /// Where analyzers come from and what they may use.
    pub plugins: Plugins,
    /// Limits of the kernel side.
    pub probes: Probes,
    /// The kernel's counter tables.
    pub sources: Sources,
    /// The API server.
    pub kubernetes: Kubernetes,
    /// What reasons mean.
    pub advice: Advice,
    /// The agent's own log.
    pub log: Log,
    /// Where the kernel's file systems are.
    pub paths: Paths,
}

/// Section `[node]`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Node {
    /// Value of the `node` label; empty means the host name.
    pub name: String,
}

/// Section `[web]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Web {
    /// Addresses to listen on, at least one.
    #[serde(deserialize_with = "not_empty")]
    pub listen: Vec<Address>,
    /// Path of the metrics, starts with `/`.
    #[serde(deserialize_with = "url_path")]
    pub telemetry_path: String,
}

/// Section `[metrics]`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Metrics {
    /// How many metrics there are.
    pub profile: Profile,
    /// Patterns of names that are there beside the profile's.
    #[serde(deserialize_with = "patterns")]
    pub allow: Vec<String>,
    /// Patterns of names that are not there in any case.
    #[serde(deserialize_with = "patterns")]
    pub deny: Vec<String>,
}

/// Section `[events]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Events {
    /// Addresses to listen on, at least one.
    #[serde(deserialize_with = "not_empty")]
    pub listen: Vec<Address>,
    /// Events kept for clients that come later or fall behind, 16 to 1 048 576.
    #[serde(deserialize_with = "between::<16, 1_048_576, _>")]
    pub backlog: u32,
}

/// Section `[plugins]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Plugins {
    /// Folders of `.wasm` components, watched while the agent runs.
    #[serde(deserialize_with = "directories")]
    pub directories: Vec<PathBuf>,
    /// Names of analyzers that are not run, although their files are there.
    pub disabled: Vec<String>,
    /// Where compiled components are kept; only the agent may be able to write there.
    pub cache_dir: PathBuf,
    /// Linear memory of one plugin in MiB, 1 to 1024.
    #[serde(deserialize_with = "between::<1, 1024, _>")]
    pub memory_mib: u32,
    /// Longest CPU time inside one plugin for one batch, 10 ms to 10 s.
    #[serde(deserialize_with = "duration::<10, 10_000, _>")]
    pub batch_deadline: Duration,
    /// Samples of one plugin in a scrape, 1 to 10 000 000.
    #[serde(deserialize_with = "between::<1, 10_000_000, _>")]
    pub max_series: u32,
    /// Samples of all plugins together, 1 to 10 000 000.
    #[serde(deserialize_with = "between::<1, 10_000_000, _>")]
    pub max_series_total: u32,
    /// Events that one plugin may emit per second, 1 to 1 000 000.
    #[serde(deserialize_with = "between::<1, 1_000_000, _>")]
    pub events_per_second: u32,
    /// Events that one plugin may emit at once, 1 to 1 000 000.
    #[serde(deserialize_with = "between::<1, 1_000_000, _>")]
    pub events_burst: u32,
}

impl Plugins {
    /// Names of disabled analyzers that are not among the known ones: typing errors. Those that are
    /// disabled by default are none, whoever is there.
    pub fn strangers<'a>(&'a self, known: &'a [String]) -> impl Iterator<Item = &'a String> {
        let usual = Self::default().disabled;
        self.disabled.iter().filter(move |name| !known.contains(name) && !usual.contains(name))
    }
}

/// Section `[probes]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Probes {
    /// Ring buffer of one probe in KiB: a power of two, 64 to 65 536.
    #[serde(deserialize_with = "ring_kib")]
    pub ring_kib: u32,
    /// Detailed records per second of one probe and namespace, 1 to 10 000 000.
    #[serde(deserialize_with = "between::<1, 10_000_000, _>")]
    pub limit_per_second: u32,
    /// Detailed records at once of one probe and namespace, 1 to 10 000 000.
    #[serde(deserialize_with = "between::<1, 10_000_000, _>")]
    pub limit_burst: u32,
}

/// Section `[sources]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Sources {
    /// Time between two snapshots, 100 ms to 1 h.
    #[serde(deserialize_with = "duration::<100, 3_600_000, _>")]
    pub interval: Duration,
}

/// Section `[kubernetes]`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Kubernetes {
    /// Whether the API server is asked for this node's pods.
    pub watch: Watch,
    /// A kubeconfig file; empty for the service account of the pod that the agent runs in.
    pub kubeconfig: PathBuf,
    /// Keys of pod labels that are kept.
    pub labels: Vec<String>,
    /// Who else the API server is asked for, to name the other end of a conversation.
    pub peers: Peers,
    /// Whether what is wrong with a pod is written as an Event on it.
    pub events: bool,
}

/// Who is named at the other end of a conversation, beside pods of this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Peers {
    /// Services and nodes.
    #[default]
    Services,
    /// Pods of all nodes as well.
    Cluster,
    /// Nobody.
    Never,
}

/// Whether the API server is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Watch {
    /// In a pod, and where there is a kubeconfig file.
    #[default]
    Auto,
    /// Never.
    Never,
}

/// Section `[advice]`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Advice {
    /// Texts that come before the built-in ones; empty for none.
    pub file: PathBuf,
}

/// Section `[log]`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// The least severe line that is written.
    pub level: LogLevel,
    /// Form of a line.
    pub format: LogFormat,
}

/// How much the agent says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// Only what stops the agent or a part of it.
    Error,
    /// And what needs attention.
    Warn,
    /// And what a person wants to know of a normal day.
    #[default]
    Info,
    /// And what the agent does.
    Debug,
    /// And every step of it.
    Trace,
}

/// Form of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// Section `[paths]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Paths {
    /// The host's procfs.
    #[serde(deserialize_with = "directory")]
    pub procfs: PathBuf,
    /// Where `ip netns` keeps its names.
    #[serde(deserialize_with = "directory")]
    pub netns: PathBuf,
    /// Where the kubelet keeps the logs of pods, in folders that have their names.
    #[serde(deserialize_with = "directory")]
    pub pod_logs: PathBuf,
    /// Where container runtimes keep the configurations of their tasks; those that are not there are none.
    pub runtimes: Vec<PathBuf>,
}

/// A refused configuration file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file}:{line}: {}{message}", .key.as_ref().map(|k| format!("{k}: ")).unwrap_or_default())]
pub struct Error {
    /// The file, as the user named it.
    pub file: String,
    /// Line of the refused key or value, from 1.
    pub line: usize,
    /// The refused key with its section; none where the text has no key.
    pub key: Option<String>,
    /// What is wrong with it.
    pub message: String,
}

impl Config {
    /// Reads the text of a configuration file; `file` is its name in errors.
    ///
    /// # Errors
    ///
    /// If the text is no TOML, has an unknown key, or a value is out of its bounds.
    pub fn parse(file: &str, text: &str) -> Result<Self, Error> {
        toml::from_str(text).map_err(|err| {
            let at = err.span().map_or(0, |span| span.start).min(text.len());
            Error {
                file: file.to_owned(),
                line: text.as_bytes()[..at].iter().filter(|byte| **byte == b'\n').count() + 1,
                // The text may be broken, so the keys are taken from what can be read of it.
                key: key_at(DeTable::parse_recoverable(text).0.get_ref(), at)
                    .or_else(|| key_on_line(text, at)),
                message: err.message().to_owned(),
            }
            .cut()
        })
    }
}

impl Error {
    /// Without the most of a key or value that is a text of pages.
    fn cut(self) -> Self {
        let key = self.key.map(|key| escape::admit(key, MAX_KEY));
        Self { key, message: escape::admit(self.message, MAX_REASON), ..self }
    }
}

/// The full name of the key that a byte of the text belongs to.
fn key_at(table: &DeTable<'_>, at: usize) -> Option<String> {
    table.iter().find_map(|(key, value)| {
        let name = key.get_ref();
        let inner = value.get_ref().as_table().and_then(|table| key_at(table, at));
        let own = key.span().contains(&at) || (key.span().start..value.span().end).contains(&at);
        inner.map(|inner| format!("{name}.{inner}")).or_else(|| own.then(|| name.to_string()))
    })
}

/// The key as it is written on the line, for a text whose structure is broken there.
fn key_on_line(text: &str, at: usize) -> Option<String> {
    let start = text.as_bytes()[..at].iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
    let (key, _) = text.get(start..)?.lines().next()?.split_once('=')?;
    Some(key.trim().to_owned()).filter(|key| !key.is_empty())
}

/// Paths of the metrics server that are not those of the metrics.
pub const HEALTH_PATH: &str = "/healthz";
/// See [`HEALTH_PATH`].
pub const READY_PATH: &str = "/readyz";

/// Checks the path of the metrics.
///
/// # Errors
///
/// If it does not start with `/`, has characters that a path cannot have, or is that of a health check.
pub fn check_url_path(path: &str) -> Result<(), &'static str> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "/-_.~".contains(c);
    if !path.starts_with('/') || path.len() < 2 || !path.chars().all(allowed) {
        return Err("must be a path like `/metrics`");
    }
    if [HEALTH_PATH, READY_PATH].contains(&path) {
        return Err("is the path of a health check: choose another one, like `/metrics`");
    }
    Ok(())
}

fn url_path<'de, D: Deserializer<'de>>(value: D) -> Result<String, D::Error> {
    let path = String::deserialize(value)?;
    check_url_path(&path).map_err(de::Error::custom)?;
    Ok(path)
}

/// Checks the name of a directory.
///
/// # Errors
///
/// If it is empty: nothing has that name.
pub fn check_directory(path: &Path) -> Result<(), &'static str> {
    if path.as_os_str().is_empty() { Err("must name a directory") } else { Ok(()) }
}

fn directory<'de, D: Deserializer<'de>>(value: D) -> Result<PathBuf, D::Error> {
    let path = PathBuf::deserialize(value)?;
    check_directory(&path).map_err(de::Error::custom)?;
    Ok(path)
}

fn directories<'de, D: Deserializer<'de>>(value: D) -> Result<Vec<PathBuf>, D::Error> {
    let paths: Vec<PathBuf> = not_empty(value)?;
    paths.iter().try_for_each(|path| check_directory(path)).map_err(de::Error::custom)?;
    Ok(paths)
}

fn patterns<'de, D: Deserializer<'de>>(value: D) -> Result<Vec<String>, D::Error> {
    let patterns = Vec::<String>::deserialize(value)?;
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || "_:*".contains(c);
    match patterns.iter().find(|pattern| pattern.is_empty() || !pattern.chars().all(is_allowed)) {
        Some(wrong) => {
            Err(de::Error::custom(format!("`{wrong}` is no name of a metric, in which `*` is any text")))
        }
        None => Ok(patterns),
    }
}

fn not_empty<'de, T: Deserialize<'de>, D: Deserializer<'de>>(value: D) -> Result<Vec<T>, D::Error> {
    let list = Vec::deserialize(value)?;
    if list.is_empty() {
        return Err(de::Error::custom("must name at least one"));
    }
    Ok(list)
}

fn ring_kib<'de, D: Deserializer<'de>>(value: D) -> Result<u32, D::Error> {
    let kib = between::<64, 65_536, D>(value)?;
    if !kib.is_power_of_two() {
        return Err(de::Error::custom(format!("{kib} is not a power of two")));
    }
    Ok(kib)
}

fn duration<'de, const MIN_MS: u64, const MAX_MS: u64, D: Deserializer<'de>>(
    value: D,
) -> Result<Duration, D::Error> {
    let text = String::deserialize(value)?;
    let duration = humantime::parse_duration(&text)
        .map_err(|err| de::Error::custom(format!("{err} (examples: `50ms`, `5s`, `1m`)")))?;
    let (min, max) = (Duration::from_millis(MIN_MS), Duration::from_millis(MAX_MS));
    if !(min..=max).contains(&duration) {
        let (min, max) = (humantime::format_duration(min), humantime::format_duration(max));
        return Err(de::Error::custom(format!("`{text}` is not between {min} and {max}")));
    }
    Ok(duration)
}

impl Default for Web {
    fn default() -> Self {
        Self { listen: vec![Address::all(9102)], telemetry_path: "/metrics".to_owned() }
    }
}

impl Default for Events {
    fn default() -> Self {
        // The event server has no authentication, so it does not leave the node by default.
        Self { listen: vec![Address { host: "127.0.0.1".to_owned(), port: EVENTS_PORT }], backlog: 16_384 }
    }
}

impl Default for Plugins {
    fn default() -> Self {
        Self {
            directories: vec!["/usr/lib/inspector/plugins".into()],
            // Its probes see every packet.
            disabled: vec!["latency".to_owned()],
            cache_dir: "/var/cache/inspector".into(),
            memory_mib: 16,
            batch_deadline: Duration::from_millis(50),
            max_series: 250_000,
            max_series_total: 500_000,
            events_per_second: 1000,
            events_burst: 5000,
        }
    }
}

impl Default for Probes {
    fn default() -> Self {
        Self { ring_kib: 4096, limit_per_second: 2000, limit_burst: 4000 }
    }
}

impl Default for Sources {
    fn default() -> Self {
        Self { interval: Duration::from_secs(5) }
    }
}

impl Default for Paths {
    fn default() -> Self {
        let runtimes = [
            "/run/containerd/io.containerd.runtime.v2.task/k8s.io",
            "/run/k3s/containerd/io.containerd.runtime.v2.task/k8s.io",
            "/run/containers/storage/overlay-containers",
        ];
        Self {
            procfs: "/proc".into(),
            netns: "/run/netns".into(),
            pod_logs: "/var/log/pods".into(),
            runtimes: runtimes.map(PathBuf::from).into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(text: &str) -> String {
        Config::parse("x.toml", text).expect_err(text).to_string()
    }

    #[test]
    fn an_empty_file_is_the_defaults() {
        assert_eq!(Config::parse("x.toml", "").expect("empty"), Config::default());
    }

    #[test]
    fn the_shipped_file_names_every_key_with_its_default() {
        let shipped = include_str!("../../../deploy/inspector.toml");
        assert_eq!(Config::parse("inspector.toml", shipped).expect("shipped"), Config::default());
        // Without a value for each key, the comparison above would prove nothing.
        let table: toml::Table = shipped.parse().expect("TOML");
        fn keys(table: &toml::Table) -> usize {
            table.values().map(|value| value.as_table().map_or(1, keys)).sum()
        }
        assert_eq!(
            (table.len(), keys(&table)),
            (12, 60),
            "a new key goes into deploy/inspector.toml and here"
        );
    }

    #[test]
    fn every_refusal_says_file_line_and_key() {
        let cases = [
            ("[nod]\nname = \"a\"", "x.toml:1: nod: unknown field `nod`, expected one of"),
            ("[node]\n\nnmae = \"a\"", "x.toml:3: node.nmae: unknown field `nmae`, expected `name`"),
            ("[node]\nname = 7", "x.toml:2: node.name: invalid type: integer `7`, expected a string"),
            ("[web]\nlisten = []", "x.toml:2: web.listen: must name at least one"),
            ("[web]\nlisten = [\n  \":9102\",\n  \"9102\",\n]", "x.toml:2: web.listen: `9102` is no address"),
            ("[web]\ntelemetry_path = \"metrics\"", "x.toml:2: web.telemetry_path: must be a path like"),
            ("web.telemetry_path = \"/healthz\"", "x.toml:1: web.telemetry_path: is the path of a health"),
            ("[paths]\nprocfs = \"\"", "x.toml:2: paths.procfs: must name a directory"),
            ("[paths]\nnetns = \"\"", "x.toml:2: paths.netns: must name a directory"),
            ("plugins.directories = [\"/a\", \"\"]", "x.toml:1: plugins.directories: must name a directory"),
            ("events.backlog = 3", "x.toml:1: events.backlog: 3 is not between 16 and 1048576"),
            ("[plugins]\nmemory_mib = -1", "x.toml:2: plugins.memory_mib: -1 is not between 1 and 1024"),
            ("[plugins]\nbatch_deadline = \"50\"", "x.toml:2: plugins.batch_deadline: time unit needed"),
            ("[plugins]\nbatch_deadline = 50", "x.toml:2: plugins.batch_deadline: invalid type: integer"),
            (
                "plugins = { batch_deadline = \"1h\" }",
                "x.toml:1: plugins.batch_deadline: `1h` is not between",
            ),
            ("[probes]\nring_kib = 100", "x.toml:2: probes.ring_kib: 100 is not a power of two"),
            ("[log]\nlevel = \"loud\"", "x.toml:2: log.level: unknown variant `loud`, expected one of"),
            ("[log]\nformat = \"text\"\nformat = \"json\"", "x.toml:3: format: duplicate key"),
            ("[paths]\nprocfs =\nnetns = \"/n\"", "x.toml:2: procfs: "),
            ("web = 1", "x.toml:1: web: invalid type: integer `1`"),
            ("\u{0}", "x.toml:1: "),
        ];
        for (text, expected) in cases {
            let refusal = refusal(text);
            assert!(refusal.starts_with(expected), "{text:?}\n  gives {refusal:?}\n  not   {expected:?}");
        }
    }

    #[test]
    fn a_refusal_of_pages_is_cut() {
        let long = "x".repeat(1 << 20);
        for text in [
            format!("{long} = 1"),
            format!("[log]\nlevel = \"{long}\""),
            format!("[web]\nlisten = [\"{long}\"]"),
            format!("[node]\n\"{long}\" = 1"),
        ] {
            let refusal = refusal(&text);
            assert!(refusal.len() < 1000, "{} bytes: {}", refusal.len(), &refusal[..100]);
        }
    }

    #[test]
    fn no_text_makes_it_panic() {
        let good = include_str!("../../../deploy/inspector.toml");
        for at in (0..good.len()).filter(|at| good.is_char_boundary(*at)) {
            for insert in ["=", "\"", "[", "\n", "\u{e9}"] {
                let _ = Config::parse("x.toml", &format!("{}{insert}{}", &good[..at], &good[at..]));
            }
            let _ = Config::parse("x.toml", &good[..at]);
        }
    }
}
