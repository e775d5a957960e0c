//! Devices, processes, connection tracking, and what delays packets.

use std::io::{Read as _, Write as _};
use std::net::UdpSocket;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context as _, Result};
use inspector_tests::lab::sockets::set_option;
use inspector_tests::lab::{Connection, Family, Global, Held, Namespace, Pair, delays, faults, run};
use nix::libc;

use crate::{Made, Workload};

const V4: Family = Family::V4;

pub const WORKLOADS: &[Workload] = &[
    Workload {
        name: "a frame of a protocol that nobody handles",
        moves: &["netdevrxdropped"],
        made: Made::AsCase("l2_garbage"),
    },
    Workload {
        name: "the other end of the link takes smaller packets only",
        moves: &["netdevtxdropped"],
        made: Made::By(|pair| {
            pair.server.ip("link set eth0 mtu 600")?;
            faults::send_udp(&pair.client, pair.server_at(V4, 9), 3, 1000)?;
            Ok(Box::new(()))
        }),
    },
    Workload {
        name: "a tunnel without a route to its other end",
        moves: &["netdevtxerrors"],
        made: Made::By(|pair| {
            tunnel(&pair.client, "203.0.113.1")?;
            let to = ("10.80.0.2", 9);
            pair.client.run(|| Ok(UdpSocket::bind(("10.80.0.1", 0))?.send_to(b"x", to)?))?;
            Ok(Box::new(()))
        }),
    },
    Workload {
        name: "a tunnel packet marked for congestion around one that is not",
        moves: &["netdevrxerrors"],
        made: Made::By(|pair| {
            tunnel(&pair.server, "10.9.0.1")?;
            pair.client.run(marked_tunnel_packet)?;
            Ok(Box::new(()))
        }),
    },
    Workload {
        name: "traffic that the soft interrupts cannot take at once (limits lowered, global)",
        moves: &["softnetprocessed", "softnetdropped", "softnettime_squeeze"],
        made: Made::AsCase("softnet_backlog"),
    },
    Workload {
        name: "tracked connections",
        moves: &["conntrackentries", "conntrackinsert", "conntrackinvalid", "conntrackerror"],
        made: Made::By(tracked),
    },
    Workload {
        name: "a full tracking table (its maximum lowered, global)",
        moves: &["conntrackmaxentries", "conntrackdrop", "conntrackearlydrop"],
        made: Made::By(full_table),
    },
    Workload {
        name: "translated connections that want one port",
        moves: &["conntrackfound"],
        made: Made::By(translated),
    },
    Workload {
        name: "a process with files, sockets and disk traffic",
        moves: &[
            "fdopenfd",
            "fdopensocket",
            "ioioreadsyscall",
            "ioiowritesyscall",
            "ioioreadbytes",
            "ioiowritebytes",
        ],
        made: Made::By(busy_process),
    },
    Workload {
        name: "a reader and a writer that let their sockets wait",
        moves: &[
            "socketlatencyread1ms",
            "socketlatencyread100ms",
            "socketlatencywrite1ms",
            "socketlatencywrite100ms",
        ],
        made: Made::By(slow_application),
    },
    Workload {
        name: "packets that wait in a queueing discipline",
        moves: &["netiftxlat_qdiscslow100ms", "kernellatency_txslow", "kernellatency_txslow100ms"],
        made: Made::AsCase("queueing_delay"),
    },
    Workload {
        name: "a firewall that takes a quarter of a second for a packet",
        moves: &[
            "kernellatency_rxslow",
            "kernellatency_rxslow100ms",
            "net_softirq_excuteslow",
            "net_softirq_excuteslow100ms",
        ],
        made: Made::By(|pair| {
            let mut connection = Connection::open(pair, V4)?;
            let selector = format!("tcp dport {}", connection.server_at.port());
            delays::slower_firewall(&pair.server, "input", &selector, 5)?;
            connection.exchange(1, 1)?;
            Ok(Box::new(connection))
        }),
    },
    Workload {
        name: "a soft interrupt that waits for another, which is busy with a slow firewall",
        moves: &["net_softirq_schedslow", "net_softirq_schedslow100ms"],
        made: Made::AsCase("softirq_delay"),
    },
    Workload {
        name: "the agent itself",
        moves: &["inspector_runtime_collectlatency"],
        made: Made::By(|_| Ok(Box::new(()))),
    },
];

fn tunnel(at: &Namespace, to: &str) -> Result<()> {
    at.ip(&format!("link add vx0 type vxlan id 7 remote {to} dstport 4789"))?;
    at.ip("link set vx0 address 02:00:00:00:00:07 up")?;
    at.ip("addr add 10.80.0.1/24 dev vx0")?;
    at.ip("neigh add 10.80.0.2 lladdr 02:00:00:00:00:08 dev vx0 nud permanent").map(drop)
}

