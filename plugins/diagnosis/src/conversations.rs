//! Facts by conversation: which of a list may be about one, without a look at all of them. A question looks for
//! the facts of each packet that was dropped; both can be thousands.

use std::hash::{Hash, Hasher as _};

use inspector_sdk::EntityId;
use inspector_sdk::map::FixedHasher;

use crate::fact::{Flow, Key};

type Address = [u8; 16];
/// Addresses, the smaller one first, protocol, and the only entity in which they can be.
type Pair = (Address, Address, u8, EntityId);

/// Places in a list.
#[derive(Debug, Default)]
pub struct Conversations {
    /// Of those that tell all ports apart, by pair and the ports in its order.
    exact: Places,
    /// Of those that do not, by pair.
    partial: Places,
    /// Of all, by pair.
    all: Places,
    /// Of what clients say, which may know its peer under another address, by where they begin: see
    /// [`Flow::begin`].
    clients: Places,
}

/// By hash, in order: a map would need ten times the room. Others with the same hash are as harmless as
/// everything that does not meet what it is near to.
#[derive(Debug, Default)]
struct Places(Vec<(u32, u32)>);

impl Places {
    fn add(&mut self, key: impl Hash, at: u32) {
        self.0.push((hash(key), at));
    }

    fn near(&self, key: impl Hash) -> impl Iterator<Item = u32> {
        let hash = hash(key);
        let from = self.0.partition_point(|(other, _)| *other < hash);
        self.0[from..].iter().take_while(move |(other, _)| *other == hash).map(|(_, at)| *at)
    }
}

fn hash(key: impl Hash) -> u32 {
    let mut hasher = FixedHasher::default();
    key.hash(&mut hasher);
    hasher.finish() as u32
}

impl Conversations {
    /// Of flows, in the order of their list.
    pub fn of_flows<'a>(flows: impl Iterator<Item = &'a Flow>) -> Self {
        let mut found = Self::default();
        flows.zip(0..).for_each(|(flow, at)| found.add(flow, at));
        found.sorted()
    }

    /// Of facts, in the order of their list.
    pub fn of_facts<'a>(keys: impl Iterator<Item = &'a Key>) -> Self {
        let mut found = Self::default();
        for (key, at) in keys.zip(0..) {
            found.add(&key.flow, at);
            if key.what.is_of_client() && key.flow.sport != 0 {
                found.clients.add(key.flow.begin(), at);
            }
        }
        found.sorted()
    }

    fn add(&mut self, flow: &Flow, at: u32) {
        let (pair, low, high) = sorted(flow);
        self.all.add(pair, at);
        if flow.is_exact() {
            self.exact.add((pair, low, high), at);
        } else {
            self.partial.add(pair, at);
        }
    }

    fn sorted(mut self) -> Self {
        for Places(places) in [&mut self.exact, &mut self.partial, &mut self.all, &mut self.clients] {
            places.sort_unstable();
            places.shrink_to_fit();
        }
        self
    }

    /// Where everything stands that can meet or concern a flow, in the order of the list; some of it does not.
    pub fn near(&self, flow: &Flow) -> Vec<u32> {
        let (pair, low, high) = sorted(flow);
        let mut found: Vec<u32> = if flow.is_exact() {
            self.exact.near((pair, low, high)).chain(self.partial.near(pair)).collect()
        } else {
            self.all.near(pair).collect()
        };
        found.extend(
            [flow.begin(), flow.back().begin()].into_iter().flat_map(|begin| self.clients.near(begin)),
        );
        found.sort_unstable();
        found.dedup();
        found
    }
}

/// The same for both directions.
fn sorted(flow: &Flow) -> (Pair, u16, u16) {
    let Flow { from, to, sport, dport, proto, within } = *flow;
    if (from, sport) <= (to, dport) {
        ((from, to, proto, within), sport, dport)
    } else {
        ((to, from, proto, within), dport, sport)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fact::What;

    /// Few addresses and ports, so that many of them meet.
    fn flows() -> Vec<Flow> {
        let mut flows = Vec::new();
        for (from, to) in [(1, 1), (1, 2), (2, 1), (2, 3), (1, 0)] {
            for (sport, dport) in [(0, 0), (0, 80), (80, 0), (80, 80), (80, 81), (81, 80), (4242, 80)] {
                for within in [0, 7] {
                    flows.push(Flow { from: [from; 16], to: [to; 16], sport, dport, proto: 6, within });
                }
            }
        }
        flows
    }

    #[test]
    fn nothing_is_missed_that_meets_or_concerns_a_flow_and_the_order_stays() {
        let flows = flows();
        let whats = [What::Connected, What::Accepted];
        let keys: Vec<Key> = whats
            .iter()
            .flat_map(|what| flows.iter().map(move |flow| Key { entity: 1, what: *what, flow: *flow }))
            .collect();
        let (facts, plain) = (Conversations::of_facts(keys.iter()), Conversations::of_flows(flows.iter()));
        for flow in &flows {
            let near = facts.near(flow);
            assert!(near.is_sorted());
            for (key, at) in keys.iter().zip(0..) {
                assert!(!key.concerns(flow) || near.contains(&at), "{flow:?} and {key:?}");
            }
            for (other, at) in flows.iter().zip(0..) {
                assert!(!other.meets(flow) || plain.near(flow).contains(&at), "{flow:?} and {other:?}");
            }
        }
        // What is told apart by its ports is not looked at for other ports.
        let exact = |sport| Flow { from: [1; 16], to: [2; 16], sport, dport: 80, proto: 6, within: 0 };
        let many: Vec<_> = (1000..2000).map(exact).collect();
        assert_eq!(Conversations::of_flows(many.iter()).near(&exact(1500)), [500]);
    }
}
