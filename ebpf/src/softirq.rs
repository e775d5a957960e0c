//! Mirror of `softirq.bpf.c`.

use zerocopy::FromZeros;

use crate::record::{Head, record};
use crate::sum::{Key, Sum, Summed};

/// One wait or run of more than 10 ms.
pub const KIND_SLOW: u16 = 1;
/// All waits or runs of one vector, CPU and bucket in a second, the slow ones among them: only
/// `head.cpu`, `count`, `duration_ns`, `bucket`, `vector` and `phase` are set.
pub const KIND_SUM: u16 = 2;

/// `NET_TX_SOFTIRQ`: transmission goes on.
pub const NET_TX: u8 = 2;
/// `NET_RX_SOFTIRQ`: packets are received.
pub const NET_RX: u8 = 3;

/// From the first raise to the entry.
pub const PHASE_WAIT: u8 = 0;
/// From the entry to the exit.
pub const PHASE_RUN: u8 = 1;

record! {
    /// Soft interrupts of the network; `head.netns` is 0, they belong to the node.
    Softirq, probe "softirq", schema 1, c "softirq",
    {
        /// Waits or runs this record stands for: 1, or more in a sum.
        count: u64,
        /// Duration of all of them, in nanoseconds.
        duration_ns: u64,
        /// Task on the CPU at the end of the wait, or of the run (`task->comm`, padded with zeros);
        /// `ksoftirqd/N` if the work was left to that thread.
        comm: [u8; 16],
        /// Task on the CPU when it was raised.
        raised_comm: [u8; 16],
        /// Thread id of `comm`, 0 = idle.
        pid: u32,
        /// Thread id of `raised_comm`.
        raised_pid: u32,
        /// Bucket of each of them, see `sum::BOUNDS_NS`.
        bucket: u16,
        /// `NET_*`.
        vector: u8,
        /// `PHASE_*`.
        phase: u8,
    } pad { pad: u32, }
}

impl Summed for Softirq {
    fn of_sum(head: Head, key: &Key, sum: &Sum) -> Softirq {
        Softirq {
            head: Head { kind: KIND_SUM, cpu: key.which as u16, ..head },
            count: sum.count,
            duration_ns: sum.total,
            bucket: key.detail & 0xff,
            vector: key.what as u8,
            phase: (key.detail >> 8) as u8,
            ..Softirq::new_zeroed()
        }
    }
}
