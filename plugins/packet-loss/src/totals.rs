//! Running totals per entity, for the metrics whose names are a contract.
//!
//! Those have no type, so the host sets what it is given, and the sum must be kept here. It
//! survives a reload and a restart by the snapshot, whose bytes are little-endian words: entity,
//! then one total per entry of [`TOTALS`].

use inspector_sdk::map::Map;
use inspector_sdk::{EntityId, Error};

use crate::place::{Place, Stage};

/// More entities than a node has at a time.
const CROWD: usize = 4_096;

/// One metric of the contract.
#[derive(Debug)]
pub struct Total {
    /// Its exact name.
    pub metric: &'static str,
    /// Where its numbers come from.
    pub help: &'static str,
    counts: fn(Place) -> bool,
}

/// The metrics of the contract.
pub const TOTALS: [Total; 6] = [
    Total {
        metric: "inspector_pod_packetloss_total",
        help: "Packets dropped, from tracepoint skb:kfree_skb, noise included.",
        counts: |_| true,
    },
    Total {
        metric: "inspector_pod_packetloss_abnormal",
        help: "Packets dropped, from tracepoint skb:kfree_skb, without those that nobody misses.",
        counts: |place| !place.noise,
    },
    Total {
        metric: "inspector_pod_packetloss_netfilter",
        help: "Packets dropped by netfilter (skb:kfree_skb, reason NETFILTER_DROP).",
        counts: |place| place.stage == Stage::Netfilter,
    },
    Total {
        metric: "inspector_pod_packetloss_tcpstatm",
        help: "Packets dropped in the TCP state machine (skb:kfree_skb in tcp_rcv_state_process).",
        counts: |place| place.stage == Stage::TcpStateMachine,
    },
    Total {
        metric: "inspector_pod_packetloss_tcprcv",
        help: "Packets dropped at the entrance of TCP (skb:kfree_skb in tcp_v4_rcv, tcp_v6_rcv).",
        counts: |place| place.stage == Stage::TcpReceive,
    },
    Total {
        metric: "inspector_pod_packetloss_tcphandle",
        help: "Packets dropped in work on a socket (skb:kfree_skb in tcp_v4_do_rcv and what it calls).",
        counts: |place| place.stage == Stage::TcpHandle,
    },
];

/// Words of one entity in a snapshot.
const WORDS: usize = 1 + TOTALS.len();

type Row = [u64; TOTALS.len()];

/// The totals of all entities.
#[derive(Debug, Default)]
pub struct Totals {
    by_entity: Map<EntityId, Kept>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Kept {
    totals: Row,
    /// Not published as they are now.
    changed: bool,
}

impl Totals {
    /// Adds drops at one place.
    pub fn add(&mut self, entity: EntityId, place: Place, drops: u64) {
        let kept = self.by_entity.entry(entity).or_default();
        kept.changed = true;
        for (total, rule) in kept.totals.iter_mut().zip(&TOTALS) {
            if (rule.counts)(place) {
                *total += drops;
            }
        }
    }

    /// Starts entities at zero, unless they have totals already.
    pub fn start(&mut self, entities: &[EntityId]) {
        for entity in entities {
            self.by_entity.entry(*entity).or_insert(Kept { changed: true, ..Kept::default() });
        }
    }

    /// Whether it is time to [`Totals::keep`] only what exists.
    pub fn is_crowded(&self) -> bool {
        self.by_entity.len() > CROWD
    }

    /// Forgets all but these, and entity 0, which is "unknown": drops that come late for a
    /// vanished entity start it again, and nobody reports it as vanished twice.
    pub fn keep(&mut self, live: &[EntityId]) {
        self.by_entity.retain(|entity, _| *entity == 0 || live.contains(entity));
    }

    /// Takes those that changed since the last time, in the order of [`TOTALS`].
    pub fn changed(&mut self) -> impl Iterator<Item = (EntityId, Row)> {
        let changed = self.by_entity.iter_mut().filter(|(_, kept)| kept.changed);
        changed.map(|(entity, kept)| {
            kept.changed = false;
            (*entity, kept.totals)
        })
    }

    /// Forgets entities that vanished.
    pub fn forget(&mut self, entities: &[EntityId]) {
        for entity in entities {
            self.by_entity.remove(entity);
        }
    }

    /// The totals as bytes.
    pub fn save(&self) -> Vec<u8> {
        let row =
            |(entity, kept): (&EntityId, &Kept)| [[u64::from(*entity)].as_slice(), &kept.totals].concat();
        let words = self.by_entity.iter().flat_map(row);
        words.flat_map(u64::to_le_bytes).collect()
    }

    /// The totals from bytes of [`Totals::save`].
    ///
    /// # Errors
    /// Bytes that are not whole rows.
    pub fn restore(state: &[u8]) -> Result<Self, Error> {
        let (words, rest) = state.as_chunks::<8>();
        if !rest.is_empty() || !words.len().is_multiple_of(WORDS) {
            return Err(Error::new("invalid", format!("{} bytes are no totals", state.len())));
        }
        let words: Vec<u64> = words.iter().map(|word| u64::from_le_bytes(*word)).collect();
        let (rows, _) = words.as_chunks::<WORDS>();
        let row = |[entity, totals @ ..]: &[u64; WORDS]| {
            Some((EntityId::try_from(*entity).ok()?, Kept { totals: *totals, changed: true }))
        };
        Ok(Self { by_entity: rows.iter().filter_map(row).collect() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::place::classify;

    fn sorted(totals: &mut Totals) -> Vec<(EntityId, Row)> {
        let mut changed: Vec<_> = totals.changed().collect();
        changed.sort_unstable();
        changed
    }

    #[test]
    fn noise_is_in_the_total_and_not_abnormal() {
        let mut totals = Totals::default();
        totals.add(1, classify("TCP_OLD_DATA", "tcp_rcv_established", true), 3);
        totals.add(1, classify("NETFILTER_DROP", "nf_hook_slow", false), 2);
        assert_eq!(sorted(&mut totals), [(1, [5, 2, 2, 0, 0, 3])]);
        assert_eq!(sorted(&mut totals), [], "given out once");
    }

    #[test]
    fn totals_survive_a_reload() {
        let mut totals = Totals::default();
        totals.add(7, classify("NO_SOCKET", "tcp_v4_rcv", false), 4);
        totals.start(&[9]);
        let mut restored = Totals::restore(&totals.save()).expect("own bytes");
        assert_eq!(sorted(&mut restored), [(7, [4, 4, 0, 0, 4, 0]), (9, [0; 6])]);
    }

    #[test]
    fn foreign_bytes_are_refused() {
        assert!(Totals::restore(&[1; 57]).is_err());
        assert!(Totals::restore(&[1; 64]).is_err());
    }

    #[test]
    fn late_drops_of_vanished_entities_do_not_pile_up() {
        let mut totals = Totals::default();
        for entity in 0..10_000 {
            totals.add(entity, classify("NO_SOCKET", "x", false), 1);
        }
        assert!(totals.is_crowded());
        totals.keep(&[5]);
        assert_eq!(sorted(&mut totals).len(), 2, "5, and 0 for unknown");
    }
}
