//! Promise: what the agent may not read is absent, never 0 and never a part of a sum; doctor, log,
//! blind spots and metrics agree on what it is.
//!
//! Each case takes something away from the agent and names what is lost by that. What is not named
//! must not be lost, and nobody may say that it is.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{TcpStream, UdpSocket};
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use inspector_tests::agent::{Agent, Settings, binary};
use inspector_tests::lab::{Namespace, faults};
use inspector_tests::plugins::PluginDir;
use inspector_tests::scrape::Scrape;
use inspector_tests::wait;
use serde_json::Value;

use crate::sources::Busy;

/// All that the agent has a use for, as docs/privileges.md says.
const NEEDED: [&str; 7] =
    ["bpf", "perfmon", "net_admin", "sys_ptrace", "sys_admin", "syslog", "dac_read_search"];

/// Somebody without any privilege.
const NOBODY: &str = "65534";

/// Something that can be lost, and how each part of the product says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Lost {
    /// All kernel events.
    Events,
    /// Those that are seen at the sockets of a cgroup: DNS, ICMP errors over IPv6.
    CgroupEvents,
    /// Namespaces that cannot be entered.
    Namespaces,
    /// Processes that do not show.
    Processes,
    /// Counters of connection tracking.
    Conntrack,
    /// Descriptors and input/output.
    Descriptors,
    /// Names of code addresses.
    Symbols,
}

use Lost::{CgroupEvents, Conntrack, Descriptors, Events, Namespaces, Processes, Symbols};

const ALL: [Lost; 7] = [Events, CgroupEvents, Namespaces, Processes, Conntrack, Descriptors, Symbols];

/// What was taken away.
struct Case {
    /// Command line that runs another one with less.
    through: Vec<String>,
    lost: Vec<Lost>,
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

/// All that is needed but for some.
fn without(dropped: &[&str], lost: &[Lost]) -> Case {
    let kept: Vec<_> = NEEDED.iter().filter(|name| !dropped.contains(name)).collect();
    let kept = kept.iter().map(|name| format!(",+{name}")).collect::<String>();
    Case {
        through: words(&format!("setpriv --bounding-set=-all{kept} --inh-caps=-all")),
        lost: lost.to_vec(),
    }
}

/// All that root has but for some.
fn root_without(dropped: &str, lost: &[Lost]) -> Case {
    let through = words(&format!("setpriv --bounding-set={dropped} --inh-caps=-all"));
    Case { through, lost: lost.to_vec() }
}

/// Behind a mount of /proc of its own.
fn with_proc(options: &str, case: Case) -> Case {
    let script = format!("mount -t proc -o {options} proc /proc && exec \"$@\"");
    let mut through = words("unshare --mount sh -c");
    through.extend([script, "sh".to_owned()]);
    through.extend(case.through);
    Case { through, ..case }
}

/// What the cases are tried on: nothing happens in these namespaces, so that every agent must read
/// the same there.
struct Still {
    namespaces: [Namespace; 2],
    plugins: PluginDir,
    /// Holds so many descriptors, in the host's namespace and as another user.
    _busy: Vec<Busy>,
    full: Agent,
}

/// More than anything else on a quiet machine has.
const MANY: u32 = 900;

impl Still {
    fn new() -> Result<Self> {
        let namespaces = [Namespace::new("roots")?, Namespace::new("others")?];
        let [roots, others] = &namespaces;
        let as_nobody = format!("setpriv --reuid={NOBODY} --clear-groups --inh-caps=-all");
        let others_too = format!("ip netns exec {} {as_nobody}", others.name());
        let busy = vec![
            Busy::start(roots, &["40", "7"])?,
            busy(&others_too, "20 3")?,
            busy(&as_nobody, &format!("{MANY} 1"))?,
            // Only a process tells of this namespace.
            busy("unshare --net", "5 0")?,
        ];
        for namespace in &namespaces {
            namespace.run(|| {
                let socket = UdpSocket::bind("127.0.0.1:0")?;
                Ok(socket.send_to(b"x", "127.0.0.1:9").map(drop)?)
            })?;
        }
        let plugins = PluginDir::new()?;
        for name in ["pod-counters", "diagnosis"] {
            plugins.put_built_in(name)?;
        }
        std::fs::set_permissions(plugins.path(), std::fs::Permissions::from_mode(0o755))?;
        let full = start(&plugins, Vec::new())?;
        Ok(Self { namespaces, plugins, _busy: busy, full })
    }

