//! Datagrams, routes and fragments.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::Result;
use etherparse::{IpNumber, Ipv4Header};
use inspector_tests::lab::injector::Injector;
use inspector_tests::lab::sockets::set_option;
use inspector_tests::lab::{Family, Held, Namespace, Pair, faults, scripted_peer};
use nix::libc;
use nix::sys::socket::{setsockopt, sockopt};

use crate::{Made, Workload};

const V4: Family = Family::V4;

/// An address that nobody has; with [`through_the_server`] the client's packets for it arrive there.
const BEYOND: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);

pub const WORKLOADS: &[Workload] = &[
    Workload {
        name: "datagrams that arrive, and one where nobody listens",
        moves: &["udpindatagrams", "udpoutdatagrams", "udpnoports"],
        made: Made::By(|pair| {
            let server = receiver(pair)?;
            faults::send_udp(&pair.client, server.local_addr()?, 3, 10)?;
            // They count when they are read.
            server.recv(&mut [0; 10])?;
            faults::send_udp(&pair.client, pair.server_at(V4, faults::CLOSED_PORT), 1, 10)?;
            Ok(Box::new(server))
        }),
    },
    Workload {
        name: "datagrams that nobody reads",
        moves: &["udpinerrors", "udprcvbuferrors"],
        made: Made::AsCase("udp_rcvbuf_overflow"),
    },
    Workload {
        name: "datagrams faster than the link",
        moves: &[
            "udpsndbuferrors",
            "ipoutdiscards",
            "qdiscbytes",
            "qdiscpackets",
            "qdiscqlen",
            "qdiscbacklog",
            "qdiscoverlimits",
        ],
        made: Made::By(|pair| {
            pair.client.ip("link set eth0 txqueuelen 1000")?;
            pair.client.tc("qdisc replace dev eth0 root tbf rate 16kbit burst 2kb latency 20s")?;
            let to = pair.server_at(V4, faults::CLOSED_PORT);
            pair.client.run(|| flood(to, 8192))
        }),
    },
    Workload {
        name: "a queueing discipline that is full",
        moves: &["qdiscdrops"],
        made: Made::AsCase("tc_tbf"),
    },
    Workload {
        name: "crafted: a damaged datagram",
        moves: &["udpincsumerrors"],
        made: Made::AsCase("l2_garbage"),
    },
    Workload {
        name: "a broadcast that nobody wants",
        moves: &["udpignoredmulti"],
        made: Made::By(|pair| {
            pair.client.run(|| {
                let socket = UdpSocket::bind(("10.9.0.1", 0))?;
                socket.set_broadcast(true)?;
                socket.send_to(b"anybody?", ("10.9.0.255", 4999))?;
                Ok(())
            })?;
            Ok(Box::new(()))
        }),
    },
    Workload {
        name: "forwarding switched over",
        moves: &["ipforwarding"],
        made: Made::By(|pair| {
            // A new namespace has the setting of the host.
            let path = "/proc/sys/net/ipv4/ip_forward";
            let now = pair.server.run(|| Ok(std::fs::read_to_string(path)?))?;
            pair.server.sysctl("net/ipv4/ip_forward", if now.trim() == "0" { "1" } else { "0" })?;
            Ok(Box::new(()))
        }),
    },
    Workload {
        name: "a router without a route",
        moves: &["ipinnoroutes"],
        made: Made::AsCase("no_route_forward"),
    },
    Workload {
        name: "a router that does not forward",
        moves: &["ipinaddrerrors"],
        made: Made::AsCase("ip_forward_off"),
    },
    Workload {
        name: "a router that forwards, a packet at its last hop, and one too big",
        moves: &["ipforwdatagrams", "ipinhdrerrors", "ipfragfails"],
        made: Made::By(forward),
    },
    Workload {
        name: "a large datagram",
        moves: &["ipfragoks", "ipfragcreates", "ipreasmreqds", "ipreasmoks"],
        made: Made::By(|pair| {
            let server = receiver(pair)?;
            faults::send_udp(&pair.client, server.local_addr()?, 1, 4000)?;
            Ok(Box::new(server))
        }),
    },
    Workload {
        name: "fragments that never arrive",
        moves: &["ipreasmtimeout", "ipreasmfails"],
        made: Made::AsCase("frag_timeout"),
    },
    Workload {
        name: "crafted: a protocol that nobody knows",
        moves: &["ipinunknownprotos"],
        made: Made::AsCase("l2_garbage"),
    },
    Workload {
        name: "crafted: a packet shorter than it says",
        moves: &["ipintruncatedpkts"],
        made: Made::AsCase("l2_garbage"),
    },
    Workload { name: "no route from here", moves: &["ipoutnoroutes"], made: Made::AsCase("no_route_local") },
    Workload {
        name: "another default TTL",
        moves: &["ipdefaultttl"],
        made: Made::By(|pair| {
            pair.client.sysctl("net/ipv4/ip_default_ttl", "65")?;
            Ok(Box::new(()))
        }),
    },
];

