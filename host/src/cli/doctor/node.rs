//! What the agent would read of this node's namespaces, found out by reading it.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use crate::discover::{self, Places, Pods, Scan};
use crate::entities::{Entities, Entity, Kind};
use crate::pods::NamedBy;
use crate::privilege::{self, Capability, Obstacle};
use crate::probe::Check;
use crate::source::Reader;
use crate::status::{SourceState, SourceStatus, Status};

const NAMESPACES: &str = "network namespaces";

/// Looks for namespaces and reads every source in each, as the agent would, on a thread that may move
/// about: home is where the first thread of the process is.
///
/// # Panics
/// If looking does.
pub fn checks(places: &Places) -> Vec<Check> {
    std::thread::scope(|scope| scope.spawn(|| look(places)).join().expect("looking does not panic"))
}

fn look(places: &Places) -> Vec<Check> {
    let scan = match discover::scan(places, &mut Pods::default()) {
        Ok(scan) => scan,
        Err(error) => {
            let found = format!("{}: {error}", places.proc.display());
            return vec![Check::bad(NAMESPACES, &found, "everything but the agent's own namespace", "")];
        }
    };
    let mut checks = namespaces(&scan);
    checks.extend([processes(&scan, &places.proc), named(places)]);
    checks.extend(pods(&scan, places));
    let entities = Entities::default();
    entities.apply_scan(scan.namespaces, 0, Instant::now());
    checks.extend(sources(&places.proc, &entities.live()));
    checks
}

fn namespaces(scan: &Scan) -> Vec<Check> {
    let lost = "all counters of these namespaces, and names of their events";
    let bad = |gap: crate::status::Gap| {
        let obstacle = privilege::obstacle(Capability::SysAdmin, &[Capability::SysPtrace]);
        Check::bad(NAMESPACES, &gap.sentence(), lost, &obstacle.remedy())
    };
    let bad: Vec<_> = scan.closed_namespaces().into_iter().map(bad).collect();
    match bad.is_empty() {
        true => vec![Check::good(NAMESPACES, &format!("entered all {}", scan.namespaces.len()))],
        false => bad,
    }
}

fn processes(scan: &Scan, proc: &Path) -> Check {
    let what = "processes of the machine";
    if scan.hidden.is_empty() {
        return Check::good(
            what,
            match scan.is_init_left_out {
                true => "all are seen but process 1, which is protected: fd and io leave it out",
                false => "all are seen",
            },
        );
    }
    let remedy = match privilege::hides_processes(proc) {
        Some(obstacle) => obstacle.remedy(),
        None => privilege::obstacle(Capability::SysPtrace, &[]).remedy(),
    };
    let lost =
        "namespaces without a name, names of pods and containers, descriptors and input/output (fd, io)";
    Check::bad(what, &format!("not all are seen: {}", scan.hidden), lost, &remedy)
}

/// The names that the host has, if it is another root than ours.
fn named(places: &Places) -> Check {
    let what = format!("named namespaces in {}", places.netns.display());
    let count = |directory: &Path| fs::read_dir(directory).ok().map(|entries| entries.flatten().count());
    let own = count(&places.netns).unwrap_or(0);
    let path = places.netns.strip_prefix("/").unwrap_or(&places.netns);
    let hosts = count(&places.proc.join("1/root").join(path)).unwrap_or(0);
    if hosts <= own {
        return Check::good(&what, &own.to_string());
    }
    Check::bad(
        &what,
        &format!("{own}, and process 1 sees {hosts}"),
        "namespaces that no process is in, and names of others",
        "mount the host's directory here, and let new mounts come through (Kubernetes \
         `mountPropagation: HostToContainer`, docker `:rslave`)",
    )
}

/// Whether the node says what its pods are called. Nothing where there are none.
fn pods(scan: &Scan, places: &Places) -> Option<Check> {
    let pods: Vec<_> = scan.namespaces.iter().filter(|netns| netns.kind == Kind::Pod).collect();
    let unnamed = pods.iter().filter(|pod| pod.named_by == NamedBy::Cgroup).count();
    let what = "names of pods";
    match (pods.len(), unnamed) {
        (0, _) => None,
        (all, 0) => Some(Check::good(what, &format!("the node names all {all}"))),
        (all, unnamed) => {
            let logs = places.pod_logs.display();
            Some(Check::bad(
                what,
                &format!("{unnamed} of {all} are known by their uid only: no folder in {logs} tells of them"),
                "their names, unless the API server tells them",
                &format!(
                    "mount the folder in which the kubelet keeps the logs of pods at {logs} (paths.pod_logs)"
                ),
            ))
        }
    }
}

fn sources(proc: &Path, entities: &[Arc<Entity>]) -> Vec<Check> {
    let status = Arc::<Status>::default();
    let mut reader = match Reader::new(proc, Arc::clone(&status)) {
        Ok(reader) => reader,
        Err(error) => return vec![Check::bad("counters", &error.to_string(), "all counters", "")],
    };
    let all: BTreeSet<_> = status.snapshot().sources.into_keys().collect();
    reader.read(&all, entities, 0);
    status.snapshot().sources.into_values().map(|source| of_source(&source, proc)).collect()
}

fn of_source(source: &SourceStatus, proc: &Path) -> Check {
    let what = format!("counters: {}", source.name);
    match source.state {
        SourceState::Up | SourceState::Idle => {
            Check::good(&what, &format!("read in {}", in_words(source.entities_read)))
        }
        SourceState::Absent => Check::good(&what, &format!("nothing to read now: {}", source.last_error)),
        _ => {
            let all = in_words(source.entities_read + source.entities_failed);
            let lost = format!("{} in {} of {all}", gives(&source.name), source.entities_failed);
            Check::bad(&what, &source.last_error, &lost, &obstacle(&source.name, proc).remedy())
        }
    }
}

fn in_words(namespaces: u64) -> String {
    if namespaces == 1 { "1 namespace".to_owned() } else { format!("{namespaces} namespaces") }
}

/// What stands in the way of a source; namespaces that cannot be entered have a check of their own.
fn obstacle(source: &str, proc: &Path) -> Obstacle {
    match source {
        "conntrack" | "nat" => privilege::obstacle(Capability::NetAdmin, &[]),
        "fd" | "io" => privilege::hides_processes(proc)
            .unwrap_or_else(|| privilege::obstacle(Capability::SysPtrace, &[Capability::DacReadSearch])),
        _ => privilege::obstacle(Capability::SysAdmin, &[]),
    }
}

fn gives(source: &str) -> &str {
    match source {
        "snmp" => "counters of TCP, UDP and IP",
        "netstat" => "extended counters of TCP and IP",
        "sockstat" => "sockets in use",
        "tcpsummary" => "TCP sockets by state, and bytes in their queues",
        "softnet" => "packets that CPUs process and drop",
        "conntrack" => "tracked connections",
        "nat" => "addresses that are translated",
        "qdisc" => "queueing disciplines",
        "netdev" => "interfaces",
        "fd" => "open descriptors and sockets",
        "io" => "input/output of processes",
        "ipvs" => "IPVS",
        other => other,
    }
}
