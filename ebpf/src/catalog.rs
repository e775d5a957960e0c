//! Every probe there is. Adding one: its two files, one line here, its kernel test.

use crate::hook::{Direction, Hook, Point, args};
use crate::record::{Field, Record};
use crate::sum;
use crate::{
    Dns, Icmp, Neighbour, Qdisc, Route, RxLatency, SkbDrop, SocketError, SocketLatency, Softirq, TcpReset,
    TcpRetransmit, TcpState, TxLatency, VirtioCommand,
};

/// All probes, by id.
pub const PROBES: &[Probe] = &[
    probe!(0, SkbDrop, "skb_drop", &[KFREE_SKB], sums),
    probe!(1, TcpReset, "tcp_reset", &[TCP_SEND_RESET, TCP_RECEIVE_RESET]),
    probe!(
        2,
        TcpRetransmit,
        "tcp_retransmit",
        &[TCP_RETRANSMIT_SKB, TCP_RETRANSMIT_SYNACK, TCP_CONG_STATE_SET]
    ),
    probe!(3, TcpState, "tcp_state", &[INET_SOCK_SET_STATE]),
    probe!(
        4,
        SocketError,
        "socket_error",
        &[INET_SK_ERROR_REPORT, SOCK_EXCEED_BUF_LIMIT, SOCK_RCVQUEUE_FULL, UDP_FAIL_QUEUE_RCV_SKB]
    ),
    probe!(
        5,
        Neighbour,
        "neighbour",
        &[NEIGH_TIMER_HANDLER, NEIGH_UPDATE, NEIGH_CREATE, NEIGH_EVENT_SEND_DEAD]
    ),
    probe!(6, Icmp, "icmp", &[ICMP_SEND, ICMPV6_SEND]),
    probe!(7, Dns, "dns", &[DNS_QUERY, DNS_ANSWER]),
    probe!(
        8,
        SocketLatency,
        "socket_latency",
        &[SK_DATA_READY, SOCK_RECV_LENGTH, SOCK_SEND_LENGTH, TCP_SENDMSG_LOCKED],
        sums
    ),
    probe!(9, Softirq, "softirq", &[SOFTIRQ_RAISE, SOFTIRQ_ENTRY, SOFTIRQ_EXIT], sums),
    probe!(
        10,
        TxLatency,
        "tx_latency",
        &[NET_DEV_QUEUE, NET_DEV_START_XMIT, NET_DEV_XMIT, KFREE_SKB_FORGETS],
        sums
    ),
    probe!(11, RxLatency, "rx_latency", &[NETIF_RECEIVE_SKB, TCP_PROBE], sums),
    probe!(12, Qdisc, "qdisc", &[QDISC_ENQUEUE, QDISC_DEQUEUE, KFREE_SKB_FORGETS], sums),
    probe!(13, VirtioCommand, "virtio_command", &[COMMAND_START, COMMAND_END]),
    probe!(14, Route, "route", &[FIB_TABLE_LOOKUP, FIB6_TABLE_LOOKUP]),
];

/// Reasons since 5.17, the receiving socket since 6.11.
const KFREE_SKB: Hook = Hook::tp_btf(
    "kfree_skb",
    &[args(4, "kfree_skb_4"), args(3, "kfree_skb_3"), args(2, "kfree_skb_2")],
    "dropped packets",
);

/// Since 4.15; a reason, and resets without a socket, since 6.10.
const TCP_SEND_RESET: Hook = Hook::tp_btf(
    "tcp_send_reset",
    &[args(3, "tcp_send_reset_3"), args(2, "tcp_send_reset_2")],
    "resets sent",
);

/// Since 4.15.
const TCP_RECEIVE_RESET: Hook =
    Hook::tp_btf("tcp_receive_reset", &[args(1, "tcp_receive_reset")], "resets received");

/// Since 4.15; with failed attempts and their error since 6.16.
const TCP_RETRANSMIT_SKB: Hook = Hook::tp_btf(
    "tcp_retransmit_skb",
    &[args(3, "tcp_retransmit_skb_3"), args(2, "tcp_retransmit_skb_2")],
    "segments sent again",
);

/// Since 4.15.
const TCP_RETRANSMIT_SYNACK: Hook = Hook::tp_btf(
    "tcp_retransmit_synack",
    &[args(2, "tcp_retransmit_synack")],
    "SYN-ACKs sent again by listeners",
);

/// Since 5.19.
const TCP_CONG_STATE_SET: Hook =
    Hook::tp_btf("tcp_cong_state_set", &[args(2, "tcp_cong_state_set")], "changes of the congestion state");

