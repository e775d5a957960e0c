//! Mirror of `route.bpf.c`.

use std::net::IpAddr;

use crate::catalog::{Class, Description};
use crate::hook::{args, tp_btf};
use crate::kernel::IPPROTO_UDP;
use crate::record::{constants, record, text};

constants! {
    enum route_kind: u16 {
        /// A route refuses what a program wants to connect or send to, or there is none.
        KIND_REFUSED = 1,
    }
    enum route_type: u8 {
        /// No route matches (`RTN_*` of `linux/rtnetlink.h`, user ABI).
        RTN_UNSPEC = 0,
        /// Drops silently; the program is told `EINVAL`.
        RTN_BLACKHOLE = 6,
        /// The program is told `EHOSTUNREACH`.
        RTN_UNREACHABLE = 7,
        /// The program is told `EACCES`.
        RTN_PROHIBIT = 8,
    }
}

/// What it hooks, what that costs, and which questions rest on it.
pub const DESCRIPTION: Description = Description {
    class: Class::Low,
    answers: &[],
    hooks: &[
        tp_btf("fib_table_lookup", &[args(4, "fib_table_lookup")])
            .gives("connects and sends that an IPv4 route refuses")
            .delivers(
                "connects and sends of programs that an IPv4 route refuses, or that have none: errno, type, \
                 table, process, 5-tuple as far as it is chosen",
            )
            .cost(80, 100_000),
        tp_btf("fib6_table_lookup", &[args(4, "fib6_table_lookup")])
            .gives("connects and sends that an IPv6 route refuses")
            .delivers("the same over IPv6")
            .cost(58, 200_000),
    ],
    append_sum: None,
};

record! {
    /// A connect or a send of this node that a route refuses. The head has what the program asks for:
    /// `saddr` and `sport` are not set where it has not chosen any (a TCP connect over IPv4).
    ///
    /// `netns` is certain over IPv6 and where `in_socket` is set. Else it is that of the task, which is
    /// wrong if that sends on a socket of another namespace.
    Route, probe "route", schema 1, c "route",
    {
        /// What the route says, as a positive errno: 22, 113, 13, or 101 where there is none.
        error: u32,
        /// Routing table that refuses; without a route the main one.
        table: u32,
        /// Interface that the socket is bound to, 0 = none.
        ifindex: u32,
        /// Process in whose system call it was, 0 = none (a timer of the socket).
        pid: u32,
        /// Name of its thread, ended by a zero byte.
        comm: [u8; 16],
        /// `RTN_*`.
        route_type: u8,
        /// 1: asked with the flow that the socket keeps (TCP, and a connect of a datagram socket; over
        /// IPv6 some kernels only); 0: with one on the task's stack.
        in_socket: u8,
    } pad { pad: [u8; 6], }
}

/// Port of name servers.
const DNS: u16 = 53;

impl Route {
    /// Name of the thread that asked, empty if none did; what is no UTF-8 is replaced.
    pub fn thread_name(&self) -> String {
        text(&self.comm)
    }

    /// Whether a missing route may be no trouble at all: programs try IPv6 where nothing but the
    /// loopback and the link has it, and they choose among the addresses of a name (RFC 6724) by
    /// connecting datagram sockets that send nothing. Over IPv6 a connect looks as a send does. A
    /// resolver connects too, but to ask.
    pub fn is_usual(&self) -> bool {
        let has_no_ipv6 = match self.head.source() {
            IpAddr::V6(ip) => ip.is_loopback() || ip.is_unicast_link_local(),
            IpAddr::V4(_) => false,
        };
        let is_connect = self.in_socket == 1 || self.head.destination().is_ipv6();
        let may_choose = self.head.proto == IPPROTO_UDP && is_connect && self.head.dport != DNS;
        self.route_type == RTN_UNSPEC && (has_no_ipv6 || may_choose)
    }
}
