//! Packets that the receiving host refuses.

use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::os::fd::{FromRawFd as _, OwnedFd};
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use etherparse::{EtherType, IpFragOffset, IpNumber, NetSlice, SlicedPacket, TcpHeader, UdpHeader};
use nix::errno::Errno;
use nix::libc;

use crate::lab::cases::{
    BLIND, Case, KNOWN, Ongoing, UNSEEN, V4, VARIATION, know_each_other, router, server,
};
use crate::lab::counters::{counted, counter};
use crate::lab::injector::Injector;
use crate::lab::sockets::got_nothing;
use crate::lab::{Family, Held, Scene, faults, run};

pub const CASES: &[Case] = &[
    Case {
        name: "rp_filter",
        made: "datagrams from an address that the server would reach elsewhere",
        families: V4,
        expect: &[server("reverse-path-filter")],
        ongoing: Ongoing::Again,
        run: |scene| {
            scene.server().sysctl("net/ipv4/conf/eth0/rp_filter", "1")?;
            let through = Injector::new(&scene.pair)?;
            for _ in 0..3 {
                through.ipv4(Ipv4Addr::new(172, 31, 5, 5), |_| datagram(4242))?;
            }
            counted(scene.server(), "TcpExtIPReversePathFilter", 3)?;
            Ok(Box::new(()))
        },
        ..KNOWN
    },
    Case {
        name: "martian_sources",
        made: "datagrams from 127.0.0.1, from the server itself, from everybody and from a group",
        families: V4,
        expect: &[server("martian-source")],
        ongoing: Ongoing::Again,
        run: martians,
        ..KNOWN
    },
    Case {
        name: "l2_garbage",
        made: "frames for somebody else, of unknown types, with bad headers and checksums",
        families: V4,
        expect: &[server("malformed-packet"), server("checksum-error"), server("wrong-destination-mac")],
        also: &[server("malformed-packet"), server("checksum-error"), server("wrong-destination-mac")],
        ongoing: Ongoing::Again,
        run: garbage,
        ..KNOWN
    },
    Case {
        name: "tcp_bad_csum",
        made: "SYNs with a bad checksum",
        expect: &[server("checksum-error")],
        ongoing: Ongoing::Again,
        run: |scene| {
            let through = Injector::new(&scene.pair)?;
            for port in 1..4 {
                let mut syn = TcpHeader::new(port, 80, 1, 500);
                syn.syn = true;
                through.segment(scene.client_ip(), scene.server_ip(), syn, b"damage me", true)?;
            }
            counted(scene.server(), "TcpInCsumErrors", 3)?;
            Ok(Box::new(()))
        },
        ..KNOWN
    },
    Case {
        name: "frag_timeout",
        made: "first fragments whose rest never comes",
        expect: &[server("reassembly-failure")],
        ongoing: Ongoing::Again,
        run: halves,
        ..KNOWN
    },
    Case {
        name: "var_two_homes",
        made: "the client sends from its other address, which a strict router would reach elsewhere",
        families: V4,
        expect: &[router("reverse-path-filter")],
        run: |scene| {
            scene.router()?.sysctl("net/ipv4/conf/eth0/rp_filter", "1")?;
            let held = send_from_elsewhere(scene)?;
            counted(scene.router()?, "TcpExtIPReversePathFilter", 5)?;
            Ok(held)
        },
        ..UNSEEN.routed()
    },
    Case {
        name: "var_wrong_vlan",
        made: "frames of a VLAN that the server does not have",
        families: V4,
        expect: &[server("wrong-destination-mac"), server("malformed-packet")],
        ongoing: Ongoing::Again,
        run: |scene| {
            know_each_other(scene)?;
            let through = Injector::new(&scene.pair)?;
            let before = counter(scene.server(), "eth0 rx bytes")?;
            // Tag 42, then an IPv4 header for the server.
            let mut tagged = vec![0, 42, 0x08, 0x00];
            tagged.extend([0x45, 0, 0, 20, 0, 0, 0, 0, 64, 17, 0x66, 0xb5, 10, 9, 0, 1, 10, 9, 0, 2]);
            (0..5).try_for_each(|_| through.frame(through.server, EtherType(0x8100), &tagged))?;
            ensure!(counter(scene.server(), "eth0 rx bytes")? > before, "nothing arrived");
            Ok(Box::new(()))
        },
        ..VARIATION
    },
    Case {
        name: "var_no_sctp",
        made: "SCTP to a host that does not speak it",
        expect: &[server("malformed-packet")],
        ongoing: Ongoing::Again,
        run: no_sctp,
        ..UNSEEN
    },
    Case {
        name: "var_damaging_router",
        made: "the router changes a word of each datagram and leaves the checksum alone",
        expect: &[server("checksum-error"), router("checksum-error")],
        ongoing: Ongoing::Again,
        run: |scene| {
            // A link that leaves checksums to its device has none that could be wrong.
            scene.client().run(|| run("ethtool", "-K eth0 tx off"))?;
            scene.router()?.filter("forward", "udp dport 4242 @th,64,16 set 0xdead")?;
            let sink = scene.server().udp(scene.server_at(4242))?;
            faults::send_udp(scene.client(), sink.local_addr()?, 5, 100)?;
            // Whoever reads a datagram finds out.
            sink.set_read_timeout(Some(Duration::from_millis(300)))?;
            ensure!(sink.recv(&mut [0; 100]).is_err(), "a datagram arrived whole");
            counted(scene.server(), scene.by_family("UdpInCsumErrors", "Udp6InCsumErrors"), 5)?;
            Ok(Box::new(sink))
        },
        ..BLIND.routed()
    },
    Case {
        name: "var_last_fragment_lost",
        made: "large datagrams over a cable that loses the last fragment of each",
        expect: &[server("reassembly-failure")],
        ongoing: Ongoing::Again,
        run: last_fragment_lost,
        ..BLIND.over_userspace_link()
    },
];

