//! Every source there is, and the thread that reads it.

use std::io;

use super::proc_net::{self, read as files};
use super::processes::Processes;
use super::rows::Rows;
use super::{conntrack, nat, netdev, qdisc, tcpsummary};

/// What the sources of a thread wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Nothing: counters that the kernel adds up and prints.
    Files,
    /// The lock of rtnetlink, which whoever configures a device holds.
    Links,
    /// The table of tracked connections.
    Conntrack,
    /// The same table, each entry of it.
    Translations,
    /// The hash table of TCP sockets.
    Sockets,
    /// Other processes' descriptors.
    Processes,
}

impl Kind {
    pub(super) const ALL: [Self; 6] =
        [Self::Files, Self::Links, Self::Conntrack, Self::Translations, Self::Sockets, Self::Processes];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Files => "source-files",
            Self::Links => "source-links",
            Self::Conntrack => "source-conntrk",
            Self::Translations => "source-nat",
            Self::Sockets => "source-sockets",
            Self::Processes => "source-procs",
        }
    }

    /// Its cost grows with what runs on the machine, not with the number of entities.
    pub(super) fn is_heavy(self) -> bool {
        matches!(self, Self::Translations | Self::Sockets | Self::Processes)
    }

    pub(super) fn sources(self) -> impl Iterator<Item = &'static Source> {
        SOURCES.iter().filter(move |source| source.thread == self)
    }
}

/// One kind of table.
pub(super) struct Source {
    pub(super) name: &'static str,
    pub(super) thread: Kind,
    /// Its numbers are the machine's, whatever namespace they are read in.
    pub(super) host_only: bool,
    pub(super) read: Read,
}

pub(super) enum Read {
    /// In the namespace of the calling thread.
    Inside(fn() -> io::Result<Rows>),
    /// From the processes of a namespace, by its inode.
    Processes(fn(&Processes, u64) -> io::Result<Rows>),
}

/// A source of a namespace.
const fn source(name: &'static str, thread: Kind, read: fn() -> io::Result<Rows>) -> Source {
    Source { name, thread, host_only: false, read: Read::Inside(read) }
}

/// Every source there is.
pub(super) const SOURCES: &[Source] = &[
    source("snmp", Kind::Files, || files(&["snmp", "snmp6"], proc_net::snmp)),
    source("netstat", Kind::Files, || files(&["netstat"], proc_net::netstat)),
    source("sockstat", Kind::Files, || files(&["sockstat", "sockstat6"], proc_net::sockstat)),
    source("ipvs", Kind::Files, || files(&["ip_vs_stats"], proc_net::ipvs)),
    Source {
        host_only: true,
        ..source("softnet", Kind::Files, || files(&["softnet_stat"], proc_net::softnet))
    },
    source("netdev", Kind::Links, netdev::read),
    source("qdisc", Kind::Links, qdisc::read),
    source("conntrack", Kind::Conntrack, conntrack::read),
    source("nat", Kind::Translations, nat::read),
    source("tcpsummary", Kind::Sockets, tcpsummary::read),
    Source {
        read: Read::Processes(Processes::descriptors),
        ..source("fd", Kind::Processes, || Ok(Rows::default()))
    },
    Source { read: Read::Processes(Processes::io), ..source("io", Kind::Processes, || Ok(Rows::default())) },
];
