//! What `inspector list` shows of each thing, for people.

use std::time::{Duration, UNIX_EPOCH};

use crate::cli::table::Table;
use crate::entities::Listed;
use crate::events::log::EventType;
use crate::pods::NamedBy;
use crate::series::metrics::FamilyInfo;
use crate::status::{PluginStatus, ProbeStatus, ScenarioRow, SinkStatus, SourceStatus};

/// One line for each network namespace.
pub fn entities(entities: &[Listed]) -> Table {
    let mut table = Table::new(&[
        "name",
        "kind",
        "named by",
        "owner",
        "addresses",
        "netns",
        "cookie",
        "processes",
        "cgroup",
        "since",
        "unreadable",
    ]);
    for Listed { entity, unreadable } in entities {
        table.row([
            &entity.display(),
            entity.kind.as_str(),
            if entity.named_by == NamedBy::Nobody { "-" } else { entity.named_by.as_str() },
            if entity.owner.is_empty() { "-" } else { &entity.owner },
            &join(&entity.ips),
            &known(entity.inode),
            &known(entity.cookie),
            &join(&entity.pids.iter().map(|p| format!("{}:{}", p.pid, p.name)).collect::<Vec<_>>()),
            if entity.cgroup.is_empty() { "-" } else { &entity.cgroup },
            &if entity.since_ns == 0 { "-".to_owned() } else { since(entity.since_ns) },
            unreadable,
        ]);
    }
    table
}

/// One line for each probe and, below it, one for each of its hooks.
pub fn probes(probes: &[ProbeStatus]) -> Table {
    let mut table = Table::new(&["name", "state", "events", "lost", "why"]);
    for probe in probes {
        let (events, lost) = (probe.events.to_string(), probe.lost.to_string());
        table.row([&probe.name, probe.state.as_str(), &events, &lost, &probe.reason]);
        for hook in &probe.hooks {
            // What the probe says already is not said once more by each of its hooks.
            let why = if probe.reason.contains(&hook.reason) { "" } else { &hook.reason };
            table.row([&format!("  {}", hook.hook), hook.state.as_str(), "", "", why]);
        }
    }
    table
}

/// One line for each plugin.
pub fn plugins(plugins: &[PluginStatus]) -> Table {
    let mut table = Table::new(&[
        "name", "version", "state", "events", "traps", "series", "mem kib", "cpu s", "file", "why",
    ]);
    for plugin in plugins {
        // A refused newer file is worth more than silence while the old version runs.
        let why = if plugin.reason.is_empty() { &plugin.rejected } else { &plugin.reason };
        table.row([
            &plugin.name,
            &plugin.version,
            plugin.state.as_str(),
            &plugin.events.to_string(),
            &plugin.traps.to_string(),
            &plugin.series.to_string(),
            &(plugin.memory_bytes / 1024).to_string(),
            &format!("{:.3}", plugin.seconds),
            &plugin.file,
            why,
        ]);
    }
    table
}

/// One line for each metric family.
pub fn metrics(metrics: &[FamilyInfo]) -> Table {
    let mut table = Table::new(&["name", "type", "plugin", "labels", "help"]);
    for metric in metrics {
        let kind = format!("{:?}", metric.kind).to_lowercase();
        table.row([&metric.name, &kind, &metric.plugin, &metric.labels.join(","), &metric.help]);
    }
    table
}

/// One line for each type of events.
pub fn event_types(types: &[EventType]) -> Table {
    let mut table = Table::new(&["type", "plugin", "help"]);
    for event in types {
        table.row([&event.kind, &event.plugin, &event.help]);
    }
    table
}

/// One line for each question and analyzer that answers it.
pub fn scenarios(scenarios: &[ScenarioRow]) -> Table {
    let mut table = Table::new(&["name", "plugin", "asks"]);
    for scenario in scenarios {
        table.row([&scenario.name, &scenario.plugin, &scenario.help]);
    }
    table
}

/// One line for each source.
pub fn sources(sources: &[SourceStatus]) -> Table {
    let mut table = Table::new(&["name", "state", "reads", "errors", "last ms", "total s", "why"]);
    for source in sources {
        table.row([
            &source.name,
            source.state.as_str(),
            &source.reads.to_string(),
            &source.errors.to_string(),
            &format!("{:.3}", source.last_seconds * 1e3),
            &format!("{:.3}", source.total_seconds),
            &source.last_error,
        ]);
    }
    table
}

