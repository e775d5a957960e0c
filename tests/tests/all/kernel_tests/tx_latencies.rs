//! tx-latency: packets in queues and drivers, and what drivers refuse.

use anyhow::{Result, ensure};
use inspector::probe::Options;
use inspector_ebpf::TxLatency;
use inspector_ebpf::sum::is_above;
use inspector_ebpf::tx_latency::{
    KIND_ERROR, KIND_SLOW, KIND_SUM, STAGE_DRIVER, STAGE_ERROR, STAGE_KERNEL, STAGE_QDISC, STAGE_UNSEEN,
};
use inspector_tests::lab::{Connection, Family, Pair, delays, faults};

use super::{TCP, UDP, check_bucket, eth0, flow, text_of};
use crate::observer::Observer;

const MS: u64 = 1_000_000;

fn observer() -> Result<Observer> {
    Observer::of(&["tx-latency"], Options::default())
}

/// Sums of one namespace and stage.
fn sums(observer: &Observer, netns: u64, stage: u8) -> Vec<TxLatency> {
    let mut records = observer.records::<TxLatency>();
    records.retain(|r| r.head.kind == KIND_SUM && (r.head.netns, r.stage) == (netns, stage));
    records
}

fn packets(sums: &[TxLatency]) -> u64 {
    sums.iter().map(|sum| sum.count).sum()
}

#[test]
fn a_throttled_queue_holds_packets_for_more_than_100_ms() -> Result<()> {
    let (pair, observer) = (Pair::new()?, observer()?);
    let netns = pair.client.cookie()?;
    delays::throttle(&pair.client)?;
    for family in Family::BOTH {
        let to = pair.server_at(family, 9);
        let from = faults::send_udp(&pair.client, to, 6, 1000)?;
        let slow = observer.wait_for::<TxLatency>("a packet that waited for 100 ms", |r| {
            r.head.kind == KIND_SLOW
                && r.stage == STAGE_QDISC
                && r.duration_ns > 100 * MS
                && flow(&r.head) == (netns, UDP, from, to)
        })?;
        check_bucket(slow.bucket, 1, slow.duration_ns)?;
        assert!(slow.duration_ns < 2100 * MS, "{} ns", slow.duration_ns);
        assert_eq!((text_of(&slow.device), slow.ifindex), ("eth0".to_owned(), eth0(&pair.client)?));
        assert_eq!(slow.length, 14 + family.header_bytes() + 8 + 1000);
        // All of that time was the kernel's.
        observer.wait_for::<TxLatency>("the same, as time in the kernel", |r| {
            r.head.kind == KIND_SLOW
                && r.stage == STAGE_KERNEL
                && r.head.netns == netns
                && r.duration_ns >= slow.duration_ns
        })?;
    }
    Ok(())
}

#[test]
fn every_packet_is_in_the_sums_of_each_stage_and_none_is_slow_without_a_reason() -> Result<()> {
    let (pair, mut observer) = (Pair::introduced()?, observer()?);
    let netns = pair.client.cookie()?;
    let sent = 3_000;
    for family in Family::BOTH {
        faults::send_udp(&pair.client, pair.server_at(family, 9), sent, 100)?;
    }
    observer.unload();
    for stage in [STAGE_QDISC, STAGE_DRIVER, STAGE_KERNEL] {
        let sums = sums(&observer, netns, stage);
        sums.iter().try_for_each(|sum| check_bucket(sum.bucket, sum.count, sum.duration_ns))?;
        // And a few neighbour solicitations.
        ensure!((2 * sent..2 * sent + 20).contains(&packets(&sums)), "stage {stage}: {}", packets(&sums));
    }
    assert_eq!(packets(&sums(&observer, netns, STAGE_UNSEEN)), 0);
    assert_eq!(packets(&sums(&observer, netns, STAGE_ERROR)), 0);
    let delivered: u64 = observer.records::<TxLatency>().iter().map(|record| record.count).sum();
    let status = observer.status("tx-latency");
    assert_eq!(delivered + status.lost, status.produced);
    Ok(())
}

#[test]
fn a_packet_too_long_for_the_other_end_of_the_link_is_an_error_of_the_driver() -> Result<()> {
    for family in Family::BOTH {
        let (pair, observer) = (Pair::new()?, observer()?);
        let netns = pair.client.cookie()?;
        let to = pair.server_at(family, 9);
        pair.server.ip("link set eth0 mtu 1300")?;
        faults::send_udp(&pair.client, to, 3, 1400)?;
        let refused = observer
            .wait_for::<TxLatency>("the packet", |r| r.head.kind == KIND_ERROR && r.head.netns == netns)?;
        assert_eq!((refused.code, refused.stage, refused.ifindex), (1, STAGE_ERROR, eth0(&pair.client)?));
        assert_eq!(refused.length, 14 + family.header_bytes() + 8 + 1400);
        let counted = |observer: &Observer| packets(&sums(observer, netns, STAGE_ERROR));
        inspector_tests::wait::until("the sum of errors", || (counted(&observer) > 0).then_some(()))?;
    }
    Ok(())
}

#[test]
fn what_tcp_sent_and_a_slow_firewall_held_up_was_long_in_the_kernel() -> Result<()> {
    let _turn = crate::heavy();
    let (pair, observer) = (Pair::new()?, observer()?);
    let netns = pair.client.cookie()?;
    for family in Family::BOTH {
        let mut connection = Connection::open(&pair, family)?;
        connection.exchange(1, 1)?;
        let port = connection.server_at.port();
        delays::slow_firewall(&pair.client, "output", &format!("tcp dport {port}"))?;
        connection.exchange(100, 1)?;
        pair.client.nft("delete table inet slow")?;
        let (from, to) = (connection.client_at, connection.server_at);
        // The SYN may have been long in the kernel too: it waits for the neighbour to be found.
        let length = 14 + family.header_bytes() + 32 + 100;
        let slow = observer.wait_for::<TxLatency>("the segment", |r| {
            (r.head.kind, r.stage, r.length) == (KIND_SLOW, STAGE_KERNEL, length)
                && flow(&r.head) == (netns, TCP, from, to)
        })?;
        check_bucket(slow.bucket, 1, slow.duration_ns)?;
        let mut queues = sums(&observer, netns, STAGE_QDISC);
        queues.retain(|sum| is_above(sum.bucket, 10 * MS));
        assert_eq!(packets(&queues), 0, "it was not the queue");
    }
    Ok(())
}
