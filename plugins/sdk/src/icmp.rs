//! ICMP errors of both versions, and what their numbers mean.

use inspector_ebpf::Icmp;
use inspector_ebpf::icmp::KIND_ICMPV6;

/// Type and code of an ICMP error; the numbers differ between the versions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct IcmpError {
    /// Whether it is ICMPv6.
    pub is_v6: bool,
    /// Its type.
    pub kind: u8,
    /// Its code.
    pub code: u8,
}

/// What an ICMP error says (RFC 792, 1812, 4443).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meaning {
    /// No route to the network.
    NetUnreachable,
    /// The host does not answer on its link.
    HostUnreachable,
    /// The host does not speak the protocol.
    ProtocolUnreachable,
    /// Nobody listens on the port.
    PortUnreachable,
    /// The packet does not fit the next link and may not be fragmented.
    PacketTooBig,
    /// A firewall or a route of type prohibit.
    Prohibited,
    /// The source address fails a policy.
    SourceRefused,
    /// A route of type unreachable.
    RouteRejects,
    /// Another kind of unreachable.
    Unreachable,
    /// There is a better router.
    Redirect,
    /// The packet ran out of hops.
    HopsExceeded,
    /// Fragments did not come in time.
    ReassemblyTimeout,
    /// A header is wrong.
    ParameterProblem,
    /// None of these.
    Other,
}

impl IcmpError {
    /// The error that a record is about.
    pub fn of(record: &Icmp) -> Self {
        Self { is_v6: record.head.kind == KIND_ICMPV6, kind: record.icmp_type, code: record.code }
    }

    /// What it says.
    pub fn meaning(self) -> Meaning {
        match (self.is_v6, self.kind, self.code) {
            (false, 3, 0) | (true, 1, 0) => Meaning::NetUnreachable,
            (false, 3, 1) | (true, 1, 3) => Meaning::HostUnreachable,
            (false, 3, 2) => Meaning::ProtocolUnreachable,
            (false, 3, 3) | (true, 1, 4) => Meaning::PortUnreachable,
            (false, 3, 4) | (true, 2, _) => Meaning::PacketTooBig,
            (false, 3, 9 | 10 | 13) | (true, 1, 1) => Meaning::Prohibited,
            (true, 1, 5) => Meaning::SourceRefused,
            (true, 1, 6) => Meaning::RouteRejects,
            (false, 3, _) | (true, 1, _) => Meaning::Unreachable,
            (false, 5, _) => Meaning::Redirect,
            (false, 11, 0) | (true, 3, 0) => Meaning::HopsExceeded,
            (false, 11, _) | (true, 3, _) => Meaning::ReassemblyTimeout,
            (false, 12, _) | (true, 4, _) => Meaning::ParameterProblem,
            _ => Meaning::Other,
        }
    }

    /// Whether it says that the destination cannot be reached, for whatever reason but its size.
    pub fn is_unreachable(self) -> bool {
        let unreachable = if self.is_v6 { 1 } else { 3 };
        self.kind == unreachable && self.meaning() != Meaning::PacketTooBig
    }
}

impl Meaning {
    /// In one word, as labels and attributes have it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NetUnreachable => "net-unreachable",
            Self::HostUnreachable => "host-unreachable",
            Self::ProtocolUnreachable => "protocol-unreachable",
            Self::PortUnreachable => "port-unreachable",
            Self::PacketTooBig => "packet-too-big",
            Self::Prohibited => "prohibited",
            Self::SourceRefused => "source-refused",
            Self::RouteRejects => "route-rejects",
            Self::Unreachable => "unreachable",
            Self::Redirect => "redirect",
            Self::HopsExceeded => "ttl-exceeded",
            Self::ReassemblyTimeout => "reassembly-timeout",
            Self::ParameterProblem => "parameter-problem",
            Self::Other => "other",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_error_has_other_numbers_in_each_version() {
        let meaning = |is_v6, kind, code| IcmpError { is_v6, kind, code }.meaning();
        assert_eq!(
            (meaning(false, 3, 3), meaning(true, 1, 4)),
            (Meaning::PortUnreachable, Meaning::PortUnreachable)
        );
        assert_eq!(
            (meaning(false, 3, 4), meaning(true, 2, 0)),
            (Meaning::PacketTooBig, Meaning::PacketTooBig)
        );
        assert_eq!(
            (meaning(false, 11, 0), meaning(true, 3, 0)),
            (Meaning::HopsExceeded, Meaning::HopsExceeded)
        );
        assert_eq!((meaning(false, 3, 13), meaning(true, 1, 1)), (Meaning::Prohibited, Meaning::Prohibited));
        assert_eq!((meaning(false, 3, 6), meaning(true, 1, 2)), (Meaning::Unreachable, Meaning::Unreachable));
    }

    #[test]
    fn a_packet_that_is_too_big_is_not_unreachable() {
        assert!(!IcmpError { is_v6: false, kind: 3, code: 4 }.is_unreachable());
        assert!(IcmpError { is_v6: false, kind: 3, code: 13 }.is_unreachable());
        assert!(IcmpError { is_v6: true, kind: 1, code: 0 }.is_unreachable());
    }
}
