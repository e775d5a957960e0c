//! What a program of a probe is attached to, since when kernels have that, and what it costs.

use std::fmt;

/// A version of the kernel, e.g. `Kernel(5, 8)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Kernel(pub u32, pub u32);

impl Kernel {
    /// No program of any probe loads on an older one: ring buffers, `CAP_BPF` and
    /// `bpf_ktime_get_boot_ns` (commit 71d19214776e) came with it.
    pub const FLOOR: Kernel = Kernel(5, 8);
    /// What the README asks for: every hook that a question rests on is there. 5.9 brought
    /// `bpf_skc_to_tcp_sock` (commit 478cfbdf5f13), which most programs on TCP call.
    pub const MINIMUM: Kernel = Kernel(5, 9);

    /// The version that a release such as `6.12.9-amd64` begins with; `None` if it is none.
    pub fn of_release(release: &str) -> Option<Kernel> {
        let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map_while(|part| part.parse().ok());
        Some(Kernel(numbers.next()?, numbers.next()?))
    }
}

impl fmt::Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0, self.1)
    }
}

/// What a program costs, as the kernel measured it (`kernel.bpf_stats_enabled=1`).
#[derive(Debug, Clone, Copy)]
pub struct Cost {
    /// Mean run time in nanoseconds.
    pub ns: u32,
    /// Over how many runs: few of them end in a record and find cold caches.
    pub runs: u32,
}

/// One kernel hook of a probe.
#[derive(Debug)]
pub struct Hook {
    /// Where it is, and the programs for it.
    pub attach: Attach,
    /// What is lost without it, in users' words; reports put it behind "no".
    pub gives: &'static str,
    /// What it adds to the records, for the table of the README.
    pub delivers: &'static str,
    /// The first kernel that has the hook and all that its programs call. Some later releases of
    /// older kernels may have it too; whether this one does is tried and never concluded from here.
    pub since: Kernel,
    /// What else there is to say of versions, e.g. `with the packet since 6.10`.
    pub versions: &'static str,
    /// Measured cost of a run; `None` if nobody has measured it.
    pub cost: Option<Cost>,
    /// Whether the rest of the probe is worth as much without it. A probe that lacks anything else is
    /// too blind for the questions that rest on it.
    pub is_detail: bool,
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

/// A tracepoint, with one program per number of arguments that it has on different kernels.
pub(crate) const fn tp_btf(tracepoint: &'static str, variants: &'static [Variant]) -> Hook {
    Hook::of(Attach::TpBtf { tracepoint, variants })
}

/// The packets of all sockets.
pub(crate) const fn cgroup_skb(direction: Direction, program: &'static str) -> Hook {
    Hook::of(Attach::CgroupSkb { direction, program })
}

/// A function, under the first of these names that the kernel has.
pub(crate) const fn kprobe(symbols: &'static [&'static str], point: Point, program: &'static str) -> Hook {
    Hook::of(Attach::KProbe { symbols, point, program })
}

/// The program for this number of arguments, the context not counted.
pub(crate) const fn args(args: usize, program: &'static str) -> Variant {
    Variant { args, program }
}

/// Programs for `kfree_skb` that read only its first argument, which all kernels have.
pub(crate) const ANY_KFREE_SKB: &[Variant] =
    &[args(4, "kfree_skb"), args(3, "kfree_skb"), args(2, "kfree_skb")];

impl Hook {
    const fn of(attach: Attach) -> Hook {
        Hook {
            attach,
            gives: "",
            delivers: "",
            since: Kernel::FLOOR,
            versions: "",
            cost: None,
            is_detail: false,
        }
    }

    /// What is lost without it ([`Hook::gives`]).
    pub(crate) const fn gives(self, gives: &'static str) -> Hook {
        Hook { gives, ..self }
    }

    /// What it adds to the records ([`Hook::delivers`]).
    pub(crate) const fn delivers(self, delivers: &'static str) -> Hook {
        Hook { delivers, ..self }
    }

    /// The first kernel that has it, if that is later than [`Kernel::FLOOR`].
    pub(crate) const fn since(self, major: u32, minor: u32) -> Hook {
        Hook { since: Kernel(major, minor), ..self }
    }

    /// What else there is to say of versions ([`Hook::versions`]).
    pub(crate) const fn versions(self, versions: &'static str) -> Hook {
        Hook { versions, ..self }
    }

    /// Mean nanoseconds over so many runs ([`Hook::cost`]).
    pub(crate) const fn cost(self, ns: u32, runs: u32) -> Hook {
        Hook { cost: Some(Cost { ns, runs }), ..self }
    }

    /// The probe is worth as much without it ([`Hook::is_detail`]).
    pub(crate) const fn detail(self) -> Hook {
        Hook { is_detail: true, ..self }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_as_numbers() {
        let of = |release| Kernel::of_release(release);
        assert!(of("5.10.0-8-amd64") > Some(Kernel(5, 8)));
        assert!(of("6.12.9+deb13-amd64") > Some(Kernel(6, 9)));
        assert_eq!(of("5.8.0"), Some(Kernel::FLOOR));
        assert!(of("4.19.0") < Some(Kernel::FLOOR));
        assert_eq!(of("unknown"), None);
    }
}
