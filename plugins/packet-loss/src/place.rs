//! Where a packet was dropped, and what that place means.

use std::rc::Rc;

use inspector_sdk::kernel;
use inspector_sdk::map::Map;
use inspector_sdk::metrics::Labels;
use inspector_sdk::noise;
use inspector_sdk::probes::SkbDrop;
use inspector_sdk::probes::record::FLAG_SOCKET;

/// Sites remembered; a kernel has some hundred. A full map is emptied, not refused.
const SITES: usize = 4_096;

/// What classifies a drop, in numbers, so that it costs a comparison and no name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Site {
    /// Number of the drop reason on this kernel.
    pub reason: u32,
    /// Address of the call that dropped it.
    pub location: u64,
    /// A socket was found for the packet. Unknown, and so false, in a summary.
    pub with_socket: bool,
    /// It was for whoever is there. Unknown, and so false, in a summary.
    pub multicast: bool,
}

/// What a site means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The normal course of things.
    pub noise: bool,
    /// The stage of the path, where the original exporter counts it apart.
    pub stage: Stage,
}

/// Stages that the original exporter counts apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// A firewall rule or a full conntrack table.
    Netfilter,
    /// The TCP state machine, for sockets that are not established.
    TcpStateMachine,
    /// The entrance of TCP: lookup, checks, backlog.
    TcpReceive,
    /// Work on a segment of an existing socket.
    TcpHandle,
    /// Everything else.
    Other,
}

/// Label values of a drop: its site without what only classifies it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Cause {
    /// Number of the drop reason on this kernel.
    pub reason: u32,
    /// Address of the call that dropped it.
    pub location: u64,
    /// The normal course of things.
    pub noise: bool,
}

impl Site {
    /// The site of a drop.
    pub fn of(drop: &SkbDrop) -> Self {
        let with_socket = drop.head.flags & FLAG_SOCKET != 0 || drop.head.tcp_state != 0;
        let multicast = drop.head.destination().is_multicast();
        Self { reason: drop.reason, location: drop.location, with_socket, multicast }
    }

    /// Its labels, with what its place says of it.
    pub fn cause(self, place: Place) -> Cause {
        Cause { reason: self.reason, location: self.location, noise: place.noise }
    }
}

impl Cause {
    /// The kernel's name of the reason, e.g. `NETFILTER_DROP`.
    pub fn reason(self) -> Rc<str> {
        kernel::drop_reason(self.reason)
    }

    /// The function that dropped it, e.g. `nf_hook_slow`.
    pub fn symbol(self) -> String {
        kernel::symbol_at(self.location).name.clone()
    }

    /// The function and the offset into it, e.g. `nf_hook_slow+0xc1`.
    pub fn location(self) -> String {
        let symbol = kernel::symbol_at(self.location);
        format!("{}+0x{:x}", symbol.name, symbol.offset)
    }

    /// `noise` or `drop`.
    pub fn class(self) -> &'static str {
        if self.noise { "noise" } else { "drop" }
    }
}

impl Labels for Cause {
    fn values(&self) -> Vec<String> {
        vec![self.reason().to_string(), self.symbol(), self.class().to_owned()]
    }
}

/// The places met so far, by site.
#[derive(Debug, Default)]
pub struct Places(Map<Site, Place>);

impl Places {
    /// What a site means; names are asked for once per site.
    pub fn of(&mut self, site: Site) -> Place {
        if self.0.len() >= SITES {
            self.0.clear();
        }
        *self.0.entry(site).or_insert_with(|| {
            let (reason, symbol) = (kernel::drop_reason(site.reason), kernel::symbol_at(site.location));
            let place = classify(&reason, &symbol.name, site.with_socket);
            Place { noise: place.noise || site.multicast && noise::is_without_a_way(&reason), ..place }
        })
    }
}

/// What a drop for this reason in this function means.
pub fn classify(reason: &str, symbol: &str, with_socket: bool) -> Place {
    Place { noise: noise::rule(reason, symbol, with_socket).is_some(), stage: Stage::of(reason, symbol) }
}

impl Stage {
    fn of(reason: &str, symbol: &str) -> Self {
        if reason == "NETFILTER_DROP" {
            return Self::Netfilter;
        }
        // Symbols differ by kernel and may be inlined into their caller, so each stage has several.
        match symbol {
            "nf_hook_slow" | "nft_do_chain" => Self::Netfilter,
            "tcp_rcv_state_process" => Self::TcpStateMachine,
            "tcp_v4_rcv" | "tcp_v6_rcv" => Self::TcpReceive,
            "tcp_v4_do_rcv"
            | "tcp_v6_do_rcv"
            | "tcp_rcv_established"
            | "tcp_validate_incoming"
            | "tcp_data_queue" => Self::TcpHandle,
            _ => Self::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Stage, classify};

    #[test]
    fn a_firewall_drop_is_netfilter_wherever_the_kernel_inlined_it() {
        assert_eq!(classify("NETFILTER_DROP", "ip_rcv", false).stage, Stage::Netfilter);
        assert_eq!(classify("NOT_SPECIFIED", "nft_do_chain", false).stage, Stage::Netfilter);
    }

    #[test]
    fn tcp_drops_are_told_apart_by_stage() {
        assert_eq!(classify("TCP_CLOSE", "tcp_rcv_state_process", true).stage, Stage::TcpStateMachine);
        assert_eq!(classify("NO_SOCKET", "tcp_v6_rcv", false).stage, Stage::TcpReceive);
        assert_eq!(classify("TCP_CSUM", "tcp_v4_do_rcv", true).stage, Stage::TcpHandle);
        assert_eq!(classify("NO_SOCKET", "__udp4_lib_rcv", false).stage, Stage::Other);
    }
}
