//! Promise: every counter table is read where it belongs, and its contract metrics move when the
//! thing that they count happens.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use inspector_tests::agent::{Agent, Settings};
use inspector_tests::lab::{Connection, Family, Namespace, Pair, faults};
use inspector_tests::wait;

fn agent() -> Result<Agent> {
    Agent::start(&Settings { config: "sources.interval = '200ms'".to_owned(), ..Settings::default() })
}

/// Value of a contract metric of a namespace; `metric` without `inspector_pod_`.
fn value(agent: &Agent, pod: &str, metric: &str) -> Option<f64> {
    agent.scrape().ok()?.sum(&format!("inspector_pod_{metric}"), &[("pod", pod)])
}

/// Waits until a metric holds what `expected` says, and returns it.
fn reaches(agent: &Agent, pod: &str, metric: &str, expected: impl Fn(f64) -> bool) -> Result<f64> {
    let mut last = None;
    wait::until(&format!("{metric} of {pod}"), || {
        last = value(agent, pod, metric);
        last.filter(|value| expected(*value))
    })
    .with_context(|| {
        format!("it is {last:?}; sources: {:#}", agent.api("/api/v1/sources").unwrap_or_default())
    })
}

#[test]
fn sockets_are_counted_by_state_and_their_queues_in_bytes() -> Result<()> {
    let agent = agent()?;
    let pair = Pair::new()?;
    let (client, server) = (pair.client.name(), pair.server.name());
    let mut v4 = Connection::open(&pair, Family::V4)?;
    let v6 = Connection::open(&pair, Family::V6)?;
    // A listening socket is none of them, and what waits to be accepted are no bytes.
    let listener = pair.server.listen((pair.server_ip(Family::V4), 0))?;
    let waiting = pair.client.connect(listener.local_addr()?)?;
    reaches(&agent, server, "tcpsummarytcpestablishedconn", |n| n == 3.0)?;
    v4.client.write_all(&[b'x'; 1000])?;
    reaches(&agent, server, "tcpsummarytcprxqueue", |n| n == 1000.0)?;
    assert_eq!(value(&agent, client, "tcpsummarytcprxqueue"), Some(0.0));

    drop(v6.client);
    reaches(&agent, server, "tcpsummarytcpclosewaitconn", |n| n == 1.0)?;
    drop(v6.server);
    reaches(&agent, client, "tcpsummarytcptimewaitconn", |n| n == 1.0)?;

    // What is sent into a black hole stays in the sender's queue.
    faults::drop_incoming(&pair.server, "tcp", v4.server_at.port())?;
    v4.client.write_all(&[b'x'; 500])?;
    reaches(&agent, client, "tcpsummarytcptxqueue", |n| n == 500.0)?;
    faults::drop_incoming(&pair.server, "tcp", 4242)?;
    let (connecting, _) = faults::start_connect(&pair.client, pair.server_at(Family::V4, 4242))?;
    reaches(&agent, client, "tcpsummarytcpsynsentconn", |n| n == 1.0)?;
    drop((connecting, waiting));
    Ok(())
}

#[test]
fn a_half_open_connection_is_counted_at_the_server() -> Result<()> {
    let agent = agent()?;
    let pair = Pair::new()?;
    let listener = pair.server.listen((pair.server_ip(Family::V4), 0))?;
    // The client never sees the SYN-ACK.
    pair.client.nft(
        "table ip t { chain in { type filter hook input priority 0; tcp flags & (syn|ack) == syn|ack drop\n}\n}",
    )?;
    let (socket, _) = faults::start_connect(&pair.client, listener.local_addr()?)?;
    reaches(&agent, pair.server.name(), "tcpsummarytcpsynrecvconn", |n| n == 1.0)?;
    drop(socket);
    Ok(())
}

#[test]
fn connection_tracking_is_counted_in_its_own_namespace() -> Result<()> {
    let agent = agent()?;
    let pair = Pair::new()?;
    let server = pair.server.name();
    pair.server.nft(
        "table inet t { chain in { type filter hook input priority 0; ct state invalid drop\n ct state new accept\n}\n}",
    )?;
    let before = reaches(&agent, server, "conntrackentries", |n| n >= 0.0)?;
    let mut connections = Vec::new();
    for family in [Family::V4, Family::V6, Family::V4] {
        connections.push(Connection::open(&pair, family)?);
    }
    reaches(&agent, server, "conntrackentries", |n| n >= before + 3.0)?;
    assert_eq!(value(&agent, pair.client.name(), "conntrackentries"), Some(0.0), "nothing tracks there");
    let most: f64 = std::fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_max")?.trim().parse()?;
    assert_eq!(value(&agent, server, "conntrackmaxentries"), Some(most));

    let invalid = value(&agent, server, "conntrackinvalid").context("invalid")?;
    send_malformed_segment(&pair)?;
    let now = reaches(&agent, server, "conntrackinvalid", |n| n > invalid)?;
    println!("conntrack: entries {}, invalid {invalid} to {now}", before + 3.0);
    Ok(())
}