/// Congestion experienced outside, not capable of it inside: RFC 6040 says drop.
fn marked_tunnel_packet() -> Result<()> {
    let socket = UdpSocket::bind(("10.9.0.1", 0))?;
    set_option(&socket, libc::IPPROTO_IP, libc::IP_TOS, &3_i32)?;
    let inner = etherparse::PacketBuilder::ethernet2([2, 0, 0, 0, 0, 8], [2, 0, 0, 0, 0, 7])
        .ipv4([10, 80, 0, 2], [10, 80, 0, 1], 64)
        .udp(9, 9);
    // A flag that says that the number is valid, and the number 7.
    let mut packet = vec![8, 0, 0, 0, 0, 0, 7, 0];
    inner.write(&mut packet, b"x")?;
    socket.send_to(&packet, ("10.9.0.2", 4789))?;
    Ok(())
}

fn tracked(pair: &Pair) -> Result<Held> {
    faults::track_connections(&pair.server)?;
    let connection = Connection::open(pair, V4)?;
    pair.server
        .run(|| run("conntrack", "-I -p udp -s 10.9.0.9 -d 10.9.0.2 --sport 1 --dport 2 --timeout 100"))?;
    pair.server.sysctl("net/netfilter/nf_conntrack_tcp_loose", "0")?;
    let listener = pair.server.listen((pair.server_ip(V4), 0))?;
    let stray = inspector_tests::lab::scripted_peer::ScriptedPeer::new(pair, listener.local_addr()?.port())?;
    stray.send(&Default::default())?;
    crate::ip::damaged_ping(pair)?;
    Ok(Box::new((connection, listener, stray)))
}

/// The maximum is that of the machine; it is restored at once.
fn full_table(pair: &Pair) -> Result<Held> {
    faults::track_connections(&pair.server)?;
    // Room is made only among the neighbours in the table, so it has to be crowded.
    let _buckets = Global::set("/proc/sys/net/netfilter/nf_conntrack_buckets", "512")?;
    let connections = (0..4).map(|_| Connection::open(pair, V4)).collect::<Result<Vec<_>>>()?;
    let ask = |ports: std::ops::Range<u16>| {
        ports
            .into_iter()
            .try_for_each(|port| faults::send_udp(&pair.client, pair.server_at(V4, port), 1, 1).map(drop))
    };
    ask(9000..9050)?;
    let _maximum = Global::set("/proc/sys/net/netfilter/nf_conntrack_max", "3")?;
    // An unanswered neighbour gives way to a newer one; where there is none, the newer one is dropped.
    ask(9100..9150)?;
    // Long enough to be read.
    sleep(Duration::from_millis(2500));
    Ok(Box::new(connections))
}

/// Two clients behind one address, with the same source port to the same server.
fn translated(pair: &Pair) -> Result<Held> {
    pair.client.nft(
        "add table ip nat; add chain ip nat post { type nat hook postrouting priority 100; }; \
         add rule ip nat post ip protocol udp snat to 10.9.0.1",
    )?;
    pair.client.ip("addr add 10.9.0.60/24 dev eth0")?;
    let to = pair.server_at(V4, faults::CLOSED_PORT);
    let sockets = pair.client.run(|| {
        let mut sockets = Vec::new();
        for from in ["10.9.0.1", "10.9.0.60"] {
            let socket = UdpSocket::bind((from, 5555))?;
            socket.send_to(b"x", to)?;
            sockets.push(socket);
        }
        Ok(sockets)
    })?;
    Ok(Box::new(sockets))
}

/// Reads and writes a file on the disk, with descriptors and sockets open, until it is dropped.
struct BusyProcess {
    /// Ends the process when it is closed.
    _stdin: ChildStdin,
    child: Child,
}

impl Drop for BusyProcess {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn busy_process(pair: &Pair) -> Result<Held> {
    let mut child = pair.server.run(|| {
        let mut command = Command::new(std::env::current_exe()?.with_file_name("busy"));
        command.args(["5", "5", "disk"]).stdin(Stdio::piped()).stdout(Stdio::null());
        command.spawn().context("cannot start busy")
    })?;
    let stdin = child.stdin.take().context("a pipe")?;
    Ok(Box::new(BusyProcess { _stdin: stdin, child }))
}

fn slow_application(pair: &Pair) -> Result<Held> {
    let mut connection = Connection::open(pair, V4)?;
    connection.exchange(1, 1)?;
    for pause in [20, 200] {
        connection.client.write_all(b"wait for me")?;
        sleep(Duration::from_millis(pause));
        connection.server.read_exact(&mut [0; 11])?;
    }
    for pause in [20, 200] {
        let mut to = connection.client.try_clone()?;
        let mut from = connection.server.try_clone()?;
        // More than both buffers hold, so the writer waits for the reader.
        let amount = 16 << 20;
        let writer = std::thread::spawn(move || to.write_all(&vec![0; amount]));
        sleep(Duration::from_millis(pause));
        from.read_exact(&mut vec![0; amount])?;
        writer.join().expect("writing does not panic")?;
    }
    Ok(Box::new(connection))
}