/// One line for each sink.
pub fn sinks(sinks: &[SinkStatus]) -> Table {
    let mut table =
        Table::new(&["name", "state", "delivered", "waiting", "lost", "disk kib", "target", "server", "why"]);
    for sink in sinks {
        table.row([
            &sink.name,
            sink.state.as_str(),
            &sink.delivered.to_string(),
            &sink.waiting.to_string(),
            &sink.lost.to_string(),
            &(sink.spool_bytes / 1024).to_string(),
            &sink.target,
            if sink.server.is_empty() { "-" } else { &sink.server },
            &sink.reason,
        ]);
    }
    table
}

/// Nothing has the number 0.
fn known(number: u64) -> String {
    if number == 0 { "-".to_owned() } else { number.to_string() }
}

fn join<T: ToString>(items: &[T]) -> String {
    if items.is_empty() {
        return "-".to_owned();
    }
    items.iter().map(T::to_string).collect::<Vec<_>>().join(",")
}

fn since(at_ns: u64) -> String {
    humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_nanos(at_ns)).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::terminal::Style;
    use crate::entities::{Entity, Kind, Process};
    use crate::status::{HookState, HookStatus, ProbeState};

    fn shown(table: &Table) -> Vec<String> {
        table.lines(Style::PLAIN).collect()
    }

    #[test]
    fn an_entity_is_shown_by_name_namespace_id_and_age() {
        let entity = Entity {
            id: 3,
            kind: Kind::Pod,
            namespace: "web".into(),
            name: "shop-1".into(),
            cookie: 4242,
            inode: 4026532000,
            ips: vec!["10.0.0.7".parse().expect("address"), "fd00::7".parse().expect("address")],
            pids: vec![Process { pid: 7, name: "ngi\x1b[2Jnx".into() }],
            cgroup: "/kubepods/pod1".into(),
            since_ns: 1_700_000_000_000_000_000,
            named_by: NamedBy::PodLogs,
            owner: "Deployment/shop".into(),
            ..Entity::default()
        };
        assert_eq!(
            shown(&entities(&[Listed { entity, unreadable: String::new() }])),
            [
                "NAME        KIND  NAMED BY  OWNER            ADDRESSES              NETNS  COOKIE  PROCESSES         CGROUP          SINCE                 UNREADABLE",
                "web/shop-1  pod   pod-logs  Deployment/shop  10.0.0.7,fd00::7  4026532000    4242  7:ngi\\u{1b}[2Jnx  /kubepods/pod1  2023-11-14T22:13:20Z",
            ]
        );
    }

    #[test]
    fn what_a_probe_says_is_not_repeated_by_its_hooks() {
        let why = "this kernel has no kprobes; without it: no time of commands";
        let hook = |hook: &str| HookStatus {
            hook: hook.into(),
            program: String::new(),
            state: HookState::Failed,
            reason: why.into(),
            run_count: 0,
            run_time_ns: 0,
            missed: 0,
        };
        let probe = ProbeStatus {
            name: "icmp".into(),
            state: ProbeState::Down,
            reason: why.into(),
            hooks: vec![hook("a"), hook("b")],
            ..ProbeStatus::default()
        };
        assert_eq!(shown(&probes(&[probe])).iter().filter(|line| line.contains(why)).count(), 1);
    }

    #[test]
    fn a_probe_shows_which_hook_is_missing_and_why() {
        let hook = HookStatus {
            hook: "tp_btf/tcp_send_reset".into(),
            program: String::new(),
            state: HookState::Missing,
            reason: "the kernel lacks it: resets sent are not seen".into(),
            run_count: 0,
            run_time_ns: 0,
            missed: 0,
        };
        let probe = ProbeStatus {
            name: "tcp-reset".into(),
            state: ProbeState::Partial,
            reason: "1 of 2 hooks".into(),
            schema: 1,
            events: 12,
            produced: 12,
            folded: 0,
            lost: 0,
            hooks: vec![hook],
        };
        assert_eq!(
            shown(&probes(&[probe])),
            [
                "NAME                     STATE    EVENTS  LOST  WHY",
                "tcp-reset                partial      12     0  1 of 2 hooks",
                "  tp_btf/tcp_send_reset  missing                the kernel lacks it: resets sent are not seen",
            ]
        );
    }
}
