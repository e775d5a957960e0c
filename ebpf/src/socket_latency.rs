//! Mirror of `socket_latency.bpf.c`.

use zerocopy::FromZeros;

use crate::record::{Head, record, text};
use crate::sum::{Key, Sum, Summed};

/// Data waited unread; `latency_ns` is from data ready, or from a read that left some, to this read.
pub const KIND_READ: u16 = 1;
/// A send took long: TCP's send buffer was full.
pub const KIND_SEND: u16 = 2;

/// Reads of one namespace, second and bucket: only `head.netns`, `count`, `latency_ns` (their sum)
/// and `bucket` are set. Those that have records of their own are among them.
pub const KIND_READS: u16 = 3;
/// Sends of one namespace, second and bucket, as [`KIND_READS`].
pub const KIND_SENDS: u16 = 4;

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
