//! Promise: nothing is ever said of the wrong namespace, however fast they come and go.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::UdpSocket;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use inspector_tests::agent::{Agent, Settings};
use inspector_tests::http::EventStream;
use inspector_tests::lab::{Cgroup, Family, Namespace, Pair, cookie_here, faults};
use inspector_tests::wait;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use serde_json::Value;

use crate::heavy;
use crate::sources::Busy;

/// Namespaces that come and go.
const NAMESPACES: u16 = 1000;
/// The first one's events go to this port, the next one's to the next.
const FIRST_PORT: u16 = 20_000;
/// How long they live, in turn: from no longer than it takes to send a packet to 40 ms.
const LIVES: [Duration; 4] =
    [Duration::ZERO, Duration::from_millis(3), Duration::from_millis(10), Duration::from_millis(40)];

/// What is known of a namespace that was here.
#[derive(Debug)]
struct Past {
    name: String,
    cookie: u64,
    inode: u64,
    life: Duration,
}

/// Makes a namespace as `ip netns add` does, only faster: unshare, then mount it on a file.
fn live_briefly(name: &str, port: u16, life: Duration) -> Result<Past> {
    let file = PathBuf::from("/run/netns").join(name);
    std::thread::scope(|scope| {
        let inside = scope.spawn(|| -> Result<Past> {
            File::create(&file)?;
            unshare(CloneFlags::CLONE_NEWNET)?;
            let own = Path::new("/proc/thread-self/ns/net");
            mount(Some(own), &file, None::<&str>, MsFlags::MS_BIND, None::<&str>).context("mount")?;
            let born = Instant::now();
            // Only `lo` down to talk to: the packet is dropped where nobody listens.
            faults::loopback_up()?;
            let socket = UdpSocket::bind("127.0.0.1:0")?;
            socket.send_to(b"who am I?", ("127.0.0.1", port))?;
            std::thread::sleep(life);
            let (cookie, inode) = (cookie_here()?, File::open(own)?.metadata()?.ino());
            umount2(&file, MntFlags::MNT_DETACH)?;
            fs::remove_file(&file)?;
            Ok(Past { name: name.to_owned(), cookie, inode, life: born.elapsed() })
        });
        inside.join().expect("it does not panic")
    })
}

/// What the agent takes of the machine: resident KiB, open descriptors.
fn footprint(agent: &Agent) -> Result<(f64, f64)> {
    let page = agent.scrape()?;
    let value = |name| page.sum(name, &[]).with_context(|| format!("no {name}"));
    Ok((value("process_resident_memory_bytes")? / 1024.0, value("process_open_fds")?))
}

