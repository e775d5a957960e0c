//! The agent's metrics about itself: build, loss, state and cost of every part, the process.
//!
//! Written with prometheus-client from copies of the rest of the core at the moment of a scrape, so
//! there is no second set of counters that could disagree with them. prometheus-client writes
//! OpenMetrics only; `to_text` turns that into Prometheus text.

use std::collections::BTreeMap;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode_registry;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType::{self, Counter, Gauge, Unknown};
use prometheus_client::registry::Registry;

use crate::events::log::EventCount;
use crate::loss::Stage;
use crate::status::{
    HookState, HookStatus, PluginState, PluginStatus, ProbeState, ProbeStatus, Process, ServerStatus,
    SinkState, SinkStatus, SourceState, SourceStatus, States,
};
use crate::view::exposition::Format;

/// Appends the agent's own metrics.
pub fn encode(out: &mut Vec<u8>, shown: AgentState, format: Format) {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(shown));
    let mut text = String::new();
    encode_registry(&mut text, &registry).expect("writing to a String cannot fail");
    match format {
        Format::OpenMetrics => out.extend_from_slice(text.as_bytes()),
        Format::Text => out.extend_from_slice(to_text(&text).as_bytes()),
    }
}

/// Everything that is shown, at one moment.
#[derive(Debug)]
pub struct AgentState {
    /// Name of this node.
    pub node: String,
    /// Revision of the source this agent was built from.
    pub revision: &'static str,
    /// State of every part.
    pub states: States,
    /// What was lost: the stage, the part, how many.
    pub lost: Vec<(Stage, String, u64)>,
    /// Events of plugins, by type.
    pub events: Vec<EventCount>,
    /// Number of known entities, by kind.
    pub entities: BTreeMap<&'static str, u64>,
    /// Number of namespaces that cannot be entered, by kind.
    pub unentered: BTreeMap<&'static str, u64>,
    /// What the kernel says about this process.
    pub process: Process,
}

impl AgentState {
    fn encode_agent(&self, to: &mut Families<'_>) -> std::fmt::Result {
        let build = [("version", env!("CARGO_PKG_VERSION")), ("revision", self.revision)];
        to.family("inspector_build_info", "Version of this agent.", Gauge, [(build, Int(1))])?;
        let ready = [([], Int(self.states.unready().is_empty().into()))];
        to.family("inspector_ready", "The agent is ready, as /readyz says.", Gauge, ready)?;
        let lost =
            self.lost.iter().map(|(stage, name, n)| ([("stage", stage.as_str()), ("name", name)], Int(*n)));
        to.family("inspector_lost", "What did not reach its destination, and where.", Counter, lost)?;
        let events =
            self.events.iter().map(|e| ([("type", e.kind.as_str()), ("plugin", &e.plugin)], Int(e.count)));
        to.family("inspector_events", "Events that plugins emitted, with those folded.", Counter, events)?;
        let entities = self.entities.iter().map(|(kind, n)| ([("kind", *kind)], Int(*n)));
        to.family("inspector_entities", "Network namespaces that are known.", Gauge, entities)?;
        let help = "Network namespaces that cannot be entered: nothing is counted for them.";
        let unentered = self.unentered.iter().map(|(kind, n)| ([("kind", *kind)], Int(*n)));
        to.family("inspector_entities_unreadable", help, Gauge, unentered)?;
        let gaps =
            self.states.gaps.iter().map(|(sight, gaps)| ([("of", sight.as_str())], Int(gaps.len() as u64)));
        let help = "Causes for which something is not seen at all; the log and diagnoses name them.";
        to.family("inspector_gaps", help, Gauge, gaps)?;
        let help = "Processes that are protected from everybody, and in no sum over processes (fd, io).";
        to.family("inspector_left_out_processes", help, Gauge, [([], Int(self.states.left_out_processes))])
    }