/// Since 4.16.
const INET_SOCK_SET_STATE: Hook = Hook::tp_btf(
    "inet_sock_set_state",
    &[args(3, "inet_sock_set_state")],
    "connections opened, accepted, failed and closed",
);

/// Since 5.14.
const INET_SK_ERROR_REPORT: Hook =
    Hook::tp_btf("inet_sk_error_report", &[args(1, "inet_sk_error_report")], "errors that sockets are told");

/// Before 5.8.
const SOCK_EXCEED_BUF_LIMIT: Hook = Hook::tp_btf(
    "sock_exceed_buf_limit",
    &[args(4, "sock_exceed_buf_limit")],
    "sockets that their protocol's memory limit stops",
);

/// Before 5.8.
const SOCK_RCVQUEUE_FULL: Hook =
    Hook::tp_btf("sock_rcvqueue_full", &[args(2, "sock_rcvqueue_full")], "full raw and ping sockets");

/// Before 5.8; with the packet since 6.10.
const UDP_FAIL_QUEUE_RCV_SKB: Hook = Hook::tp_btf(
    "udp_fail_queue_rcv_skb",
    &[args(3, "udp_fail_queue_rcv_skb_3"), args(2, "udp_fail_queue_rcv_skb_2")],
    "full UDP sockets",
);

/// Before 5.8.
const NEIGH_TIMER_HANDLER: Hook =
    Hook::tp_btf("neigh_timer_handler", &[args(2, "neigh_timer_handler")], "neighbours that do not answer");

/// Before 5.8.
const NEIGH_UPDATE: Hook =
    Hook::tp_btf("neigh_update", &[args(5, "neigh_update")], "changed link-layer addresses");

/// Before 5.8.
const NEIGH_CREATE: Hook = Hook::tp_btf("neigh_create", &[args(5, "neigh_create")], "full neighbour tables");

/// Before 5.8.
const NEIGH_EVENT_SEND_DEAD: Hook = Hook::tp_btf(
    "neigh_event_send_dead",
    &[args(2, "neigh_event_send_dead")],
    "packets to neighbours that are being removed",
);

/// Since 6.11, and in later stable releases of older kernels.
const ICMP_SEND: Hook = Hook::tp_btf("icmp_send", &[args(3, "icmp_send")], "ICMP errors sent over IPv4");

/// No tracepoint sees these.
const ICMPV6_SEND: Hook = Hook::cgroup_skb(Direction::Egress, "icmpv6_send", "ICMP errors sent over IPv6");

const DNS_QUERY: Hook = Hook::cgroup_skb(Direction::Egress, "dns_query", "DNS queries");

const DNS_ANSWER: Hook = Hook::cgroup_skb(Direction::Ingress, "dns_answer", "DNS answers");

/// Since 6.3.
const SK_DATA_READY: Hook = Hook::tp_btf("sk_data_ready", &[args(1, "sk_data_ready")], "slow reads");

/// Since 6.3.
const SOCK_RECV_LENGTH: Hook = Hook::tp_btf("sock_recv_length", &[args(3, "sock_recv_length")], "slow reads");

/// Since 6.3.
const SOCK_SEND_LENGTH: Hook = Hook::tp_btf("sock_send_length", &[args(3, "sock_send_length")], "slow sends");

/// Since 6.16.
const TCP_SENDMSG_LOCKED: Hook =
    Hook::tp_btf("tcp_sendmsg_locked", &[args(4, "tcp_sendmsg_locked")], "slow sends");
/// Since 2.6.31.
const SOFTIRQ_RAISE: Hook =
    Hook::tp_btf("softirq_raise", &[args(1, "softirq_raise")], "time that soft interrupts wait");

/// Since 2.6.31.
const SOFTIRQ_ENTRY: Hook =
    Hook::tp_btf("softirq_entry", &[args(1, "softirq_entry")], "time that soft interrupts wait or run");

/// Since 2.6.31.
const SOFTIRQ_EXIT: Hook =
    Hook::tp_btf("softirq_exit", &[args(1, "softirq_exit")], "time that soft interrupts run");

/// Since 2.6.37.
const NET_DEV_QUEUE: Hook =
    Hook::tp_btf("net_dev_queue", &[args(1, "net_dev_queue")], "time of packets on their way out");

/// Since 3.14.
const NET_DEV_START_XMIT: Hook = Hook::tp_btf(
    "net_dev_start_xmit",
    &[args(2, "net_dev_start_xmit")],
    "time of packets in queues and drivers",
);

