//! Drops that are the normal course of things.
//!
//! The kernel frees many packets by way of `kfree_skb` that nobody misses. Each rule names a
//! reason, where that is not enough the function, and where that is not enough either that a
//! socket must have been found. A rule that is too wide hides a fault, so each says why.

/// One kind of noise.
#[derive(Debug)]
pub struct Rule {
    /// The kernel's reason.
    pub reason: &'static str,
    /// Functions in which that reason is noise; empty = everywhere.
    pub symbols: &'static [&'static str],
    /// Noise only if a socket was found for the packet.
    pub with_socket: bool,
    /// Why nobody misses the packet.
    pub why: &'static str,
}

/// The rules; a drop is noise if one holds.
pub static RULES: &[Rule] = &[
    Rule {
        reason: "QUEUE_PURGE",
        symbols: &[],
        with_socket: false,
        why: "a queue is emptied because its socket or device goes",
    },
    Rule {
        reason: "NOT_SPECIFIED",
        symbols: &[
            "skb_queue_purge",
            "skb_queue_purge_reason",
            "skb_rbtree_purge",
            "sk_stream_kill_queues",
            "inet_sock_destruct",
            "__sk_destruct",
            "udp_destruct_common",
        ],
        with_socket: false,
        why: "the same on kernels before 6.6, which have no reason for it",
    },
    Rule {
        reason: "NO_SOCKET",
        symbols: &["ping_rcv"],
        with_socket: false,
        why: "an echo reply that a raw socket has received already",
    },
    Rule {
        reason: "NOT_SPECIFIED",
        symbols: &["ip6_mc_input"],
        with_socket: false,
        why: "multicast that no group here has joined",
    },
    Rule {
        reason: "NOT_SPECIFIED",
        symbols: &["tcp_v4_rcv", "tcp_v6_rcv"],
        with_socket: true,
        why: "a duplicate that its socket has handled already",
    },
    Rule {
        reason: "NOT_SPECIFIED",
        symbols: &["tcp_rcv_state_process"],
        with_socket: true,
        why: "an acknowledgement that its closing socket has handled already",
    },
    Rule {
        reason: "NOT_SPECIFIED",
        symbols: &["netif_napi_add_weight", "netif_napi_add_weight_locked"],
        with_socket: false,
        why: "an empty buffer with which the kernel tries a new device",
    },
    Rule {
        reason: "TCP_OLD_SEQUENCE",
        symbols: &[],
        with_socket: false,
        why: "a window or keep-alive probe, made to be out of window",
    },
    Rule {
        reason: "TCP_OLD_DATA",
        symbols: &[],
        with_socket: false,
        why: "data that has arrived already: a spurious retransmission or a probe",
    },
    Rule {
        reason: "TCP_OFOMERGE",
        symbols: &[],
        with_socket: false,
        why: "data that waits in the out-of-order queue already",
    },
    Rule {
        reason: "TCP_INVALID_SYN",
        symbols: &["tcp_validate_incoming"],
        with_socket: false,
        why: "a retransmitted SYN-ACK; the handshake is complete",
    },
    Rule {
        reason: "NOT_SPECIFIED",
        symbols: &["nfnetlink_rcv_batch"],
        with_socket: false,
        why: "a netlink message on 6.1, not a packet",
    },
    Rule {
        reason: "PACKET_SOCK_ERROR",
        symbols: &["packet_rcv", "tpacket_rcv"],
        with_socket: false,
        why: "a capture that is too slow loses its copy; the traffic goes on",
    },
    Rule {
        reason: "IPV6_NDISC_NS_OTHERHOST",
        symbols: &[],
        with_socket: false,
        why: "a neighbour solicitation for another host",
    },
    Rule {
        reason: "OTHERHOST",
        symbols: &[],
        with_socket: false,
        why: "a frame for another host, seen because the device is promiscuous or flooded",
    },
];

/// The rule by which a drop is noise, if there is one.
pub fn rule(reason: &str, symbol: &str, with_socket: bool) -> Option<&'static Rule> {
    RULES.iter().find(|rule| {
        rule.reason == reason
            && (rule.symbols.is_empty() || rule.symbols.contains(&symbol))
            && (with_socket || !rule.with_socket)
    })
}

/// Reasons for which multicast is dropped while a link comes up or goes down, by everybody's kernel.
const WITHOUT_A_WAY: [&str; 8] = [
    "NOT_SPECIFIED",
    "IP_INNOROUTES",
    "IP_OUTNOROUTES",
    "QDISC_DROP",
    "NO_TX_TARGET",
    "NEIGH_FAILED",
    "DEV_READY",
    "IPV6DISABLED",
];

/// Whether a multicast packet, such as one of neighbour discovery, was dropped for no more than that
/// its link has no way for it yet, or has none any more.
pub fn is_without_a_way(reason: &str) -> bool {
    WITHOUT_A_WAY.contains(&reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reason, function, and whether a socket was found.
    type Drop = (&'static str, &'static str, bool);

    /// One drop per rule that is noise, beside its nearest neighbour that is not.
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
        (("TCP_OFOMERGE", "tcp_data_queue_ofo", true), Some(("TCP_OFO_DROP", "tcp_data_queue_ofo", true))),
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
    fn each_rule_holds_for_its_noise_and_not_for_the_drop_beside_it() {
        assert_eq!(CASES.len(), RULES.len(), "a rule has no case");
        for ((noise, drop), expected) in CASES.iter().zip(RULES) {
            let found = rule(noise.0, noise.1, noise.2).expect("noise");
            assert!(std::ptr::eq(found, expected), "{noise:?} fell under {found:?}");
            if let Some(drop) = drop {
                assert!(rule(drop.0, drop.1, drop.2).is_none(), "{drop:?} is no noise");
            }
        }
    }

    #[test]
    fn a_firewall_drop_is_never_noise() {
        for symbol in ["nf_hook_slow", "nft_do_chain", "ip6_mc_input", "tcp_v4_rcv"] {
            assert!(rule("NETFILTER_DROP", symbol, true).is_none());
        }
        assert!(!is_without_a_way("NETFILTER_DROP"), "nor that of multicast");
    }
}
