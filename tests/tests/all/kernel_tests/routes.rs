//! route: connects and sends that a route refuses, or that have no route.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use anyhow::{Result, ensure};
use inspector::probe::Options;
use inspector_ebpf::record::{FLAG_PORTS, FLAG_SOCKET};
use inspector_ebpf::route::{KIND_REFUSED, RTN_BLACKHOLE, RTN_PROHIBIT, RTN_UNREACHABLE, RTN_UNSPEC};
use inspector_ebpf::{Head, Route};
use inspector_tests::lab::sockets::reset_on_close;
use inspector_tests::lab::{Connection, Family, Namespace, Pair, faults};
use nix::errno::Errno;
use nix::sys::socket::{setsockopt, sockopt};

use super::{CLOSE, TCP, UDP};
use crate::observer::Observer;

const MAIN: u32 = 254;

fn observer() -> Result<Observer> {
    Observer::of(&["route"], Options::default())
}

/// A host that no pair has a route to, and the network around it.
fn beyond(family: Family) -> (IpAddr, &'static str) {
    match family {
        Family::V4 => (Ipv4Addr::new(10, 8, 0, 1).into(), "10.8.0.0/24"),
        Family::V6 => (Ipv6Addr::new(0xfd00, 8, 0, 0, 0, 0, 0, 1).into(), "fd00:8::/64"),
    }
}

fn is(head: &Head, netns: u64, proto: u8, to: SocketAddr) -> bool {
    (head.netns, head.proto, head.destination(), head.dport) == (netns, proto, to.ip(), to.port())
}

/// What the kernel refused in a namespace so far; a refused datagram to `port` marks the end.
fn refusals(observer: &Observer, at: &Namespace, port: u16) -> Result<Vec<Route>> {
    let netns = at.cookie()?;
    let marker = SocketAddr::new(Ipv4Addr::new(192, 0, 2, 77).into(), port);
    at.ip(&format!("route replace blackhole {}", marker.ip()))?;
    faults::send_without_route(at, marker)?;
    observer.wait_for::<Route>("the marker", |r| is(&r.head, netns, UDP, marker))?;
    let mut all = observer.records::<Route>();
    all.retain(|r| r.head.netns == netns && r.head.destination() != marker.ip());
    Ok(all)
}

fn check_none(observer: &Observer, at: &Namespace) -> Result<()> {
    let refusals = refusals(observer, at, 1)?;
    ensure!(refusals.is_empty(), "{}: {refusals:#?}", at.name());
    Ok(())
}

/// A connect and a send are refused with this error, and each is told once and in full.
fn check_refusals(observer: &Observer, pair: &Pair, to: SocketAddr, says: (Errno, u8, u32)) -> Result<()> {
    let (netns, (errno, route_type, table)) = (pair.client.cookie()?, says);
    for (proto, told) in [
        (TCP, faults::connect_without_route(&pair.client, to)?),
        (UDP, faults::send_without_route(&pair.client, to)?),
    ] {
        ensure!(told == errno, "protocol {proto} to {to}: {told}");
        let refusal = observer.wait_for::<Route>("the refusal", |r| is(&r.head, netns, proto, to))?;
        let head = &refusal.head;
        assert_eq!((head.kind, head.flags), (KIND_REFUSED, FLAG_SOCKET | FLAG_PORTS));
        assert_eq!((refusal.error, refusal.route_type), (errno as u32, route_type), "{to} {proto}");
        assert_eq!((refusal.table, refusal.ifindex, refusal.pid), (table, 0, std::process::id()));
        assert!(!refusal.thread_name().is_empty());
        assert_eq!(
            (head.tcp_state, head.sport == 0),
            if proto == TCP { (head.tcp_state, true) } else { (0, false) }
        );
        if to.is_ipv4() {
            assert_eq!(refusal.in_socket, u8::from(proto == TCP));
            assert_eq!(head.tcp_state, if proto == TCP { CLOSE } else { 0 });
        } else {
            assert_eq!(head.source(), pair.client_ip(Family::V6));
        }
        let same = |r: &Route| is(&r.head, netns, proto, to);
        assert_eq!(observer.records::<Route>().into_iter().filter(same).count(), 1, "{to} {proto}");
    }
    Ok(())
}

#[test]
fn a_route_that_refuses_is_told_with_its_type_error_and_table() -> Result<()> {
    let (pair, observer) = (Pair::new()?, observer()?);
    for (port, (kind, errno, route_type)) in (1000..).zip([
        ("blackhole", Errno::EINVAL, RTN_BLACKHOLE),
        ("unreachable", Errno::EHOSTUNREACH, RTN_UNREACHABLE),
        ("prohibit", Errno::EACCES, RTN_PROHIBIT),
    ]) {
        for family in Family::BOTH {
            let (host, network) = beyond(family);
            pair.client.ip(&format!("route replace {kind} {network}"))?;
            check_refusals(&observer, &pair, SocketAddr::new(host, port), (errno, route_type, MAIN))?;
            pair.client.ip(&format!("route del {kind} {network}"))?;
        }
    }
    Ok(())
}

