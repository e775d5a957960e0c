//! Pings, announcements, and datagrams in large numbers or pieces.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV6, UdpSocket};
use std::os::fd::OwnedFd;
use std::thread::{self, sleep};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use etherparse::{
    EtherType, IcmpEchoHeader, Icmpv4Header, Icmpv4Type, Icmpv6Header, Icmpv6Type, PacketBuilder,
};
use nix::libc;
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, setsockopt, socket, sockopt};

use crate::lab::cases::{Case, KNOWN, NOISE, ONGOING, know_each_other};
use crate::lab::counters::{counted, counter};
use crate::lab::injector::Injector;
use crate::lab::sockets::{PATIENCE, set_option};
use crate::lab::{Family, Held, Scene, faults};

/// Where a link's hosts are told what most of them do not want to know.
const V4_GROUPS: [(Ipv4Addr, u16); 3] = [
    (Ipv4Addr::new(224, 0, 0, 251), 5353),
    (Ipv4Addr::new(239, 255, 255, 250), 1900),
    (Ipv4Addr::new(224, 0, 0, 252), 5355),
];

const V6_GROUPS: [(u16, u16); 4] = [(0xfb, 5353), (0xc, 1900), (0x103, 5355), (0x102, 547)];

pub const CASES: &[Case] = &[
    Case { name: "baseline_udp_echo", made: "two hundred datagrams there and back", run: udp_echo, ..KNOWN },
    Case {
        name: "baseline_pings",
        made: "two thousand pings, as fast as they are answered",
        run: pings,
        ..NOISE
    },
    Case {
        name: "baseline_announcements",
        made: "mDNS, SSDP, LLMNR, DHCP and group memberships on a link where nobody cares",
        run: announcements,
        ..NOISE.bridged()
    },
    Case {
        name: "baseline_many_datagrams",
        made: "ten thousand datagrams in two seconds, to a reader that keeps up",
        run: many,
        ..NOISE
    },
    Case {
        name: "baseline_migrated",
        made: "a client that moves to another port, as QUIC does, while answers to the old one are under way",
        run: migrated,
        ..NOISE
    },
    Case {
        name: "baseline_large_datagrams",
        made: "datagrams of 20 kB and answers of 9 kB, all of whose fragments arrive",
        run: large,
        ..NOISE
    },
    Case {
        name: "ongoing_statistics",
        made: "datagrams of statistics, ten every 20 ms, which their reader takes as they come",
        run: |scene| {
            let reader = scene.receiver()?;
            let to = reader.local_addr()?;
            // Until nothing has come for a while.
            thread::spawn(move || while reader.recv(&mut [0; 200]).is_ok() {});
            let sender = scene.go_on(scene.client(), Duration::from_millis(20), move || {
                faults::send_datagrams(to, 10, 100).map(drop)
            })?;
            scene.seen_well(50)?;
            Ok(sender)
        },
        ..ONGOING
    },
];

fn udp_echo(scene: &Scene) -> Result<Held> {
    let server = scene.receiver()?;
    let client = scene.sender()?;
    for _ in 0..200 {
        client.send_to(b"ping", server.local_addr()?)?;
        let (length, from) = server.recv_from(&mut [0; 4])?;
        server.send_to(&b"pong"[..length], from)?;
        client.recv(&mut [0; 4])?;
        sleep(Duration::from_millis(1));
    }
    Ok(Box::new((client, server)))
}

fn pings(scene: &Scene) -> Result<Held> {
    const PINGS: u16 = 2000;
    let (family, protocol) = scene
        .by_family((AddressFamily::Inet, SockProtocol::Icmp), (AddressFamily::Inet6, SockProtocol::IcmpV6));
    let raw: OwnedFd =
        scene.client().run(|| Ok(socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?))?;
    // Datagrams go in and out of it as they do with UDP; it has no ports.
    let raw = UdpSocket::from(raw);
    raw.set_read_timeout(Some(PATIENCE))?;
    let replies = scene.by_family("IcmpInEchoReps", "Icmp6InEchoReplies");
    for seq in 0..PINGS {
        let (echo, data) = (IcmpEchoHeader { id: 77, seq }, [0; 56]);
        let header = match scene.family {
            Family::V4 => {
                Icmpv4Header::with_checksum(Icmpv4Type::EchoRequest(echo), &data).to_bytes().to_vec()
            }
            // The kernel adds the checksum.
            Family::V6 => Icmpv6Header::new(Icmpv6Type::EchoRequest(echo)).to_bytes().to_vec(),
        };
        raw.send_to(&[&header[..], &data].concat(), scene.server_at(0))?;
        raw.recv(&mut [0; 200]).context("the reply")?;
    }
    counted(scene.client(), replies, PINGS.into())?;
    Ok(Box::new(raw))
}

