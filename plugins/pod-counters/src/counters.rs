//! What is shown: modules of counters, each under the kernel's own name for it.
//!
//! A metric is `inspector_pod_`, the module, and the counter's name in lower case. Users'
//! dashboards depend on every one of these names: none may change, and none may be removed.

/// The sources read.
pub const SOURCES: &[&str] = &[
    "snmp",
    "netstat",
    "netdev",
    "sockstat",
    "tcpsummary",
    "softnet",
    "conntrack",
    "qdisc",
    "fd",
    "io",
    "ipvs",
];

/// Counters of one module from one source.
#[derive(Debug)]
pub struct Module {
    /// First part of the metric's name.
    name: &'static str,
    /// Source that has them.
    source: &'static str,
    /// Where that source has them from, for HELP.
    origin: &'static str,
    /// Names, and the columns that add up to each.
    counters: Names,
}

#[derive(Debug)]
enum Names {
    /// `Protocol.Counter` columns, shown under the counter's name.
    Columns(&'static [&'static str]),
    /// A name of the original exporter's own, and its columns.
    Renamed(&'static [(&'static str, &'static [&'static str])]),
}

/// One counter.
#[derive(Debug, Clone, Copy)]
pub struct Counter {
    module: &'static str,
    name: &'static str,
    /// Source that has it.
    pub source: &'static str,
    origin: &'static str,
    /// Columns that add up to it.
    pub columns: &'static [&'static str],
}

