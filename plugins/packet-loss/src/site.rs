//! Where and why a packet was dropped, and what that means.

use std::rc::Rc;

use inspector_sdk::kernel;
use inspector_sdk::labels::Labels;
use inspector_sdk::map::Map;
use inspector_sdk::probes::SkbDrop;
use inspector_sdk::probes::drop_reason::{Circumstances, LossStage, is_noise};
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
    pub is_multicast: bool,
}

/// What a site means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SiteClass {
    /// Nobody misses the packet.
    pub is_noise: bool,
    /// The stage of the receive path, where the original exporter counts it apart.
    pub stage: LossStage,
    /// The place has a name, without which the rest is not sure.
    pub is_named: bool,
}

/// Label values of a drop: its site without what only classifies it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Cause {
    /// Number of the drop reason on this kernel.
    pub reason: u32,
    /// Address of the call that dropped it.
    pub location: u64,
    /// Nobody misses the packet.
    pub is_noise: bool,
}

impl Site {
    /// The site of a drop.
    pub fn of(drop: &SkbDrop) -> Self {
        let with_socket = drop.head.flags & FLAG_SOCKET != 0 || drop.head.tcp_state != 0;
        let is_multicast = drop.head.destination().is_multicast();
        Self { reason: drop.reason, location: drop.location, with_socket, is_multicast }
    }

    /// Its labels.
    pub fn cause(self, class: SiteClass) -> Cause {
        Cause { reason: self.reason, location: self.location, is_noise: class.is_noise }
    }

    fn class(self) -> SiteClass {
        let (reason, symbol) = (kernel::drop_reason(self.reason), kernel::symbol_at(self.location));
        let circumstances = Circumstances {
            symbol: &symbol.name,
            with_socket: self.with_socket,
            is_multicast: self.is_multicast,
        };
        SiteClass {
            is_noise: is_noise(&reason, circumstances),
            stage: LossStage::of(&reason, &symbol.name),
            is_named: symbol.name != kernel::NO_SYMBOL,
        }
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
        if self.is_noise { "noise" } else { "drop" }
    }
}

impl Labels for Cause {
    fn values(&self) -> Vec<String> {
        vec![self.reason().to_string(), self.symbol(), self.class().to_owned()]
    }
}

/// The classes of the sites met so far.
#[derive(Debug, Default)]
pub struct Sites(Map<Site, SiteClass>);

impl Sites {
    /// What a site means; names are asked for once per site.
    pub fn class_of(&mut self, site: Site) -> SiteClass {
        if self.0.len() >= SITES {
            self.0.clear();
        }
        *self.0.entry(site).or_insert_with(|| site.class())
    }
}
