//! rx-latency: segments from a device to their socket.

use anyhow::{Result, ensure};
use inspector::probe::Options;
use inspector_ebpf::RxLatency;
use inspector_ebpf::rx_latency::{KIND_SLOW, KIND_SUM};
use inspector_tests::lab::{Connection, Family, Pair, delays};

use super::{ESTABLISHED, TCP, check_bucket, is};
use crate::observer::Observer;

const MS: u64 = 1_000_000;

fn observer() -> Result<Observer> {
    Observer::of(&["rx-latency"], Options::default())
}

#[test]
fn a_segment_that_a_slow_firewall_held_up_is_told() -> Result<()> {
    let _turn = crate::heavy();
    let (pair, observer) = (Pair::new()?, observer()?);
    let netns = pair.server.cookie()?;
    for family in Family::BOTH {
        let mut connection = Connection::open(&pair, family)?;
        let (from, to) = (connection.client_at, connection.server_at);
        delays::slow_firewall(&pair.server, "input", &format!("tcp dport {}", to.port()))?;
        connection.exchange(100, 1)?;
        pair.server.nft("delete table inet slow")?;
        let wanted = |r: &RxLatency| r.head.kind == KIND_SLOW && is(&r.head, netns, TCP, from, to);
        let slow = observer.wait_for::<RxLatency>("the segment", wanted)?;
        println!("{family:?}: {} ms", slow.duration_ns / MS);
        assert!(slow.duration_ns > 10 * MS && slow.count == 1);
        assert_eq!(slow.head.tcp_state, ESTABLISHED);
        check_bucket(slow.bucket, 1, slow.duration_ns)?;
        assert!(slow.length >= 20, "{} bytes", slow.length);
    }
    Ok(())
}

#[test]
fn segments_are_counted_at_their_socket_and_none_is_slow_without_a_reason() -> Result<()> {
    let (pair, mut observer) = (Pair::new()?, observer()?);
    let netns = pair.server.cookie()?;
    let rounds = 500;
    for family in Family::BOTH {
        let mut connection = Connection::open(&pair, family)?;
        (0..rounds).try_for_each(|_| connection.exchange(10, 10))?;
    }
    observer.unload();
    let records = observer.records::<RxLatency>();
    let own: Vec<_> = records.iter().filter(|r| r.head.netns == netns).collect();
    let sums: Vec<_> = own.iter().filter(|r| r.head.kind == KIND_SUM).collect();
    sums.iter().try_for_each(|sum| check_bucket(sum.bucket, sum.count, sum.duration_ns))?;
    let counted: u64 = sums.iter().map(|sum| sum.count).sum();
    // One per request, and an acknowledgement here and there.
    ensure!((2 * rounds..=5 * rounds).contains(&counted), "{counted} segments");
    let delivered: u64 = records.iter().map(|record| record.count).sum();
    let status = observer.status("rx-latency");
    assert_eq!(delivered + status.lost, status.produced);
    Ok(())
}