#[test]
fn a_missing_route_is_told_where_no_rule_may_find_another() -> Result<()> {
    let (pair, observer) = (Pair::new()?, observer()?);
    for family in Family::BOTH {
        let to = SocketAddr::new(beyond(family).0, 1000);
        check_refusals(&observer, &pair, to, (Errno::ENETUNREACH, RTN_UNSPEC, MAIN))?;
    }
    for family in ["-4", "-6"] {
        pair.client.ip(&format!("{family} rule add fwmark 7 table 100"))?;
    }
    let told = refusals(&observer, &pair.client, 1)?.len();
    for family in Family::BOTH {
        let to = SocketAddr::new(beyond(family).0, 1001);
        ensure!(faults::connect_without_route(&pair.client, to)? == Errno::ENETUNREACH, "{to}");
    }
    assert_eq!(refusals(&observer, &pair.client, 2)?.len(), told, "misses are not known to be final");
    Ok(())
}

#[test]
fn a_table_that_a_rule_asks_is_named() -> Result<()> {
    let (pair, observer) = (Pair::new()?, observer()?);
    for family in Family::BOTH {
        let (host, network) = beyond(family);
        let option = if host.is_ipv4() { "-4" } else { "-6" };
        pair.client.ip(&format!("{option} rule add to {network} table 100"))?;
        pair.client.ip(&format!("{option} route add blackhole {network} table 100"))?;
        check_refusals(&observer, &pair, SocketAddr::new(host, 1000), (Errno::EINVAL, RTN_BLACKHOLE, 100))?;
    }
    Ok(())
}

#[test]
fn a_connect_is_refused_in_the_namespace_of_its_socket() -> Result<()> {
    let (pair, observer) = (Pair::new()?, observer()?);
    let netns = pair.client.cookie()?;
    for family in Family::BOTH {
        let to = SocketAddr::new(beyond(family).0, 1000);
        let socket = pair.client.run(|| faults::tcp_socket(to.ip()))?;
        faults::refused_connect(&socket, to)?;
        observer.wait_for::<Route>("the refusal", |r| is(&r.head, netns, TCP, to))?;
    }
    Ok(())
}

#[test]
fn a_router_that_refuses_to_forward_has_refused_none_of_its_own_programs() -> Result<()> {
    let (pair, observer) = (Pair::new()?, observer()?);
    pair.server.run(|| {
        fs::write("/proc/sys/net/ipv4/ip_forward", "1")?;
        Ok(fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1")?)
    })?;
    for family in Family::BOTH {
        let (host, network) = beyond(family);
        pair.client.ip(&format!("route add {network} via {}", pair.server_ip(family)))?;
        for kind in ["blackhole", "unreachable", "prohibit"] {
            pair.server.ip(&format!("route replace {kind} {network}"))?;
            faults::send_udp(&pair.client, SocketAddr::new(host, 1000), 1, 10)?;
            pair.server.ip(&format!("route del {kind} {network}"))?;
        }
        faults::send_udp(&pair.client, SocketAddr::new(host, 1000), 1, 10)?;
    }
    for at in [&pair.server, &pair.client] {
        check_none(&observer, at)?;
    }
    Ok(())
}

/// Answers are looked up in soft interrupts, as the sources are that rp_filter checks: whose they are
/// is not known, and nobody is told of their failure.
#[test]
fn a_source_that_cannot_be_answered_is_no_refusal() -> Result<()> {
    let (pair, observer) = (Pair::new()?, observer()?);
    for family in Family::BOTH {
        let (host, network) = beyond(family);
        pair.client.ip(&format!("addr add {host} dev lo {}", if host.is_ipv4() { "" } else { "nodad" }))?;
        pair.server.ip(&format!("route add blackhole {network}"))?;
        for strict in ["0", "1"] {
            pair.server.run(|| Ok(fs::write("/proc/sys/net/ipv4/conf/all/rp_filter", strict)?))?;
            pair.client.run(|| {
                let socket = UdpSocket::bind((host, 0))?;
                Ok(socket.send_to(b"who?", pair.server_at(family, faults::CLOSED_PORT))?)
            })?;
        }
    }
    for at in [&pair.server, &pair.client] {
        check_none(&observer, at)?;
    }
    Ok(())
}

#[test]
fn a_question_about_a_route_is_no_refusal() -> Result<()> {
    let (pair, observer) = (Pair::new()?, observer()?);
    for family in Family::BOTH {
        let (host, network) = beyond(family);
        ensure!(pair.client.ip(&format!("route get {host}")).is_err(), "{host} has a route");
        pair.client.ip(&format!("route add blackhole {network}"))?;
        ensure!(pair.client.ip(&format!("route get {host}")).is_err(), "{host} is not refused");
    }
    check_none(&observer, &pair.client)?;
    Ok(())
}

#[test]
fn what_has_a_route_is_no_refusal() -> Result<()> {
    let (pair, observer) = (Pair::new()?, observer()?);
    for family in Family::BOTH {
        let mut connection = Connection::open(&pair, family)?;
        connection.exchange(10_000, 10_000)?;
        connection.close()?;
        faults::send_udp(&pair.client, pair.server_at(family, faults::CLOSED_PORT), 3, 10)?;
        reset_on_close(&Connection::open(&pair, family)?.client)?;
    }
    // Bound to a device, IPv4 takes the destination for a host on its link.
    pair.client.run(|| {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        setsockopt(&socket, sockopt::BindToDevice, &"eth0".into())?;
        Ok(socket.send_to(b"on link", (beyond(Family::V4).0, 1000))?)
    })?;
    for at in [&pair.server, &pair.client] {
        check_none(&observer, at)?;
    }
    Ok(())
}
