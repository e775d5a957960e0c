//! icmp: errors that a kernel sends, and for whom.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use anyhow::Result;
use inspector::probe::Options;
use inspector_ebpf::Icmp;
use inspector_ebpf::icmp::{KIND_ICMP, KIND_ICMPV6};
use inspector_ebpf::record::{FLAG_PACKET, FLAG_PORTS};
use inspector_tests::lab::{Family, Pair, faults};
use nix::sys::socket::{setsockopt, sockopt};

use super::{UDP, check_head, eth0, is};
use crate::observer::Observer;

fn observer() -> Result<Observer> {
    Observer::of(&["icmp"], Options::default())
}

fn kind(family: Family) -> u16 {
    match family {
        Family::V4 => KIND_ICMP,
        Family::V6 => KIND_ICMPV6,
    }
}

#[test]
fn a_closed_port_answers_port_unreachable_to_the_sender() -> Result<()> {
    let (pair, observer) = (Pair::new()?, observer()?);
    let server = pair.server.cookie()?;
    for family in Family::BOTH {
        let to = pair.server_at(family, faults::CLOSED_PORT);
        let from = faults::send_udp(&pair.client, to, 1, 100)?;
        let sent = observer.wait_for::<Icmp>("the error", |i| is(&i.head, server, UDP, from, to))?;
        check_head(&sent.head, kind(family), 0)?;
        assert_eq!(sent.head.flags & (FLAG_PACKET | FLAG_PORTS), FLAG_PACKET | FLAG_PORTS);
        let port_unreachable = if family == Family::V4 { (3, 3) } else { (1, 4) };
        assert_eq!((sent.icmp_type, sent.code), port_unreachable);
        assert_eq!(sent.ifindex, eth0(&pair.server)?);
        let headers = if family == Family::V4 { 8 } else { 48 };
        assert_eq!(sent.length, headers + 100);
    }
    Ok(())
}

#[test]
fn a_router_answers_time_exceeded_to_a_packet_that_has_no_hop_left() -> Result<()> {
    let (pair, observer) = (Pair::new()?, observer()?);
    let server = pair.server.cookie()?;
    pair.server.run(|| {
        fs::write("/proc/sys/net/ipv4/ip_forward", "1")?;
        Ok(fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1")?)
    })?;
    for (family, beyond) in [
        (Family::V4, IpAddr::from(Ipv4Addr::new(192, 0, 2, 1))),
        (Family::V6, Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into()),
    ] {
        let (router, bits) = (pair.server_ip(family), if beyond.is_ipv4() { 32 } else { 128 });
        pair.client.ip(&format!("route add {beyond}/{bits} via {router}"))?;
        pair.server.ip(&format!("route add {beyond}/{bits} via {}", pair.client_ip(family)))?;
        let to = SocketAddr::new(beyond, 4242);
        let from = pair.client.run(|| {
            let socket = UdpSocket::bind((pair.client_ip(family), 0))?;
            match family {
                Family::V4 => socket.set_ttl(1)?,
                Family::V6 => setsockopt(&socket, sockopt::Ipv6Ttl, &1)?,
            }
            socket.send_to(b"one hop", to)?;
            Ok(socket.local_addr()?)
        })?;
        let sent = observer.wait_for::<Icmp>("the error", |i| is(&i.head, server, UDP, from, to))?;
        check_head(&sent.head, kind(family), 0)?;
        let time_exceeded = if family == Family::V4 { (11, 0) } else { (3, 0) };
        assert_eq!((sent.icmp_type, sent.code), time_exceeded);
    }
    Ok(())
}

#[test]
fn neighbour_discovery_and_connections_make_no_error() -> Result<()> {
    let (pair, observer) = (Pair::new()?, observer()?);
    let (client, server) = (pair.client.cookie()?, pair.server.cookie()?);
    for family in Family::BOTH {
        inspector_tests::lab::Connection::open(&pair, family)?.close()?;
    }
    let to = pair.server_at(Family::V6, faults::CLOSED_PORT);
    let from = faults::send_udp(&pair.client, to, 1, 0)?;
    observer.wait_for::<Icmp>("the marker", |i| is(&i.head, server, UDP, from, to))?;
    let of_pair = |i: &Icmp| [client, server].contains(&i.head.netns);
    assert_eq!(observer.records::<Icmp>().into_iter().filter(of_pair).count(), 1);
    Ok(())
}
