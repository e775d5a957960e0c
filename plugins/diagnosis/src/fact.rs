//! One kind of thing that happened to one flow of one entity, in numbers and without names, so that
//! counting another one costs a hash and a comparison.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use inspector_sdk::errno::ETIMEDOUT;
use inspector_sdk::icmp::{IcmpError, Meaning};
use inspector_sdk::probes::Head;
use inspector_sdk::probes::neighbour::{KIND_DEAD, KIND_FAILED, KIND_UNANSWERED};
use inspector_sdk::probes::record::{FLAG_PACKET, FLAG_PORTS, FLAG_SOCKET};
use inspector_sdk::probes::tcp_retransmit::WHY_SYN;
use inspector_sdk::tcp::{ACK, RST, SYN, SYN_SENT};
use inspector_sdk::{EntityId, Timestamp, protocol};

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum What {
    /// A packet was dropped.
    Drop(Drop),
    /// A local stack sent a reset; `from` is its sender.
    ResetSent(Reset),
    /// A local socket received a reset; `from` is the local side.
    ResetReceived {
        /// Its state (`TCP_*`).
        state: u8,
    },
    /// A segment was retransmitted; the most is how many timeouts in a row that made.
    Retransmit {
        /// `WHY_*` of the probe tcp-retransmit.
        why: u8,
    },
    /// A listener retransmitted a SYN-ACK.
    SynAckRetransmit,
    /// A connection was opened from here; the total is its latency.
    Connected,
    /// A connection was accepted here.
    Accepted,
    /// A connect failed.
    ConnectFailed {
        /// errno, 0 = none.
        error: u32,
        /// It never had a local port.
        portless: bool,
        /// It had waited longer than the way there and back takes.
        waited: bool,
    },
    /// A connection ended.
    Closed {
        /// errno, 0 = none.
        error: u32,
    },
    /// An error was reported to a socket.
    SocketError {
        /// errno.
        error: u32,
    },
    /// The protocol's or the cgroup's memory limit refused a socket memory.
    MemoryRefused,
    /// A UDP socket had no room for a datagram.
    UdpRefused {
        /// `ENOMEM`: its own limit; `ENOBUFS`: the protocol's.
        error: u32,
    },
    /// A route refused a local send or connect.
    RouteRefused {
        /// errno.
        error: u32,
    },
    /// An ICMP error was sent; the flow is that of the packet it is about.
    IcmpSent(IcmpError),
    /// Trouble with a host on the link; `to` is its address.
    Neighbour {
        /// `KIND_*` of the probe neighbour.
        kind: u16,
        /// It was never known.
        never_known: bool,
    },
    /// A DNS query left its client.
    DnsQuery,
    /// A DNS query has waited too long for its answer.
    DnsUnanswered,
    /// A DNS answer reached its client; the total is its latency.
    DnsAnswer {
        /// Response code.
        rcode: u8,
        /// Its query was observed.
        matched: bool,
        /// Its query is a [`What::DnsUnanswered`] as well.
        overdue: bool,
        /// It took long.
        slow: bool,
    },
    /// As many bytes as at the reading before were unread in TCP sockets; the most is for how long.
    Unread,
    /// Bytes waited in the queues of devices; the values are how long, at the speed of the moment.
    Queued,
    /// Data waited for a read; the total is how long.
    SlowRead,
    /// A send waited for room; the total is how long.
    SlowSend,
    /// A soft interrupt of the network waited (or ran) for long; the total is how long.
    SlowSoftirq {
        /// It waited.
        waited: bool,
    },
}

impl What {
    /// Whether the flow begins at who opens a connection, and the connection is still being opened.
    pub(crate) fn is_of_client(&self) -> bool {
        matches!(
            self,
            Self::Retransmit { why: WHY_SYN }
                | Self::ConnectFailed { .. }
                | Self::ResetReceived { state: SYN_SENT }
        )
    }

    /// The ICMP error that was sent.
    pub fn icmp_error(&self) -> Option<IcmpError> {
        match self {
            Self::IcmpSent(error) => Some(*error),
            _ => None,
        }
    }

    /// Whether an ICMP error was sent that says this.
    pub fn is_icmp(&self, meaning: Meaning) -> bool {
        self.icmp_error().is_some_and(|error| error.meaning() == meaning)
    }

    /// Whether a connection was opened or accepted.
    pub fn is_open(&self) -> bool {
        matches!(self, Self::Connected | Self::Accepted)
    }