/// Sends the server a TCP header that says that it is shorter than a TCP header can be.
fn send_malformed_segment(pair: &Pair) -> Result<()> {
    use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, SockaddrIn, sendto, socket};
    use std::os::fd::AsRawFd as _;
    pair.client.run(|| {
        let raw = socket(
            AddressFamily::Inet,
            SockType::Raw,
            SockFlag::empty(),
            nix::sys::socket::SockProtocol::Tcp,
        )?;
        let mut header = [0u8; 20];
        header[..4].copy_from_slice(&[0x10, 0x01, 0x10, 0x02]);
        header[12] = 1 << 4;
        let to = SockaddrIn::new(10, 9, 0, 2, 0);
        sendto(raw.as_raw_fd(), &header, &to, MsgFlags::empty())?;
        Ok(())
    })
}

#[test]
fn a_queueing_discipline_counts_what_leaves_through_it() -> Result<()> {
    let agent = agent()?;
    let pair = Pair::new()?;
    let client = pair.client.name();
    // A leaf below a root: what the leaf holds is counted by the root as well.
    for line in [
        "qdisc add dev eth0 root handle 1: htb default 1",
        "class add dev eth0 parent 1: classid 1:1 htb rate 1mbit ceil 1mbit burst 2k cburst 2k",
        "qdisc add dev eth0 parent 1:1 handle 10: pfifo limit 5",
    ] {
        pair.client.run(|| inspector_tests::lab::run("tc", line))?;
    }
    let before = reaches(&agent, client, "qdiscpackets", |n| n >= 0.0)?;
    // More than a megabit at once: some wait, most are dropped.
    faults::send_udp(&pair.client, pair.server_at(Family::V4, faults::CLOSED_PORT), 200, 1000)?;
    let drops = reaches(&agent, client, "qdiscdrops", |n| n > 100.0)?;
    let packets = reaches(&agent, client, "qdiscpackets", |n| n > before)?;
    let limits = reaches(&agent, client, "qdiscoverlimits", |n| n > 0.0)?;
    let sum = wait::until("sent and dropped to add up", || {
        let sum = value(&agent, client, "qdiscpackets")? - before + value(&agent, client, "qdiscdrops")?;
        // The neighbour is asked for as well.
        (200.0..=203.0).contains(&sum).then_some(sum)
    })?;
    println!("qdisc: {packets} packets, {drops} drops, {limits} over limits, {sum} in all");
    let rows = agent.api("/api/v1/sources")?;
    ensure!(
        rows.as_array().is_some_and(|all| all.iter().any(|s| s["name"] == "qdisc" && s["state"] == "up")),
        "{rows:#}"
    );
    Ok(())
}

#[test]
fn a_packet_that_passes_a_port_and_its_bridge_is_counted_once() -> Result<()> {
    let agent = agent()?;
    let pair = Pair::new()?;
    let server = &pair.server;
    // The server's address moves to a bridge, and its interface becomes a port.
    for line in [
        "addr flush dev eth0",
        "link add br0 type bridge",
        "link set br0 addrgenmode none",
        "link set eth0 master br0",
        "link set br0 up",
        "addr add 10.9.0.2/24 dev br0",
    ] {
        server.ip(line)?;
    }
    let packets = 300;
    let before = reaches(&agent, server.name(), "netdevrxpackets", |n| n >= 0.0)?;
    let raw = |device: &str| -> Result<u64> {
        let json = server.ip(&format!("-s -j link show {device}"))?;
        let link: serde_json::Value = serde_json::from_str(&json)?;
        link[0]["stats64"]["rx"]["packets"].as_u64().context("no counter")
    };
    let (port, bridge) = (raw("eth0")?, raw("br0")?);
    faults::send_udp(&pair.client, pair.server_at(Family::V4, faults::CLOSED_PORT), packets, 100)?;
    let (port, bridge) = (raw("eth0")? - port, raw("br0")? - bridge);
    ensure!(port >= packets && bridge >= packets, "both devices count it: {port}, {bridge}");
    let after = reaches(&agent, server.name(), "netdevrxpackets", |n| n >= before + packets as f64)?;
    let grown = (after - before) as u64;
    println!("sent {packets}: port {port}, bridge {bridge}, counted {grown}");
    assert!(grown < 2 * packets, "counted twice: {grown}");
    Ok(())
}

