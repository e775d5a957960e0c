//! Connections between honest stacks, and what happens to them.

use std::io::Write as _;
use std::net::Shutdown;
use std::thread::sleep;
use std::time::Duration;

use anyhow::Result;
use inspector_tests::lab::sockets::{
    fill, keep_alive, one_packet_per_segment, reset_on_close, send_and_read, set_option,
};
use inspector_tests::lab::{Connection, Family, Global, Held, Namespace, Pair, faults};
use nix::libc;

use crate::{Made, Workload};

const V4: Family = Family::V4;

pub const WORKLOADS: &[Workload] = &[
    Workload {
        name: "open connections with data in their queues",
        moves: &[
            "tcpactiveopens",
            "tcppassiveopens",
            "tcpcurrestab",
            "tcpinsegs",
            "tcpoutsegs",
            "tcpsummarytcpestablishedconn",
            "tcpsummarytcprxqueue",
            "sockinuse",
            "sockalloc",
            "sockmem",
            "netdevrxbytes",
            "netdevtxbytes",
            "netdevrxpackets",
            "netdevtxpackets",
            "ipinreceives",
            "ipindelivers",
            "ipoutrequests",
        ],
        made: Made::By(open_with_data),
    },
    Workload {
        name: "a closed port",
        moves: &[
            "tcpattemptfails",
            "tcpoutrsts",
            "packetloss_total",
            "packetloss_abnormal",
            "packetloss_tcprcv",
        ],
        made: Made::AsCase("tcp_closed_port"),
    },
    Workload {
        name: "SYNs that a firewall drops",
        moves: &[
            "tcpexttcpsynretrans",
            "tcpexttcptimeouts",
            "tcpretranssegs",
            "tcpsummarytcpsynsentconn",
            "packetloss_netfilter",
        ],
        made: Made::AsCase("nft_drop_in"),
    },
    Workload {
        name: "a full accept queue",
        moves: &["tcpextlistendrops", "tcpextlistenoverflows"],
        made: Made::AsCase("listen_overflow"),
    },
    Workload {
        name: "every 20th segment lost",
        moves: &["tcpexttcpfastretrans"],
        made: Made::AsCase("nft_random_loss"),
    },
    Workload {
        name: "the sender's own firewall",
        moves: &["tcpexttcpretransfail"],
        made: Made::By(|pair| {
            let mut connection = Connection::open(pair, V4)?;
            connection.exchange(1, 1)?;
            faults::drop_incoming(&pair.server, "tcp", connection.server_at.port())?;
            connection.client.write_all(b"sent once, and never again")?;
            sleep(Duration::from_millis(50));
            drop_outgoing(&pair.client)?;
            Ok(Box::new(connection))
        }),
    },
    Workload {
        name: "a reset that cannot be sent",
        moves: &["tcpexttcpabortfailed"],
        made: Made::By(|pair| {
            let connection = Connection::open(pair, V4)?;
            reset_on_close(&connection.client)?;
            drop_outgoing(&pair.client)?;
            let Connection { client, server, .. } = connection;
            drop(client);
            Ok(Box::new(server))
        }),
    },
    Workload {
        name: "close with unread data",
        moves: &["tcpexttcpabortonclose"],
        made: Made::AsCase("app_close_unread"),
    },
    Workload {
        name: "close with SO_LINGER 0",
        moves: &["tcpexttcpabortondata", "tcpestabresets"],
        made: Made::AsCase("app_linger0"),
    },
    Workload {
        name: "close with TCP_LINGER2 below 0",
        moves: &["tcpexttcpabortonlinger"],
        made: Made::By(|pair| {
            let Connection { client, server, .. } = Connection::open(pair, V4)?;
            set_option(&client, libc::IPPROTO_TCP, libc::TCP_LINGER2, &-1_i32)?;
            client.shutdown(Shutdown::Write)?;
            sleep(Duration::from_millis(50));
            drop(client);
            Ok(Box::new(server))
        }),
    },
    Workload {
        name: "a peer that vanished: keepalive and user timeout",
        moves: &["tcpexttcpkeepalive", "tcpexttcpabortontimeout"],
        made: Made::By(|pair| {
            let connection = Connection::open(pair, V4)?;
            keep_alive(&connection.client, 1)?;
            pair.server.ip("link set eth0 down")?;
            Ok(Box::new(connection))
        }),
    },
    Workload {
        name: "a receiver that does not read",
        moves: &["tcpexttcpwinprobe", "tcpsummarytcptxqueue"],
        made: Made::AsCase("tcp_zero_window"),
    },
    Workload {
        name: "one end closes, the other does not",
        moves: &["tcpsummarytcpclosewaitconn", "sockorphan"],
        made: Made::By(|pair| {
            let connection = Connection::open(pair, V4)?;
            // Its FIN cannot get through: closed for its process, alive in the kernel.
            let second = Connection::open(pair, V4)?;
            let Connection { client, server, .. } = connection;
            drop(client);
            sleep(Duration::from_millis(50));
            drop_outgoing(&pair.client)?;
            let Connection { client: orphan, server: other, .. } = second;
            drop(orphan);
            Ok(Box::new((server, other)))
        }),
    },
    Workload {
        name: "closed in order",
        moves: &["tcpsummarytcptimewaitconn", "socktw"],
        made: Made::By(|pair| {
            Connection::open(pair, V4)?.close()?;
            Ok(Box::new(()))
        }),
    },
    Workload {
        name: "path MTU probing on a good path",
        moves: &["tcpexttcpmtupsuccess"],
        made: Made::By(|pair| probe_mtu(pair, false)),
    },
    Workload {
        name: "path MTU probing where large packets vanish",
        moves: &["tcpexttcpmtupfail"],
        made: Made::By(|pair| probe_mtu(pair, true)),
    },
    Workload {
        name: "TCP memory limits lowered for a moment (global)",
        moves: &["tcpexttcpmemorypressures", "tcpexttcpmemorypressureschrono", "tcpexttcpabortonmemory"],
        made: Made::By(memory_pressure),
    },
];

