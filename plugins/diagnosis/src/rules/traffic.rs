//! What several rules want to know of packets: whether they are a probe, a tunnel's, or from an address
//! that cannot be, and how bad it is that they are stopped.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use inspector_sdk::Severity;
use inspector_sdk::probes::tcp_retransmit::WHY_SYN;
use inspector_sdk::protocol::{self, TCP, UDP};

use crate::fact::{Flow, What};
use crate::window::{Dropped, Window};

/// Destination ports of traceroute(8): one more with each probe, from the one registered for it.
const TRACEROUTE: RangeInclusive<u16> = 33_434..=33_534;
/// UDP ports of tunnels: VXLAN (IANA's and Linux's first one), Geneve.
const TUNNELS: [u16; 3] = [4789, 8472, 6081];

/// Whether it may be a probe of traceroute(8).
pub fn is_traceroute(flow: &Flow) -> bool {
    TRACEROUTE.contains(&flow.dport)
}

/// Whether packets of a tunnel find no socket: then no tunnel of that kind ends here.
pub fn is_for_no_tunnel(drop: &Dropped) -> bool {
    drop.is(&["NO_SOCKET"]) && drop.flow.proto == UDP && TUNNELS.contains(&drop.flow.dport)
}

/// Whether a packet was dropped for its source address. Kernels before 6.13 have no reason for it and
/// IPv6 has none of its own, but the addresses say it.
pub fn is_martian(window: &Window, drop: &Dropped) -> bool {
    let source = drop.flow.source();
    let is_impossible = match source {
        IpAddr::V4(ip) => {
            ip.is_loopback() || ip.is_broadcast() || ip.is_multicast() || window.owns(drop.entity, source)
        }
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_multicast(),
    };
    drop.is(&["IP_LOCAL_SOURCE", "IP_INVALID_SOURCE", "IP_LOCALNET"])
        || (is_impossible
            && drop.is(&["NOT_SPECIFIED", "IP_INHDR"])
            && drop.within(&["ip_rcv_finish", "ip6_rcv"]))
}

/// Critical if somebody tries in vain to connect through what stops a conversation, and nobody
/// succeeds.
pub fn outage(window: &Window, flow: &Flow) -> Severity {
    if flow.proto != TCP {
        return Severity::Warning;
    }
    let is_attempt =
        |what: &What| matches!(what, What::ConnectFailed { .. } | What::Retransmit { why: WHY_SYN });
    let opened = window.count_on(&flow.of_service(), What::is_open);
    if opened == 0 && window.count_on(flow, is_attempt) > 0 { Severity::Critical } else { Severity::Warning }
}

/// The worst outage of several conversations; that severity if there is none.
pub fn worst_outage(window: &Window, flows: &[Flow], otherwise: Severity) -> Severity {
    flows.iter().map(|flow| outage(window, flow)).max().unwrap_or(otherwise)
}

/// Protocol and ends, for a title.
pub fn describe(flow: &Flow) -> String {
    if flow.is_known() {
        format!("{} {}", protocol::name(flow.proto), flow.show())
    } else {
        "traffic".to_owned()
    }
}