    /// Whether a segment was retransmitted, for whatever reason.
    pub fn is_retransmit(&self) -> bool {
        matches!(self, Self::Retransmit { .. })
    }

    /// Whether a reset was received.
    pub fn is_reset_received(&self) -> bool {
        matches!(self, Self::ResetReceived { .. })
    }

    /// Whether a host on the link was asked for in vain, at least once.
    pub fn is_unresolved(&self) -> bool {
        matches!(self, Self::Neighbour { kind: KIND_FAILED | KIND_DEAD | KIND_UNANSWERED, .. })
    }

    /// Whether a connect waits for its answer, or ended without any. The kernel retransmits the first
    /// SYN after a second; who gives up earlier leaves nothing else.
    pub fn is_silence(&self) -> bool {
        matches!(
            self,
            Self::Retransmit { why: WHY_SYN }
                | Self::ConnectFailed { error: ETIMEDOUT, .. }
                | Self::ConnectFailed { error: 0, waited: true, .. }
        )
    }
}

/// A dropped packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Drop {
    /// Number of the reason on this kernel.
    pub reason: u32,
    /// Address of the call that dropped it.
    pub location: u64,
    /// Ethernet protocol.
    pub ethertype: u16,
    /// What the segment was.
    pub segment: Segment,
    /// The frame was for a multicast or the broadcast address.
    pub is_multicast: bool,
    /// A socket was found for it.
    pub with_socket: bool,
}

/// A reset that was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reset {
    /// Number of the reason on this kernel; `None` on kernels before 6.10.
    pub reason: Option<u32>,
    /// The segment that provoked it.
    pub segment: Segment,
    /// A socket was involved.
    pub with_socket: bool,
    /// Its state (`TCP_*`).
    pub state: u8,
}

/// What a TCP segment was, as far as that tells faults apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Segment {
    /// No TCP, or there was none.
    None,
    /// Opens a connection.
    Syn,
    /// Answers one that opens.
    SynAck,
    /// Resets.
    Rst,
    /// Belongs to an open connection.
    Other,
}

impl Segment {
    /// By the flags byte of the TCP header.
    pub fn of(flags: u8) -> Self {
        match (flags & SYN != 0, flags & ACK != 0, flags & RST != 0) {
            _ if flags == 0 => Self::None,
            (_, _, true) => Self::Rst,
            (true, false, _) => Self::Syn,
            (true, true, _) => Self::SynAck,
            _ => Self::Other,
        }
    }
}

/// Who talks to whom. A port that is 0 is not told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Flow {
    /// The sender or local side, IPv4 as v4-mapped IPv6; zeros = unknown.
    pub from: [u8; 16],
    /// The receiver or peer.
    pub to: [u8; 16],
    /// Port of `from`.
    pub sport: u16,
    /// Port of `to`.
    pub dport: u16,
    /// IP protocol.
    pub proto: u8,
    /// The only entity in which it can be, for a loopback address: each has its own; 0 = any.
    pub within: EntityId,
}

/// Lowest port that the kernel gives to clients (`net.ipv4.ip_local_port_range`).
const EPHEMERAL: u16 = 32_768;

impl Flow {
    /// Nobody known.
    pub const NONE: Self = Self { from: [0; 16], to: [0; 16], sport: 0, dport: 0, proto: 0, within: 0 };

    /// That of a record.
    pub fn of(head: &Head) -> Self {
        if head.flags & (FLAG_PACKET | FLAG_SOCKET) == 0 {
            return Self { to: head.daddr, ..Self::NONE }.at(head.entity);
        }
        let (sport, dport) = if head.flags & FLAG_PORTS == 0 { (0, 0) } else { (head.sport, head.dport) };
        let Head { saddr: from, daddr: to, proto, .. } = *head;
        Self { from, to, sport, dport, proto, within: 0 }.at(head.entity)
    }

    /// As it was seen at an entity.
    #[must_use]
    pub fn at(self, entity: EntityId) -> Self {
        let is_inside = self.source().is_loopback() || self.destination().is_loopback();
        Self { within: if is_inside { entity } else { 0 }, ..self }
    }

    /// Without the port of the side that is no service: connections to one service are one flow.
    #[must_use]
    pub fn of_service(self) -> Self {
        match (self.sport >= EPHEMERAL, self.dport >= EPHEMERAL) {
            (true, false) => Self { sport: 0, ..self },
            (false, true) => Self { dport: 0, ..self },
            _ if self.dport <= self.sport => Self { sport: 0, ..self },
            _ => Self { dport: 0, ..self },
        }
    }