#[test]
fn a_thousand_namespaces_that_come_and_go_are_never_mistaken() -> Result<()> {
    let _turn = heavy();
    let config = "events.backlog = 65536".to_owned();
    let agent = Agent::start(&Settings { config, ..Settings::default() })?;
    let stream = EventStream::open(agent.events, "type=PACKETLOSS")?;
    let before = footprint(&agent)?;
    // As `ip netns` makes it.
    fs::create_dir_all("/run/netns")?;
    let start = Instant::now();
    let mut past = BTreeMap::new();
    for i in 0..NAMESPACES {
        let port = FIRST_PORT + i;
        let name = format!("{}churn{i}", Namespace::prefix());
        past.insert(port.to_string(), live_briefly(&name, port, LIVES[usize::from(i) % LIVES.len()])?);
    }
    let took = start.elapsed();

    let own = || {
        let ours = |event: &Value| {
            let past = past.get(event["attrs"]["dport"].as_str()?)?;
            (event["attrs"]["daddr"] == "127.0.0.1").then(|| (past, event.clone()))
        };
        stream.received().iter().filter_map(ours).collect::<Vec<_>>()
    };
    let events = wait::until("an event of each namespace", || {
        let events = own();
        let cookies: std::collections::BTreeSet<_> = events.iter().map(|(past, _)| past.cookie).collect();
        (cookies.len() == past.len()).then_some(events)
    })
    .with_context(|| format!("{} events came", own().len()))?;
    let after = footprint(&agent)?;

    let (mut wrong, mut unnamed) = (Vec::new(), Vec::new());
    for (past, event) in &events {
        let (cookie, name) = (event["entity"]["cookie"].as_u64(), event["entity"]["name"].as_str());
        if cookie != Some(past.cookie) {
            wrong.push(event);
        } else if name == Some(&format!("netns-{}", past.cookie)) {
            unnamed.push(past.life);
        } else if name != Some(&past.name) {
            wrong.push(event);
        }
    }
    unnamed.sort();
    let inodes: std::collections::BTreeSet<_> = past.values().map(|past| past.inode).collect();
    let short = past.values().filter(|past| past.life < Duration::from_millis(50)).count();
    // Whoever makes namespaces with `ip` cannot be as fast as the shortest lives here.
    let late = unnamed.iter().filter(|life| **life >= LIVES[2]).count();
    println!(
        "{NAMESPACES} namespaces in {took:.1?}, {short} of them shorter than 50 ms, on {} inode numbers: {} events, \
         {} wrong, {} unnamed (they lived {:.1?} at the median; {late} of them at least {:?}); resident {:.0} KiB to {:.0} KiB, descriptors {} to {}",
        inodes.len(),
        events.len(),
        wrong.len(),
        unnamed.len(),
        unnamed.get(unnamed.len() / 2).copied().unwrap_or_default(),
        LIVES[2],
        before.0,
        after.0,
        before.1,
        after.1,
    );
    assert!(wrong.is_empty(), "{wrong:#?}");
    ensure!(inodes.len() < past.len(), "no inode number was used again: this test proves nothing of them");
    // A busy machine lets the agent wait for its turn; without its first look at a new name, a third
    // of all would have none.
    ensure!(late * 10 <= events.len(), "{late} of {} have no name although they lived", events.len());
    ensure!(after.1 <= before.1 + 8.0, "descriptors leak: {} to {}", before.1, after.1);
    ensure!(after.0 <= before.0 + 24.0 * 1024.0, "memory grows: {} KiB to {} KiB", before.0, after.0);

    // The series too: each under its own name or none, counted once.
    let page = agent.scrape()?;
    for past in past.values() {
        let count = page.sum("inspector_drops_total", &[("pod", &past.name), ("reason", "NO_SOCKET")]);
        ensure!(count.is_none_or(|count| count == 1.0), "{}: {count:?}", past.name);
    }
    Ok(())
}

/// How many pods are made in a second.
const PODS_PER_SECOND: u32 = 10;
/// For how long: `INSPECTOR_CHURN_SECONDS`, or this many.
const SECONDS: u32 = 15;
/// The first pod's first event goes to this port, its second one to the next, and so on.
const FIRST_POD_PORT: u16 = 30_000;
/// Time between the first and the second event of a pod.
const NAMED_WITHIN: Duration = Duration::from_millis(100);

/// The folders in which a node tells of its pods.
struct Node {
    logs: tempfile::TempDir,
    tasks: tempfile::TempDir,
    cgroup: Cgroup,
}

