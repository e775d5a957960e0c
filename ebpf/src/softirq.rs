//! Mirror of `softirq.bpf.c`.

use zerocopy::FromZeros;

use crate::catalog::{Class, Description};
use crate::hook::{args, tp_btf};
use crate::record::{Head, constants, record};
use crate::sum::{self, Key, Sum, Summed};

constants! {
    enum softirq_kind: u16 {
        /// One wait or run of more than 10 ms.
        KIND_SLOW = 1,
        /// All waits or runs of one vector, CPU and bucket in a second, the slow ones among them: only
        /// `head.cpu`, `count`, `duration_ns`, `bucket`, `vector` and `phase` are set.
        KIND_SUM = 2,
    }
    enum softirq_vector: u8 {
        /// `NET_TX_SOFTIRQ`: transmission goes on.
        NET_TX = 2,
        /// `NET_RX_SOFTIRQ`: packets are received.
        NET_RX = 3,
    }
    enum softirq_phase: u8 {
        /// From the first raise to the entry.
        PHASE_WAIT = 0,
        /// From the entry to the exit.
        PHASE_RUN = 1,
    }
}

/// What it hooks, what that costs, and which questions rest on it.
pub const DESCRIPTION: Description = Description {
    class: Class::Medium,
    answers: &["latency"],
    hooks: &[
        tp_btf("softirq_raise", &[args(1, "softirq_raise")])
            .gives("time that soft interrupts wait")
            .delivers("the start of waits of NET_RX and NET_TX, with the task on the CPU")
            .cost(152, 131_000),
        tp_btf("softirq_entry", &[args(1, "softirq_entry")])
            .gives("time that soft interrupts wait or run")
            .delivers("waits, added up per vector, CPU and bucket; details above 10 ms with both tasks")
            .cost(175, 131_000),
        tp_btf("softirq_exit", &[args(1, "softirq_exit")])
            .gives("time that soft interrupts run")
            .delivers("runs, as waits")
            .cost(167, 131_000),
    ],
    append_sum: Some(sum::append::<Softirq>),
};

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
