//! The codes of findings: what each is called, which questions it answers, what it stands for, and what to
//! do about it.
//!
//! Inside of the analyzer a code is a [`Code`]; its text is for the contract only, and is never renamed,
//! because programs match on it. Longer than other files, because it is one table.

use inspector_sdk::analyzer::Role;

use crate::scenario::Scenario;

macro_rules! codes {
    ($($code:ident $text:literal [$($scenario:ident)*] $actions:expr;)*) => {
        /// What can be concluded.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Code {
            $(#[doc = concat!("`", $text, "`")] $code,)*
        }

        impl Code {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$code,)*];
        }

        /// What is known of each code, in their order.
        static ENTRIES: &[Entry] = &[$(
            Entry { text: $text, scenarios: &[$(Scenario::$scenario,)*], actions: $actions },
        )*];
    };
}

/// What is known of a code.
#[derive(Debug)]
struct Entry {
    text: &'static str,
    /// Scenarios that it is an answer to, besides `node`.
    scenarios: &'static [Scenario],
    actions: &'static [Advice],
}

/// An action; the gaps of the command are those of [`crate::command`]: `{in}` is what leads into the
/// entity's namespace, and the other names are values of the conclusion.
#[derive(Debug)]
pub struct Advice {
    /// What.
    pub title: &'static str,
    /// How to look or do it; empty if that depends.
    pub command: &'static str,
    /// Whether it changes something.
    pub risk: Risk,
}

/// What an action may do to the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Risk {
    /// It looks only.
    Safe,
    /// It changes something.
    NeedsApproval,
}

impl Risk {
    /// As the contract has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Safe => "safe",
            Self::NeedsApproval => "needs-approval",
        }
    }
}

const fn look(title: &'static str, command: &'static str) -> Advice {
    Advice { title, command, risk: Risk::Safe }
}

const fn change(title: &'static str, command: &'static str) -> Advice {
    Advice { title, command, risk: Risk::NeedsApproval }
}

const RULESET: Advice =
    look("list the rules with their counters", "{in}nft list ruleset; {in}iptables-save -c");
const ROUTES: Advice = look("list the routes of every table", "{in}ip route show table all; {in}ip rule");
const LINKS: Advice = look("look at the links", "{in}ip -s -d link");
const NEIGHBOURS: Advice = look("look at the neighbours", "{in}ip -s neigh");
const SOCKETS: Advice = look("look at the sockets, their queues and buffers", "{in}ss -tuanpem");