impl Node {
    /// A pod as a kubelet, its network plugin and its runtime make it, one after the other, and take it away.
    fn live_as_pod(&self, number: u16) -> Result<()> {
        let (name, uid) = (format!("pod-{number}"), format!("{number:08x}-0000-4000-8000-000000000000"));
        let folder = self.logs.path().join(format!("churn_{name}_{uid}"));
        fs::create_dir(&folder)?;
        let (netns, port) = (format!("cni-{}{number}", Namespace::prefix()), FIRST_POD_PORT + 2 * number);
        let file = PathBuf::from("/run/netns").join(&netns);
        let send = |port| -> Result<()> {
            let socket = UdpSocket::bind("127.0.0.1:0")?;
            socket.send_to(b"who am I?", ("127.0.0.1", port))?;
            Ok(())
        };
        let cgroup = self.cgroup.path().join(format!("kubepods/burstable/pod{uid}/{number}"));
        let task = self.tasks.path().join(number.to_string());
        std::thread::scope(|scope| {
            let inside = scope.spawn(|| -> Result<()> {
                File::create(&file)?;
                unshare(CloneFlags::CLONE_NEWNET)?;
                let own = Path::new("/proc/thread-self/ns/net");
                mount(Some(own), &file, None::<&str>, MsFlags::MS_BIND, None::<&str>).context("mount")?;
                faults::loopback_up()?;
                send(port)?;
                fs::create_dir_all(&task)?;
                let configuration = serde_json::json!({
                    "annotations": { "io.kubernetes.cri.sandbox-name": name, "io.kubernetes.cri.sandbox-namespace": "churn" },
                    "linux": { "cgroupsPath": format!("/kubepods/burstable/pod{uid}/{number}"),
                        "namespaces": [{ "type": "network", "path": file }] },
                });
                fs::write(task.join("config.json"), configuration.to_string())?;
                fs::create_dir_all(&cgroup)?;
                // It is in this thread's namespace.
                let mut process = Command::new("sleep").arg("60").spawn()?;
                fs::write(cgroup.join("cgroup.procs"), process.id().to_string())?;
                std::thread::sleep(NAMED_WITHIN);
                send(port + 1)?;
                process.kill()?;
                process.wait()?;
                umount2(&file, MntFlags::MNT_DETACH)?;
                Ok(fs::remove_file(&file)?)
            });
            inside.join().expect("it does not panic")
        })?;
        fs::remove_dir_all(&task)?;
        fs::remove_dir(&folder)?;
        for group in cgroup.ancestors().take(2) {
            wait::until("the pod's cgroup to be empty", || fs::remove_dir(group).ok())?;
        }
        Ok(())
    }
}

#[test]
fn pods_that_come_and_go_have_their_names_from_the_node_and_never_anothers() -> Result<()> {
    let _turn = heavy();
    let seconds = std::env::var("INSPECTOR_CHURN_SECONDS").map_or(Ok(SECONDS), |text| text.parse())?;
    let node = Node { logs: tempfile::tempdir()?, tasks: tempfile::tempdir()?, cgroup: Cgroup::unified()? };
    let config = format!(
        "events.backlog = 65536\npaths.pod_logs = '{}'\npaths.runtimes = ['{}']",
        node.logs.path().display(),
        node.tasks.path().display()
    );
    let agent = Agent::start(&Settings { config, ..Settings::default() })?;
    let stream = EventStream::open(agent.events, "type=PACKETLOSS")?;
    let before = footprint(&agent)?;
    let pods = u16::try_from(seconds * PODS_PER_SECOND)?;
    std::thread::scope(|scope| -> Result<()> {
        let mut living = Vec::new();
        for number in 0..pods {
            let node = &node;
            living.push(scope.spawn(move || node.live_as_pod(number)));
            std::thread::sleep(Duration::from_secs(1) / PODS_PER_SECOND);
        }
        living.into_iter().try_for_each(|pod| pod.join().expect("it does not panic"))
    })?;
    for group in ["kubepods/burstable", "kubepods"] {
        fs::remove_dir(node.cgroup.path().join(group))?;
    }
    // Number of the pod, and whether it is its second event.
    let own = || {
        let ours = |event: &Value| {
            let port = event["attrs"]["dport"].as_str()?.parse::<u16>().ok()?.checked_sub(FIRST_POD_PORT)?;
            (event["attrs"]["daddr"] == "127.0.0.1" && port < 2 * pods)
                .then(|| (port / 2, port % 2 == 1, event.clone()))
        };
        stream.received().iter().filter_map(ours).collect::<Vec<_>>()
    };
    let events = wait::until("both events of each pod", || {
        let events = own();
        (events.len() >= 2 * usize::from(pods)).then_some(events)
    })
    .with_context(|| format!("{} events came", own().len()))?;
    let after = footprint(&agent)?;
    let (mut wrong, mut unnamed) = (Vec::new(), [0; 2]);
    for (number, is_second, event) in &events {
        let entity = &event["entity"];
        let name = entity["name"].as_str().unwrap_or_default();
        match (entity["namespace"].as_str(), name) {
            (Some("churn"), name) if name == format!("pod-{number}") => {}
            (Some(""), name)
                if name == format!("cni-{}{number}", Namespace::prefix()) || name.starts_with("netns-") =>
            {
                unnamed[usize::from(*is_second)] += 1;
            }
            _ => wrong.push(event),
        }
    }
    println!(
        "{pods} pods in {seconds} s: {} events, {} wrong; without the pod's name: {} of the first ones, which come before \
         the runtime knows of the pod, {} of those {NAMED_WITHIN:?} later; resident {:.0} KiB to {:.0} KiB, descriptors {} to {}",
        events.len(),
        wrong.len(),
        unnamed[0],
        unnamed[1],
        before.0,
        after.0,
        before.1,
        after.1,
    );
    assert!(wrong.is_empty(), "{wrong:#?}");
    // A machine that stands still for a while lets the agent wait for its turn.
    ensure!(unnamed[1] * 10 <= usize::from(pods), "{} of {pods} pods have no name", unnamed[1]);
    ensure!(after.1 <= before.1 + 8.0, "descriptors leak: {} to {}", before.1, after.1);
    ensure!(after.0 <= before.0 + 24.0 * 1024.0, "memory grows: {} KiB to {} KiB", before.0, after.0);
    Ok(())
}