#[test]
fn softnet_is_the_nodes_and_only_the_hosts() -> Result<()> {
    let agent = agent()?;
    let pair = Pair::introduced()?;
    let before = reaches(&agent, "", "softnetprocessed", |n| n > 0.0)?;
    faults::send_udp(&pair.client, pair.server_at(Family::V4, faults::CLOSED_PORT), 1000, 10)?;
    reaches(&agent, "", "softnetprocessed", |n| n >= before + 1000.0)?;
    reaches(&agent, pair.server.name(), "udpnoports", |n| n >= 1000.0)?;
    assert_eq!(value(&agent, pair.server.name(), "softnetprocessed"), None);
    reaches(&agent, "", "softnettime_squeeze", |n| n >= 0.0)?;
    Ok(())
}

/// A running `busy`; killed when dropped.
pub(crate) struct Busy {
    child: Child,
    /// Descriptors that it says it has.
    pub(crate) open: f64,
}

impl Busy {
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Starts it with its own arguments, and waits until it has all open.
    pub(crate) fn start(namespace: &Namespace, args: &[&str]) -> Result<Self> {
        Self::start_as(namespace, args, || Ok(()))
    }

    /// [`Busy::start`] with something to do right before.
    pub(crate) fn start_as(
        namespace: &Namespace,
        args: &[&str],
        before: impl Fn() -> Result<()> + Sync,
    ) -> Result<Self> {
        namespace.run(|| {
            before()?;
            let mut busy = Command::new(env!("CARGO_BIN_EXE_busy"));
            Self::by(busy.args(args))
        })
    }

