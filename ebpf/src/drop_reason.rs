//! What the kernel's drop reasons mean to programs, in one table: how bad each is, when nobody misses
//! the packet, and which finding reports it.
//!
//! The agent, the analyzers and the diagnosis read it here and nowhere else; the texts for people are
//! in `host/advice.toml` under the same names, and a test there compares the two. Keyed by name: no
//! number of a reason is compiled in, since numbers differ on every kernel. Names cover Linux 6.1 to
//! 6.18. Longer than other files, because it is a table of one line per reason.

/// How bad it is that a packet is dropped for a reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Happens in a healthy network, or is no loss.
    Benign,
    /// May be intended or may be the fault.
    Suspicious,
    /// Something is broken, misconfigured or overloaded.
    Fault,
}

/// One row.
#[derive(Debug)]
pub struct DropReason {
    /// The kernel's name, without `SKB_DROP_REASON_`.
    pub name: &'static str,
    /// How bad it is.
    pub class: Class,
    /// When nobody misses the packet.
    pub noise: &'static [Noise],
    /// Nobody misses a multicast packet either, such as one of neighbour discovery: its link has no
    /// route for it yet, or has none any more. Everybody's kernel drops some while links come and go.
    pub is_noise_if_multicast: bool,
    /// Code of the finding that reports it: the drop only follows from something else, which an event
    /// or a counter of its own tells.
    pub effect_of: Option<&'static str>,
}

/// Drops of one reason that nobody misses. A rule that is too wide hides a fault, so each says why.
#[derive(Debug)]
pub struct Noise {
    /// Functions in which they are noise; empty = everywhere.
    pub symbols: &'static [&'static str],
    /// They are noise only if a socket was found for the packet.
    pub with_socket: bool,
    /// Why nobody misses the packet.
    pub why: &'static str,
}

/// What else tells drops of one reason apart.
#[derive(Debug, Clone, Copy, Default)]
pub struct Circumstances<'a> {
    /// The function that dropped the packet.
    pub symbol: &'a str,
    /// A socket was found for it.
    pub with_socket: bool,
    /// It was for whoever is there.
    pub is_multicast: bool,
}

/// Stages of the receive path that the original exporter counts apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LossStage {
    /// A firewall rule or a full conntrack table.
    Netfilter,
    /// The TCP state machine, for sockets that are not established.
    TcpStateMachine,
    /// The entrance of TCP: lookup, checks, backlog.
    TcpReceive,
    /// Work on a segment of an existing socket.
    TcpHandle,
    /// Everything else.
    Other,
}

impl DropReason {
    const fn of(class: Class, name: &'static str) -> Self {
        Self { name, class, noise: &[], is_noise_if_multicast: false, effect_of: None }
    }

    /// Whether nobody misses a packet that was dropped for it in these circumstances.
    pub fn is_noise(&self, drop: Circumstances<'_>) -> bool {
        let is_of_link = self.is_noise_if_multicast && drop.is_multicast;
        is_of_link || self.noise.iter().any(|noise| noise.covers(drop))
    }

    const fn noise(self, noise: &'static [Noise]) -> Self {
        Self { noise, ..self }
    }

    const fn noise_if_multicast(self) -> Self {
        Self { is_noise_if_multicast: true, ..self }
    }

    const fn effect_of(self, code: &'static str) -> Self {
        Self { effect_of: Some(code), ..self }
    }
}

const fn benign(name: &'static str) -> DropReason {
    DropReason::of(Class::Benign, name)
}

const fn suspicious(name: &'static str) -> DropReason {
    DropReason::of(Class::Suspicious, name)
}

const fn fault(name: &'static str) -> DropReason {
    DropReason::of(Class::Fault, name)
}

const fn everywhere(why: &'static str) -> Noise {
    within(&[], why)
}

const fn within(symbols: &'static [&'static str], why: &'static str) -> Noise {
    Noise { symbols, with_socket: false, why }
}

const fn with_socket(symbols: &'static [&'static str], why: &'static str) -> Noise {
    Noise { symbols, with_socket: true, why }
}