fn entity(agent: &Agent, name: &str) -> Option<Value> {
    let entities = agent.api("/api/v1/entities").ok()?;
    entities.as_array()?.iter().find(|entity| entity["name"] == name).cloned()
}

#[test]
fn a_process_number_that_is_used_again_belongs_to_its_new_namespace() -> Result<()> {
    let agent =
        Agent::start(&Settings { config: "sources.interval = '200ms'".to_owned(), ..Settings::default() })?;
    let (old, new) = (Namespace::new("old")?, Namespace::new("new")?);
    let first = Busy::start(&old, &["30", "2"])?;
    let pid = first.pid();
    let has = |namespace: &Namespace, pid: u32| {
        let found = entity(&agent, namespace.name())?;
        let process = found["pids"].as_array()?.iter().find(|p| p["pid"] == pid)?.clone();
        Some((process, found["cgroup"].as_str()?.to_owned()))
    };
    let (_, cgroup) = wait::until("the process in the table", || has(&old, pid))?;
    // Between fork and exec it had the name of the thread that made it.
    wait::until("its own name", || (has(&old, pid)?.0["name"] == "busy").then_some(()))?;
    let own = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    assert!(own.lines().any(|line| line.ends_with(&cgroup)), "{cgroup:?} is none of {own}");
    drop(first);

    // The kernel gives the next number; another process may be faster.
    let rewind = || Ok(fs::write("/proc/sys/kernel/ns_last_pid", (pid - 1).to_string())?);
    let again = (0..100)
        .find_map(|_| Busy::start_as(&new, &["10", "1"], rewind).ok().filter(|next| next.pid() == pid));
    let again = again.context("the number is not given again")?;
    let value = |namespace: &Namespace, metric: &str| {
        agent.scrape().ok()?.sum(&format!("inspector_pod_{metric}"), &[("pod", namespace.name())])
    };
    wait::until("the process in its new namespace", || has(&new, pid))?;
    wait::until("its descriptors there", || (value(&new, "fdopenfd")? == again.open).then_some(()))?;
    wait::until("none in the old one", || (value(&old, "fdopenfd")? == 0.0).then_some(()))?;
    assert!(has(&old, pid).is_none());
    Ok(())
}