/// A datagram that no socket reads.
fn datagram(to: u16) -> Result<(IpNumber, Vec<u8>)> {
    let udp = UdpHeader::without_ipv4_checksum(9, to, 4)?;
    Ok((IpNumber::UDP, [&udp.to_bytes()[..], b"data"].concat()))
}

fn martians(scene: &Scene) -> Result<Held> {
    let IpAddr::V4(own) = scene.server_ip() else { bail!("a case of IPv4") };
    let through = Injector::new(&scene.pair)?;
    let sources =
        [(Ipv4Addr::LOCALHOST, 3), (own, 2), (Ipv4Addr::BROADCAST, 1), (Ipv4Addr::new(224, 1, 1, 1), 1)];
    for (source, times) in sources {
        (0..times).try_for_each(|_| through.ipv4(source, |_| datagram(4242)))?;
    }
    counted(scene.server(), "IpInReceives", 7)?;
    ensure!(counter(scene.server(), "IpInDelivers")? == 0, "a martian got in");
    Ok(Box::new(()))
}

fn garbage(scene: &Scene) -> Result<Held> {
    know_each_other(scene)?;
    let IpAddr::V4(from) = scene.client_ip() else { bail!("a case of IPv4") };
    let through = Injector::new(&scene.pair)?;
    let valid = [0x45, 0, 0, 20, 0, 0, 0, 0, 64, 17, 0, 0, 10, 9, 0, 1, 10, 9, 0, 2];
    for _ in 0..2 {
        through.frame([2, 0, 0, 0, 0, 0x77], EtherType::IPV4, &valid)?;
        through.frame(through.server, EtherType(0x1234), b"what is this?")?;
        // Its checksum is 0, which is wrong.
        through.frame(through.server, EtherType::IPV4, &valid)?;
        through.ipv4(from, |ip| {
            ip.total_len += 100;
            datagram(4242)
        })?;
        through.ipv4(from, |_| Ok((IpNumber(200), b"what?".to_vec())))?;
        through.ipv4(from, |_| {
            let (number, mut bytes) = datagram(4242)?;
            (bytes[6], bytes[7]) = (0xde, 0xad);
            Ok((number, bytes))
        })?;
    }
    for name in ["IpInHdrErrors", "IpInUnknownProtos", "UdpInCsumErrors"] {
        counted(scene.server(), name, 2)?;
    }
    Ok(Box::new(()))
}