/// Functions say what the kernel gives no reason for.
const UNSPECIFIED: &[Noise] = &[
    within(
        &[
            "skb_queue_purge",
            "skb_queue_purge_reason",
            "skb_rbtree_purge",
            "sk_stream_kill_queues",
            "inet_sock_destruct",
            "__sk_destruct",
            "udp_destruct_common",
        ],
        "a queue is emptied because its socket or device goes, on kernels before 6.6",
    ),
    within(&["ip6_mc_input"], "multicast that no group here has joined"),
    with_socket(&["tcp_v4_rcv", "tcp_v6_rcv"], "a duplicate that its socket has handled already"),
    with_socket(&["tcp_rcv_state_process"], "an acknowledgement that its closing socket has handled already"),
    within(
        &["netif_napi_add_weight", "netif_napi_add_weight_locked"],
        "an empty buffer with which the kernel tries a new device",
    ),
    within(&["nfnetlink_rcv_batch"], "a netlink message on 6.1, not a packet"),
];

/// All reasons, in the order of their names.
pub static DROP_REASONS: &[DropReason] = &[
    suspicious("ARP_PVLAN_DISABLE"),
    suspicious("BPF_CGROUP_EGRESS"),
    suspicious("BRIDGE_INGRESS_STP_STATE"),
    suspicious("CAKE_FLOOD"),
    fault("CANFD_RX_INVALID_FRAME"),
    fault("CANXL_RX_INVALID_FRAME"),
    fault("CAN_RX_INVALID_FRAME"),
    fault("CPU_BACKLOG"),
    fault("DEV_HDR"),
    suspicious("DEV_READY").noise_if_multicast(),
    suspicious("DUALPI2_STEP_DROP"),
    suspicious("DUP_FRAG"),
    fault("FQ_BAND_LIMIT"),
    fault("FQ_FLOW_LIMIT"),
    suspicious("FQ_HORIZON_LIMIT"),
    fault("FRAG_REASM_TIMEOUT"),
    suspicious("FRAG_TOO_FAR"),
    fault("FULL_RING"),
    fault("HDR_TRUNC"),
    fault("ICMP_CSUM"),
    suspicious("INVALID_PROTO"),
    suspicious("IPV6DISABLED").noise_if_multicast(),
    suspicious("IPV6_BAD_EXTHDR"),
    suspicious("IPV6_NDISC_BAD_CODE"),
    suspicious("IPV6_NDISC_BAD_OPTIONS"),
    suspicious("IPV6_NDISC_FRAG"),
    suspicious("IPV6_NDISC_HOP_LIMIT"),
    benign("IPV6_NDISC_NS_OTHERHOST").noise(&[everywhere("a neighbour solicitation for another host")]),
    fault("IP_CSUM"),
    fault("IP_INADDRERRORS"),
    suspicious("IP_INHDR"),
    fault("IP_INNOROUTES").noise_if_multicast(),
    suspicious("IP_INVALID_DEST"),
    suspicious("IP_INVALID_SOURCE"),
    suspicious("IP_LOCALNET"),
    suspicious("IP_LOCAL_SOURCE"),
    suspicious("IP_NOPROTO"),
    fault("IP_OUTNOROUTES").noise_if_multicast(),
    suspicious("IP_RPFILTER"),
    suspicious("IP_TUNNEL_ECN"),
    suspicious("LOCAL_MAC"),
    benign("MAC_IEEE_MAC_CONTROL"),
    suspicious("MAC_INVALID_SOURCE"),
    fault("NEIGH_CREATEFAIL"),
    suspicious("NEIGH_DEAD"),
    fault("NEIGH_FAILED").noise_if_multicast(),
    fault("NEIGH_HH_FILLFAIL"),
    suspicious("NEIGH_QUEUEFULL"),
    suspicious("NETFILTER_DROP"),
    fault("NOMEM"),
    suspicious("NOT_SPECIFIED").noise(UNSPECIFIED).noise_if_multicast(),
    suspicious("NO_SOCKET")
        .noise(&[within(&["ping_rcv"], "an echo reply that a raw socket has received already")]),
    fault("NO_TX_TARGET").noise_if_multicast(),
    benign("OTHERHOST")
        .noise(&[everywhere("a frame for another host, seen because the device is promiscuous or flooded")]),
    fault("OVS_DROP_ACTION_ERROR"),
    fault("OVS_DROP_CONNTRACK"),
    fault("OVS_DROP_DEFERRED_LIMIT"),
    suspicious("OVS_DROP_EXPLICIT"),
    fault("OVS_DROP_EXPLICIT_WITH_ERROR"),
    fault("OVS_DROP_FRAG_INVALID_PROTO"),
    fault("OVS_DROP_FRAG_L2_TOO_LONG"),
    suspicious("OVS_DROP_IP_TTL"),
    suspicious("OVS_DROP_LAST_ACTION"),
    suspicious("OVS_DROP_METER"),
    fault("OVS_DROP_RECURSION_LIMIT"),
    benign("PACKET_SOCK_ERROR").noise(&[within(
        &["packet_rcv", "tpacket_rcv"],
        "a capture that is too slow loses its copy; the traffic goes on",
    )]),
    fault("PFMEMALLOC"),
    suspicious("PKT_TOO_BIG"),
    suspicious("PKT_TOO_SMALL"),
    fault("PROTO_MEM"),
    fault("PSP_INPUT"),
    fault("PSP_OUTPUT"),
    suspicious("QDISC_CONGESTED"),
    fault("QDISC_DROP").noise_if_multicast(),
    fault("QDISC_OVERLIMIT"),
    benign("QUEUE_PURGE").noise(&[everywhere("a queue is emptied because its socket or device goes")]),
    fault("RECURSION_LIMIT"),
    benign("RX_CONTINUE"),
    benign("RX_DROP_MONITOR"),
    suspicious("RX_DROP_M_BAD_BCN_KEYIDX"),
    suspicious("RX_DROP_M_BAD_MGMT_KEYIDX"),
    suspicious("RX_DROP_M_UNEXPECTED_4ADDR_FRAME"),
    benign("RX_DROP_UNUSABLE"),
    suspicious("RX_DROP_U_ACTION_UNKNOWN_SRC"),
    suspicious("RX_DROP_U_AP_RX_GROUPCAST"),
    suspicious("RX_DROP_U_BAD_4ADDR"),
    suspicious("RX_DROP_U_BAD_AMSDU"),
    suspicious("RX_DROP_U_BAD_AMSDU_CIPHER"),
    suspicious("RX_DROP_U_BAD_BCN_KEYIDX"),
    suspicious("RX_DROP_U_BAD_CIPHER"),
    suspicious("RX_DROP_U_BAD_KEY_COLOR"),
    suspicious("RX_DROP_U_BAD_MGMT_KEYIDX"),
    suspicious("RX_DROP_U_BAD_MMIE"),
    suspicious("RX_DROP_U_DECRYPT_FAIL"),
    benign("RX_DROP_U_DUP"),
    suspicious("RX_DROP_U_EXPECT_DEFRAG_PROT"),
    suspicious("RX_DROP_U_INVALID_8023"),
    suspicious("RX_DROP_U_MIC_FAIL"),
    suspicious("RX_DROP_U_MMIC_FAIL"),
    suspicious("RX_DROP_U_NONSEQ_PN"),
    suspicious("RX_DROP_U_NO_ICV"),
    suspicious("RX_DROP_U_NO_IV"),
    suspicious("RX_DROP_U_NO_KEY_ID"),
    fault("RX_DROP_U_OOM"),
    suspicious("RX_DROP_U_REJECTED_ACTION_RESPONSE"),
    suspicious("RX_DROP_U_REPLAY"),
    suspicious("RX_DROP_U_RUNT_ACTION"),
    suspicious("RX_DROP_U_SHORT_CCMP"),
    suspicious("RX_DROP_U_SHORT_CCMP_MIC"),
    suspicious("RX_DROP_U_SHORT_CMAC"),
    suspicious("RX_DROP_U_SHORT_CMAC256"),
    suspicious("RX_DROP_U_SHORT_GCMP"),
    suspicious("RX_DROP_U_SHORT_GCMP_MIC"),
    suspicious("RX_DROP_U_SHORT_GMAC"),
    suspicious("RX_DROP_U_SHORT_MMIC"),
    suspicious("RX_DROP_U_SHORT_TKIP"),
    benign("RX_DROP_U_SPURIOUS"),
    suspicious("RX_DROP_U_TKIP_FAIL"),
    suspicious("RX_DROP_U_UNEXPECTED_4ADDR_FRAME"),
    suspicious("RX_DROP_U_UNPROT_ACTION"),
    suspicious("RX_DROP_U_UNPROT_BEACON"),
    suspicious("RX_DROP_U_UNPROT_DUAL"),
    suspicious("RX_DROP_U_UNPROT_MCAST_MGMT"),
    suspicious("RX_DROP_U_UNPROT_ROBUST_ACTION"),
    suspicious("RX_DROP_U_UNPROT_UCAST_MGMT"),
    suspicious("RX_DROP_U_UNPROT_UNICAST_PUB_ACTION"),
    suspicious("RX_DROP_U_WEP_DEC_FAIL"),
    benign("RX_QUEUED"),
    suspicious("SECURITY_HOOK"),
    fault("SKB_BAD_GSO"),
    benign("SKB_CONSUMED"),
    fault("SKB_CSUM"),
    fault("SKB_GSO_SEG"),
    benign("SKB_NOT_DROPPED_YET"),
    fault("SKB_UCOPY_FAULT"),
    fault("SOCKET_BACKLOG"),
    benign("SOCKET_CLOSE"),
    suspicious("SOCKET_FILTER"),
    fault("SOCKET_RCVBUFF"),
    suspicious("TAP_FILTER"),
    suspicious("TAP_TXFILTER"),
    suspicious("TCP_ABORT_ON_DATA").effect_of("reset-after-close"),
    suspicious("TCP_ACK_UNSENT_DATA"),
    fault("TCP_AOFAILURE"),
    fault("TCP_AOKEYNOTFOUND"),
    fault("TCP_AONOTFOUND"),
    fault("TCP_AOUNEXPECTED"),
    fault("TCP_AUTH_HDR"),
    benign("TCP_CLOSE"),
    fault("TCP_CSUM"),
    benign("TCP_FASTOPEN"),
    suspicious("TCP_FLAGS"),
    suspicious("TCP_INVALID_ACK_SEQUENCE"),
    suspicious("TCP_INVALID_END_SEQUENCE"),
    suspicious("TCP_INVALID_SEQUENCE"),
    suspicious("TCP_INVALID_SYN")
        .noise(&[within(&["tcp_validate_incoming"], "a retransmitted SYN-ACK; the handshake is complete")]),
    fault("TCP_LISTEN_OVERFLOW").effect_of("accept-queue-overflow"),
    fault("TCP_MD5FAILURE"),
    fault("TCP_MD5NOTFOUND"),
    fault("TCP_MD5UNEXPECTED"),
    suspicious("TCP_MINTTL"),
    benign("TCP_OFOMERGE").noise(&[everywhere("data that waits in the out-of-order queue already")]),
    benign("TCP_OFO_DROP")
        .noise(&[everywhere("data that has arrived already, seen once the gap before it is filled")]),
    fault("TCP_OFO_QUEUE_PRUNE"),
    benign("TCP_OLD_ACK"),
    benign("TCP_OLD_DATA")
        .noise(&[everywhere("data that has arrived already: a spurious retransmission or a probe")]),
    benign("TCP_OLD_SEQUENCE").noise(&[everywhere("a window or keep-alive probe, made to be out of window")]),
    suspicious("TCP_OVERWINDOW").effect_of("receiver-not-reading"),
    suspicious("TCP_RESET").effect_of("reset-by-peer"),
    suspicious("TCP_RFC7323_PAWS"),
    benign("TCP_RFC7323_PAWS_ACK"),
    suspicious("TCP_RFC7323_TSECR"),
    suspicious("TCP_RFC7323_TW_PAWS"),
    suspicious("TCP_TOO_OLD_ACK"),
    fault("TCP_ZEROWINDOW").effect_of("receiver-not-reading"),
    fault("TC_CHAIN_NOTFOUND"),
    fault("TC_COOKIE_ERROR"),
    suspicious("TC_EGRESS"),
    suspicious("TC_INGRESS"),
    fault("TC_RECLASSIFY_LOOP"),
    fault("TUNNEL_TXINFO"),
    fault("UDP_CSUM"),
    suspicious("UNHANDLED_PROTO"),
    suspicious("UNICAST_IN_L2_MULTICAST"),
    benign("UNIX_DISCONNECT"),
    benign("UNIX_SKIP_OOB"),
    suspicious("VXLAN_ENTRY_EXISTS"),
    fault("VXLAN_INVALID_HDR"),
    fault("VXLAN_VNI_NOT_FOUND"),
    suspicious("XDP"),
    fault("XFRM_POLICY"),
];

