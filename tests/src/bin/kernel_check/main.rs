//! `/init` of the guests of `make test-kernels`: makes real faults on a stock kernel, and looks
//! whether the real agent says so. Everything it says begins with `kernel-check: `. With `LAB` in its
//! environment it asks what the agent concludes of the cases of the lab instead ([`lab`]).
//!
//! What names a kernel cannot give (a reset's reason before 6.10) is not asked for.
//!
//! Longer than other files, because each check is one function of one list.

mod lab;

use std::fs::{self, File, create_dir_all};
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use inspector_tests::agent::{Agent, Settings};
use inspector_tests::http::EventStream;
use inspector_tests::lab::dns::{A, Resolver, Transport};
use inspector_tests::lab::{Connection, Family, Global, Pair, delays, faults, run};
use inspector_tests::scrape::Scrape;
use inspector_tests::wait;
use nix::kmod::{ModuleInitFlags, finit_module};
use nix::mount::{MsFlags, mount};
use nix::sys::reboot::{RebootMode, reboot};
use nix::sys::socket::{setsockopt, sockopt};
use serde_json::Value;

/// The guest's own device.
const VIRTIO: &str = "virtio0";

/// An interpreted processor takes its time, most of all to compile the analyzers.
const PATIENCE: Duration = Duration::from_secs(240);

/// A fault is made so often before it counts as not seen: the kernel skips the run of a program that
/// interrupts another run of it on the same CPU, and counts that as `missed`.
const TRIES: usize = 3;
/// So long each try is waited for.
const PATIENCE_PER_TRY: Duration = PATIENCE.checked_div(TRIES as u32).expect("not zero");

fn main() {
    // Anywhere else it would mount over a living system and then power it off.
    if std::process::id() != 1 {
        eprintln!("kernel-check is /init of a virtual machine: run `make test-kernels`");
        std::process::exit(2);
    }
    let outcome =
        prepare().and_then(|()| if std::env::var_os("LAB").is_some() { conclude() } else { check() });
    match outcome {
        Ok(0) => say("passed"),
        Ok(missing) => say(&format!("failed: {missing} missing")),
        Err(error) => say(&format!("failed: {error:#}")),
    }
    // Panics of /init end the guest as well, by `panic=-1`.
    let Err(error) = reboot(RebootMode::RB_POWER_OFF);
    say(&format!("cannot power off: {error}"));
}

fn say(line: &str) {
    println!("kernel-check: {}", line.replace('\n', " / "));
}

/// What a distribution's init does before anything else runs.
fn prepare() -> Result<()> {
    for (kind, at) in [
        ("proc", "/proc"),
        ("sysfs", "/sys"),
        ("devtmpfs", "/dev"),
        ("tmpfs", "/tmp"),
        ("tmpfs", "/run"),
        ("cgroup2", "/sys/fs/cgroup"),
        ("tracefs", "/sys/kernel/tracing"),
        ("bpf", "/sys/fs/bpf"),
    ] {
        create_dir_all(at)?;
        mount(Some(kind), at, Some(kind), MsFlags::empty(), None::<&str>)
            .with_context(|| format!("mount {at}"))?;
    }
    let mut modules: Vec<_> = fs::read_dir("/modules")?.flatten().map(|entry| entry.path()).collect();
    modules.sort();
    for module in modules {
        let load = finit_module(File::open(&module)?, c"", ModuleInitFlags::empty());
        load.with_context(|| module.display().to_string())?;
    }
    run("ip", "link set lo up")?;
    // While this namespace has an eth0, `ip` can make none for another.
    run("ip", &format!("link set eth0 name {VIRTIO}"))?;
    Ok(())
}

/// An interpreted processor that others keep busy needs more than the usual 50 ms for a batch.
fn settings() -> Settings {
    Settings {
        config: "plugins.batch_deadline = \"10s\"\n".to_owned(),
        plugin_dirs: vec!["/plugins".into()],
        ..Settings::default()
    }
}

/// Asks what is concluded; returns how many answers are not right.
fn conclude() -> Result<usize> {
    say(fs::read_to_string("/proc/version")?.trim());
    lab::examine(&settings())
}

