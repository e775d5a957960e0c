//! What a program of a probe is attached to.

/// One kernel hook of a probe.
#[derive(Debug)]
pub struct Hook {
    /// Where it is, and the programs for it.
    pub attach: Attach,
    /// What is lost without it, in users' words.
    pub gives: &'static str,
}

/// A kind of hook.
#[derive(Debug)]
pub enum Attach {
    /// A tracepoint whose arguments are typed pointers (5.5 and later).
    TpBtf {
        /// Tracepoint as BTF names it, without `btf_trace_`.
        tracepoint: &'static str,
        /// Programs for it; the one whose argument count is the running kernel's is loaded.
        variants: &'static [Variant],
    },
    /// Every packet that a socket of the cgroup v2 tree sends or receives, in all namespaces: it
    /// is attached to the root of that tree (4.10 and later).
    CgroupSkb {
        /// Which packets.
        direction: Direction,
        /// Program name in the object.
        program: &'static str,
    },
    /// A function of the kernel, where no tracepoint tells. Kernels without kprobes exist.
    KProbe {
        /// Its names on different kernels; the first that the kernel has is taken.
        symbols: &'static [&'static str],
        /// Where in it.
        point: Point,
        /// Program name in the object.
        program: &'static str,
    },
}

/// Where in a function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Point {
    /// When it is called.
    Entry,
    /// When it returns.
    Return,
}

/// A program for one shape of a tracepoint.
#[derive(Debug)]
pub struct Variant {
    /// Arguments of the tracepoint, without the context.
    pub args: usize,
    /// Program name in the object.
    pub program: &'static str,
}

/// Packets that a socket receives, or sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Received, when the socket's filters look at them.
    Ingress,
    /// Sent, after routing; forwarded packets have no socket and are not seen.
    Egress,
}

impl Hook {
    /// A tracepoint with one program per argument count.
    pub const fn tp_btf(tracepoint: &'static str, variants: &'static [Variant], gives: &'static str) -> Hook {
        Hook { attach: Attach::TpBtf { tracepoint, variants }, gives }
    }

    /// The packets of all sockets.
    pub const fn cgroup_skb(direction: Direction, program: &'static str, gives: &'static str) -> Hook {
        Hook { attach: Attach::CgroupSkb { direction, program }, gives }
    }

    /// A function, under the first of these names that the kernel has.
    pub const fn kprobe(
        symbols: &'static [&'static str],
        point: Point,
        program: &'static str,
        gives: &'static str,
    ) -> Hook {
        Hook { attach: Attach::KProbe { symbols, point, program }, gives }
    }

    /// Its name for people, e.g. `tp_btf/kfree_skb` or `cgroup_skb/egress`.
    pub fn name(&self) -> String {
        match &self.attach {
            Attach::TpBtf { tracepoint, .. } => format!("tp_btf/{tracepoint}"),
            Attach::CgroupSkb { direction: Direction::Ingress, .. } => "cgroup_skb/ingress".to_owned(),
            Attach::CgroupSkb { direction: Direction::Egress, .. } => "cgroup_skb/egress".to_owned(),
            Attach::KProbe { symbols, point: Point::Entry, .. } => format!("kprobe/{}", symbols[0]),
            Attach::KProbe { symbols, point: Point::Return, .. } => format!("kretprobe/{}", symbols[0]),
        }
    }
}

/// The program for this number of arguments.
pub(crate) const fn args(args: usize, program: &'static str) -> Variant {
    Variant { args, program }
}