/// Everything that is shown.
pub const MODULES: &[Module] = &[
    Module {
        name: "tcp",
        source: "snmp",
        origin: "/proc/net/snmp",
        counters: Names::Columns(&[
            "Tcp.ActiveOpens",
            "Tcp.PassiveOpens",
            "Tcp.RetransSegs",
            "Tcp.AttemptFails",
            "Tcp.EstabResets",
            "Tcp.CurrEstab",
            "Tcp.InSegs",
            "Tcp.OutSegs",
            "Tcp.InErrs",
            "Tcp.OutRsts",
        ]),
    },
    Module {
        name: "udp",
        source: "snmp",
        origin: "/proc/net/snmp",
        counters: Names::Columns(&[
            "Udp.InDatagrams",
            "Udp.NoPorts",
            "Udp.InErrors",
            "Udp.OutDatagrams",
            "Udp.RcvbufErrors",
            "Udp.SndbufErrors",
            "Udp.InCsumErrors",
            "Udp.IgnoredMulti",
        ]),
    },
    Module {
        name: "ip",
        source: "snmp",
        origin: "/proc/net/snmp",
        counters: Names::Columns(&[
            "Ip.Forwarding",
            "Ip.DefaultTTL",
            "Ip.InReceives",
            "Ip.InHdrErrors",
            "Ip.InAddrErrors",
            "Ip.ForwDatagrams",
            "Ip.InUnknownProtos",
            "Ip.InDiscards",
            "Ip.InDelivers",
            "Ip.OutRequests",
            "Ip.OutDiscards",
            "Ip.OutNoRoutes",
            "Ip.ReasmTimeout",
            "Ip.ReasmReqds",
            "Ip.ReasmOKs",
            "Ip.ReasmFails",
            "Ip.FragOKs",
            "Ip.FragFails",
            "Ip.FragCreates",
        ]),
    },
    Module {
        name: "ip",
        source: "netstat",
        origin: "/proc/net/netstat",
        counters: Names::Columns(&["IpExt.InNoRoutes", "IpExt.InTruncatedPkts"]),
    },
    Module {
        name: "tcpext",
        source: "netstat",
        origin: "/proc/net/netstat",
        counters: Names::Columns(&[
            "TcpExt.ListenDrops",
            "TcpExt.ListenOverflows",
            "TcpExt.TCPSynRetrans",
            "TcpExt.TCPFastRetrans",
            "TcpExt.TCPRetransFail",
            "TcpExt.TCPTimeouts",
            "TcpExt.TCPAbortOnClose",
            "TcpExt.TCPAbortOnMemory",
            "TcpExt.TCPAbortOnTimeout",
            "TcpExt.TCPAbortOnLinger",
            "TcpExt.TCPAbortOnData",
            "TcpExt.TCPAbortFailed",
            "TcpExt.TCPACKSkippedSynRecv",
            "TcpExt.TCPACKSkippedPAWS",
            "TcpExt.TCPACKSkippedSeq",
            "TcpExt.TCPACKSkippedFinWait2",
            "TcpExt.TCPACKSkippedTimeWait",
            "TcpExt.TCPACKSkippedChallenge",
            "TcpExt.TCPRcvQDrop",
            "TcpExt.TCPMemoryPressures",
            "TcpExt.TCPMemoryPressuresChrono",
            "TcpExt.PAWSActive",
            "TcpExt.PAWSEstab",
            "TcpExt.EmbryonicRsts",
            "TcpExt.TCPWinProbe",
            "TcpExt.TCPKeepAlive",
            "TcpExt.TCPMTUPFail",
            "TcpExt.TCPMTUPSuccess",
            "TcpExt.TCPZeroWindowDrop",
            "TcpExt.TCPBacklogDrop",
            "TcpExt.PFMemallocDrop",
            "TcpExt.TCPWqueueTooBig",
        ]),
    },
    Module {
        name: "netdev",
        source: "netdev",
        origin: "rtnetlink, sum of interfaces that no other one counts",
        counters: Names::Renamed(&[
            ("rxbytes", &["rx_bytes"]),
            ("rxerrors", &["rx_errs"]),
            ("txbytes", &["tx_bytes"]),
            ("txerrors", &["tx_errs"]),
            ("rxpackets", &["rx_packets"]),
            ("rxdropped", &["rx_drop"]),
            ("txpackets", &["tx_packets"]),
            ("txdropped", &["tx_drop"]),
        ]),
    },
    Module {
        name: "sock",
        source: "sockstat",
        origin: "/proc/net/sockstat and sockstat6",
        counters: Names::Renamed(&[
            ("inuse", &["TCP.inuse", "TCP6.inuse"]),
            ("orphan", &["TCP.orphan"]),
            ("tw", &["TCP.tw"]),
            ("alloc", &["TCP.alloc"]),
            ("mem", &["TCP.mem"]),
        ]),
    },
    Module {
        name: "tcpsummary",
        source: "tcpsummary",
        origin: "SOCK_DIAG",
        counters: Names::Renamed(&[
            ("tcpestablishedconn", &["established"]),
            ("tcptimewaitconn", &["time_wait"]),
            ("tcpclosewaitconn", &["close_wait"]),
            ("tcpsynsentconn", &["syn_sent"]),
            ("tcpsynrecvconn", &["syn_recv"]),
            ("tcptxqueue", &["tx_queue"]),
            ("tcprxqueue", &["rx_queue"]),
        ]),
    },
    Module {
        name: "softnet",
        source: "softnet",
        origin: "/proc/net/softnet_stat, all CPUs of the node",
        counters: Names::Renamed(&[
            ("processed", &["processed"]),
            ("dropped", &["dropped"]),
            ("time_squeeze", &["time_squeeze"]),
        ]),
    },
    Module {
        name: "conntrack",
        source: "conntrack",
        origin: "ctnetlink",
        counters: Names::Renamed(&[
            ("found", &["found"]),
            ("invalid", &["invalid"]),
            ("ignore", &["ignore"]),
            ("insert", &["insert"]),
            ("insertfailed", &["insert_failed"]),
            ("drop", &["drop"]),
            ("earlydrop", &["early_drop"]),
            ("error", &["error"]),
            ("searchrestart", &["search_restart"]),
            ("entries", &["entries"]),
            ("maxentries", &["max_entries"]),
        ]),
    },
    Module {
        name: "qdisc",
        source: "qdisc",
        origin: "rtnetlink, sum of root disciplines",
        counters: Names::Renamed(&[
            ("bytes", &["bytes"]),
            ("packets", &["packets"]),
            ("drops", &["drops"]),
            ("qlen", &["qlen"]),
            ("backlog", &["backlog"]),
            ("overlimits", &["overlimits"]),
        ]),
    },
    Module {
        name: "fd",
        source: "fd",
        origin: "/proc/PID/fd, all processes of the network namespace",
        counters: Names::Renamed(&[("openfd", &["open"]), ("opensocket", &["sockets"])]),
    },
    Module {
        name: "io",
        source: "io",
        origin: "/proc/PID/io, all processes of the network namespace",
        counters: Names::Renamed(&[
            ("ioreadsyscall", &["syscr"]),
            ("iowritesyscall", &["syscw"]),
            ("ioreadbytes", &["read_bytes"]),
            ("iowritebytes", &["write_bytes"]),
        ]),
    },
    Module {
        name: "ipvs",
        source: "ipvs",
        origin: "/proc/net/ip_vs_stats",
        counters: Names::Renamed(&[
            ("connections", &["connections"]),
            ("incomingpackets", &["incoming_packets"]),
            ("outgoingpackets", &["outgoing_packets"]),
            ("incomingbytes", &["incoming_bytes"]),
            ("outgoingbytes", &["outgoing_bytes"]),
        ]),
    },
];

impl Module {
    /// Its counters.
    pub fn counters(&self) -> Vec<Counter> {
        let Self { name: module, source, origin, .. } = *self;
        let counter = |name, columns| Counter { module, name, source, origin, columns };
        match self.counters {
            Names::Columns(columns) => {
                columns.chunks(1).map(|column| counter(unprefixed(column[0]), column)).collect()
            }
            Names::Renamed(names) => names.iter().map(|&(name, columns)| counter(name, columns)).collect(),
        }
    }
}

impl Counter {
    /// Name of its metric.
    pub fn metric(&self) -> String {
        format!("inspector_pod_{}{}", self.module, self.name.to_ascii_lowercase())
    }

    /// Its kernel origin, e.g. `Tcp ActiveOpens of /proc/net/snmp`.
    pub fn help(&self) -> String {
        let columns: Vec<_> = self.columns.iter().map(|column| column.replace('.', " ")).collect();
        format!("{} of {}", columns.join(" + "), self.origin)
    }
}

/// `ActiveOpens` of `Tcp.ActiveOpens`.
fn unprefixed(column: &'static str) -> &'static str {
    column.split_once('.').map_or(column, |(_, name)| name)
}