/// Makes the faults; returns how many were not seen with their right names.
fn check() -> Result<usize> {
    say(fs::read_to_string("/proc/version")?.trim());
    let pair = Pair::new()?;
    let mut settings = settings();
    settings.config.push_str("plugins.disabled = []\n");
    let agent = Agent::start_within(&settings, PATIENCE)?;
    let analyzers = fs::read_dir("/plugins")?.count();
    wait::within(PATIENCE, "the analyzers to run", || {
        let plugins = agent.api("/api/v1/plugins").ok()?;
        let running = plugins.as_array()?.iter().filter(|plugin| plugin["state"] == "running").count();
        (running == analyzers).then_some(())
    })?;
    for probe in agent.api("/api/v1/probes")?.as_array().into_iter().flatten() {
        say(&format!("probe {} {} {}", text(&probe["name"]), text(&probe["state"]), text(&probe["reason"])));
    }
    let guest = Guest {
        pair: &pair,
        resolver: Resolver::start(&pair)?,
        events: EventStream::open(agent.events, "")?,
        has_reset_reason: has_reset_reason()?,
    };
    let mut missing = 0;
    for family in Family::BOTH {
        let checks: [(&str, &dyn Fn() -> Result<String>); 16] = [
            ("drop", &|| guest.closed_port(family)),
            ("drop", &|| guest.firewall(family)),
            ("reset", &|| guest.reset(family)),
            ("retransmission", &|| guest.retransmission(family)),
            ("receive", &|| guest.slow_receive(family)),
            ("softirq", &|| guest.slow_softirq(family)),
            ("queue", &|| guest.slow_queue(family)),
            ("virtio-command", &|| guest.command(&agent)),
            ("socket-error", &|| guest.refused(family)),
            ("icmp", &|| guest.icmp(family)),
            ("neighbour", &|| guest.absent(family)),
            ("dns", &|| guest.missing_name(family)),
            ("dns", &|| guest.silence(family)),
            ("route", &|| guest.refused_route(family)),
            ("socket-error", &|| guest.memory_limit(family)),
            ("neighbour", &|| guest.full_table(family)),
        ];
        for (signal, check) in checks {
            match tried(&agent, signal, check) {
                Ok(line) => say(&format!("ok {signal} {line}")),
                Err(error) => {
                    missing += 1;
                    say(&format!("missing {signal} {family:?} {error:#}"));
                }
            }
        }
    }
    ensure!(agent.is_running(), "the agent ended");
    if missing > 0 {
        agent.log().iter().for_each(|line| say(&format!("log {line}")));
    }
    Ok(missing)
}

/// Makes a fault until it is seen; says of each time that it was not what the agent knows of that.
fn tried(agent: &Agent, signal: &str, check: &dyn Fn() -> Result<String>) -> Result<String> {
    for _ in 1..TRIES {
        let before = agent.scrape()?;
        match check() {
            Ok(line) => return Ok(line),
            Err(error) => {
                say(&format!("again {signal}: {error:#}; meanwhile {}", risen(&before, &agent.scrape()?)))
            }
        }
    }
    check()
}

/// Which counters of what did not arrive have risen, and by how much.
fn risen(before: &Scrape, after: &Scrape) -> String {
    let of_loss =
        ["inspector_probe_missed_runs_total", "inspector_lost_total", "inspector_plugin_traps_total"];
    let risen =
        after.samples.iter().filter(|sample| of_loss.contains(&sample.name.as_str())).filter_map(|sample| {
            let old =
                before.samples.iter().find(|old| old.name == sample.name && old.labels == sample.labels);
            let by = sample.value - old.map_or(0.0, |old| old.value);
            (by > 0.0).then(|| format!("{} {:?} rose by {by}", sample.name, sample.labels))
        });
    let risen: Vec<_> = risen.collect();
    if risen.is_empty() { "nothing was lost or skipped".to_owned() } else { risen.join(", ") }
}

struct Guest<'a> {
    pair: &'a Pair,
    resolver: Resolver<'a>,
    events: EventStream,
    has_reset_reason: bool,
}