    /// Whether both are of one conversation, in whichever direction. What is not known meets nothing.
    pub fn meets(&self, other: &Self) -> bool {
        if !self.is_known() || !other.is_known() {
            return false;
        }
        let port = |a: u16, b: u16| a == b || a == 0 || b == 0;
        let same = |o: &Self| {
            (self.from, self.to, self.proto, self.within) == (o.from, o.to, o.proto, o.within)
                && port(self.sport, o.sport)
                && port(self.dport, o.dport)
                && (self.from != self.to || self.shares_port(o))
        };
        same(other) || same(&other.back())
    }

    /// Between two ports of one address nothing else tells which is the service.
    fn shares_port(&self, other: &Self) -> bool {
        let has_port = |flow: &Self| flow.sport != 0 || flow.dport != 0;
        let is_same = |a: u16, b: u16| a == b && a != 0;
        !has_port(self)
            || !has_port(other)
            || is_same(self.sport, other.sport)
            || is_same(self.dport, other.dport)
    }

    /// Whether one of its ends is where `other` begins.
    fn has_end(&self, other: &Self) -> bool {
        other.sport != 0 && (self.begin() == other.begin() || self.back().begin() == other.begin())
    }

    /// Where it begins: address, port, protocol, and of a loopback address the only entity that has it.
    pub(crate) fn begin(&self) -> ([u8; 16], u16, u8, EntityId) {
        let within = if self.source().is_loopback() { self.within } else { 0 };
        (self.from, self.sport, self.proto, within)
    }

    /// Whether all ports are told apart.
    pub fn is_exact(&self) -> bool {
        self.sport != 0 && self.dport != 0
    }

    /// The other direction.
    #[must_use]
    pub fn back(self) -> Self {
        Self { from: self.to, to: self.from, sport: self.dport, dport: self.sport, ..self }
    }

    /// Whether addresses are known.
    pub fn is_known(&self) -> bool {
        self.to != [0; 16]
    }

    /// Address of the sender.
    pub fn source(&self) -> IpAddr {
        Ipv6Addr::from(self.from).to_canonical()
    }

    /// Address of the receiver.
    pub fn destination(&self) -> IpAddr {
        Ipv6Addr::from(self.to).to_canonical()
    }

    /// `10.0.0.2:80`, where it is sent to.
    pub fn receiver(&self) -> String {
        SocketAddr::new(self.destination(), self.dport).to_string()
    }

    /// `10.0.0.1 -> 10.0.0.2:80`, without ports that are not told apart.
    pub fn show(&self) -> String {
        let at = |ip: IpAddr, port: u16| match port {
            0 => ip.to_string(),
            port => SocketAddr::new(ip, port).to_string(),
        };
        if self.from == [0; 16] {
            return at(self.destination(), self.dport);
        }
        format!("{} -> {}", at(self.source(), self.sport), at(self.destination(), self.dport))
    }

    /// One text for both directions and both ends, e.g. `TCP 10.0.0.1 10.0.0.2:80`.
    pub fn canonical(&self) -> String {
        let mut ends = [(self.from, self.sport), (self.to, self.dport)];
        ends.sort_unstable();
        let show = |(ip, port): ([u8; 16], u16)| {
            let ip = Ipv6Addr::from(ip).to_canonical();
            if port == 0 { ip.to_string() } else { SocketAddr::new(ip, port).to_string() }
        };
        format!("{} {} {}", protocol::name(self.proto), show(ends[0]), show(ends[1]))
    }
}

/// Whose it is, what it is, and on which flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// The entity it happened at; 0 = unknown.
    pub entity: EntityId,
    /// What happened.
    pub what: What,
    /// Between whom.
    pub flow: Flow,
}

impl Key {
    /// Whether it is about a conversation, also where the address that a client connects to was
    /// translated on the way (NAT): the client's own end is the same before and behind that.
    pub fn concerns(&self, flow: &Flow) -> bool {
        self.flow.meets(flow) || (self.what.is_of_client() && flow.has_end(&self.flow))
    }
}