    /// Nothing where the API server is not asked.
    fn encode_kube(&self, to: &mut Families<'_>) -> std::fmt::Result {
        let kube =
            || self.states.kube.iter().map(|(resource, kube)| ([("resource", resource.as_str())], kube));
        let up = kube().map(|(of, kube)| (of, Int((!kube.is_away()).into())));
        to.family("inspector_kube_up", "The API server tells of this kind of objects.", Gauge, up)?;
        let age = kube().filter_map(|(of, kube)| Some((of, Float(kube.age()?.as_secs_f64()))));
        let help = "Age of what the API server told; 0 while its watch goes on. A connection that went silent \
                    is noticed after 245 s.";
        to.family("inspector_kube_sync_age_seconds", help, Gauge, age)?;
        let objects = kube().map(|(of, kube)| (of, Int(kube.objects as u64)));
        to.family("inspector_kube_objects", "Objects that the API server told of.", Gauge, objects)?;
        let help = "Events about pods that Kubernetes took or did not take.";
        let events = self.states.pod_events.iter().flat_map(|events| {
            let results = [("written", events.written), ("failed", events.failed)];
            results.map(|(result, number)| ([("result", result)], Int(number)))
        });
        to.family("inspector_kube_pod_events", help, Counter, events)
    }

    fn encode_probes(&self, to: &mut Families<'_>) -> std::fmt::Result {
        // A probe that nobody subscribes to is neither up nor down, so it is left out.
        let wanted = || self.states.probes.values().filter(|probe| probe.state != ProbeState::Idle);
        let each = |value: fn(&ProbeStatus) -> Number| {
            self.states.probes.values().map(move |probe| ([("probe", probe.name.as_str())], value(probe)))
        };
        let up = wanted().map(|p| ([("probe", p.name.as_str())], Int((p.state == ProbeState::Up).into())));
        to.family("inspector_probe_up", "Every hook of a probe that is in use is attached.", Gauge, up)?;
        let hooks =
            wanted().flat_map(|probe| probe.hooks.iter().map(move |hook| (probe, hook))).map(|(p, h)| {
                (
                    [("probe", p.name.as_str()), ("hook", h.hook.as_str())],
                    Int((h.state == HookState::Attached).into()),
                )
            });
        to.family("inspector_probe_hook_up", "A kernel hook is attached.", Gauge, hooks)?;
        let help = "What a probe's programs wanted to deliver, each in a record of its own or added up with \
                    others: events + folded + lost (stages ring and limit), once what is on its way arrived.";
        to.family("inspector_probe_produced", help, Counter, each(|p| Int(p.produced)))?;
        let help = "Records a probe delivered; a record of a sum is one.";
        to.family("inspector_probe_events", help, Counter, each(|p| Int(p.events)))?;
        let help = "What a probe delivered within the record of another: a record of a sum stands for its \
                    count, of which one is an event and the others are folded.";
        to.family("inspector_probe_folded", help, Counter, each(|p| Int(p.folded)))?;
        let help = "Runs of a probe's programs; only while kernel.bpf_stats_enabled is 1.";
        to.family("inspector_probe_runs", help, Counter, each(|p| Int(runs(p).0)))?;
        let help = "Time a probe's programs took in the kernel; only while kernel.bpf_stats_enabled is 1.";
        to.family("inspector_probe_run_seconds", help, Counter, each(|p| Float(runs(p).1)))?;
        let help = "Runs of a probe's programs that the kernel skipped, because the program was running on that \
                    CPU already in what they interrupted. Each may have been a record or nothing: they are \
                    neither produced nor lost.";
        to.family("inspector_probe_missed_runs", help, Counter, each(|p| Int(missed_runs(p))))
    }

    /// Nothing where events are sent nowhere.
    fn encode_sinks(&self, to: &mut Families<'_>) -> std::fmt::Result {
        let each = |value: fn(&SinkStatus) -> Number| {
            self.states.sinks.values().map(move |sink| ([("sink", sink.name.as_str())], value(sink)))
        };
        let up = each(|sink| Int((sink.state != SinkState::Failing).into()));
        to.family("inspector_sink_up", "A sink delivered what came last, or nothing came yet.", Gauge, up)?;
        let help = "Events that came for a sink: delivered + lost (inspector_lost_total) + waiting.";
        to.family("inspector_sink_produced", help, Counter, each(|sink| Int(sink.produced)))?;
        let help = "Events of a sink that are where they were to go.";
        to.family("inspector_sink_delivered", help, Counter, each(|sink| Int(sink.delivered)))?;
        let help = "Events of a sink that wait, in memory or on disk.";
        to.family("inspector_sink_waiting", help, Gauge, each(|sink| Int(sink.waiting)))?;
        let help = "Bytes on disk of the events of a sink that wait.";
        to.family("inspector_sink_spool_bytes", help, Gauge, each(|sink| Int(sink.spool_bytes)))
    }

