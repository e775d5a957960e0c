//! What is concluded from what. Each rule is a short function with a name; those of [`CAUSES`] run
//! first, then those of [`SYMPTOMS`], which speak only of what no cause explains.
//!
//! - [`listening`], [`queues`]: services that are not there or cannot keep up.
//! - [`firewall`], [`programs`]: what people told the kernel to drop.
//! - [`routes`], [`link`], [`neighbours`], [`packets`]: the way, the wire, who is at it, and what is
//!   wrong with the packet itself.
//! - [`sockets`], [`resets`]: ends of connections.
//! - [`latency`], [`dns`]: what is slow, and names.
//! - [`silence`]: the symptoms.

pub mod dns;
pub mod firewall;
pub mod latency;
pub mod link;
pub mod listening;
pub mod neighbours;
pub mod packets;
pub mod programs;
pub mod queues;
pub mod resets;
pub mod routes;
pub mod silence;
pub mod sockets;

use crate::finding::Findings;
use crate::view::View;

/// One rule.
#[derive(Debug)]
pub struct Rule {
    /// What it is called.
    pub name: &'static str,
    /// Adds what it concludes.
    pub judge: fn(&View, &mut Findings),
}

/// Rules that find causes, in an order in which later ones may ask for what earlier ones found.
pub const CAUSES: &[&[Rule]] = &[
    firewall::RULES,
    programs::RULES,
    queues::RULES,
    routes::RULES,
    link::RULES,
    neighbours::RULES,
    packets::RULES,
    sockets::RULES,
    resets::RULES,
    listening::RULES,
    latency::RULES,
    dns::RULES,
];

/// Rules that speak of symptoms.
pub const SYMPTOMS: &[&[Rule]] = &[silence::RULES];

/// Everything that can be concluded.
pub fn judge(view: &View) -> Findings {
    let mut findings = Findings::default();
    for rule in CAUSES.iter().chain(SYMPTOMS).copied().flatten() {
        (rule.judge)(view, &mut findings);
    }
    findings
}
