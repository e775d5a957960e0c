//! neighbour: hosts on the link that do not answer or change their address.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::os::fd::AsRawFd;

use anyhow::{Context, Result};
use inspector::probe::Options;
use inspector_ebpf::neighbour::{
    KIND_CHANGED, KIND_CLAIMED, KIND_FAILED, KIND_UNANSWERED, NUD_FAILED, NUD_INCOMPLETE, NUD_PROBE,
};
use inspector_ebpf::record::FLAG_DEVICE;
use inspector_ebpf::{Head, Neighbour};
use inspector_tests::lab::{Family, Namespace, Pair};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage, sendto, setsockopt, socket,
    sockopt,
};

use super::eth0;
use crate::observer::Observer;

/// The kernel repeats a request after a second (`retrans_time_ms`), three times in all.
const SECOND_NS: u64 = 1_000_000_000;
const NOBODY_V4: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 99);
const NOBODY_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 9, 0, 0, 0, 0, 0, 0x99);

fn observer() -> Result<Observer> {
    Observer::of(&["neighbour"], Options::default())
}

fn is(head: &Head, kind: u16, netns: u64, of: IpAddr) -> bool {
    (head.kind, head.netns, head.destination()) == (kind, netns, of)
}

/// Sends until the host is in the table of neighbours. The kernel's limit on that table is the whole
/// machine's, and another test fills it for a moment: then it drops the datagram, and `send_to` over
/// IPv4 does not say so.
fn send(from: &Namespace, to: IpAddr) -> Result<()> {
    let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    inspector_tests::wait::until("the host in the table of neighbours", || {
        let _full = from.run(|| Ok(UdpSocket::bind((any, 0))?.send_to(b"hello", (to, 4242))?));
        from.ip(&format!("neigh show to {to} dev eth0")).ok().filter(|shown| !shown.is_empty())
    })?;
    Ok(())
}

/// The link-layer address of `eth0`, filled up to eight bytes.
fn lladdr(of: &Namespace) -> Result<[u8; 8]> {
    let link = of.ip("-o link show eth0")?;
    let mut words = link.split_whitespace().skip_while(|word| *word != "link/ether").skip(1);
    let address = words.next().context("no link/ether")?;
    let mut bytes = [0; 8];
    for (byte, text) in bytes.iter_mut().zip(address.split(':')) {
        *byte = u8::from_str_radix(text, 16)?;
    }
    Ok(bytes)
}

#[test]
fn a_host_that_never_answers_fails_after_its_probes() -> Result<()> {
    let (pair, observer) = (Pair::new()?, observer()?);
    let client = pair.client.cookie()?;
    for nobody in [IpAddr::from(NOBODY_V4), NOBODY_V6.into()] {
        send(&pair.client, nobody)?;
    }
    for nobody in [IpAddr::from(NOBODY_V4), NOBODY_V6.into()] {
        let asked = observer
            .wait_for::<Neighbour>("a request in vain", |n| is(&n.head, KIND_UNANSWERED, client, nobody))?;
        assert_eq!((asked.old_state, asked.new_state), (NUD_INCOMPLETE, NUD_INCOMPLETE));
        let failed =
            observer.wait_for::<Neighbour>("the failure", |n| is(&n.head, KIND_FAILED, client, nobody))?;
        let waited = failed.head.ts_ns - asked.head.ts_ns;
        assert!(waited >= SECOND_NS, "it failed {waited} ns after the first request in vain");
        assert_eq!((failed.head.flags, failed.head.saddr), (FLAG_DEVICE, [0; 16]));
        assert_eq!(failed.ifindex, eth0(&pair.client)?);
        assert_eq!(failed.probes, 3 + 3, "mcast_solicit of them sent, counted from ucast_solicit");
        assert_eq!((failed.old_state, failed.new_state), (NUD_INCOMPLETE, NUD_FAILED));
        assert_eq!((failed.old_lladdr, failed.lladdr_length), ([0; 8], 6));
    }
    Ok(())
}

#[test]
fn a_host_that_goes_away_fails_from_probe_with_the_address_that_it_had() -> Result<()> {
    let (pair, observer) = (Pair::new()?, observer()?);
    let (client, had) = (pair.client.cookie()?, lladdr(&pair.server)?);
    for family in Family::BOTH {
        let gone = pair.server_ip(family);
        send(&pair.client, gone)?;
        let reachable = format!("neigh show to {gone} dev eth0 nud reachable");
        inspector_tests::wait::until("the server to be known", || {
            pair.client.ip(&reachable).ok().filter(|shown| !shown.is_empty())
        })?;
        let prefix = if gone.is_ipv4() { 24 } else { 64 };
        pair.server.ip(&format!("addr del {gone}/{prefix} dev eth0"))?;
        pair.client.ip(&format!("neigh change {gone} dev eth0 nud probe"))?;
        let failed =
            observer.wait_for::<Neighbour>("the failure", |n| is(&n.head, KIND_FAILED, client, gone))?;
        assert_eq!((failed.old_state, failed.new_state), (NUD_PROBE, NUD_FAILED));
        assert_eq!(failed.old_lladdr, had);
    }
    Ok(())
}