    fn encode_sources(&self, to: &mut Families<'_>) -> std::fmt::Result {
        let each = |value: fn(&SourceStatus) -> Number| {
            self.states.sources.values().map(move |s| ([("source", s.name.as_str())], value(s)))
        };
        // A source that nobody reads is neither up nor down, and one that the machine lacks is not down.
        let used = self
            .states
            .sources
            .values()
            .filter(|s| !matches!(s.state, SourceState::Idle | SourceState::Absent));
        let up = used.map(|s| ([("source", s.name.as_str())], Int((s.state == SourceState::Up).into())));
        let help = "A source was read in time, for every entity.";
        to.family("inspector_source_up", help, Gauge, up)?;
        let help = "Intervals in which a source was not read in time.";
        to.family("inspector_source_late", help, Counter, each(|s| Int(s.late)))?;
        to.family("inspector_source_reads", "Tables read.", Counter, each(|s| Int(s.reads)))?;
        to.family(
            "inspector_source_errors",
            "Tables that could not be read.",
            Counter,
            each(|s| Int(s.errors)),
        )?;
        let read = |s: &SourceStatus| [("read", s.entities_read), ("failed", s.entities_failed)];
        let entities = self.states.sources.values().flat_map(|s| {
            read(s).map(|(result, n)| ([("source", s.name.as_str()), ("result", result)], Int(n)))
        });
        let help = "Entities that a source was read for in the last interval, and those that it could not be \
                    read for: these have no values of it.";
        to.family("inspector_source_entities", help, Gauge, entities)?;
        let help = "Time reading took in the last interval, over all entities.";
        to.family("inspector_source_duration_seconds", help, Gauge, each(|s| Float(s.last_seconds)))?;
        let help = "Time spent reading.";
        to.family("inspector_source_read_seconds", help, Counter, each(|s| Float(s.total_seconds)))?;
        let label = |name| [("node", self.node.as_str()), ("probe", name)];
        let sources = self.states.sources.values().map(|s| (label(s.name.as_str()), Float(s.last_seconds)));
        let sources = sources.filter(|(_, value)| !matches!(value, Float(0.0)));
        let probes =
            self.states.probes.values().filter_map(|probe| {
                mean_run(probe).map(|seconds| (label(probe.name.as_str()), Float(seconds)))
            });
        let help = "Seconds that one collection takes: a source's last read of all entities, the mean run \
                    of a probe's programs (only while kernel.bpf_stats_enabled is 1).";
        to.family("inspector_runtime_collectlatency", help, Unknown, sources.chain(probes))
    }

    fn encode_plugins(&self, to: &mut Families<'_>) -> std::fmt::Result {
        let plugins = || self.states.plugins.values();
        let each = |value: fn(&PluginStatus) -> Number| {
            plugins().map(move |plugin| ([("plugin", plugin.name.as_str())], value(plugin)))
        };
        let up = each(|p| Int((p.state == PluginState::Running).into()));
        to.family("inspector_plugin_up", "A plugin is running.", Gauge, up)?;
        let info = plugins().map(|p| ([("plugin", p.name.as_str()), ("version", &p.version)], Int(1)));
        to.family("inspector_plugin_info", "Version of a plugin.", Gauge, info)?;
        let state = plugins().map(|p| ([("plugin", p.name.as_str()), ("state", p.state.as_str())], Int(1)));
        to.family("inspector_plugin_state", "What a plugin is doing.", Gauge, state)?;
        to.family("inspector_plugin_events", "Events handed to a plugin.", Counter, each(|p| Int(p.events)))?;
        to.family("inspector_plugin_calls", "Calls into a plugin.", Counter, each(|p| Int(p.calls)))?;
        to.family(
            "inspector_plugin_traps",
            "Traps and timeouts of a plugin.",
            Counter,
            each(|p| Int(p.traps)),
        )?;
        let help = "Time spent inside a plugin.";
        to.family("inspector_plugin_cpu_seconds", help, Counter, each(|p| Float(p.seconds)))?;
        let help = "Linear memory of a plugin.";
        to.family("inspector_plugin_memory_bytes", help, Gauge, each(|p| Int(p.memory_bytes)))?;
        to.family("inspector_plugin_series", "Samples a plugin exposes.", Gauge, each(|p| Int(p.series)))
    }

