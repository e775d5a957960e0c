//! tcp-retransmit: segments sent again, and why.

use std::io::{Read, Write};

use anyhow::{Context as _, Result};
use inspector::probe::Options;
use inspector_ebpf::TcpRetransmit;
use inspector_ebpf::tcp_retransmit::{
    KIND_CONG_STATE, KIND_SEGMENT, KIND_SYNACK, WHY_FAST, WHY_RTO, WHY_SYN, WHY_TLP,
};
use inspector_tests::lab::{Connection, Family, Pair, faults};

use super::{ACK, ESTABLISHED, SYN, SYN_SENT, TCP, check_head, is};
use crate::observer::Observer;

const RECOVERY: u8 = 3;
const LOSS: u8 = 4;

fn observer() -> Result<Observer> {
    Observer::of(&["tcp-retransmit"], Options::default())
}

#[test]
fn a_syn_without_an_answer_is_sent_again() -> Result<()> {
    let (pair, observer) = (Pair::new()?, observer()?);
    let netns = pair.client.cookie()?;
    faults::drop_incoming(&pair.server, "tcp", 4242)?;
    for family in Family::BOTH {
        let to = pair.server_at(family, 4242);
        let (_connecting, from) = faults::start_connect(&pair.client, to)?;
        let wanted = |r: &TcpRetransmit| r.head.kind == KIND_SEGMENT && is(&r.head, netns, TCP, from, to);
        let again = observer.wait_for::<TcpRetransmit>("the second SYN", wanted)?;
        check_head(&again.head, KIND_SEGMENT, SYN_SENT)?;
        assert_eq!((again.why, again.tcp_flags & (SYN | ACK)), (WHY_SYN, SYN));
        assert_eq!((again.length, again.seq_distance, again.total), (0, 0, 1));
        assert!(again.timeouts <= 1, "{} timeouts", again.timeouts);
    }
    Ok(())
}

/// The kernel sends no tail-loss probe while the segment still waits in its own queues, as it may
/// on a machine that stands still for a moment: such a connection shows nothing, the next one may.
#[test]
fn lost_data_is_probed_for_and_then_sent_again_by_the_timer() -> Result<()> {
    const ATTEMPTS: usize = 5;

    let (pair, observer) = (Pair::new()?, observer()?);
    let netns = pair.client.cookie()?;
    for family in Family::BOTH {
        let probed =
            (0..ATTEMPTS).find_map(|_| probed_then_timed_out(&pair, &observer, netns, family).transpose());
        let (probe, timer) =
            probed.with_context(|| format!("{family:?}: no probe in {ATTEMPTS} attempts"))??;
        for again in [probe, timer] {
            check_head(&again.head, KIND_SEGMENT, ESTABLISHED)?;
            assert_eq!((again.length, again.seq_distance, again.seq), (123, 0, probe.seq));
            assert_eq!(again.tcp_flags & (SYN | ACK), ACK);
        }
        assert_eq!(timer.total, probe.total + 1);
        assert_eq!(timer.ca_state, LOSS);
    }
    Ok(())
}

/// Loses what one connection sends, until its timer fires: the first two records of that, unless
/// the first was the timer's already.
fn probed_then_timed_out(
    pair: &Pair,
    observer: &Observer,
    netns: u64,
    family: Family,
) -> Result<Option<(TcpRetransmit, TcpRetransmit)>> {
    let mut connection = Connection::open(pair, family)?;
    connection.exchange(10, 10)?;
    faults::drop_incoming(&pair.server, "tcp", connection.server_at.port())?;
    connection.client.write_all(&[0; 123])?;
    let (from, to) = (connection.client_at, connection.server_at);
    let of = |r: &TcpRetransmit, why| is(&r.head, netns, TCP, from, to) && r.length == 123 && r.why == why;
    let timer = observer.wait_for::<TcpRetransmit>("the timer", |r| of(r, WHY_RTO))?;
    faults::stop_dropping(&pair.server)?;
    connection.server.read_exact(&mut [0; 123])?;
    let probe = observer.records::<TcpRetransmit>().into_iter().find(|r| of(r, WHY_TLP));
    Ok(probe.map(|probe| (probe, timer)))
}

#[test]
fn a_hole_in_a_stream_is_filled_by_a_fast_retransmission() -> Result<()> {
    let (pair, observer) = (Pair::new()?, observer()?);
    let netns = pair.client.cookie()?;
    for family in Family::BOTH {
        let connection = Connection::open(&pair, family)?;
        let (from, to) = (connection.client_at, connection.server_at);
        faults::drop_every_nth_segment(&pair.server, 20)?;
        pump(connection, 8 << 20)?;
        faults::stop_dropping(&pair.server)?;
        let own = |r: &TcpRetransmit| is(&r.head, netns, TCP, from, to);
        let fast = observer.wait_for::<TcpRetransmit>("a fast one", |r| own(r) && r.why == WHY_FAST)?;
        check_head(&fast.head, KIND_SEGMENT, ESTABLISHED)?;
        assert_eq!(fast.ca_state, RECOVERY);
        assert!(fast.length > 0);
        let entered = |r: &TcpRetransmit| own(r) && r.head.kind == KIND_CONG_STATE && r.ca_state == RECOVERY;
        observer.wait_for::<TcpRetransmit>("the congestion state", entered)?;
    }
    Ok(())
}

#[test]
fn a_syn_ack_without_an_answer_is_sent_again_by_the_listener() -> Result<()> {
    let (pair, observer) = (Pair::new()?, observer()?);
    let netns = pair.server.cookie()?;
    for family in Family::BOTH {
        let listener = pair.server.listen((pair.server_ip(family), 0))?;
        let at = listener.local_addr()?;
        pair.client.filter("input", &format!("tcp sport {} drop", at.port()))?;
        let (_connecting, from) = faults::start_connect(&pair.client, at)?;
        let again = observer
            .wait_for::<TcpRetransmit>("the second SYN-ACK", |r| is(&r.head, netns, TCP, at, from))?;
        assert_eq!(again.head.kind, KIND_SYNACK);
        assert_eq!(again.length, 0);
        faults::stop_dropping(&pair.client)?;
    }
    Ok(())
}

/// Carries `bytes` from the client to the server, both at once.
fn pump(connection: Connection, bytes: usize) -> Result<()> {
    let Connection { mut client, mut server, .. } = connection;
    std::thread::scope(|scope| {
        let writer = scope.spawn(move || client.write_all(&vec![0; bytes]));
        let read = std::io::copy(&mut server, &mut std::io::sink())?;
        writer.join().expect("writing does not panic")?;
        anyhow::ensure!(read == bytes as u64, "{read} of {bytes} bytes");
        Ok(())
    })
}