fn open_with_data(pair: &Pair) -> Result<Held> {
    let mut open = Vec::new();
    for family in Family::BOTH {
        let mut connection = Connection::open(pair, family)?;
        connection.client.write_all(&[0; 60_000])?;
        open.push(connection);
    }
    Ok(Box::new(open))
}

/// The sender's nft refuses everything that leaves but what the listener's side answers.
fn drop_outgoing(at: &Namespace) -> Result<()> {
    at.filter("output", "meta l4proto tcp drop")
}

fn probe_mtu(pair: &Pair, hole: bool) -> Result<Held> {
    for namespace in [&pair.client, &pair.server] {
        namespace.sysctl("net/ipv4/tcp_mtu_probing", "2")?;
        namespace.sysctl("net/ipv4/tcp_base_mss", "512")?;
    }
    one_packet_per_segment(&pair.client)?;
    if hole {
        pair.server.filter("input", "meta length > 700 drop")?;
    }
    let connection = Connection::open(pair, V4)?;
    // Probing wants more than a window in flight, and time.
    send_and_read(&connection, 200, Duration::from_millis(2))?;
    Ok(Box::new(connection))
}

/// These limits are the machine's: they are lowered for as long as it takes, and restored.
fn memory_pressure(pair: &Pair) -> Result<Held> {
    let memory = Global::set("/proc/sys/net/ipv4/tcp_mem", "1 2 4000")?;
    let mut connections = Vec::new();
    for _ in 0..16 {
        let connection = Connection::open(pair, V4)?;
        fill(&connection.client)?;
        connections.push(connection);
    }
    let orphans = Global::set("/proc/sys/net/ipv4/tcp_max_orphans", "0")?;
    let servers: Vec<_> = connections.into_iter().map(|Connection { server, .. }| server).collect();
    // Their clients are closed with data that nobody takes, and looked at when their timers fire.
    sleep(Duration::from_millis(800));
    drop((servers, orphans, memory));
    // That the pressure is over is found out, and its time counted, by the next one who needs memory.
    let mut after = Connection::open(pair, V4)?;
    after.exchange(50_000, 1)?;
    Ok(Box::new(after))
}
