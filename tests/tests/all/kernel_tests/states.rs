//! tcp-state: the life of connections.

use anyhow::Result;
use inspector::probe::Options;
use inspector_ebpf::TcpState;
use inspector_ebpf::tcp_state::{KIND_ACCEPTED, KIND_CLOSED, KIND_CONNECTED, KIND_FAILED};
use inspector_tests::lab::{Connection, Family, Pair, faults};
use nix::libc::ECONNREFUSED;

use super::{CLOSE, ESTABLISHED, SYN_RECV, SYN_SENT, TCP, check_head, is};
use crate::observer::{Observer, now_ns};

fn observer() -> Result<Observer> {
    Observer::of(&["tcp-state"], Options::default())
}

#[test]
fn a_connection_is_seen_from_both_sides_from_its_start_to_its_end() -> Result<()> {
    let (pair, observer) = (Pair::new()?, observer()?);
    let (client, server) = (pair.client.cookie()?, pair.server.cookie()?);
    for family in Family::BOTH {
        let start = now_ns();
        let mut connection = Connection::open(&pair, family)?;
        let (from, to) = (connection.client_at, connection.server_at);
        connection.exchange(5000, 70_000)?;
        connection.close()?;
        let find = |kind: u16, netns: u64, local, peer| {
            let wanted = move |s: &TcpState| s.head.kind == kind && is(&s.head, netns, TCP, local, peer);
            observer.wait_for::<TcpState>(&format!("kind {kind}"), wanted)
        };

        let connected = find(KIND_CONNECTED, client, from, to)?;
        check_head(&connected.head, KIND_CONNECTED, ESTABLISHED)?;
        assert_eq!((connected.old_state, connected.new_state), (SYN_SENT, ESTABLISHED));
        assert!(connected.duration_ns > 0, "the connect latency");

        let accepted = find(KIND_ACCEPTED, server, to, from)?;
        check_head(&accepted.head, KIND_ACCEPTED, ESTABLISHED)?;
        assert_eq!((accepted.old_state, accepted.new_state), (SYN_RECV, ESTABLISHED));

        let active = find(KIND_CLOSED, client, from, to)?;
        let passive = find(KIND_CLOSED, server, to, from)?;
        let longest = now_ns() - start;
        for (closed, sent, received) in [(&active, 5000, 70_000), (&passive, 70_000, 5000)] {
            check_head(&closed.head, KIND_CLOSED, CLOSE)?;
            assert_eq!(closed.new_state, CLOSE);
            // The kernel counts the acknowledged SYN and FIN as a byte each.
            assert!((sent..=sent + 2).contains(&closed.bytes_sent), "{} of {sent}", closed.bytes_sent);
            assert!((received..=received + 1).contains(&closed.bytes_received), "{}", closed.bytes_received);
            assert!(closed.srtt_us > 0);
            assert_eq!((closed.retransmits, closed.error), (0, 0));
            assert!((1..=longest).contains(&closed.duration_ns), "{} ns of {longest}", closed.duration_ns);
        }
        assert!(connected.duration_ns < longest);
    }
    Ok(())
}

#[test]
fn a_refused_connect_fails_with_its_error() -> Result<()> {
    let (pair, observer) = (Pair::new()?, observer()?);
    let netns = pair.client.cookie()?;
    for family in Family::BOTH {
        let to = pair.server_at(family, faults::CLOSED_PORT);
        let from = faults::connect_to_closed_port(&pair.client, to)?;
        let failed = observer.wait_for::<TcpState>("the failure", |s| is(&s.head, netns, TCP, from, to))?;
        check_head(&failed.head, KIND_FAILED, CLOSE)?;
        assert_eq!((failed.old_state, failed.new_state), (SYN_SENT, CLOSE));
        assert_eq!(failed.error, ECONNREFUSED.cast_unsigned());
        assert!(failed.duration_ns > 0);
        assert_eq!((failed.bytes_sent, failed.bytes_received), (0, 0));
    }
    Ok(())
}

#[test]
fn a_connection_that_ends_by_a_reset_is_closed_once() -> Result<()> {
    let (pair, observer) = (Pair::new()?, observer()?);
    let (client, server) = (pair.client.cookie()?, pair.server.cookie()?);
    for family in Family::BOTH {
        let (from, to) = faults::reset_by_linger(&pair, family)?;
        let closed = |netns, local, peer| {
            move |s: &TcpState| s.head.kind == KIND_CLOSED && is(&s.head, netns, TCP, local, peer)
        };
        let active = observer.wait_for::<TcpState>("the client's end", closed(client, from, to))?;
        let passive = observer.wait_for::<TcpState>("the server's end", closed(server, to, from))?;
        assert_eq!((active.old_state, passive.old_state), (ESTABLISHED, ESTABLISHED));
        let ends = observer.records::<TcpState>().into_iter().filter(closed(server, to, from)).count();
        assert_eq!(ends, 1);
    }
    Ok(())
}