fn halves(scene: &Scene) -> Result<Held> {
    know_each_other(scene)?;
    let setting = scene.by_family("net/ipv4/ipfrag_time", "net/ipv6/ip6frag_time");
    scene.server().sysctl(setting, "1")?;
    let through = Injector::new(&scene.pair)?;
    let udp = UdpHeader { source_port: 9, destination_port: 4242, length: 2000, checksum: 0xdead };
    let first = [&udp.to_bytes()[..], &[0; 504]].concat();
    for id in 1..4 {
        match (scene.client_ip(), scene.server_ip()) {
            (IpAddr::V4(from), _) => through.ipv4(from, |ip| {
                ip.identification = id;
                ip.more_fragments = true;
                ip.fragment_offset = IpFragOffset::ZERO;
                Ok((IpNumber::UDP, first.clone()))
            })?,
            (IpAddr::V6(from), to) => {
                let IpAddr::V6(to) = to else { bail!("addresses of two families") };
                // A fragment header: UDP behind it, offset 0, more to come.
                let fragment = [17, 0, 0, 1, 0, 0, 0, id as u8];
                let length = (fragment.len() + first.len()) as u16;
                let mut packet = vec![0x60, 0, 0, 0];
                packet.extend(length.to_be_bytes());
                packet.extend([44, 64]);
                packet.extend(from.octets());
                packet.extend(to.octets());
                packet.extend(fragment);
                packet.extend(&first);
                through.frame(through.server, EtherType::IPV6, &packet)?;
            }
        }
    }
    let name = if scene.family == Family::V4 { "IpReasmTimeout" } else { "Ip6ReasmTimeout" };
    counted(scene.server(), name, 3)?;
    Ok(Box::new(()))
}

/// Datagrams from an address of the client that the router would reach over the server.
pub fn send_from_elsewhere(scene: &Scene) -> Result<Held> {
    // A strict router does not even answer the question for its Ethernet address from there.
    know_each_other(scene)?;
    let received = scene.by_family("IpInReceives", "Ip6InReceives");
    let before = counter(scene.router()?, received)?;
    let own = scene.beyond().ip();
    scene.client().ip(&format!("addr add {own} dev lo nodad"))?;
    scene.router()?.ip(&format!("route add {} via {}", scene.beyond_net(), scene.server_ip()))?;
    let sink = scene.server().udp(scene.server_at(4242))?;
    let socket = scene.client().udp((own, 0))?;
    let to = scene.server_at(4242);
    let sender =
        scene.repeat(scene.client(), 5, move || Ok(socket.send_to(b"from elsewhere", to).map(drop)?))?;
    counted(scene.router()?, received, before + 5)?;
    got_nothing(&sink)?;
    Ok(Box::new((sender, sink)))
}

fn no_sctp(scene: &Scene) -> Result<Held> {
    let family = scene.by_family(libc::AF_INET, libc::AF_INET6);
    let raw = scene.client().run(|| {
        // SAFETY: no pointers; nix knows no raw socket of this protocol.
        let fd = unsafe { libc::socket(family, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::IPPROTO_SCTP) };
        // SAFETY: the kernel has just made this descriptor for us.
        Ok(UdpSocket::from(unsafe { OwnedFd::from_raw_fd(Errno::result(fd)?) }))
    })?;
    know_each_other(scene)?;
    // An INIT from port 2905 to 2905.
    let mut init = vec![0x0b, 0x59, 0x0b, 0x59, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 20];
    init.extend([0, 0, 0, 1, 0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1]);
    (0..3).try_for_each(|_| raw.send_to(&init, (scene.server_ip(), 0)).map(drop))?;
    counted(scene.server(), scene.by_family("IpInUnknownProtos", "Ip6InUnknownProtos"), 3)?;
    Ok(Box::new(raw))
}

fn last_fragment_lost(scene: &Scene) -> Result<Held> {
    let setting = scene.by_family("net/ipv4/ipfrag_time", "net/ipv6/ip6frag_time");
    scene.server().sysctl(setting, "1")?;
    scene.carry(|_, packet| !is_last_fragment(packet))?;
    know_each_other(scene)?;
    let large = scene.server().udp(scene.server_at(2049))?;
    faults::send_udp(scene.client(), large.local_addr()?, 5, 4000)?;
    counted(scene.server(), scene.by_family("IpReasmFails", "Ip6ReasmFails"), 5)?;
    Ok(Box::new(large))
}

/// All others are as large as the link allows.
fn is_last_fragment(packet: &SlicedPacket<'_>) -> bool {
    const FULL: usize = 1400;
    let payload = packet.net.as_ref().and_then(NetSlice::ip_payload_ref);
    payload.is_some_and(|payload| payload.fragmented && payload.payload.len() < FULL)
}