// Text, scenarios and actions of each code.
codes! {
    PortNotListening "port-not-listening" [Connect Reset Gateway] &[
        look("see what listens there", "{in}ss -tulnp"),
        change("start the service, or correct the port or address that its clients use", ""),
    ];
    StaleConnection "stale-connection" [Reset Gateway Connect] &[
        look("see whether the service was restarted or the address moved", "{in}ss -tanp; {in}ip neigh"),
        change("let clients use shorter keep-alive times than the server and everything between", ""),
    ];
    FirewallDrop "firewall-drop" [Connect Loss Latency Gateway Dns] &[
        RULESET,
        look("follow one packet through the rules", "{in}nft monitor trace"),
        change("allow the traffic in the rule or policy that drops it", ""),
    ];
    FirewallReject "firewall-reject" [Connect Reset Gateway] &[
        RULESET,
        change("allow the traffic in the rule or policy that rejects it", ""),
    ];
    ConntrackFull "conntrack-full" [Connect Loss Gateway] &[
        look(
            "compare the table with its maximum",
            "sysctl net.netfilter.nf_conntrack_count net.netfilter.nf_conntrack_max",
        ),
        change("raise the maximum", "sysctl -w net.netfilter.nf_conntrack_max=N"),
        change("do not track what needs no tracking (notrack), or shorten timeouts", ""),
    ];
    AcceptQueueOverflow "accept-queue-overflow" [Connect Latency Gateway Loss] &[
        look("compare Recv-Q with Send-Q (the backlog) of the listener", "{in}ss -ltnp"),
        look("see whether the application is throttled or stuck", "cat /sys/fs/cgroup/.../cpu.stat"),
        change(
            "accept faster, or listen with a larger backlog (and raise somaxconn)",
            "{in}sysctl net.core.somaxconn",
        ),
    ];
    SynQueueOverflow "syn-queue-overflow" [Connect Gateway Loss] &[
        look("see who opens connections and does not finish", "{in}ss -tan state syn-recv"),
        change(
            "raise the backlog, keep syncookies on",
            "{in}sysctl net.ipv4.tcp_max_syn_backlog net.ipv4.tcp_syncookies",
        ),
    ];
    PeerUnresponsive "peer-unresponsive" [Connect Latency Gateway Loss] &[
        look(
            "see whether packets leave, and whether answers come",
            "{in}tcpdump -ni any host {destination}",
        ),
        look("ask the node of the peer, if there is one", "inspector diagnose -e THIS-NODE -e PEER-NODE"),
    ];
    LocalPortExhaustion "local-port-exhaustion" [Connect Gateway] &[
        look(
            "count connections by peer and state",
            "{in}ss -tan | awk '{print $1,$5}' | sort | uniq -c | sort -n",
        ),
        change(
            "reuse connections; widen the range",
            "{in}sysctl -w net.ipv4.ip_local_port_range='1024 65000'",
        ),
    ];
    ResetByApplication "reset-by-application" [Reset Gateway] &[
        look("look for the process that closed: its log, restarts, kills", "{in}ss -tanp"),
    ];
    ResetAfterClose "reset-after-close" [Reset Gateway] &[
        look("see which side closes first, and whether the other still sends", "{in}ss -tano"),
        change("let the side that sends last close first, or drain before closing", ""),
    ];
    ResetKeepaliveTimeout "reset-keepalive-timeout" [Reset Connect] &[
        look("look for what swallows the keep-alive probes", "inspector diagnose loss --last 15m"),
    ];
    ResetByPeer "reset-by-peer" [Reset Gateway] &[look(
        "ask the node of the peer, if there is one",
        "inspector diagnose reset -e THIS-NODE -e PEER-NODE",
    )];
    PawsRejected "paws-rejected" [Connect Loss Reset] &[
        look("look for an address translator before the client", "{in}nstat -az 'TcpExtPAWS*'"),
        change("turn timestamps off at the clients behind it", "sysctl -w net.ipv4.tcp_timestamps=0"),
    ];
    TcpInvalidSegment "tcp-invalid-segment" [Connect Loss Reset] &[
        look(
            "capture the connection: something injects or reorders",
            "{in}tcpdump -ni any -w bad.pcap host {source}",
        ),
        change("where a signature (MD5, AO) is missing or wrong: set the same key at both ends", ""),
    ];
    RouteMissing "route-missing" [Connect Loss] &[
        ROUTES,
        change(
            "add the route, or a default route",
            "{in}ip {family} route add {destination} via GATEWAY",
        ),
    ];
    RouteBlocked "route-blocked" [Connect Loss] &[
        ROUTES,
        look("see which of them decide", "{in}ip {family} route show table all to match {destination}"),
        change(
            "remove the blackhole, unreachable or prohibit route",
            "{in}ip {family} route del {type} NET",
        ),
    ];
    ForwardingDisabled "forwarding-disabled" [Connect Loss] &[
        look("see whether it is a router", "{in}sysctl net.ipv4.ip_forward net.ipv6.conf.all.forwarding"),
        change("let it forward", "{in}sysctl -w net.ipv4.ip_forward=1"),
    ];
    ReversePathFilter "reverse-path-filter" [Connect Loss] &[
        look(
            "see the filter and the route back",
            "{in}sysctl -a -r 'rp_filter'; {in}ip route get {source}",
        ),
        change(
            "make routing symmetric, or filter loosely",
            "{in}sysctl -w net.ipv4.conf.all.rp_filter=2",
        ),
    ];
    MartianSource "martian-source" [Loss] &[
        look("find who sends it, by its link-layer address", "{in}tcpdump -eni any src {source}"),
    ];
    TtlExceeded "ttl-exceeded" [Connect Loss] &[
        look("look for a routing loop", "{in}traceroute -n {destination}"),
    ];
    PacketTooBig "packet-too-big" [Latency Loss] &[
        look("see the path MTU that was learnt", "{in}ip route get {destination}"),
    ];
    PmtuBlackhole "pmtu-blackhole" [Connect Latency Loss] &[
        RULESET,
        change("let ICMP fragmentation-needed and packet-too-big through", ""),
        change("probe for the MTU meanwhile", "{in}sysctl -w net.ipv4.tcp_mtu_probing=1"),
    ];
    LinkMtuMismatch "link-mtu-mismatch" [Loss Connect] &[
        LINKS,
        change("give both ends of the link the same MTU", "{in}ip link set DEVICE mtu N"),
    ];
    LinkDown "link-down" [Connect Loss] &[
        LINKS,
        change("bring both ends up", "{in}ip link set DEVICE up"),
    ];
    NeighbourUnresolved "neighbour-unresolved" [Connect Loss] &[
        NEIGHBOURS,
        look("ask for it", "{in}{ask} -c 3 {address}"),
    ];
    NeighbourQueueFull "neighbour-queue-full" [Loss] &[NEIGHBOURS];
    NeighbourTableFull "neighbour-table-full" [Connect Loss] &[
        NEIGHBOURS,
        change("raise the limits", "sysctl -w net.ipv4.neigh.default.gc_thresh3=N"),
    ];
    WrongDestinationMac "wrong-destination-mac" [Connect Loss] &[look(
        "compare the sender's neighbour entry with the receiver's address",
        "{in}ip link; ip neigh show to {destination}",
    )];
    ChecksumError "checksum-error" [Loss] &[look(
        "see which device it comes by, and its offloads",
        "{in}ethtool -k DEVICE; {in}ethtool -S DEVICE",
    )];
    MalformedPacket "malformed-packet" [Loss] &[
        look("capture some of them", "{in}tcpdump -eni any -c 20 -X"),
    ];
    ReassemblyFailure "reassembly-failure" [Loss] &[
        look("see what is lost of the fragments", "{in}nstat -az 'Ip*Reasm*'"),
        change("send packets that need no fragments", ""),
    ];
    SocketReceiveBufferFull "socket-receive-buffer-full" [Loss Dns Gateway] &[
        SOCKETS,
        change("read faster, or ask for a larger buffer (SO_RCVBUF)", "{in}sysctl net.core.rmem_max"),
    ];
    SocketSendBufferFull "socket-send-buffer-full" [Latency Loss] &[SOCKETS];
    ReceiverNotReading "receiver-not-reading" [Latency Gateway] &[
        look("see what the receiver does: its Recv-Q is full", "{in}ss -tanp"),
        look("see whether it is throttled or stuck", "cat /sys/fs/cgroup/.../cpu.stat"),
    ];
    SocketMemoryPressure "socket-memory-pressure" [Latency Loss] &[
        look(
            "compare use with the limits",
            "cat /proc/net/sockstat; sysctl net.ipv4.tcp_mem net.ipv4.udp_mem",
        ),
        change("raise the limit of the cgroup or of the protocol", ""),
    ];
    SocketFilterDrop "socket-filter-drop" [Loss Connect] &[
        look("see the filter of the socket", "{in}ss -tuanpb"),
    ];
    CgroupBpfDrop "cgroup-bpf-drop" [Loss Connect] &[
        look("list the programs on the cgroup tree", "bpftool cgroup tree"),
    ];
    TcDrop "tc-drop" [Loss Connect] &[look(
        "list the filters",
        "{in}tc filter show dev DEVICE ingress; {in}tc filter show dev DEVICE egress",
    )];
    XdpDrop "xdp-drop" [Loss Connect] &[
        look("see the program on the device", "{in}ip link; bpftool net"),
    ];
    QdiscDrop "qdisc-drop" [Loss Latency] &[
        look("see its limits and counters", "{in}tc -s qdisc"),
        change("raise the rate or the limit", "{in}tc qdisc change dev DEVICE ..."),
    ];
    QueueingDelay "queueing-delay" [Latency] &[look("see its backlog", "{in}tc -s qdisc")];
    DeviceQueueFull "device-queue-full" [Loss] &[
        look("see the rings", "{in}ethtool -g DEVICE; {in}ethtool -S DEVICE"),
    ];
    OverlayMisconfigured "overlay-misconfigured" [Loss Connect] &[
        look("compare the network identifiers of both ends", "{in}ip -d link show type vxlan"),
    ];
    TimeWaitOverflow "time-wait-overflow" [Reset] &[
        change("raise the limit", "sysctl -w net.ipv4.tcp_max_tw_buckets=N"),
    ];
    SoftnetBacklog "softnet-backlog" [Loss Latency] &[
        look("see which CPUs are busy with it", "cat /proc/net/softnet_stat; mpstat -P ALL 1 3"),
        change(
            "spread the load (RPS) or raise the limits",
            "sysctl net.core.netdev_max_backlog net.core.netdev_budget",
        ),
    ];
    SoftirqDelay "softirq-delay" [Latency] &[
        look("see what holds the CPU", "cat /proc/softirqs; top -H"),
    ];
    SocketReadSlow "socket-read-slow" [Latency Gateway] &[
        look("see what the process does instead of reading", "cat /proc/PID/stack; {in}ss -tanp"),
    ];
    DnsTimeout "dns-timeout" [Dns Connect Latency] &[
        look("ask the server directly", "{in}dig @{server}"),
        look("see which servers are configured", "cat /etc/resolv.conf"),
    ];
    DnsSlow "dns-slow" [Dns Latency] &[
        look("time the server", "{in}dig @{server} | grep 'Query time'"),
    ];
    DnsError "dns-error" [Dns] &[look("ask the server directly", "{in}dig @{server} {name}")];
    TcpLoss "tcp-loss" [Loss Latency] &[look("see the connections that suffer", "{in}ss -ti")];
    CaptureOverflow "capture-overflow" [Loss] &[look("see who captures", "{in}ss -0 -p")];
    UnexplainedDrop "unexplained-drop" [Loss] &[
        look("what the reason means", "inspector explain {reason}"),
    ];
}

