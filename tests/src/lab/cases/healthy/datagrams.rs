//! Names, pings, announcements, and datagrams in large numbers.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use etherparse::{
    EtherType, IcmpEchoHeader, Icmpv4Header, Icmpv4Type, Icmpv6Header, Icmpv6Type, PacketBuilder,
};
use nix::libc;
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, setsockopt, socket, sockopt};

use crate::lab::cases::{Case, FAULT};
use crate::lab::counters::{counted, counter};
use crate::lab::dns::{A, AAAA};
use crate::lab::injector::Injector;
use crate::lab::sockets::set_option;
use crate::lab::{Family, Held, Scene, Topology, faults};

/// Nothing here takes longer, unless it is broken; threads without work end after it.
const PATIENCE: Duration = Duration::from_secs(5);

pub const CASES: &[Case] = &[
    Case {
        name: "baseline_dns_no_data",
        made: "names asked for both kinds of address at once, that have only one",
        run: no_data,
        ..FAULT
    },
    Case {
        name: "baseline_dns_truncated",
        made: "answers that do not fit a datagram, and are asked for again over TCP",
        run: truncated,
        ..FAULT
    },
    Case {
        name: "baseline_pings",
        made: "two thousand pings, as fast as they are answered",
        run: pings,
        ..FAULT
    },
    Case {
        name: "baseline_announcements",
        made: "mDNS, SSDP, LLMNR, DHCP and group memberships on a link where nobody cares",
        topology: Topology::Bridged,
        run: announcements,
        ..FAULT
    },
    Case {
        name: "baseline_many_datagrams",
        made: "ten thousand datagrams in two seconds, to a reader that keeps up",
        run: many,
        ..FAULT
    },
];

/// What a name server of these cases answers to a question.
type Answers = fn(kind: u16, datagram: bool) -> Answer;

enum Answer {
    /// So many addresses; none is an answer as well.
    Addresses(u16),
    /// Too many of them.
    Truncated,
}

/// A name server for one host's questions; it ends some seconds after the last one.
fn name_server(scene: &Scene, answers: Answers) -> Result<SocketAddr> {
    let at = scene.server_at(53);
    let (udp, tcp) = scene.server().run(|| Ok((UdpSocket::bind(at)?, TcpListener::bind(at)?)))?;
    udp.set_read_timeout(Some(PATIENCE))?;
    thread::spawn(move || {
        let mut query = [0; 512];
        while let Ok((length, from)) = udp.recv_from(&mut query) {
            // Whoever asked sees that there is no answer.
            drop(udp.send_to(&reply(&query[..length], answers, true), from));
        }
    });
    thread::spawn(move || {
        while let Ok((stream, _)) = tcp.accept() {
            drop(serve(stream, answers));
        }
    });
    Ok(at)
}

fn serve(mut stream: TcpStream, answers: Answers) -> Result<()> {
    let query = message(&mut stream)?;
    let reply = reply(&query, answers, false);
    stream.write_all(&[&(reply.len() as u16).to_be_bytes()[..], &reply].concat())?;
    Ok(())
}

fn message(stream: &mut TcpStream) -> Result<Vec<u8>> {
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut message = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut message)?;
    Ok(message)
}

fn reply(query: &[u8], answers: Answers, datagram: bool) -> Vec<u8> {
    let kind = match query {
        [.., high, low, _, _] => u16::from_be_bytes([*high, *low]),
        _ => 0,
    };
    let mut reply = query.to_vec();
    // An answer, and recursion is available.
    (reply[2], reply[3]) = (0x81, 0x80);
    match answers(kind, datagram) {
        Answer::Truncated => reply[2] |= 2,
        Answer::Addresses(count) => {
            reply[6..8].copy_from_slice(&count.to_be_bytes());
            for n in 0..count {
                // A pointer to the question's name, A IN, 60 seconds, four bytes.
                reply.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, n as u8]);
            }
        }
    }
    reply
}

fn query(id: u16, name: &str, kind: u16) -> Vec<u8> {
    let mut message: Vec<u8> = [id, 0x0100, 1, 0, 0, 0].into_iter().flat_map(u16::to_be_bytes).collect();
    for label in name.split('.') {
        message.push(label.len() as u8);
        message.extend(label.as_bytes());
    }
    message.push(0);
    message.extend([kind, 1].into_iter().flat_map(u16::to_be_bytes));
    message
}

/// Both questions leave before the first answer comes, from one socket, as the C library does.
fn no_data(scene: &Scene) -> Result<Held> {
    let only_v4: Answers = |kind, _| Answer::Addresses(u16::from(kind == A));
    let to = name_server(scene, only_v4)?;
    for n in 0..30 {
        let socket = scene.client().run(|| Ok(UdpSocket::bind((scene.client_ip(), 0))?))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        let name = format!("host{n}.example");
        socket.send_to(&query(n * 2, &name, A), to)?;
        socket.send_to(&query(n * 2 + 1, &name, AAAA), to)?;
        let mut addresses = 0;
        for _ in 0..2 {
            let mut answer = [0; 512];
            socket.recv(&mut answer).context("an answer")?;
            addresses += answer[7];
        }
        ensure!(addresses == 1, "{addresses} addresses of {name}");
    }
    Ok(Box::new(()))
}

fn truncated(scene: &Scene) -> Result<Held> {
    let long: Answers = |_, datagram| if datagram { Answer::Truncated } else { Answer::Addresses(60) };
    let to = name_server(scene, long)?;
    for n in 0..10 {
        let question = query(n, "all.example", A);
        let socket = scene.client().run(|| Ok(UdpSocket::bind((scene.client_ip(), 0))?))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.send_to(&question, to)?;
        let mut answer = [0; 512];
        socket.recv(&mut answer).context("an answer")?;
        ensure!(answer[2] & 2 != 0, "the answer is whole");
        let mut stream = scene.client().run(|| Ok(TcpStream::connect(to)?))?;
        stream.write_all(&[&(question.len() as u16).to_be_bytes()[..], &question].concat())?;
        let whole = message(&mut stream)?;
        ensure!(whole[7] == 60, "{} addresses over TCP", whole[7]);
    }
    Ok(Box::new(()))
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

/// Where a link's hosts are told what most of them do not want to know.
const V4_GROUPS: [(Ipv4Addr, u16); 3] = [
    (Ipv4Addr::new(224, 0, 0, 251), 5353),
    (Ipv4Addr::new(239, 255, 255, 250), 1900),
    (Ipv4Addr::new(224, 0, 0, 252), 5355),
];
const V6_GROUPS: [(u16, u16); 4] = [(0xfb, 5353), (0xc, 1900), (0x103, 5355), (0x102, 547)];

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
    let socket = scene.server().run(|| Ok(UdpSocket::bind((scene.server_ip(), 0))?))?;
    // Two seconds of them, so that a busy machine does not make a fault of it.
    setsockopt(&socket, sockopt::RcvBufForce, &(16 << 20))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let (at, reading) = (socket.local_addr()?, socket.try_clone()?);
    let reader = thread::spawn(move || (0..SENT).try_for_each(|_| reading.recv(&mut [0; 100]).map(drop)));
    faults::send_udp_evenly(scene.client(), at, 5000, 4, |sent| sent < SENT)?;
    reader.join().expect("reading does not panic").context("not all of them arrived")?;
    Ok(Box::new(socket))
}