/// Since 2.6.37; four arguments since 3.18.
const NET_DEV_XMIT: Hook = Hook::tp_btf(
    "net_dev_xmit",
    &[args(4, "net_dev_xmit")],
    "time of packets in drivers, and what drivers refuse",
);

/// Only the first argument is read, which all kernels have.
const KFREE_SKB_FORGETS: Hook = Hook::tp_btf(
    "kfree_skb",
    &[args(4, "kfree_skb"), args(3, "kfree_skb"), args(2, "kfree_skb")],
    "certainty that a time is not that of a dropped packet",
);

/// Since 2.6.37.
const NETIF_RECEIVE_SKB: Hook =
    Hook::tp_btf("netif_receive_skb", &[args(1, "netif_receive_skb")], "time of packets on their way in");

/// Since 4.16.
const TCP_PROBE: Hook =
    Hook::tp_btf("tcp_probe", &[args(2, "tcp_probe")], "time of segments to their socket");

/// Since 5.14.
const QDISC_ENQUEUE: Hook =
    Hook::tp_btf("qdisc_enqueue", &[args(3, "qdisc_enqueue")], "packets that are queued");

/// Since 4.16.
const QDISC_DEQUEUE: Hook =
    Hook::tp_btf("qdisc_dequeue", &[args(4, "qdisc_dequeue")], "packets that leave a queue");

/// Of module virtio_net; the second is the name before 6.10.
const SEND_COMMAND: &[&str] = &["virtnet_send_command_reply", "virtnet_send_command"];

const COMMAND_START: Hook =
    Hook::kprobe(SEND_COMMAND, Point::Entry, "command_start", "time of commands to the hypervisor");

const COMMAND_END: Hook =
    Hook::kprobe(SEND_COMMAND, Point::Return, "command_end", "time of commands to the hypervisor");

/// Before 5.8.
const FIB_TABLE_LOOKUP: Hook = Hook::tp_btf(
    "fib_table_lookup",
    &[args(4, "fib_table_lookup")],
    "connects and sends that an IPv4 route refuses",
);

/// Before 5.8.
const FIB6_TABLE_LOOKUP: Hook = Hook::tp_btf(
    "fib6_table_lookup",
    &[args(4, "fib6_table_lookup")],
    "connects and sends that an IPv6 route refuses",
);

/// A catalog line: everything that the mirror knows is taken from it; `sums` if it is `Summed`.
macro_rules! probe {
    ($id:literal, $record:ty, $object:literal, $hooks:expr) => {
        probe!($id, $record, $object, $hooks, None, end)
    };
    ($id:literal, $record:ty, $object:literal, $hooks:expr, sums) => {
        probe!($id, $record, $object, $hooks, Some(sum::append::<$record>), end)
    };
    ($id:literal, $record:ty, $object:literal, $hooks:expr, $sums:expr, end) => {
        Probe {
            id: $id,
            name: <$record>::PROBE,
            schema: <$record>::SCHEMA,
            stride: size_of::<$record>() as u16,
            fields: <$record>::FIELDS,
            hooks: $hooks,
            append_sum: $sums,
            #[cfg(feature = "objects")]
            object: &Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/", $object, ".bpf.o"))).0,
        }
    };
}
use probe;

/// ELF headers are read in place, so the bytes must lie as an ELF file would in memory.
#[cfg(feature = "objects")]
#[repr(C, align(8))]
struct Aligned<const N: usize>([u8; N]);

/// See [`Probe::append_sum`].
pub type AppendSum = fn(&mut Vec<u64>, u64, &sum::Key, &sum::Sum);

/// A fixed eBPF program set that delivers one kind of record.
#[derive(Debug)]
pub struct Probe {
    /// Number by which batches refer to it: its index in [`PROBES`].
    pub id: u16,
    /// Name in plugins, metrics and on the command line, e.g. `skb-drop`.
    pub name: &'static str,
    /// Schema number of its records.
    pub schema: u16,
    /// Bytes per record.
    pub stride: u16,
    /// Its fields, by offset; predicates may name those of at most 8 bytes.
    pub fields: &'static [Field],
    /// Its hooks; each is optional.
    pub hooks: &'static [Hook],
    /// Appends the words of the record that stands for a sum, at a time; none if the probe's
    /// programs add up nothing.
    pub append_sum: Option<AppendSum>,
    /// The CO-RE object.
    #[cfg(feature = "objects")]
    pub object: &'static [u8],
}
