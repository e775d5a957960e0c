//! socket-error: what sockets are told, and packets for which they have no room.

use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};

use anyhow::Result;
use inspector::probe::Options;
use inspector_ebpf::SocketError;
use inspector_ebpf::record::{FLAG_PACKET, FLAG_PORTS, FLAG_SOCKET};
use inspector_ebpf::socket_error::{KIND_QUEUE_FULL, KIND_REPORTED, KIND_UDP_REFUSED};
use inspector_tests::lab::{Family, Pair, faults};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage, sendto, setsockopt, socket,
    sockopt,
};

use super::{CLOSE, TCP, UDP, check_head, is};
use crate::observer::Observer;

/// The kernel doubles it.
const SMALL: usize = 4_096;

fn observer() -> Result<Observer> {
    Observer::of(&["socket-error"], Options::default())
}

#[test]
fn a_refused_connect_is_reported_to_its_socket() -> Result<()> {
    let (pair, observer) = (Pair::new()?, observer()?);
    let client = pair.client.cookie()?;
    for family in Family::BOTH {
        let to = pair.server_at(family, faults::CLOSED_PORT);
        let from = faults::connect_to_closed_port(&pair.client, to)?;
        let error = observer.wait_for::<SocketError>("the report", |e| is(&e.head, client, TCP, from, to))?;
        check_head(&error.head, KIND_REPORTED, CLOSE)?;
        assert_eq!(error.head.flags, FLAG_SOCKET | FLAG_PORTS);
        assert_eq!(error.error, Errno::ECONNREFUSED as u32);
        assert_eq!((error.receive_queued, error.length, error.sending, error.memory_pages), (0, 0, 0, 0));
        assert!(error.receive_limit > 0 && error.send_limit > 0, "{error:?}");
    }
    Ok(())
}

#[test]
fn a_datagram_that_a_connected_socket_sent_in_vain_is_reported_to_it() -> Result<()> {
    let (pair, observer) = (Pair::new()?, observer()?);
    let client = pair.client.cookie()?;
    for family in Family::BOTH {
        let to = pair.server_at(family, faults::CLOSED_PORT);
        let socket = pair.client.udp((pair.client_ip(family), 0))?;
        socket.connect(to)?;
        socket.send(b"anybody?")?;
        let from = socket.local_addr()?;
        let error = observer.wait_for::<SocketError>("the report", |e| is(&e.head, client, UDP, from, to))?;
        check_head(&error.head, KIND_REPORTED, 0)?;
        assert_eq!(error.error, Errno::ECONNREFUSED as u32);
    }
    Ok(())
}

#[test]
fn a_udp_socket_that_is_full_refuses_the_next_datagram() -> Result<()> {
    let (pair, observer) = (Pair::new()?, observer()?);
    let server = pair.server.cookie()?;
    for family in Family::BOTH {
        let socket = pair.server.udp((pair.server_ip(family), 0))?;
        setsockopt(&socket, sockopt::RcvBuf, &SMALL)?;
        let to = socket.local_addr()?;
        let from = faults::send_udp(&pair.client, to, 50, 1_000)?;
        let error = observer.wait_for::<SocketError>("a refusal", |e| is(&e.head, server, UDP, from, to))?;
        check_head(&error.head, KIND_UDP_REFUSED, 0)?;
        assert_eq!(error.head.flags, FLAG_PACKET | FLAG_PORTS);
        assert_eq!(error.error, Errno::ENOMEM as u32);
        assert_eq!(error.receive_limit as usize, 2 * SMALL);
        assert!(error.receive_queued > error.receive_limit / 2, "{error:?}");
        assert_eq!(error.length, 1_000, "the payload: both headers have been pulled off by then");
        assert_eq!((error.sending, error.send_queued), (0, 0));
    }
    Ok(())
}

/// Sends echo requests to the server on a socket that does not read the replies.
fn ping(pair: &Pair, family: Family) -> Result<OwnedFd> {
    let (kind, protocol, echo) = match family {
        Family::V4 => (AddressFamily::Inet, SockProtocol::Icmp, 8),
        Family::V6 => (AddressFamily::Inet6, SockProtocol::IcmpV6, 128),
    };
    pair.client.run(|| {
        fs::write("/proc/sys/net/ipv4/ping_group_range", "0 0")?;
        let socket = socket(kind, SockType::Datagram, SockFlag::SOCK_CLOEXEC, protocol)?;
        setsockopt(&socket, sockopt::RcvBuf, &SMALL)?;
        let to = SockaddrStorage::from(pair.server_at(family, 0));
        let mut request = vec![0; 1_000];
        request[0] = echo;
        for _ in 0..50 {
            sendto(socket.as_raw_fd(), &request, &to, MsgFlags::empty())?;
        }
        Ok(socket)
    })
}

#[test]
fn a_ping_socket_that_is_full_loses_the_next_reply() -> Result<()> {
    let (pair, observer) = (Pair::new()?, observer()?);
    let client = pair.client.cookie()?;
    for (family, protocol) in [(Family::V4, 1), (Family::V6, 58)] {
        let _socket = ping(&pair, family)?;
        let error = observer.wait_for::<SocketError>("a full queue", |e| {
            (e.head.netns, e.head.proto) == (client, protocol)
        })?;
        assert_eq!((error.head.kind, error.head.flags), (KIND_QUEUE_FULL, FLAG_PACKET));
        assert_eq!(error.head.source(), pair.server_ip(family));
        assert_eq!(error.head.destination(), pair.client_ip(family));
        assert_eq!((error.head.sport, error.head.dport), (0, 0));
        assert_eq!(error.error, Errno::ENOMEM as u32);
        assert_eq!(error.receive_limit as usize, 2 * SMALL);
        assert!(error.receive_queued >= error.receive_limit, "{error:?}");
    }
    Ok(())
}

#[test]
fn a_connection_that_ends_in_order_is_no_error() -> Result<()> {
    let (pair, observer) = (Pair::new()?, observer()?);
    let (client, server) = (pair.client.cookie()?, pair.server.cookie()?);
    for family in Family::BOTH {
        let mut connection = inspector_tests::lab::Connection::open(&pair, family)?;
        connection.exchange(100_000, 100_000)?;
        connection.close()?;
    }
    // A later one shows that everything before it has been seen.
    let to = pair.server_at(Family::V4, faults::CLOSED_PORT);
    let from = faults::connect_to_closed_port(&pair.client, to)?;
    observer.wait_for::<SocketError>("the marker", |e| is(&e.head, client, TCP, from, to))?;
    let of_pair = |e: &SocketError| [client, server].contains(&e.head.netns);
    assert_eq!(observer.records::<SocketError>().into_iter().filter(of_pair).count(), 1);
    Ok(())
}
