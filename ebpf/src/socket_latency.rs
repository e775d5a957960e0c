//! Mirror of `socket_latency.bpf.c`.

use zerocopy::FromZeros;

use crate::catalog::{Class, Description};
use crate::hook::{args, tp_btf};
use crate::record::{Head, constants, record, text};
use crate::sum::{self, Key, Sum, Summed};

constants! {
    enum latency_kind: u16 {
        /// Data waited unread; `latency_ns` is from data ready, or from a read that left some, to this read.
        KIND_READ = 1,
        /// A send took long: TCP's send buffer was full.
        KIND_SEND = 2,
        /// Reads of one namespace, second and bucket: only `head.netns`, `count`, `latency_ns` (their sum)
        /// and `bucket` are set. Those that have records of their own are among them.
        KIND_READS = 3,
        /// Sends of one namespace, second and bucket, as [`KIND_READS`].
        KIND_SENDS = 4,
    }
}

/// What it hooks, what that costs, and which questions rest on it.
pub const DESCRIPTION: Description = Description {
    class: Class::High,
    answers: &[],
    hooks: &[
        tp_btf("sk_data_ready", &[args(1, "sk_data_ready")])
            .gives("slow reads")
            .delivers("the start of waits")
            .since(6, 3)
            .cost(132, 48_000)
            .detail(),
        tp_btf("sock_recv_length", &[args(3, "sock_recv_length")])
            .gives("slow reads")
            .delivers(
                "time from data ready to read, added up per namespace and bucket; details above 100 ms with \
                 process",
            )
            .since(6, 3)
            .cost(254, 48_000)
            .detail(),
        tp_btf("sock_send_length", &[args(3, "sock_send_length")])
            .gives("slow sends")
            .delivers("time of TCP sends, as reads")
            .since(6, 3)
            .cost(121, 114_000)
            .detail(),
        tp_btf("tcp_sendmsg_locked", &[args(4, "tcp_sendmsg_locked")])
            .gives("slow sends")
            .delivers("the start of sends")
            .since(6, 16)
            .cost(135, 42_000)
            .detail(),
    ],
    append_sum: Some(sum::append::<SocketLatency>),
};

record! {
    /// A read or send that took more than 100 ms, whose `saddr` is the local side; or many, added up.
    SocketLatency, probe "socket-latency", schema 1, c "socket_latency",
    {
        /// How long, in nanoseconds.
        latency_ns: u64,
        /// Reads or sends that this record stands for: 1, or more in a sum.
        count: u64,
        /// Bytes read or sent; 0 if the send failed.
        bytes: u32,
        /// What the read left unread: bytes (TCP) or datagrams.
        left: u32,
        /// Process that read or sent, in the host's numbering.
        pid: u32,
        /// Name of its thread, ended by a zero byte.
        comm: [u8; 16],
        /// Bucket of its latency ([`crate::sum::BOUNDS_NS`]).
        bucket: u16,
    } pad { pad: [u8; 2], }
}

impl Summed for SocketLatency {
    fn of_sum(head: Head, key: &Key, sum: &Sum) -> SocketLatency {
        let kind = if key.what == u64::from(KIND_READ) { KIND_READS } else { KIND_SENDS };
        SocketLatency {
            head: Head { kind, ..head },
            latency_ns: sum.total,
            count: sum.count,
            bucket: key.detail,
            ..SocketLatency::new_zeroed()
        }
    }
}

impl SocketLatency {
    /// Name of the thread that read or sent; what is no UTF-8 is replaced.
    pub fn thread_name(&self) -> String {
        text(&self.comm)
    }
}
