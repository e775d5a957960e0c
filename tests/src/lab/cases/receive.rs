//! Packets that the receiving host refuses.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Result, bail, ensure};
use etherparse::{EtherType, IpFragOffset, IpNumber, TcpHeader, UdpHeader};

use super::{Case, FAULT, Ongoing, V4, know_each_other, server};
use crate::lab::counters::{counted, counter};
use crate::lab::injector::Injector;
use crate::lab::{Family, Held, Scene};

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
        ..FAULT
    },
    Case {
        name: "martian_sources",
        made: "datagrams from 127.0.0.1, from the server itself, from everybody and from a group",
        families: V4,
        expect: &[server("martian-source")],
        ongoing: Ongoing::Again,
        run: martians,
        ..FAULT
    },
    Case {
        name: "l2_garbage",
        made: "frames for somebody else, of unknown types, with bad headers and checksums",
        families: V4,
        expect: &[server("malformed-packet"), server("checksum-error"), server("wrong-destination-mac")],
        also: &[server("malformed-packet"), server("checksum-error"), server("wrong-destination-mac")],
        ongoing: Ongoing::Again,
        run: garbage,
        ..FAULT
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
        ..FAULT
    },
    Case {
        name: "frag_timeout",
        made: "first fragments whose rest never comes",
        expect: &[server("reassembly-failure")],
        ongoing: Ongoing::Again,
        run: halves,
        ..FAULT
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