impl Code {
    /// Its stable name.
    pub fn as_str(self) -> &'static str {
        self.entry().text
    }

    /// What to do about it.
    pub fn actions(self) -> &'static [Advice] {
        self.entry().actions
    }

    /// Whether it answers a scenario's question. What keeps a connection from being opened keeps a
    /// gateway from its backends, too.
    pub fn answers(self, scenario: Scenario) -> bool {
        let scenarios = self.entry().scenarios;
        let is_for = |scenario: Scenario| scenarios.contains(&scenario);
        match scenario {
            Scenario::Node => true,
            Scenario::Gateway => is_for(Scenario::Gateway) || is_for(Scenario::Connect),
            scenario => is_for(scenario),
        }
    }

    /// Whether it says what a connection suffers from, or only what it suffers.
    pub fn role(self) -> Role {
        match self {
            Self::DnsTimeout => Role::Symptom,
            code if code.is_by_absence() => Role::Symptom,
            _ => Role::Cause,
        }
    }

    /// Whether it is concluded because nothing else was seen, so that what cannot be seen counts
    /// against it.
    pub fn is_by_absence(self) -> bool {
        matches!(self, Self::PeerUnresponsive | Self::TcpLoss | Self::ResetByPeer)
    }

    /// A full queue of one of these kinds goes with one of the other.
    pub const FULL_QUEUES: &[Self] = &[Self::AcceptQueueOverflow, Self::SynQueueOverflow];

    /// Whether it is about names, and about nothing else.
    pub fn is_of_names(self) -> bool {
        matches!(self, Self::DnsTimeout | Self::DnsSlow | Self::DnsError)
    }

    /// Whether every entity of the node suffers from it.
    pub fn is_of_all_entities(self) -> bool {
        matches!(self, Self::SoftirqDelay | Self::SoftnetBacklog)
    }

    fn entry(self) -> &'static Entry {
        &ENTRIES[self as usize]
    }
}

#[cfg(test)]
mod tests {
    use inspector_sdk::probes::drop_reason::DROP_REASONS;

    use super::*;

    fn named(text: &str) -> usize {
        Code::ALL.iter().filter(|code| code.as_str() == text).count()
    }

    #[test]
    fn no_two_codes_have_one_name() {
        for code in Code::ALL {
            assert_eq!(named(code.as_str()), 1, "{code:?}");
        }
    }

    #[test]
    fn what_the_table_of_drop_reasons_leaves_to_a_finding_is_left_to_one_that_there_is() {
        for (reason, code) in DROP_REASONS.iter().filter_map(|reason| Some((reason.name, reason.effect_of?)))
        {
            assert_eq!(named(code), 1, "{reason} is an effect of {code}");
        }
    }
}