    fn names(&self) -> [&str; 2] {
        [self.namespaces[0].name(), self.namespaces[1].name()]
    }
}

fn busy(through: &str, args: &str) -> Result<Busy> {
    let line = words(&format!("{through} {} {args}", env!("CARGO_BIN_EXE_busy")));
    Busy::by(Command::new(&line[0]).args(&line[1..]))
}

fn start(plugins: &PluginDir, through: Vec<String>) -> Result<Agent> {
    let agent = Agent::start(&Settings {
        config: "sources.interval = '1s'".to_owned(),
        plugin_dirs: vec![plugins.path().to_owned()],
        through,
        ..Settings::default()
    })?;
    wait::until("the host's counters", || {
        agent.scrape().ok()?.sum("inspector_pod_tcpactiveopens", &[("pod", "")])
    })?;
    Ok(agent)
}

/// What everybody says is lost.
struct Said {
    doctor: BTreeSet<Lost>,
    log: BTreeSet<Lost>,
    blind_spots: BTreeSet<Lost>,
    metrics: BTreeSet<Lost>,
    texts: BTreeMap<&'static str, Vec<String>>,
}

fn lost_if(said: impl Fn(Lost) -> bool) -> BTreeSet<Lost> {
    ALL.into_iter().filter(|lost| said(*lost)).collect()
}

impl Said {
    fn by(agent: &Agent, still: &Still, through: &[String]) -> Result<Self> {
        let checks = doctor(&still.plugins, through)?;
        let warnings: Vec<_> = agent.log().into_iter().filter(|line| line.contains("\"WARN\"")).collect();
        let report = agent.api("/api/v1/findings")?;
        let spots: Vec<String> = serde_json::from_value(report["blind_spots"].clone())?;
        let page = agent.scrape()?;
        let texts = BTreeMap::from([
            ("doctor", checks.iter().map(|(what, why)| format!("{what}: {why}")).collect()),
            ("log", warnings.clone()),
            ("blind spots", spots.clone()),
        ]);
        Ok(Self {
            doctor: lost_if(|lost| doctor_says(&checks, lost)),
            log: lost_if(|lost| log_says(&warnings, lost)),
            blind_spots: lost_if(|lost| blind_spots_say(&spots, lost)),
            metrics: lost_if(|lost| metrics_say(&page, still, lost)),
            texts,
        })
    }
}

/// The checks that failed, with why.
fn doctor(plugins: &PluginDir, through: &[String]) -> Result<BTreeMap<String, String>> {
    let mut command = match through.split_first() {
        Some((first, rest)) => {
            let mut command = Command::new(first);
            command.args(rest).arg(binary()?);
            command
        }
        None => Command::new(binary()?),
    };
    let output = command.args(["doctor", "-o", "json", "--plugin-dir"]).arg(plugins.path()).output()?;
    let answer: Value = serde_json::from_slice(&output.stdout)
        .with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
    let failed = answer["checks"].as_array().context("checks")?.iter().filter(|check| check["ok"] == false);
    let text = |check: &Value, key: &str| check[key].as_str().unwrap_or_default().to_owned();
    Ok(failed.map(|check| (text(check, "what"), text(check, "found"))).collect())
}

fn doctor_says(failed: &BTreeMap<String, String>, lost: Lost) -> bool {
    let fails = |what: &str| failed.keys().any(|check| check.starts_with(what));
    match lost {
        Events => fails("skb-drop: tp_btf/kfree_skb"),
        CgroupEvents => fails("dns: cgroup_skb"),
        Namespaces => fails("network namespaces"),
        Processes => fails("processes of the machine"),
        Conntrack => fails("counters: conntrack"),
        Descriptors => fails("counters: fd") && fails("counters: io"),
        Symbols => fails("kernel symbols"),
    }
}

fn log_says(warnings: &[String], lost: Lost) -> bool {
    let says = |all: &[&str]| warnings.iter().any(|line| all.iter().all(|word| line.contains(word)));
    match lost {
        Events => says(&["events", "are not seen"]) && (says(&["skb-drop"]) || says(&["the kernel's"])),
        CgroupEvents => says(&["events", "are not seen"]) && (says(&["dns"]) || says(&["the kernel's"])),
        Namespaces => says(&["network namespaces cannot be entered"]),
        Processes => says(&["not all processes of the machine are seen"]),
        Conntrack => says(&["conntrack", "cannot be read"]),
        Descriptors => says(&["fd, io", "cannot be read"]),
        Symbols => says(&["places of drops have no names"]),
    }
}

fn blind_spots_say(spots: &[String], lost: Lost) -> bool {
    let says = |word: &str| spots.iter().any(|spot| spot.contains(word));
    match lost {
        Events => says("dropped packets"),
        CgroupEvents => says("DNS queries"),
        Namespaces => says("network namespaces cannot be entered"),
        Processes => says("not all processes of the machine are seen"),
        Conntrack => says("counters of conntrack"),
        // No analyzer judges by them.
        Descriptors => false,
        Symbols => says("places of drops have no names"),
    }
}

fn metrics_say(page: &Scrape, still: &Still, lost: Lost) -> bool {
    let is = |name: &str, labels: &[(&str, &str)], value: f64| page.sum(name, labels) == Some(value);
    let absent = |metric: &str| {
        let name = format!("inspector_pod_{metric}");
        still.names().iter().all(|pod| page.find(&name, &[("pod", pod)]).next().is_none())
    };
    match lost {
        Events => is("inspector_probe_up", &[("probe", "skb-drop")], 0.0),
        CgroupEvents => is("inspector_probe_up", &[("probe", "dns")], 0.0),
        Namespaces => page.sum("inspector_entities_unreadable", &[]).is_some_and(|n| n > 0.0),
        Processes => is("inspector_gaps", &[("of", "processes")], 1.0),
        Conntrack => is("inspector_source_up", &[("source", "conntrack")], 0.0) && absent("conntrackentries"),
        Descriptors => {
            let down = |source| is("inspector_source_up", &[("source", source)], 0.0);
            let failed = [("source", "fd"), ("result", "failed")];
            down("fd") && down("io") && page.sum("inspector_source_entities", &failed) > Some(0.0)
        }
        Symbols => is("inspector_gaps", &[("of", "symbols")], 1.0),
    }
}

/// Values that are not those of the agent that may do everything.
fn false_values(agent: &Agent, still: &Still) -> Result<Vec<String>> {
    let (page, full) = (agent.scrape()?, still.full.scrape()?);
    let mut wrong = Vec::new();
    for sample in page.samples.iter().filter(|sample| sample.name.starts_with("inspector_pod_")) {
        let pod = sample.labels["pod"].as_str();
        let right = full.sum(&sample.name, &[("pod", pod)]);
        let is_right = match pod {
            // Nothing of the host stands still; a sum of some of its processes would be far off.
            "" if sample.name.contains("_fdopen") || sample.name.contains("_ioio") => {
                right.is_some_and(|right| sample.value > 0.8 * right)
            }
            // Of the machine, not of the namespace.
            _ if !still.names().contains(&pod) || sample.name.contains("sockmem") => true,
            _ => right == Some(sample.value),
        };
        if !is_right {
            wrong.push(format!("{}{{pod={pod:?}}} is {} and not {right:?}", sample.name, sample.value));
        }
    }
    Ok(wrong)
}

fn try_case(still: &Still, case: &Case) -> Result<()> {
    let agent = start(&still.plugins, case.through.clone())?;
    let expected: BTreeSet<_> = case.lost.iter().copied().collect();
    // Conntrack and processes are read by lanes of their own, once after the first look.
    let mut said = None;
    let agreed = wait::until("doctor, log, blind spots and metrics to agree", || {
        let now = Said::by(&agent, still, &case.through).ok()?;
        let judged = expected.iter().copied().filter(|lost| *lost != Descriptors).collect();
        let agree = now.doctor == expected
            && now.log == expected
            && now.metrics == expected
            && now.blind_spots == judged;
        said = Some(now);
        agree.then_some(())
    });
    let said = said.context("nothing was said")?;
    ensure!(
        agreed.is_ok(),
        "{:?}\nlost {expected:?}\ndoctor {:?}\nlog {:?}\nblind spots {:?}\nmetrics {:?}\n{:#?}",
        case.through,
        said.doctor,
        said.log,
        said.blind_spots,
        said.metrics,
        said.texts
    );
    let mut wrong = Vec::new();
    let right = wait::until("values that are right", || {
        wrong = false_values(&agent, still).ok()?;
        wrong.is_empty().then_some(())
    });
    ensure!(right.is_ok(), "{:?}: {wrong:#?}", case.through);
    for name in still.names() {
        let at = agent.events.to_string();
        let asked = Command::new(binary()?).args(["diagnose", "-e", &at, "--entity", name]).output()?;
        let why = String::from_utf8_lossy(&asked.stderr);
        ensure!(asked.status.success() || why.contains(&format!("{name} cannot be seen: ")), "{why}");
    }
    let causes: Vec<_> = said.texts["log"].iter().filter(|line| line.contains("\"cause\"")).collect();
    let once: BTreeSet<_> = causes.iter().map(|line| untimed(line)).collect();
    ensure!(once.len() == causes.len(), "said twice: {causes:#?}");
    println!("{:?}: lost {expected:?}, values that are false: 0\n{:#?}", case.through, said.texts);
    Ok(())
}

/// A line of the log without its time.
fn untimed(line: &str) -> String {
    let mut line: Value = serde_json::from_str(line).unwrap_or_default();
    if let Some(line) = line.as_object_mut() {
        line.remove("timestamp");
    }
    line.to_string()
}

fn try_all(cases: &[Case]) -> Result<()> {
    let still = Still::new()?;
    cases.iter().try_for_each(|case| try_case(&still, case))
}

#[test]
fn with_the_capabilities_that_the_documentation_names_nothing_is_lost() -> Result<()> {
    try_all(&[without(&[], &[]), root_without("+all", &[])])
}

/// What is lost without CAP_SYSLOG: sysctls may show symbols to everybody.
fn symbols() -> Result<Vec<Lost>> {
    let number = |name: &str| -> Result<i32> {
        Ok(std::fs::read_to_string(format!("/proc/sys/kernel/{name}"))?.trim().parse()?)
    };
    let shown = number("kptr_restrict")? == 0 && number("perf_event_paranoid")? <= 1;
    Ok(if shown { vec![] } else { vec![Symbols] })
}

#[test]
fn each_capability_loses_what_it_is_for_and_nothing_else() -> Result<()> {
    try_all(&[
        // CAP_SYS_ADMIN stands for these two.
        without(&["bpf"], &[]),
        without(&["perfmon"], &[]),
        without(&["bpf", "sys_admin"], &[Events, CgroupEvents, Namespaces]),
        without(&["perfmon", "sys_admin"], &[Events, CgroupEvents, Namespaces]),
        without(&["net_admin", "sys_admin"], &[CgroupEvents, Namespaces, Conntrack]),
        without(&["sys_admin"], &[Namespaces]),
        without(&["sys_ptrace"], &[Namespaces, Descriptors]),
        without(&["dac_read_search"], &[Descriptors]),
        without(&["syslog"], &symbols()?),
    ])
}

#[test]
fn root_without_one_capability_loses_what_it_is_for_and_nothing_else() -> Result<()> {
    try_all(&[
        root_without("-sys_admin", &[Namespaces]),
        root_without("-sys_ptrace", &[Namespaces, Descriptors]),
        root_without("-net_admin", &[Conntrack]),
        root_without("-syslog", &symbols()?),
        root_without("-sys_resource,-bpf,-perfmon,-dac_override", &[]),
        root_without("-dac_override,-dac_read_search", &[Descriptors]),
    ])
}

#[test]
fn a_proc_that_hides_processes_is_told_from_one_that_shows_all() -> Result<()> {
    let hiding = |options: &str| with_proc(options, without(&["sys_ptrace"], &[Processes, Descriptors]));
    try_all(&[
        with_proc("hidepid=invisible,gid=1", without(&[], &[])),
        // Members of its group see everybody, and so root does if it is not another one than root's.
        hiding("hidepid=invisible,gid=1"),
        hiding("hidepid=noaccess,gid=1"),
        hiding("hidepid=ptraceable"),
    ])
}

#[test]
fn nobody_and_the_root_of_a_user_namespace_are_told_all_that_they_lose() -> Result<()> {
    let mut everything = vec![Events, CgroupEvents, Namespaces, Conntrack, Descriptors];
    everything.extend(symbols()?);
    let nobody = format!("setpriv --reuid={NOBODY} --clear-groups --bounding-set=-all --inh-caps=-all");
    try_all(&[
        Case { through: words(&nobody), lost: everything.clone() },
        Case { through: words("unshare --user --map-root-user"), lost: everything },
    ])
}

#[test]
fn an_agent_in_a_pid_namespace_of_its_own_knows_that_it_sees_not_all_processes() -> Result<()> {
    let through = words("unshare --pid --fork --kill-child --mount-proc");
    try_all(&[Case { through, lost: vec![Processes, Descriptors] }])
}

#[test]
fn without_names_of_places_no_drop_is_counted_by_its_place() -> Result<()> {
    let Case { through, lost } = without(&["syslog"], &symbols()?);
    let agent = Agent::start(&Settings { through, ..Settings::default() })?;
    let namespace = Namespace::new("places")?;
    // Nobody listens: the kernel drops each in tcp_v4_rcv.
    let drops = wait::until("a drop", || {
        let tried = namespace.run(|| {
            faults::loopback_up()?;
            Ok(TcpStream::connect("127.0.0.1:9").is_err())
        });
        let total = ("inspector_pod_packetloss_total", [("pod", namespace.name())]);
        let drops = || agent.scrape().ok()?.sum(total.0, &total.1).filter(|drops| *drops > 0.0);
        tried.is_ok_and(|is_refused| is_refused).then(drops).flatten()
    })?;
    let page = agent.scrape()?;
    for name in ["abnormal", "tcprcv"] {
        let value = page.sum(&format!("inspector_pod_packetloss_{name}"), &[("pod", namespace.name())]);
        match lost.is_empty() {
            true => ensure!(value >= Some(drops), "{name}: {value:?} of {drops}"),
            false => ensure!(value.is_none(), "{name}: {value:?}, and not absent"),
        }
    }
    Ok(())
}