/// How often, when, and how much.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Amount {
    /// How often.
    pub count: u64,
    /// Sum of what each brought along: nanoseconds or bytes.
    pub total: u64,
    /// The smallest and the largest.
    pub least: u64,
    /// See `least`.
    pub most: u64,
    /// When the first one happened.
    pub first: Timestamp,
    /// When the last one happened.
    pub last: Timestamp,
}

impl Amount {
    /// `count` at one time; `value` is what each brought along.
    pub fn new(at: Timestamp, count: u64, value: u64) -> Self {
        let total = value.saturating_mul(count);
        Self { count, total, least: value, most: value, first: at, last: at }
    }

    /// Adds more of the same.
    pub fn add(&mut self, more: &Self) {
        self.count += more.count;
        self.total = self.total.saturating_add(more.total);
        self.least = self.least.min(more.least);
        self.most = self.most.max(more.most);
        self.first = self.first.min(more.first);
        self.last = self.last.max(more.last);
    }
}

/// What comes this much before what was there is not late: the clock was set back.
pub const CLOCK_STEP_NS: u64 = 60_000_000_000;

/// Sorts, and makes one of those with one key.
pub fn merge<K: Ord>(amounts: &mut Vec<(K, Amount)>) {
    amounts.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
    amounts.dedup_by(|(key, more), (kept, sum)| {
        let is_same = key == kept;
        if is_same {
            sum.add(more);
        }
        is_same
    });
    amounts.shrink_to_fit();
}

#[cfg(test)]
mod tests {
    use inspector_sdk::testing::head;

    use super::*;

    #[test]
    fn both_ends_of_a_conversation_meet() {
        let there = Flow::of(&head("10.0.0.1:40000", "10.0.0.2:80"));
        assert!(there.meets(&Flow::of(&head("10.0.0.2:80", "10.0.0.1:40000"))));
        assert!(there.meets(&there.of_service().back()));
        assert!(!there.meets(&Flow::of(&head("10.0.0.1:40001", "10.0.0.2:80"))));
        assert!(!there.meets(&Flow::of(&head("10.0.0.3:40000", "10.0.0.2:80"))));
    }

    #[test]
    fn who_talks_to_himself_has_one_conversation_for_each_service() {
        let to = |port: &str| Flow::of(&head("127.0.0.1:40000", &format!("127.0.0.1:{port}")));
        let accepted = |port: &str| Flow { dport: 0, ..to(port).back() };
        assert!(
            to("80").meets(&to("80").of_service().back()) && to("80").of_service().meets(&accepted("80"))
        );
        assert!(!to("80").of_service().meets(&to("81").of_service()));
        assert!(!to("80").of_service().meets(&accepted("81")));
        assert!(!to("80").of_service().meets(&to("81").of_service().back()));
        let pair = Flow { sport: 0, dport: 0, ..to("80") };
        assert!(pair.meets(&to("81")) && to("81").of_service().meets(&pair));
    }

    #[test]
    fn a_loopback_address_is_another_one_at_each_entity() {
        let at = |entity, to| Flow::of(&Head { entity, ..head("127.0.0.1:40000", to) });
        assert!(at(1, "127.0.0.1:80").meets(&at(1, "127.0.0.1:80")));
        assert!(!at(1, "127.0.0.1:80").meets(&at(2, "127.0.0.1:80")));
        let from_outside = |entity| Flow::of(&Head { entity, ..head("10.0.0.1:40000", "10.0.0.2:80") });
        assert!(from_outside(1).meets(&from_outside(2).back()));
    }

    #[test]
    fn a_service_is_the_side_with_the_lower_port() {
        let show = |from, to| Flow::of(&head(from, to)).of_service().show();
        assert_eq!(show("10.0.0.1:40000", "10.0.0.2:80"), "10.0.0.1 -> 10.0.0.2:80");
        assert_eq!(show("[fd00::2]:53", "[fd00::1]:40000"), "[fd00::2]:53 -> fd00::1");
    }

    #[test]
    fn both_directions_have_one_canonical_text() {
        let there = Flow::of(&head("10.0.0.2:80", "10.0.0.1:40000"));
        assert_eq!(there.canonical(), "TCP 10.0.0.1:40000 10.0.0.2:80");
        assert_eq!(there.canonical(), there.back().canonical());
    }

    #[test]
    fn segments_are_told_apart_by_their_flags() {
        assert_eq!(
            [0, 0x02, 0x12, 0x14, 0x18].map(Segment::of),
            [Segment::None, Segment::Syn, Segment::SynAck, Segment::Rst, Segment::Other]
        );
    }
}
