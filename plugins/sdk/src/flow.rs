//! Words for the head of a record: endpoints, with the protocol and the TCP state.
//!
//! Every built-in event is worded here, so that one connection reads the same in all of them:
//! `10.1.16.255:43186 -> [fd00::1]:3128` in text; `protocol`, `saddr`, `sport`, `daddr`, `dport`
//! and, for TCP, `state` as attributes, in that order.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use inspector_ebpf::Head;
use inspector_ebpf::record::{FLAG_PACKET, FLAG_PORTS, FLAG_SOCKET};

use crate::protocol::{self, TCP};
use crate::{Event, tcp};

/// `source -> destination`, or that they are not known.
#[derive(Debug, Clone, Copy)]
pub struct Endpoints<'a>(pub &'a Head);

impl fmt::Display for Endpoints<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let head = self.0;
        if !has_addresses(head) {
            return f.write_str("addresses unknown");
        }
        if !has_ports(head) {
            return write!(f, "{} -> {}", head.source(), head.destination());
        }
        let at = |ip: IpAddr, port| SocketAddr::new(ip, port);
        write!(f, "{} -> {}", at(head.source(), head.sport), at(head.destination(), head.dport))
    }
}

impl Event {
    /// Begins the message with the endpoints, and adds them and the protocol to the attributes.
    #[must_use]
    pub fn flow(self, head: &Head) -> Self {
        self.flow_named(head, &protocol::name(head.proto))
    }

    /// [`Event::flow`] under another name for the protocol, where IP does not have it (`ARP`).
    #[must_use]
    pub fn flow_named(mut self, head: &Head, protocol: &str) -> Self {
        self.message = Endpoints(head).to_string();
        let mut event = self.entity(head.entity).attr("protocol", protocol);
        if has_addresses(head) {
            event = match has_ports(head) {
                true => event
                    .attr("saddr", head.source())
                    .attr("sport", head.sport)
                    .attr("daddr", head.destination())
                    .attr("dport", head.dport),
                false => event.attr("saddr", head.source()).attr("daddr", head.destination()),
            };
        }
        if head.proto == TCP {
            event = event.attr("state", tcp::state(head.tcp_state));
        }
        event
    }
}

fn has_addresses(head: &Head) -> bool {
    head.flags & (FLAG_PACKET | FLAG_SOCKET) != 0
}

fn has_ports(head: &Head) -> bool {
    head.flags & FLAG_PORTS != 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::head;

    #[test]
    fn an_ipv6_address_with_a_port_stands_in_brackets() {
        let head = head("[fd00::1]:43186", "[fd00::2]:3128");
        assert_eq!(Endpoints(&head).to_string(), "[fd00::1]:43186 -> [fd00::2]:3128");
    }

    #[test]
    fn a_mapped_address_is_shown_as_ipv4() {
        let head = head("10.1.16.255:43186", "100.100.27.15:3128");
        assert_eq!(Endpoints(&head).to_string(), "10.1.16.255:43186 -> 100.100.27.15:3128");
    }

    #[test]
    fn a_packet_without_ports_shows_none() {
        let mut head = head("10.0.0.1:0", "10.0.0.2:0");
        head.flags = FLAG_PACKET;
        assert_eq!(Endpoints(&head).to_string(), "10.0.0.1 -> 10.0.0.2");
        head.flags = 0;
        assert_eq!(Endpoints(&head).to_string(), "addresses unknown");
    }

    #[test]
    fn the_attributes_of_a_flow_stand_in_their_order() {
        let event = Event::new("X", 1).flow(&head("10.0.0.1:1", "10.0.0.2:2"));
        let names: Vec<_> = event.attrs.iter().map(|attr| attr.name.as_str()).collect();
        assert_eq!(names, ["protocol", "saddr", "sport", "daddr", "dport", "state"]);
    }
}