/// The row of a reason; `None` if the kernel is newer than the table.
pub fn find(name: &str) -> Option<&'static DropReason> {
    let at = DROP_REASONS.binary_search_by(|row| row.name.cmp(name)).ok()?;
    Some(&DROP_REASONS[at])
}

/// Whether nobody misses a packet that was dropped for this reason in these circumstances. A reason
/// that the table does not know is never noise.
pub fn is_noise(name: &str, drop: Circumstances<'_>) -> bool {
    find(name).is_some_and(|reason| reason.is_noise(drop))
}

impl Noise {
    fn covers(&self, drop: Circumstances<'_>) -> bool {
        (self.symbols.is_empty() || self.symbols.contains(&drop.symbol))
            && (drop.with_socket || !self.with_socket)
    }
}

impl LossStage {
    /// The stage of a drop. Symbols differ by kernel and may be inlined into their caller, so each
    /// stage has several.
    pub fn of(reason: &str, symbol: &str) -> Self {
        match (reason, symbol) {
            ("NETFILTER_DROP", _) | (_, "nf_hook_slow" | "nft_do_chain") => Self::Netfilter,
            (_, "tcp_rcv_state_process") => Self::TcpStateMachine,
            (_, "tcp_v4_rcv" | "tcp_v6_rcv") => Self::TcpReceive,
            (
                _,
                "tcp_v4_do_rcv"
                | "tcp_v6_do_rcv"
                | "tcp_rcv_established"
                | "tcp_validate_incoming"
                | "tcp_data_queue",
            ) => Self::TcpHandle,
            _ => Self::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(reason: &str, symbol: &str, with_socket: bool) -> bool {
        is_noise(reason, Circumstances { symbol, with_socket, is_multicast: false })
    }

    #[test]
    fn each_reason_has_one_row_where_it_is_looked_for() {
        assert!(DROP_REASONS.is_sorted_by(|a, b| a.name < b.name));
        assert_eq!(find("NETFILTER_DROP").expect("a row").name, "NETFILTER_DROP");
        assert!(find("REASON_OF_THE_FUTURE").is_none());
    }

    #[test]
    fn the_columns_of_a_row_do_not_contradict_each_other() {
        for reason in DROP_REASONS {
            let is_benign = reason.class == Class::Benign;
            let is_always_noise =
                reason.noise.iter().any(|noise| noise.symbols.is_empty() && !noise.with_socket);
            assert!(is_benign || !is_always_noise, "{}: what is always noise is benign", reason.name);
            assert!(
                !is_benign || reason.effect_of.is_none(),
                "{}: no finding reports what is benign",
                reason.name
            );
        }
    }

    /// Reason, function, and whether a socket was found.
    type Drop = (&'static str, &'static str, bool);

    /// One drop for each way to be noise, beside its nearest neighbour that is not.
    const CASES: &[(Drop, Option<Drop>)] = &[
        (("QUEUE_PURGE", "skb_queue_purge_reason", false), None),
        (("NOT_SPECIFIED", "sk_stream_kill_queues", false), Some(("NOT_SPECIFIED", "ip_error", false))),
        (("NO_SOCKET", "ping_rcv", false), Some(("NO_SOCKET", "__udp4_lib_rcv", false))),
        (("NOT_SPECIFIED", "ip6_mc_input", false), Some(("IP_INHDR", "ip6_mc_input", false))),
        (("NOT_SPECIFIED", "tcp_v4_rcv", true), Some(("NOT_SPECIFIED", "tcp_v4_rcv", false))),
        (
            ("NOT_SPECIFIED", "tcp_rcv_state_process", true),
            Some(("TCP_FLAGS", "tcp_rcv_state_process", true)),
        ),
        (
            ("NOT_SPECIFIED", "netif_napi_add_weight_locked", false),
            Some(("NOT_SPECIFIED", "napi_gro_receive", false)),
        ),
        (("TCP_OLD_SEQUENCE", "tcp_validate_incoming", true), Some(("TCP_INVALID_SEQUENCE", "x", true))),
        (("TCP_OLD_DATA", "tcp_data_queue", true), Some(("TCP_OVERWINDOW", "tcp_data_queue", true))),
        (
            ("TCP_OFOMERGE", "tcp_data_queue_ofo", true),
            Some(("TCP_OFO_QUEUE_PRUNE", "tcp_prune_ofo_queue", true)),
        ),
        (("TCP_OFO_DROP", "tcp_ofo_queue", true), None),
        (
            ("TCP_INVALID_SYN", "tcp_validate_incoming", true),
            Some(("TCP_INVALID_SYN", "tcp_rcv_state_process", true)),
        ),
        (
            ("NOT_SPECIFIED", "nfnetlink_rcv_batch", false),
            Some(("NOT_SPECIFIED", "__dev_forward_skb2", false)),
        ),
        (("PACKET_SOCK_ERROR", "packet_rcv", false), Some(("PACKET_SOCK_ERROR", "x", false))),
        (("IPV6_NDISC_NS_OTHERHOST", "ndisc_rcv", false), Some(("IPV6_NDISC_BAD_CODE", "ndisc_rcv", false))),
        (("OTHERHOST", "ip_rcv_core", false), Some(("IP_CSUM", "ip_rcv_core", false))),
    ];

    #[test]
    fn each_noise_is_told_from_the_drop_beside_it() {
        let ways: usize = DROP_REASONS.iter().map(|reason| reason.noise.len()).sum();
        assert_eq!(CASES.len(), ways, "one of them has no case");
        for (unmissed, missed) in CASES {
            assert!(noise(unmissed.0, unmissed.1, unmissed.2), "{unmissed:?} is noise");
            if let Some(missed) = missed {
                assert!(!noise(missed.0, missed.1, missed.2), "{missed:?} is no noise");
            }
        }
    }

    #[test]
    fn a_firewall_drop_is_never_noise() {
        for symbol in ["nf_hook_slow", "nft_do_chain", "ip6_mc_input", "tcp_v4_rcv"] {
            let drop = Circumstances { symbol, with_socket: true, is_multicast: true };
            assert!(!is_noise("NETFILTER_DROP", drop));
        }
    }

    #[test]
    fn multicast_is_missed_by_nobody_while_its_link_has_no_route() {
        let multicast = Circumstances { symbol: "ip6_output", with_socket: false, is_multicast: true };
        assert!(is_noise("IP_OUTNOROUTES", multicast));
        assert!(!is_noise("IP_OUTNOROUTES", Circumstances { is_multicast: false, ..multicast }));
    }

    #[test]
    fn a_firewall_drop_is_netfilter_wherever_the_kernel_inlined_it() {
        assert_eq!(LossStage::of("NETFILTER_DROP", "ip_rcv"), LossStage::Netfilter);
        assert_eq!(LossStage::of("NOT_SPECIFIED", "nft_do_chain"), LossStage::Netfilter);
    }

    #[test]
    fn tcp_drops_are_told_apart_by_stage() {
        assert_eq!(LossStage::of("TCP_CLOSE", "tcp_rcv_state_process"), LossStage::TcpStateMachine);
        assert_eq!(LossStage::of("NO_SOCKET", "tcp_v6_rcv"), LossStage::TcpReceive);
        assert_eq!(LossStage::of("TCP_CSUM", "tcp_v4_do_rcv"), LossStage::TcpHandle);
        assert_eq!(LossStage::of("NO_SOCKET", "__udp4_lib_rcv"), LossStage::Other);
    }
}
