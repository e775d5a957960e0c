//! The running totals of the original exporter, whose names are a contract.

use inspector_sdk::probes::drop_reason::LossStage;
use inspector_sdk::{EntityId, totals};

use crate::site::SiteClass;

/// One metric of the contract.
#[derive(Debug)]
pub struct Total {
    /// Its exact name.
    pub metric: &'static str,
    /// Where its numbers come from.
    pub help: &'static str,
    counts: fn(SiteClass) -> bool,
    /// It needs the name of the place, and not the reason alone.
    is_by_place: bool,
}

/// The metrics of the contract.
pub const TOTALS: [Total; 6] = [
    Total {
        metric: "inspector_pod_packetloss_total",
        help: "Packets dropped, from tracepoint skb:kfree_skb, noise included.",
        counts: |_| true,
        is_by_place: false,
    },
    Total {
        metric: "inspector_pod_packetloss_abnormal",
        help: "Packets dropped, from tracepoint skb:kfree_skb, without those that nobody misses.",
        counts: |class| !class.is_noise,
        is_by_place: true,
    },
    Total {
        metric: "inspector_pod_packetloss_netfilter",
        help: "Packets dropped by netfilter (skb:kfree_skb, reason NETFILTER_DROP).",
        counts: |class| class.stage == LossStage::Netfilter,
        is_by_place: false,
    },
    Total {
        metric: "inspector_pod_packetloss_tcpstatm",
        help: "Packets dropped in the TCP state machine (skb:kfree_skb in tcp_rcv_state_process).",
        counts: |class| class.stage == LossStage::TcpStateMachine,
        is_by_place: true,
    },
    Total {
        metric: "inspector_pod_packetloss_tcprcv",
        help: "Packets dropped at the entrance of TCP (skb:kfree_skb in tcp_v4_rcv, tcp_v6_rcv).",
        counts: |class| class.stage == LossStage::TcpReceive,
        is_by_place: true,
    },
    Total {
        metric: "inspector_pod_packetloss_tcphandle",
        help: "Packets dropped in work on a socket (skb:kfree_skb in tcp_v4_do_rcv and what it calls).",
        counts: |class| class.stage == LossStage::TcpHandle,
        is_by_place: true,
    },
];

/// Which totals cannot be told where places have no names.
pub const BY_PLACE: [bool; TOTALS.len()] = {
    let mut by_place = [false; TOTALS.len()];
    let mut at = 0;
    while at < TOTALS.len() {
        by_place[at] = TOTALS[at].is_by_place;
        at += 1;
    }
    by_place
};

/// The totals of all entities.
pub type Totals = totals::Totals<{ TOTALS.len() }>;

/// Adds drops of one class to every total that counts them.
pub fn add(totals: &mut Totals, entity: EntityId, class: SiteClass, drops: u64) {
    let counting = TOTALS.iter().enumerate().filter(|(_, total)| (total.counts)(class));
    totals.add_to(entity, counting.map(|(index, _)| index), drops);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Indexes of the totals that count a class.
    fn counted(is_noise: bool, stage: LossStage) -> Vec<usize> {
        let class = SiteClass { is_noise, stage, is_named: true };
        (0..TOTALS.len()).filter(|index| (TOTALS[*index].counts)(class)).collect()
    }

    #[test]
    fn noise_is_in_the_total_and_not_abnormal() {
        assert_eq!(counted(true, LossStage::TcpHandle), [0, 5]);
        assert_eq!(counted(false, LossStage::Netfilter), [0, 1, 2]);
        assert_eq!(counted(false, LossStage::Other), [0, 1]);
    }
}