impl Guest<'_> {
    fn closed_port(&self, family: Family) -> Result<String> {
        let to = self.pair.server_at(family, faults::CLOSED_PORT);
        let from = faults::send_udp(&self.pair.client, to, 1, 32)?;
        let event = self.event("PACKETLOSS", self.pair.server.name(), from, to)?;
        named(&event, "reason", "NO_SOCKET")
    }

    fn firewall(&self, family: Family) -> Result<String> {
        faults::drop_incoming(&self.pair.server, "udp", 4242)?;
        let to = self.pair.server_at(family, 4242);
        let from = faults::send_udp(&self.pair.client, to, 1, 32)?;
        let event = self.event("PACKETLOSS", self.pair.server.name(), from, to);
        faults::stop_dropping(&self.pair.server)?;
        named(&event?, "reason", "NETFILTER_DROP")
    }

    /// A reset by an application, because 6.1 has no event for one without a socket.
    fn reset(&self, family: Family) -> Result<String> {
        let (from, to) = faults::reset_by_linger(self.pair, family)?;
        self.event("TCP_RCV_RST_ESTAB", self.pair.server.name(), to, from)?;
        let sent = self.event("TCPRESET_ACTIVE", self.pair.client.name(), from, to)?;
        if self.has_reset_reason { named(&sent, "reason", "TCP_STATE") } else { Ok(shown(&sent)) }
    }

    fn retransmission(&self, family: Family) -> Result<String> {
        faults::drop_incoming(&self.pair.server, "tcp", 4243)?;
        let to = self.pair.server_at(family, 4243);
        let (_connecting, from) = faults::start_connect(&self.pair.client, to)?;
        let event = self.event("TCPRETRANS", self.pair.client.name(), from, to);
        faults::stop_dropping(&self.pair.server)?;
        named(&event?, "kind", "syn")
    }

    /// A segment that a firewall with too many rules holds up.
    fn slow_receive(&self, family: Family) -> Result<String> {
        let mut connection = Connection::open(self.pair, family)?;
        let (from, to) = (connection.client_at, connection.server_at);
        delays::slow_firewall(&self.pair.server, "input", &format!("tcp dport {}", to.port()))?;
        connection.exchange(100, 1)?;
        self.pair.server.nft("delete table inet slow")?;
        Ok(shown(&self.event("RXKERNEL_SLOW", self.pair.server.name(), from, to)?))
    }

    /// The soft interrupt in which such a firewall runs.
    fn slow_softirq(&self, family: Family) -> Result<String> {
        delays::slow_firewall(&self.pair.server, "input", "udp dport 5555")?;
        faults::send_udp(&self.pair.client, self.pair.server_at(family, 5555), 3, 10)?;
        self.pair.server.nft("delete table inet slow")?;
        let event = wait::within(PATIENCE_PER_TRY, "a soft interrupt that ran for long", || {
            let received = self.events.received();
            received.iter().find(|event| text(&event["type"]).starts_with("NETSOFTIRQ_EXCUTE_")).cloned()
        })?;
        Ok(shown(&event))
    }

    fn refused(&self, family: Family) -> Result<String> {
        let to = self.pair.server_at(family, faults::CLOSED_PORT);
        let from = faults::connect_to_closed_port(&self.pair.client, to)?;
        let event = self.event("SOCKET_ERROR", self.pair.client.name(), from, to)?;
        named(&event, "error", "ECONNREFUSED")
    }

    fn icmp(&self, family: Family) -> Result<String> {
        let to = self.pair.server_at(family, faults::CLOSED_PORT);
        let from = faults::send_udp(&self.pair.client, to, 1, 32)?;
        let event = self.event("ICMP_SENT", self.pair.server.name(), from, to)?;
        named(&event, "error", "port-unreachable")
    }

    fn absent(&self, family: Family) -> Result<String> {
        let nobody = self.pair.neighbour(family, 99);
        faults::send_udp(&self.pair.client, SocketAddr::new(nobody, 4242), 1, 32)?;
        let event = self.event_of("NEIGH_FAILED", self.pair.client.name(), |event| {
            text(&event["attrs"]["address"]) == nobody.to_string()
        })?;
        named(&event, "known", "no")
    }

    fn missing_name(&self, family: Family) -> Result<String> {
        let asked = self.resolver.ask(family, Transport::Udp, "missing.nx.example", A)?;
        let event = self.event("DNS_ERROR", self.pair.client.name(), asked.client, asked.server)?;
        named(&event, "name", "missing.nx.example")?;
        named(&event, "rcode", "NXDOMAIN")
    }

    fn silence(&self, family: Family) -> Result<String> {
        let asked = self.resolver.ask_without_answer(family, "a.silent.example", 2)?;
        let event = self.event("DNS_TIMEOUT", self.pair.client.name(), asked.client, asked.server)?;
        named(&event, "tries", "2")
    }

    /// A connect and a datagram without a route, and the same into a blackhole.
    fn refused_route(&self, family: Family) -> Result<String> {
        let host = if family == Family::V4 { "10.8.0.1" } else { "fd00:8::1" };
        let mut seen = Vec::new();
        for (port, route) in [(1000, "missing"), (1001, "blackhole")] {
            let to = SocketAddr::new(host.parse()?, port);
            faults::connect_without_route(&self.pair.client, to)?;
            faults::send_without_route(&self.pair.client, to)?;
            for protocol in ["TCP", "UDP"] {
                let event = self.event_of("ROUTE_REFUSED", self.pair.client.name(), |event| {
                    let attrs = &event["attrs"];
                    text(&attrs["protocol"]) == protocol
                        && text(&attrs["daddr"]) == host
                        && text(&attrs["dport"]) == port.to_string()
                })?;
                seen.push(named(&event, "route", route)?);
            }
            if route == "missing" {
                self.pair.client.ip(&format!("route replace blackhole {host}"))?;
            }
        }
        Ok(seen.join(", "))
    }

    /// Limits are one for all namespaces, which is why no test on a living machine sets them. Each
    /// CPU may use 1 MiB before the kernel looks at them (since 6.0), so more than that waits unread.
    fn memory_limit(&self, family: Family) -> Result<String> {
        let socket = self.pair.server.udp((self.pair.server_ip(family), 0))?;
        setsockopt(&socket, sockopt::RcvBufForce, &(16 << 20))?;
        let limit = Global::set("/proc/sys/net/ipv4/udp_mem", "0 0 0")?;
        faults::send_udp(&self.pair.client, socket.local_addr()?, 2_000, 1_000)?;
        drop(limit);
        let event = self.event_of("SOCKET_MEMORY_LIMIT", self.pair.server.name(), |event| {
            text(&event["attrs"]["saddr"]).contains(':') == (family == Family::V6)
        })?;
        named(&event, "direction", "receive")
    }

    fn full_table(&self, family: Family) -> Result<String> {
        faults::fill_neighbour_table(self.pair, family)?;
        let event = self.event_of("NEIGH_TABLE_FULL", self.pair.client.name(), |event| {
            text(&event["attrs"]["address"]).contains(':') == (family == Family::V6)
        })?;
        Ok(shown(&event))
    }

    /// A queue that lets a packet through every 125 ms.
    fn slow_queue(&self, family: Family) -> Result<String> {
        delays::throttle(&self.pair.client)?;
        let to = self.pair.server_at(family, faults::CLOSED_PORT);
        let from = faults::send_udp(&self.pair.client, to, 6, 1000)?;
        let event = self.event("NETIFTXLAT_QDISC", self.pair.client.name(), from, to);
        run("tc", &format!("-n {} qdisc del dev eth0 root", self.pair.client.name()))?;
        Ok(shown(&event?))
    }

    /// Commands to this guest's hypervisor, which answers too fast for an event.
    fn command(&self, agent: &Agent) -> Result<String> {
        let count = || agent.scrape().ok()?.sum("inspector_virtio_command_seconds_count", &[]);
        let before = count().unwrap_or(0.0);
        run("ip", &format!("link set {VIRTIO} up"))?;
        for promiscuous in ["on", "off"] {
            run("ip", &format!("link set {VIRTIO} promisc {promiscuous}"))?;
        }
        let after =
            wait::within(PATIENCE_PER_TRY, "commands of virtio_net", || count().filter(|n| *n > before))?;
        let sum = agent.scrape()?.sum("inspector_virtio_command_seconds_sum", &[]).context("a sum")?;
        ensure!(sum > 0.0 && sum < 60.0, "{after} commands took {sum} s");
        Ok(format!("{after} commands in {sum} s"))
    }

    /// Waits for an event of a namespace between two addresses.
    fn event(&self, kind: &str, pod: &str, from: SocketAddr, to: SocketAddr) -> Result<Value> {
        let flow = format!("{from} -> {to}");
        let of_flow = |event: &Value| text(&event["message"]).starts_with(&flow);
        self.event_of(kind, pod, of_flow).with_context(|| flow.clone())
    }

    /// Waits for an event of a namespace.
    fn event_of(&self, kind: &str, pod: &str, is_it: impl Fn(&Value) -> bool) -> Result<Value> {
        wait::within(PATIENCE_PER_TRY, &format!("{kind} in {pod}"), || {
            let received = self.events.received();
            let is_it =
                |event: &&Value| event["type"] == kind && event["entity"]["name"] == pod && is_it(event);
            received.iter().find(is_it).cloned()
        })
    }
}

/// The event for people, if an attribute has its right name.
fn named(event: &Value, attribute: &str, wanted: &str) -> Result<String> {
    let found = text(&event["attrs"][attribute]);
    ensure!(found == wanted, "{attribute} is {found:?}, not {wanted}: {event}");
    Ok(shown(event))
}

fn shown(event: &Value) -> String {
    format!("{} {} {}", text(&event["type"]), text(&event["entity"]["name"]), text(&event["message"]))
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// `tcp_send_reset` has told its reason since 6.10.
fn has_reset_reason() -> Result<bool> {
    let release = fs::read_to_string(Path::new("/proc/sys/kernel/osrelease"))?;
    let mut numbers = release.split('.').map_while(|part| part.parse::<u32>().ok());
    Ok((numbers.next(), numbers.next()) >= (Some(6), Some(10)))
}