fn receiver(pair: &Pair) -> Result<UdpSocket> {
    pair.server.udp((pair.server_ip(V4), 0))
}

/// Sends without waiting until the socket's buffer of `buffer` bytes or the queue is full.
fn flood(to: SocketAddr, buffer: usize) -> Result<Held> {
    let socket = UdpSocket::bind(("0.0.0.0", 0))?;
    setsockopt(&socket, sockopt::SndBuf, &buffer)?;
    socket.set_nonblocking(true)?;
    for _ in 0..100 {
        // Full is what is wanted.
        let _ = socket.send_to(&[0; 1000], to);
    }
    Ok(Box::new(socket))
}

fn through_the_server(pair: &Pair) -> Result<()> {
    pair.client.ip("route add 10.77.0.0/16 via 10.9.0.2").map(drop)
}

/// One datagram with a TTL, never fragmented by the sender.
fn datagram(from: &Namespace, to: SocketAddr, ttl: u32, length: usize) -> Result<Held> {
    from.run(|| {
        let socket = UdpSocket::bind(("0.0.0.0", 0))?;
        socket.set_ttl(ttl)?;
        set_option(&socket, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, &libc::IP_PMTUDISC_PROBE)?;
        socket.send_to(&vec![0; length], to)?;
        std::thread::sleep(Duration::from_millis(20));
        Ok(())
    })?;
    Ok(Box::new(()))
}

/// The server as a router, with a network of 600-byte packets behind it.
fn forward(pair: &Pair) -> Result<Held> {
    pair.server.sysctl("net/ipv4/ip_forward", "1")?;
    through_the_server(pair)?;
    pair.server.ip("link add br1 type bridge")?;
    pair.server.ip("link set br1 mtu 600 up")?;
    pair.server.ip("addr add 10.77.0.254/16 dev br1")?;
    pair.server.ip("neigh add 10.77.0.1 lladdr 02:00:00:00:00:01 dev br1 nud permanent")?;
    datagram(&pair.client, (BEYOND, 9).into(), 64, 10)?;
    datagram(&pair.client, (BEYOND, 9).into(), 1, 10)?;
    datagram(&pair.client, (BEYOND, 9).into(), 64, 1000)
}

/// An echo request with a wrong checksum.
pub fn damaged_ping(pair: &Pair) -> Result<()> {
    send(pair, |_| Ok((IpNumber::ICMP, vec![8, 0, 0xde, 0xad, 0, 1, 0, 1])))
}

/// Puts one IPv4 packet on the client's link; `make` may spoil its header, and says what it holds.
fn send(pair: &Pair, make: impl FnOnce(&mut Ipv4Header) -> Result<(IpNumber, Vec<u8>)>) -> Result<()> {
    Injector::new(pair)?.ipv4(scripted_peer::ADDRESS, make)
}
