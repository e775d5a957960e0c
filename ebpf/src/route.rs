//! Mirror of `route.bpf.c`.

use std::net::IpAddr;

use crate::record::{record, text};

/// A route refuses what a program wants to connect or send to, or there is none.
pub const KIND_REFUSED: u16 = 1;

/// No route matches (`RTN_*` of `linux/rtnetlink.h`, user ABI).
pub const RTN_UNSPEC: u8 = 0;
/// Drops silently; the program is told `EINVAL`.
pub const RTN_BLACKHOLE: u8 = 6;
/// The program is told `EHOSTUNREACH`.
pub const RTN_UNREACHABLE: u8 = 7;
/// The program is told `EACCES`.
pub const RTN_PROHIBIT: u8 = 8;

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

/// IP protocol number of UDP.
const UDP: u8 = 17;
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
        let may_choose = self.head.proto == UDP && is_connect && self.head.dport != DNS;
        self.route_type == RTN_UNSPEC && (has_no_ipv6 || may_choose)
    }
}
