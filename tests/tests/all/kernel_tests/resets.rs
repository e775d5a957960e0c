//! tcp-reset: resets that a local stack sends or receives.

use anyhow::Result;
use inspector::probe::Options;
use inspector_ebpf::TcpReset;
use inspector_ebpf::tcp_reset::{KIND_RECEIVED, KIND_SENT};
use inspector_tests::lab::{Family, Pair, faults};

use super::{CLOSE, ESTABLISHED, SYN, SYN_SENT, TCP, check_head, is};
use crate::observer::Observer;

fn observer() -> Result<Observer> {
    Observer::of(&["tcp-reset"], Options::default())
}

#[test]
fn a_closed_port_answers_with_a_reset_without_a_socket() -> Result<()> {
    let (pair, observer) = (Pair::new()?, observer()?);
    let (client, server) = (pair.client.cookie()?, pair.server.cookie()?);
    for family in Family::BOTH {
        let closed = pair.server_at(family, faults::CLOSED_PORT);
        let from = faults::connect_to_closed_port(&pair.client, closed)?;

        let sent =
            observer.wait_for::<TcpReset>("the sent one", |r| is(&r.head, server, TCP, closed, from))?;
        check_head(&sent.head, KIND_SENT, 0)?;
        assert_eq!((sent.has_socket, sent.has_segment, sent.tcp_flags), (0, 1, SYN));
        assert_eq!(sent.has_reason, 1);
        assert_eq!(observer.names.reset_reason(sent.reason), "NO_SOCKET");

        let got =
            observer.wait_for::<TcpReset>("the received one", |r| is(&r.head, client, TCP, from, closed))?;
        check_head(&got.head, KIND_RECEIVED, SYN_SENT)?;
        assert_eq!((got.has_socket, got.has_reason), (1, 0));
    }
    Ok(())
}

#[test]
fn an_application_that_lingers_for_no_time_resets_its_connection() -> Result<()> {
    let (pair, observer) = (Pair::new()?, observer()?);
    let (client, server) = (pair.client.cookie()?, pair.server.cookie()?);
    for family in Family::BOTH {
        let (from, to) = faults::reset_by_linger(&pair, family)?;

        let sent = observer.wait_for::<TcpReset>("the sent one", |r| is(&r.head, client, TCP, from, to))?;
        // The stack has closed the socket by the time it sends the reset.
        check_head(&sent.head, KIND_SENT, CLOSE)?;
        assert_eq!((sent.has_socket, sent.has_segment, sent.tcp_flags), (1, 0, 0));
        assert_eq!(sent.has_reason, 1);
        assert_eq!(observer.names.reset_reason(sent.reason), "TCP_STATE");

        let got =
            observer.wait_for::<TcpReset>("the received one", |r| is(&r.head, server, TCP, to, from))?;
        check_head(&got.head, KIND_RECEIVED, ESTABLISHED)?;
        assert_eq!(got.has_socket, 1);
    }
    Ok(())
}

#[test]
fn an_application_that_closes_with_unread_data_aborts() -> Result<()> {
    let (pair, observer) = (Pair::new()?, observer()?);
    let (client, server) = (pair.client.cookie()?, pair.server.cookie()?);
    for family in Family::BOTH {
        let (from, to) = faults::reset_by_unread_data(&pair, family)?;

        let sent = observer.wait_for::<TcpReset>("the sent one", |r| is(&r.head, server, TCP, to, from))?;
        check_head(&sent.head, KIND_SENT, CLOSE)?;
        assert_eq!((sent.has_socket, sent.has_segment), (1, 0));
        assert_eq!(observer.names.reset_reason(sent.reason), "TCP_ABORT_ON_CLOSE");

        let got =
            observer.wait_for::<TcpReset>("the received one", |r| is(&r.head, client, TCP, from, to))?;
        check_head(&got.head, KIND_RECEIVED, ESTABLISHED)?;
    }
    Ok(())
}
