//! The codes of findings: what each is called, which questions it answers, and what to do about it.
//!
//! A code is never renamed: programs match on it.

/// One code.
#[derive(Debug)]
pub struct Code {
    /// Stable name.
    pub code: &'static str,
    /// Scenarios that it is an answer to, besides `node`.
    pub scenarios: &'static [&'static str],
    /// What to do.
    pub actions: &'static [Advice],
}

/// An action; the gaps of the command are those of [`crate::command`]: `{in}` is what leads into the
/// entity's namespace, and the other names are values of the conclusion.
#[derive(Debug)]
pub struct Advice {
    /// What.
    pub title: &'static str,
    /// How to look or do it.
    pub command: &'static str,
    /// `safe`, `disruptive` or `needs-approval`.
    pub risk: &'static str,
}

const fn look(title: &'static str, command: &'static str) -> Advice {
    Advice { title, command, risk: "safe" }
}

const fn change(title: &'static str, command: &'static str) -> Advice {
    Advice { title, command, risk: "needs-approval" }
}

const fn code(code: &'static str, scenarios: &'static [&'static str], actions: &'static [Advice]) -> Code {
    Code { code, scenarios, actions }
}

const RULESET: Advice =
    look("list the rules with their counters", "{in}nft list ruleset; {in}iptables-save -c");
const ROUTES: Advice = look("list the routes of every table", "{in}ip route show table all; {in}ip rule");
const LINKS: Advice = look("look at the links", "{in}ip -s -d link");
const NEIGHBOURS: Advice = look("look at the neighbours", "{in}ip -s neigh");
const SOCKETS: Advice = look("look at the sockets, their queues and buffers", "{in}ss -tuanpem");

/// All codes, in the order of findings.md of the design.
pub const CODES: &[Code] = &[
    code(
        "port-not-listening",
        &["connect", "reset", "gateway"],
        &[
            look("see what listens there", "{in}ss -tulnp"),
            change("start the service, or correct the port or address that its clients use", ""),
        ],
    ),
    code(
        "stale-connection",
        &["reset", "gateway", "connect"],
        &[
            look("see whether the service was restarted or the address moved", "{in}ss -tanp; {in}ip neigh"),
            change("let clients use shorter keep-alive times than the server and everything between", ""),
        ],
    ),
    code(
        "firewall-drop",
        &["connect", "loss", "latency", "gateway", "dns"],
        &[
            RULESET,
            look("follow one packet through the rules", "{in}nft monitor trace"),
            change("allow the traffic in the rule or policy that drops it", ""),
        ],
    ),
    code(
        "firewall-reject",
        &["connect", "reset", "gateway"],
        &[RULESET, change("allow the traffic in the rule or policy that rejects it", "")],
    ),
    code(
        "conntrack-full",
        &["connect", "loss", "gateway"],
        &[
            look(
                "compare the table with its maximum",
                "sysctl net.netfilter.nf_conntrack_count net.netfilter.nf_conntrack_max",
            ),
            change("raise the maximum", "sysctl -w net.netfilter.nf_conntrack_max=N"),
            change("do not track what needs no tracking (notrack), or shorten timeouts", ""),
        ],
    ),
    code(
        "accept-queue-overflow",
        &["connect", "latency", "gateway", "loss"],
        &[
            look("compare Recv-Q with Send-Q (the backlog) of the listener", "{in}ss -ltnp"),
            look("see whether the application is throttled or stuck", "cat /sys/fs/cgroup/.../cpu.stat"),
            change(
                "accept faster, or listen with a larger backlog (and raise somaxconn)",
                "{in}sysctl net.core.somaxconn",
            ),
        ],
    ),
    code(
        "syn-queue-overflow",
        &["connect", "gateway", "loss"],
        &[
            look("see who opens connections and does not finish", "{in}ss -tan state syn-recv"),
            change(
                "raise the backlog, keep syncookies on",
                "{in}sysctl net.ipv4.tcp_max_syn_backlog net.ipv4.tcp_syncookies",
            ),
        ],
    ),
    code(
        "peer-unresponsive",
        &["connect", "latency", "gateway", "loss"],
        &[
            look(
                "see whether packets leave, and whether answers come",
                "{in}tcpdump -ni any host {destination}",
            ),
            look("ask the node of the peer, if there is one", "inspector diagnose -e THIS-NODE -e PEER-NODE"),
        ],
    ),
    code(
        "local-port-exhaustion",
        &["connect", "gateway"],
        &[
            look(
                "count connections by peer and state",
                "{in}ss -tan | awk '{print $1,$5}' | sort | uniq -c | sort -n",
            ),
            change(
                "reuse connections; widen the range",
                "{in}sysctl -w net.ipv4.ip_local_port_range='1024 65000'",
            ),
        ],
    ),
    code(
        "reset-by-application",
        &["reset", "gateway"],
        &[look("look for the process that closed: its log, restarts, kills", "{in}ss -tanp")],
    ),
    code(
        "reset-after-close",
        &["reset", "gateway"],
        &[
            look("see which side closes first, and whether the other still sends", "{in}ss -tano"),
            change("let the side that sends last close first, or drain before closing", ""),
        ],
    ),
    code(
        "reset-keepalive-timeout",
        &["reset", "connect"],
        &[look("look for what swallows the keep-alive probes", "inspector diagnose loss --last 15m")],
    ),
    code(
        "reset-by-peer",
        &["reset", "gateway"],
        &[look(
            "ask the node of the peer, if there is one",
            "inspector diagnose reset -e THIS-NODE -e PEER-NODE",
        )],
    ),
    code(
        "paws-rejected",
        &["connect", "loss", "reset"],
        &[
            look("look for an address translator before the client", "{in}nstat -az 'TcpExtPAWS*'"),
            change("turn timestamps off at the clients behind it", "sysctl -w net.ipv4.tcp_timestamps=0"),
        ],
    ),
    code(
        "tcp-invalid-segment",
        &["connect", "loss", "reset"],
        &[
            look(
                "capture the connection: something injects or reorders",
                "{in}tcpdump -ni any -w bad.pcap host {source}",
            ),
            change("where a signature (MD5, AO) is missing or wrong: set the same key at both ends", ""),
        ],
    ),
    code(
        "route-missing",
        &["connect", "loss"],
        &[
            ROUTES,
            change(
                "add the route, or a default route",
                "{in}ip {family} route add {destination} via GATEWAY",
            ),
        ],
    ),
    code(
        "route-blocked",
        &["connect", "loss"],
        &[
            ROUTES,
            look("see which of them decide", "{in}ip {family} route show table all to match {destination}"),
            change(
                "remove the blackhole, unreachable or prohibit route",
                "{in}ip {family} route del {type} NET",
            ),
        ],
    ),
    code(
        "forwarding-disabled",
        &["connect", "loss"],
        &[
            look("see whether it is a router", "{in}sysctl net.ipv4.ip_forward net.ipv6.conf.all.forwarding"),
            change("let it forward", "{in}sysctl -w net.ipv4.ip_forward=1"),
        ],
    ),
    code(
        "reverse-path-filter",
        &["connect", "loss"],
        &[
            look(
                "see the filter and the route back",
                "{in}sysctl -a -r 'rp_filter'; {in}ip route get {source}",
            ),
            change(
                "make routing symmetric, or filter loosely",
                "{in}sysctl -w net.ipv4.conf.all.rp_filter=2",
            ),
        ],
    ),
    code(
        "martian-source",
        &["loss"],
        &[look("find who sends it, by its link-layer address", "{in}tcpdump -eni any src {source}")],
    ),
    code(
        "ttl-exceeded",
        &["connect", "loss"],
        &[look("look for a routing loop", "{in}traceroute -n {destination}")],
    ),
    code(
        "packet-too-big",
        &["latency", "loss"],
        &[look("see the path MTU that was learnt", "{in}ip route get {destination}")],
    ),
    code(
        "pmtu-blackhole",
        &["connect", "latency", "loss"],
        &[
            RULESET,
            change("let ICMP fragmentation-needed and packet-too-big through", ""),
            change("probe for the MTU meanwhile", "{in}sysctl -w net.ipv4.tcp_mtu_probing=1"),
        ],
    ),
    code(
        "link-mtu-mismatch",
        &["loss", "connect"],
        &[LINKS, change("give both ends of the link the same MTU", "{in}ip link set DEVICE mtu N")],
    ),
    code(
        "link-down",
        &["connect", "loss"],
        &[LINKS, change("bring both ends up", "{in}ip link set DEVICE up")],
    ),
    code(
        "neighbour-unresolved",
        &["connect", "loss"],
        &[NEIGHBOURS, look("ask for it", "{in}{ask} -c 3 {address}")],
    ),
    code("neighbour-queue-full", &["loss"], &[NEIGHBOURS]),
    code(
        "neighbour-table-full",
        &["connect", "loss"],
        &[NEIGHBOURS, change("raise the limits", "sysctl -w net.ipv4.neigh.default.gc_thresh3=N")],
    ),
    code(
        "wrong-destination-mac",
        &["connect", "loss"],
        &[look(
            "compare the sender's neighbour entry with the receiver's address",
            "{in}ip link; ip neigh show to {destination}",
        )],
    ),
    code(
        "checksum-error",
        &["loss"],
        &[look(
            "see which device it comes by, and its offloads",
            "{in}ethtool -k DEVICE; {in}ethtool -S DEVICE",
        )],
    ),
    code("malformed-packet", &["loss"], &[look("capture some of them", "{in}tcpdump -eni any -c 20 -X")]),
    code(
        "reassembly-failure",
        &["loss"],
        &[
            look("see what is lost of the fragments", "{in}nstat -az 'Ip*Reasm*'"),
            change("send packets that need no fragments", ""),
        ],
    ),
    code(
        "socket-receive-buffer-full",
        &["loss", "dns", "gateway"],
        &[
            SOCKETS,
            change("read faster, or ask for a larger buffer (SO_RCVBUF)", "{in}sysctl net.core.rmem_max"),
        ],
    ),
    code("socket-send-buffer-full", &["latency", "loss"], &[SOCKETS]),
    code(
        "receiver-not-reading",
        &["latency", "gateway"],
        &[
            look("see what the receiver does: its Recv-Q is full", "{in}ss -tanp"),
            look("see whether it is throttled or stuck", "cat /sys/fs/cgroup/.../cpu.stat"),
        ],
    ),
    code(
        "socket-memory-pressure",
        &["latency", "loss"],
        &[
            look(
                "compare use with the limits",
                "cat /proc/net/sockstat; sysctl net.ipv4.tcp_mem net.ipv4.udp_mem",
            ),
            change("raise the limit of the cgroup or of the protocol", ""),
        ],
    ),
    code(
        "socket-filter-drop",
        &["loss", "connect"],
        &[look("see the filter of the socket", "{in}ss -tuanpb")],
    ),
    code(
        "cgroup-bpf-drop",
        &["loss", "connect"],
        &[look("list the programs on the cgroup tree", "bpftool cgroup tree")],
    ),
    code(
        "tc-drop",
        &["loss", "connect"],
        &[look(
            "list the filters",
            "{in}tc filter show dev DEVICE ingress; {in}tc filter show dev DEVICE egress",
        )],
    ),
    code(
        "xdp-drop",
        &["loss", "connect"],
        &[look("see the program on the device", "{in}ip link; bpftool net")],
    ),
    code(
        "qdisc-drop",
        &["loss", "latency"],
        &[
            look("see its limits and counters", "{in}tc -s qdisc"),
            change("raise the rate or the limit", "{in}tc qdisc change dev DEVICE ..."),
        ],
    ),
    code("queueing-delay", &["latency"], &[look("see its backlog", "{in}tc -s qdisc")]),
    code(
        "device-queue-full",
        &["loss"],
        &[look("see the rings", "{in}ethtool -g DEVICE; {in}ethtool -S DEVICE")],
    ),
    code(
        "overlay-misconfigured",
        &["loss", "connect"],
        &[look("compare the network identifiers of both ends", "{in}ip -d link show type vxlan")],
    ),
    code(
        "time-wait-overflow",
        &["reset"],
        &[change("raise the limit", "sysctl -w net.ipv4.tcp_max_tw_buckets=N")],
    ),
    code(
        "softnet-backlog",
        &["loss", "latency"],
        &[
            look("see which CPUs are busy with it", "cat /proc/net/softnet_stat; mpstat -P ALL 1 3"),
            change(
                "spread the load (RPS) or raise the limits",
                "sysctl net.core.netdev_max_backlog net.core.netdev_budget",
            ),
        ],
    ),
    code("softirq-delay", &["latency"], &[look("see what holds the CPU", "cat /proc/softirqs; top -H")]),
    code(
        "socket-read-slow",
        &["latency", "gateway"],
        &[look("see what the process does instead of reading", "cat /proc/PID/stack; {in}ss -tanp")],
    ),
    code(
        "dns-timeout",
        &["dns", "connect", "latency"],
        &[
            look("ask the server directly", "{in}dig @{server}"),
            look("see which servers are configured", "cat /etc/resolv.conf"),
        ],
    ),
    code(
        "dns-slow",
        &["dns", "latency"],
        &[look("time the server", "{in}dig @{server} | grep 'Query time'")],
    ),
    code("dns-error", &["dns"], &[look("ask the server directly", "{in}dig @{server} {name}")]),
    code("tcp-loss", &["loss", "latency"], &[look("see the connections that suffer", "{in}ss -ti")]),
    code("capture-overflow", &["loss"], &[look("see who captures", "{in}ss -0 -p")]),
    code("unexplained-drop", &["loss"], &[look("what the reason means", "inspector explain {reason}")]),
];

/// The entry of a code.
pub fn find(code: &str) -> Option<&'static Code> {
    CODES.iter().find(|entry| entry.code == code)
}

/// Whether a code answers a scenario's question. What keeps a connection from being opened keeps a
/// gateway from its backends, too.
pub fn answers(code: &str, scenario: &str) -> bool {
    let is_for = |scenario| find(code).is_some_and(|entry| entry.scenarios.contains(&scenario));
    scenario == "node" || is_for(scenario) || (scenario == "gateway" && is_for("connect"))
}