    fn encode_servers(&self, to: &mut Families<'_>) -> std::fmt::Result {
        let each = |value: fn(&ServerStatus) -> u64| {
            self.states.servers.iter().map(move |(name, s)| ([("server", name.as_str())], Int(value(s))))
        };
        let help = "Open connections of an HTTP server.";
        to.family("inspector_http_connections", help, Gauge, each(|s| s.connections))?;
        let help =
            "Connections that waited longest for their client and were closed to make room for others.";
        to.family("inspector_http_closed", help, Counter, each(|s| s.closed))?;
        let help = "Connections that were refused because all others were being answered.";
        to.family("inspector_http_refused", help, Counter, each(|s| s.refused))
    }

    fn encode_process(&self, to: &mut Families<'_>) -> std::fmt::Result {
        let p = &self.process;
        let one = |value| [([], value)];
        to.family("process_cpu_seconds", "User and system CPU time.", Counter, one(Float(p.cpu_seconds)))?;
        let resident = one(Int(p.resident_bytes));
        to.family("process_resident_memory_bytes", "Resident memory.", Gauge, resident)?;
        to.family("process_virtual_memory_bytes", "Address space.", Gauge, one(Int(p.virtual_bytes)))?;
        to.family("process_open_fds", "Open file descriptors.", Gauge, one(Int(p.open_fds)))?;
        to.family("process_max_fds", "Limit of open file descriptors.", Gauge, one(Int(p.max_fds)))?;
        let help = "Start of the process, seconds since the Unix epoch.";
        to.family("process_start_time_seconds", help, Gauge, one(Float(p.start_time_seconds)))
    }
}

impl Collector for AgentState {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> std::fmt::Result {
        let mut to = Families(encoder);
        self.encode_agent(&mut to)?;
        self.encode_kube(&mut to)?;
        self.encode_sinks(&mut to)?;
        self.encode_probes(&mut to)?;
        self.encode_sources(&mut to)?;
        self.encode_plugins(&mut to)?;
        self.encode_servers(&mut to)?;
        self.encode_process(&mut to)
    }
}

/// Whole numbers are written without a fraction.
#[derive(Clone, Copy)]
enum Number {
    Int(u64),
    Float(f64),
}
use Number::{Float, Int};

struct Families<'a>(DescriptorEncoder<'a>);

impl Families<'_> {
    /// Writes one family; a counter's name comes without `_total`.
    fn family<'l, const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        kind: MetricType,
        rows: impl IntoIterator<Item = ([(&'static str, &'l str); N], Number)>,
    ) -> std::fmt::Result {
        let counts = matches!(kind, Counter);
        let mut metric = self.0.encode_descriptor(name, help, None, kind)?;
        for (labels, value) in rows {
            // Without labels there are no braces.
            match N {
                0 => value.encode(&mut metric, counts)?,
                _ => value.encode(&mut metric.encode_family(&labels)?, counts)?,
            }
        }
        Ok(())
    }
}

impl Number {
    fn encode(self, to: &mut MetricEncoder<'_>, counts: bool) -> std::fmt::Result {
        match (counts, self) {
            (true, Int(n)) => to.encode_counter::<NoLabelSet, _, u64>(&n, None),
            (true, Float(n)) => to.encode_counter::<NoLabelSet, _, u64>(&n, None),
            (false, Int(n)) => to.encode_gauge(&n),
            (false, Float(n)) => to.encode_gauge(&n),
        }
    }
}