#[test]
fn names_that_would_move_a_terminal_are_shown_harmlessly() -> Result<()> {
    use std::os::unix::ffi::OsStrExt as _;
    let agent = Agent::start(&Settings::default())?;
    let mut raw = format!("{}evil", Namespace::prefix()).into_bytes();
    raw.extend_from_slice(b"\x1b[2J\n\xff\"");
    let file = Path::new("/run/netns").join(std::ffi::OsStr::from_bytes(&raw));
    File::create(&file)?;
    let made = std::thread::scope(|scope| {
        let inside = scope.spawn(|| -> Result<()> {
            unshare(CloneFlags::CLONE_NEWNET)?;
            Ok(mount(Some("/proc/thread-self/ns/net"), &file, None::<&str>, MsFlags::MS_BIND, None::<&str>)?)
        });
        inside.join().expect("it does not panic")
    });
    let shown = made.and_then(|()| {
        wait::until("the namespace in the list", || {
            let list = |form: &str| {
                let mut list = Command::new(inspector_tests::agent::binary().ok()?);
                let out = list
                    .args(["list", "entity", "-e", &agent.events.to_string(), "-o", form])
                    .output()
                    .ok()?;
                Some(out.stdout)
            };
            let found = list("text")?.windows(4).any(|part| part == b"evil");
            found.then(|| Some((list("text")?, list("json")?)))?
        })
    });
    umount2(&file, MntFlags::MNT_DETACH)?;
    fs::remove_file(&file)?;
    let (text, json) = shown?;
    for out in [&text, &json] {
        let line = out.split(|b| *b == b'\n').find(|l| l.windows(4).any(|part| part == b"evil"));
        let line = String::from_utf8(line.context("it is there")?.to_vec()).context("no UTF-8")?;
        assert!(!line.contains(char::is_control), "{line:?}");
    }
    let _: Value = serde_json::from_slice(&json)?;
    agent.scrape()?;
    Ok(())
}

#[test]
fn addresses_in_events_name_the_entities_on_both_sides_unless_two_have_them() -> Result<()> {
    let agent = Agent::start(&Settings::default())?;
    let pair = Pair::new()?;
    // Addresses that no other pair has.
    let net = std::process::id() % 200;
    for (namespace, host) in [(&pair.client, 1), (&pair.server, 2)] {
        namespace.ip(&format!("addr add 10.77.{net}.{host}/24 dev eth0"))?;
    }
    for name in [pair.client.name(), pair.server.name()] {
        let address = format!("10.77.{net}.");
        wait::until("its address", || {
            let ips = entity(&agent, name)?["ips"].as_array()?.clone();
            ips.iter().any(|ip| ip.as_str().is_some_and(|ip| ip.starts_with(&address))).then_some(())
        })?;
    }
    let stream = EventStream::open(agent.events, &format!("type=PACKETLOSS&pod={}", pair.server.name()))?;
    let event_to = |to: String| -> Result<Value> {
        let from = faults::send_udp(&pair.client, to.parse()?, 1, 1)?;
        let sport = from.port().to_string();
        wait::until("the event", || {
            stream.received().into_iter().find(|event| event["attrs"]["sport"] == sport.as_str())
        })
    };
    let event = event_to(format!("10.77.{net}.2:{}", faults::CLOSED_PORT))?;
    assert_eq!(event["attrs"]["src_entity"], pair.client.name(), "{event:#}");
    assert_eq!(event["attrs"]["dst_entity"], pair.server.name(), "{event:#}");
    assert!(event["event"].as_str().is_some_and(|text| text.contains("dst_entity=")), "{event:#}");

    let other = Pair::new()?;
    wait::until("another namespace with the same addresses", || {
        let ips = entity(&agent, other.server.name())?["ips"].as_array()?.len();
        (ips == 2).then_some(())
    })?;
    let event = event_to(pair.server_at(Family::V4, faults::CLOSED_PORT).to_string())?;
    assert_eq!(event["attrs"]["saddr"], pair.client_ip(Family::V4).to_string());
    assert!(event["attrs"].get("src_entity").is_none(), "{event:#}");
    assert!(event["attrs"].get("dst_entity").is_none(), "{event:#}");
    Ok(())
}