    /// Starts it by a command that ends in its arguments, and waits until it has all open.
    pub(crate) fn by(command: &mut Command) -> Result<Self> {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().context("piped")?).read_line(&mut line)?;
        let open = line.trim().parse().with_context(|| format!("it says {line:?}"))?;
        Ok(Self { child, open })
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

#[test]
fn descriptors_and_io_are_those_of_the_entitys_processes_each_table_once() -> Result<()> {
    let agent = agent()?;
    let (alone, sharing) = (Namespace::new("alone")?, Namespace::new("sharing")?);
    let one = Busy::start(&alone, &["40", "7"])?;
    let two = Busy::start(&sharing, &["20", "3", "share"])?;
    reaches(&agent, alone.name(), "fdopenfd", |n| n == one.open)?;
    reaches(&agent, alone.name(), "fdopensocket", |n| n == 7.0)?;
    reaches(&agent, sharing.name(), "fdopenfd", |n| n == two.open)?;
    reaches(&agent, sharing.name(), "fdopensocket", |n| n == 3.0)?;
    let writes = reaches(&agent, alone.name(), "ioiowritesyscall", |n| n >= 1000.0)?;
    assert!(writes < 1500.0, "once per thread? {writes}");
    reaches(&agent, alone.name(), "ioioreadsyscall", |n| n > 0.0)?;
    // The host has processes too: this test, at least.
    reaches(&agent, "", "fdopenfd", |n| n > 10.0)?;
    reaches(&agent, "", "ioiowritesyscall", |n| n > 0.0)?;

    drop((one, two));
    reaches(&agent, alone.name(), "fdopenfd", |n| n == 0.0)?;
    Ok(())
}

#[test]
fn a_source_that_this_kernel_lacks_says_so_and_hurts_no_other() -> Result<()> {
    let agent = agent()?;
    reaches(&agent, "", "tcpinsegs", |n| n >= 0.0)?;
    let sources = agent.api("/api/v1/sources")?;
    let all = sources.as_array().context("a list")?;
    let ipvs = all.iter().find(|source| source["name"] == "ipvs").context("ipvs is listed")?;
    if std::path::Path::new("/proc/net/ip_vs_stats").exists() {
        assert_eq!(ipvs["state"], "up");
        return Ok(());
    }
    assert_eq!(ipvs["state"], "absent", "{ipvs:#}");
    assert_eq!(ipvs["errors"], 0, "{ipvs:#}");
    assert!(ipvs["last_error"].as_str().is_some_and(|why| why.contains("ip_vs_stats")), "{ipvs:#}");
    let page = agent.scrape()?;
    assert_eq!(page.find("inspector_pod_ipvsconnections", &[]).count(), 0);
    assert_eq!(page.find("inspector_source_up", &[("source", "ipvs")]).count(), 0);
    for source in
        ["snmp", "netstat", "netdev", "sockstat", "tcpsummary", "softnet", "conntrack", "qdisc", "fd", "io"]
    {
        wait::until(source, || {
            let page = agent.scrape().ok()?;
            (page.sum("inspector_source_up", &[("source", source)])? == 1.0).then_some(())
        })
        .with_context(|| format!("{sources:#}"))?;
        let latency = [("probe", source)];
        wait::until("its cost", || {
            agent.scrape().ok()?.sum("inspector_runtime_collectlatency", &latency).filter(|s| *s > 0.0)
        })?;
    }
    Ok(())
}

#[test]
fn a_source_that_hangs_costs_its_own_values_and_no_others() -> Result<()> {
    let pair = Pair::new()?;
    let stuck = FakeProcess::of(&pair.client)?;
    let config = format!("sources.interval = '200ms'\npaths.procfs = '{}'", stuck.proc.path().display());
    let agent = Agent::start(&Settings { config, ..Settings::default() })?;
    let up = |source: &str| agent.scrape().ok()?.sum("inspector_source_up", &[("source", source)]);
    wait::until("io to be late", || (up("io")? == 0.0).then_some(()))?;
    let sources = agent.api("/api/v1/sources")?;
    let io = sources.as_array().context("a list")?.iter().find(|source| source["name"] == "io");
    assert_eq!(io.context("io is listed")?["state"], "late", "{sources:#}");

    // The others go on as before, and no snapshot waits for it any more.
    let server = pair.server.name();
    for packets in [5, 10, 15] {
        faults::send_udp(&pair.client, pair.server_at(Family::V4, faults::CLOSED_PORT), 5, 1)?;
        reaches(&agent, server, "udpnoports", |n| n == f64::from(packets))?;
    }
    for source in ["snmp", "netdev", "conntrack", "tcpsummary"] {
        wait::until(source, || (up(source)? == 1.0).then_some(()))?;
    }
    let late = agent.scrape()?.sum("inspector_source_late_total", &[("source", "io")]);
    assert_eq!(late, Some(1.0));

    // What it waits for comes: so do its values.
    stuck.answer("syscr: 7\nsyscw: 9\n")?;
    wait::until("io to be read again", || (up("io")? == 1.0).then_some(()))?;
    Ok(())
}

/// A proc file system like the machine's, but for a process whose `io` is a pipe that nobody writes
/// to: whoever reads it hangs.
struct FakeProcess {
    proc: tempfile::TempDir,
    io: std::path::PathBuf,
}

impl FakeProcess {
    /// The process is in this namespace.
    fn of(namespace: &Namespace) -> Result<Self> {
        use std::os::unix::fs::symlink;
        let proc = tempfile::tempdir()?;
        for entry in std::fs::read_dir("/proc")? {
            let name = entry?.file_name();
            if name.to_str().is_some_and(|name| name.parse::<u32>().is_err() || ["1", "2"].contains(&name)) {
                symlink(std::path::Path::new("/proc").join(&name), proc.path().join(&name))?;
            }
        }
        // Process numbers end at 2^22, so nobody has this one.
        let process = proc.path().join("4194305");
        std::fs::create_dir_all(process.join("ns"))?;
        std::fs::create_dir(process.join("fd"))?;
        symlink(format!("net:[{}]", namespace.inode()?), process.join("ns/net"))?;
        let io = process.join("io");
        nix::unistd::mkfifo(&io, nix::sys::stat::Mode::S_IRWXU)?;
        Ok(Self { proc, io })
    }

    /// Lets whoever reads `io` go on, and others read a file.
    fn answer(&self, text: &str) -> Result<()> {
        let file = self.io.with_extension("file");
        std::fs::write(&file, text)?;
        // Opens as soon as somebody reads, which is now.
        let mut pipe = std::fs::File::options().write(true).open(&self.io)?;
        std::fs::rename(&file, &self.io)?;
        pipe.write_all(text.as_bytes())?;
        Ok(())
    }
}