/// Runs of a probe's programs and the seconds they took.
fn runs(probe: &ProbeStatus) -> (u64, f64) {
    let sum = |of: fn(&HookStatus) -> u64| probe.hooks.iter().map(of).sum::<u64>();
    (sum(|hook| hook.run_count), sum(|hook| hook.run_time_ns) as f64 / 1e9)
}

fn missed_runs(probe: &ProbeStatus) -> u64 {
    probe.hooks.iter().map(|hook| hook.missed).sum()
}

/// What was not measured has no cost to show: a zero would claim that it is free.
fn mean_run(probe: &ProbeStatus) -> Option<f64> {
    let (count, seconds) = runs(probe);
    (count > 0).then(|| seconds / count as f64)
}

/// OpenMetrics as prometheus-client writes it, as Prometheus text: a counter's HELP and TYPE carry
/// `_total` like its samples, `unknown` is called `untyped`, and there is no UNIT.
fn to_text(open: &str) -> String {
    let mut text = String::with_capacity(open.len() + 1024);
    let mut help: Option<(&str, &str)> = None;
    for line in open.lines() {
        let mut words = line.splitn(4, ' ');
        match (words.next(), words.next(), words.next(), words.next()) {
            // HELP comes before TYPE, which tells what the family is called.
            (Some("#"), Some("HELP"), Some(name), rest) => help = Some((name, rest.unwrap_or_default())),
            (Some("#"), Some("TYPE"), Some(name), Some(kind)) => {
                let (suffix, kind) = match kind {
                    "counter" => ("_total", "counter"),
                    "unknown" => ("", "untyped"),
                    kind => ("", kind),
                };
                if let Some((_, help)) = help.take_if(|(named, _)| *named == name) {
                    text.push_str(&format!("# HELP {name}{suffix} {help}\n"));
                }
                text.push_str(&format!("# TYPE {name}{suffix} {kind}\n"));
            }
            (Some("#"), ..) => {}
            _ => {
                text.push_str(line);
                text.push('\n');
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::series::declaration::{Decl, DeclError, MetricKind};
    use crate::view::View;

    fn text(view: &View, format: Format) -> String {
        let mut out = Vec::new();
        encode(&mut out, view.snapshot(Process::default()), format);
        String::from_utf8(out).expect("UTF-8")
    }

    #[test]
    fn both_formats_say_the_same_in_their_own_words() {
        let view = View::test();
        view.loss.cell(Stage::Ring, "skb-drop\"\\").add(7);
        let open = text(&view, Format::OpenMetrics);
        assert!(open.contains("# TYPE inspector_lost counter\n"), "{open}");
        assert!(open.contains("# TYPE inspector_runtime_collectlatency unknown\n"), "{open}");
        let text = text(&view, Format::Text);
        assert!(text.contains("# HELP inspector_lost_total What"), "{text}");
        assert!(text.contains("# TYPE inspector_lost_total counter\n"), "{text}");
        assert!(text.contains("# TYPE inspector_runtime_collectlatency untyped\n"), "{text}");
        for text in [open, text] {
            assert!(text.contains("\nprocess_open_fds 0\n"), "{text}");
            assert!(
                text.contains("inspector_lost_total{stage=\"ring\",name=\"skb-drop\\\"\\\\\"} 7\n"),
                "{text}"
            );
        }
    }

    #[test]
    fn the_runs_that_a_probe_missed_are_those_of_all_its_hooks() {
        let view = View::test();
        let hook = |missed| HookStatus { missed, ..HookStatus::default() };
        let (name, hooks) = ("skb-drop".to_owned(), vec![hook(3), hook(4)]);
        let probe = ProbeStatus { name: name.clone(), hooks, ..ProbeStatus::default() };
        view.status.update().probes.insert(name, probe);
        let text = text(&view, Format::Text);
        assert!(text.contains("inspector_probe_missed_runs_total{probe=\"skb-drop\"} 7\n"), "{text}");
    }

    #[test]
    fn no_plugin_can_take_a_name_of_the_agent() {
        let text = text(&View::test(), Format::Text);
        let names = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
        for name in names {
            let refused = Decl::test(name, MetricKind::Unknown, &[]).check();
            assert!(matches!(refused, Err(DeclError::Reserved(_))), "{name}");
        }
    }
}
