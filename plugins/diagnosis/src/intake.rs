//! Records of probes as facts. One function per probe; nothing is judged here.

use inspector_sdk::icmp::IcmpError;
use inspector_sdk::probes::neighbour::NUD_INCOMPLETE;
use inspector_sdk::probes::record::FLAG_SOCKET;
use inspector_sdk::probes::{
    Dns, Head, Icmp, Neighbour, Route, SkbDrop, SocketError, SocketLatency, Softirq, TcpReset, TcpRetransmit,
    TcpState, dns, skb_drop, socket_error, socket_latency, softirq, tcp_reset, tcp_retransmit, tcp_state,
};
use inspector_sdk::{EntityId, entities};

use crate::fact::{Amount, Drop, Flow, Reset, Segment, What};
use crate::queries::Queries;
use crate::store::Store;

/// A handshake takes one way there and back: this is more than around the Earth. Who opens two
/// connections at once, to take the faster one, closes the other much sooner.
const WAITED_NS: u64 = 200_000_000;
/// A resolver in the same data centre takes a few milliseconds for an answer, a recursive one seldom
/// more than this.
pub const SLOW_ANSWER_NS: u64 = 200_000_000;
/// `skb->pkt_type` of broadcast and multicast.
const MULTICAST: [u8; 2] = [1, 2];

impl Store {
    /// A dropped packet; its length is the value.
    pub fn drop(&mut self, drop: &SkbDrop) {
        let what = What::Drop(Drop {
            reason: drop.reason,
            location: drop.location,
            ethertype: drop.ethertype,
            segment: Segment::of(drop.tcp_flags),
            is_multicast: MULTICAST.contains(&drop.pkt_type),
            with_socket: drop.head.flags & FLAG_SOCKET != 0 || drop.head.tcp_state != 0,
        });
        let summary = drop.head.kind == skb_drop::KIND_SUMMARY;
        let flow = if summary { Flow::NONE } else { Flow::of(&drop.head) };
        // A drop below the sockets of an unknown namespace is where its receiver is.
        let entity = if drop.head.entity == 0 && flow.is_known() { owner(&flow) } else { drop.head.entity };
        let amount = Amount::new(drop.head.ts_ns, drop.count, u64::from(drop.length));
        self.add(entity, what, flow, amount);
    }

    /// A reset.
    pub fn reset(&mut self, reset: &TcpReset) {
        let what = match reset.head.kind {
            tcp_reset::KIND_SENT => What::ResetSent(Reset {
                reason: (reset.has_reason != 0).then_some(reset.reason),
                segment: Segment::of(if reset.has_segment != 0 { reset.tcp_flags } else { 0 }),
                with_socket: reset.has_socket != 0,
                state: reset.head.tcp_state,
            }),
            _ => What::ResetReceived { state: reset.head.tcp_state },
        };
        self.one(&reset.head, what, 0);
    }

    /// A retransmission.
    pub fn retransmit(&mut self, retransmit: &TcpRetransmit) {
        let what = match retransmit.head.kind {
            tcp_retransmit::KIND_SEGMENT => What::Retransmit { why: retransmit.why },
            tcp_retransmit::KIND_SYNACK => What::SynAckRetransmit,
            _ => return,
        };
        self.one(&retransmit.head, what, u64::from(retransmit.timeouts));
    }

    /// A transition of a connection. Those that go well are one fact for each service.
    pub fn state(&mut self, state: &TcpState) {
        let what = match state.head.kind {
            tcp_state::KIND_CONNECTED => What::Connected,
            tcp_state::KIND_ACCEPTED => What::Accepted,
            tcp_state::KIND_FAILED => What::ConnectFailed {
                error: state.error,
                portless: state.head.sport == 0,
                waited: state.duration_ns >= WAITED_NS,
            },
            tcp_state::KIND_CLOSED => What::Closed { error: state.error },
            _ => return,
        };
        let flow = match what {
            What::Connected => Flow { sport: 0, ..Flow::of(&state.head) },
            What::Accepted => Flow { dport: 0, ..Flow::of(&state.head) },
            What::Closed { error: 0 } => Flow::of(&state.head).of_service(),
            _ => Flow::of(&state.head),
        };
        let amount = Amount::new(state.head.ts_ns, 1, state.duration_ns);
        self.add(state.head.entity, what, flow, amount);
    }

    /// An error that was reported to a socket, or a refusal of memory.
    pub fn socket_error(&mut self, error: &SocketError) {
        let what = match error.head.kind {
            socket_error::KIND_REPORTED => What::SocketError { error: error.error },
            socket_error::KIND_MEMORY => What::MemoryRefused,
            _ => What::UdpRefused { error: error.error },
        };
        self.one(&error.head, what, u64::from(error.receive_queued));
    }

    /// An ICMP error on its way out.
    pub fn icmp(&mut self, sent: &Icmp) {
        self.one(&sent.head, What::IcmpSent(IcmpError::of(sent)), 0);
    }

    /// A route that refuses what is sent from here; that it is missing is often no trouble.
    pub fn route(&mut self, refused: &Route) {
        if !refused.is_usual() {
            self.one(&refused.head, What::RouteRefused { error: refused.error }, 0);
        }
    }

    /// Trouble with a neighbour.
    pub fn neighbour(&mut self, neighbour: &Neighbour) {
        let never_known = neighbour.old_state == NUD_INCOMPLETE;
        let what = What::Neighbour { kind: neighbour.head.kind, never_known };
        let flow = Flow { to: neighbour.head.daddr, ..Flow::NONE };
        self.add(neighbour.head.entity, what, flow, Amount::new(neighbour.head.ts_ns, 1, 0));
    }

    /// A DNS message at its client.
    pub fn dns(&mut self, dns: &Dns, queries: &mut Queries) {
        let flow = Flow { sport: 0, ..Flow::of(&dns.head) };
        let (what, latency) = match dns.head.kind {
            dns::KIND_QUERY if queries.ask(dns, flow) => (What::DnsQuery, 0),
            dns::KIND_QUERY => return,
            _ => {
                let (matched, overdue) = (dns.matched != 0, queries.answered(dns, flow));
                let slow = dns.latency_ns >= SLOW_ANSWER_NS;
                (What::DnsAnswer { rcode: dns.rcode, matched, overdue, slow }, dns.latency_ns)
            }
        };
        self.add(dns.head.entity, what, flow, Amount::new(dns.head.ts_ns, 1, latency));
    }

    /// A read or send that waited.
    pub fn socket_latency(&mut self, slow: &SocketLatency) {
        let what = match slow.head.kind {
            socket_latency::KIND_READ => What::SlowRead,
            socket_latency::KIND_SEND => What::SlowSend,
            _ => return,
        };
        self.one(&slow.head, what, slow.latency_ns);
    }

    /// A soft interrupt that took long; it belongs to the node.
    pub fn softirq(&mut self, slow: &Softirq, host: EntityId) {
        if slow.head.kind == softirq::KIND_SLOW {
            let what = What::SlowSoftirq { waited: slow.phase == softirq::PHASE_WAIT };
            self.add(host, what, Flow::NONE, Amount::new(slow.head.ts_ns, 1, slow.duration_ns));
        }
    }

    fn one(&mut self, head: &Head, what: What, value: u64) {
        self.add(head.entity, what, Flow::of(head), Amount::new(head.ts_ns, 1, value));
    }
}

/// The entity on this node that has the address a packet was sent to.
fn owner(flow: &Flow) -> EntityId {
    entities::by_ip(flow.destination())
}