#[test]
fn a_known_host_with_another_link_layer_address_is_a_change() -> Result<()> {
    let (pair, observer) = (Pair::new()?, observer()?);
    let (client, before) = (pair.client.cookie()?, lladdr(&pair.server)?);
    for family in Family::BOTH {
        send(&pair.client, pair.server_ip(family))?;
    }
    for family in Family::BOTH {
        let server = pair.server_ip(family);
        let valid = format!("neigh show to {server} dev eth0 nud reachable");
        inspector_tests::wait::until("the server to be known", || {
            pair.client.ip(&valid).ok().filter(|shown| !shown.is_empty())
        })?;
    }
    pair.server.ip("link set eth0 address 02:00:00:00:00:42")?;
    for family in Family::BOTH {
        let server = pair.server_ip(family);
        // What it asks with tells the client its new address.
        pair.server.ip("neigh flush dev eth0")?;
        send(&pair.server, pair.client_ip(family))?;
        let changed =
            observer.wait_for::<Neighbour>("the change", |n| is(&n.head, KIND_CHANGED, client, server))?;
        assert_eq!(changed.old_lladdr, before);
        assert_eq!(changed.new_lladdr, [2, 0, 0, 0, 0, 0x42, 0, 0]);
        assert_eq!((changed.ifindex, changed.lladdr_length), (eth0(&pair.client)?, 6));
    }
    Ok(())
}

/// A neighbour advertisement that may not override what is known.
fn claim(pair: &Pair) -> Result<()> {
    let mut message = vec![136, 0, 0, 0, 0x40, 0, 0, 0];
    let IpAddr::V6(server) = pair.server_ip(Family::V6) else { unreachable!("asked for IPv6") };
    message.extend(server.octets());
    message.extend([2, 1, 2, 0, 0, 0, 0, 0x66]);
    pair.server.run(|| {
        let flags = SockFlag::SOCK_CLOEXEC;
        let socket = socket(AddressFamily::Inet6, SockType::Raw, flags, SockProtocol::IcmpV6)?;
        // Neighbour discovery believes only what has come without a router in between.
        setsockopt(&socket, sockopt::Ipv6Ttl, &255)?;
        let to = SockaddrStorage::from(std::net::SocketAddr::new(pair.client_ip(Family::V6), 0));
        sendto(socket.as_raw_fd(), &message, &to, MsgFlags::empty())?;
        Ok(())
    })
}

#[test]
fn a_second_host_that_claims_an_address_is_told_and_not_believed() -> Result<()> {
    let (pair, observer) = (Pair::new()?, observer()?);
    let (client, known) = (pair.client.cookie()?, lladdr(&pair.server)?);
    let server = pair.server_ip(Family::V6);
    send(&pair.client, server)?;
    inspector_tests::wait::until("the server to be known", || {
        let shown = pair.client.ip(&format!("neigh show to {server} dev eth0 nud reachable")).ok()?;
        (!shown.is_empty()).then_some(())
    })?;
    claim(&pair)?;
    let claimed =
        observer.wait_for::<Neighbour>("the claim", |n| is(&n.head, KIND_CLAIMED, client, server))?;
    assert_eq!(claimed.old_lladdr, known);
    assert_eq!(claimed.new_lladdr, [2, 0, 0, 0, 0, 0x66, 0, 0]);
    Ok(())
}

#[test]
fn a_host_that_answers_makes_no_record() -> Result<()> {
    // On a machine that stands still for a second a request is in vain, and rightly told.
    let mut told = Vec::new();
    for _ in 0..5 {
        told = records_of_hosts_that_answer()?;
        if told.is_empty() {
            break;
        }
    }
    assert!(told.is_empty(), "each time: {told:#?}");
    Ok(())
}

fn records_of_hosts_that_answer() -> Result<Vec<Neighbour>> {
    // A host that has just got its IPv6 address does not hear yet that it is asked for.
    let (pair, observer) = (Pair::introduced()?, observer()?);
    let (client, server) = (pair.client.cookie()?, pair.server.cookie()?);
    for at in [&pair.client, &pair.server] {
        at.ip("neigh flush all")?;
    }
    for family in Family::BOTH {
        inspector_tests::lab::Connection::open(&pair, family)?.close()?;
    }
    send(&pair.client, NOBODY_V4.into())?;
    let nobody = NOBODY_V4.into();
    observer.wait_for::<Neighbour>("the marker", |n| is(&n.head, KIND_FAILED, client, nobody))?;
    let of_pair = |n: &Neighbour| [client, server].contains(&n.head.netns) && n.head.destination() != nobody;
    Ok(observer.records::<Neighbour>().into_iter().filter(of_pair).collect())
}