fn announcements(scene: &Scene) -> Result<Held> {
    let before = counter(scene.server(), "eth0 rx bytes")?;
    let socket = scene.client().run(|| match scene.family {
        Family::V4 => announce(scene),
        Family::V6 => announce_v6(),
    })?;
    let heard = counter(scene.server(), "eth0 rx bytes")? - before;
    ensure!(heard > 2000, "the server's link heard {heard} bytes only");
    Ok(Box::new(socket))
}

/// Groups, everybody, and a host that has no address yet.
fn announce(scene: &Scene) -> Result<UdpSocket> {
    let ip = Ipv4Addr::new(10, 9, 0, 1);
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.set_broadcast(true)?;
    set_option(&socket, libc::IPPROTO_IP, libc::IP_MULTICAST_IF, &ip.octets())?;
    let nobody_yet = Injector::new(&scene.pair)?;
    let mut discover = Vec::new();
    let header = PacketBuilder::ipv4([0; 4], [255; 4], 64).udp(68, 67);
    header.write(&mut discover, &[1; 240])?;
    for (group, _) in V4_GROUPS {
        socket.join_multicast_v4(&group, &ip)?;
    }
    for _ in 0..10 {
        for (group, port) in V4_GROUPS {
            socket.send_to(&[0; 100], (group, port))?;
        }
        for port in [137, 138] {
            socket.send_to(&[0; 100], (Ipv4Addr::new(10, 9, 0, 255), port))?;
        }
        nobody_yet.frame([0xff; 6], EtherType::IPV4, &discover)?;
    }
    Ok(socket)
}

fn announce_v6() -> Result<UdpSocket> {
    let link = if_nametoindex("eth0")?;
    let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0))?;
    let address = |group: u16| Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, u16::from(group > 0xff), group & 0xff);
    for (group, _) in V6_GROUPS {
        socket.join_multicast_v6(&address(group), link)?;
    }
    for _ in 0..10 {
        for (group, port) in V6_GROUPS {
            socket.send_to(&[0; 100], SocketAddrV6::new(address(group), port, 0, link))?;
        }
    }
    Ok(socket)
}

fn many(scene: &Scene) -> Result<Held> {
    const SENT: u64 = 10_000;
    let socket = scene.receiver()?;
    // Two seconds of them, so that a busy machine does not make a fault of it.
    setsockopt(&socket, sockopt::RcvBufForce, &(16 << 20))?;
    let (at, reading) = (socket.local_addr()?, socket.try_clone()?);
    let reader = thread::spawn(move || (0..SENT).try_for_each(|_| reading.recv(&mut [0; 100]).map(drop)));
    faults::send_udp_evenly(scene.client(), at, 5000, 4, |sent| sent < SENT)?;
    reader.join().expect("reading does not panic").context("not all of them arrived")?;
    Ok(Box::new(socket))
}

fn migrated(scene: &Scene) -> Result<Held> {
    const PORTS: u64 = 4;
    let server = scene.server().udp(scene.server_at(443))?;
    let at_client = || scene.sender();
    let mut client = at_client()?;
    for _ in 0..PORTS {
        for _ in 0..100 {
            client.send_to(&[b'q'; 1200], server.local_addr()?)?;
            let (_, from) = server.recv_from(&mut [0; 1200])?;
            server.send_to(&[b'a'; 1200], from)?;
            client.recv(&mut [0; 1200]).context("the answer")?;
        }
        let old = client.local_addr()?;
        client = at_client()?;
        (0..2).try_for_each(|_| server.send_to(&[b'a'; 1200], old).map(drop))?;
    }
    counted(scene.client(), scene.by_family("UdpNoPorts", "Udp6NoPorts"), 2 * PORTS)?;
    Ok(Box::new((client, server)))
}

fn large(scene: &Scene) -> Result<Held> {
    const TIMES: u64 = 50;
    // So many fragments at once do not find room while the way is asked for.
    know_each_other(scene)?;
    let server = scene.server().udp(scene.server_at(2049))?;
    let client = scene.sender()?;
    for _ in 0..TIMES {
        client.send_to(&[b'w'; 20_000], server.local_addr()?)?;
        let (length, from) = server.recv_from(&mut [0; 20_000]).context("the request")?;
        ensure!(length == 20_000, "{length} bytes came");
        server.send_to(&[b'r'; 9000], from)?;
        client.recv(&mut [0; 9000]).context("the answer")?;
    }
    let whole = scene.by_family("IpReasmOKs", "Ip6ReasmOKs");
    counted(scene.server(), whole, TIMES)?;
    counted(scene.client(), whole, TIMES)?;
    Ok(Box::new((client, server)))
}
