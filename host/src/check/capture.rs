//! A short capture of one connection, into a pcap file that only its owner can read.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, setsockopt, socket,
    sockopt::ReceiveTimeout,
};
use nix::sys::time::{TimeVal, TimeValLike as _};

use super::params::{Params, protocol_name};

/// It ends after this time …
const TIME: Duration = Duration::from_secs(2);
/// … or after so many packets.
const MAX_PACKETS: usize = 200;
/// Bytes kept of a packet: its headers, and little of what people say to each other.
const SNAP: usize = 128;
/// `LINKTYPE_RAW`: packets begin with their IP header, whatever device they came from.
const LINKTYPE_RAW: u32 = 101;

/// One fact: how many packets there were, and the file.
pub(super) fn look(params: &Params<'_>, deadline: Instant) -> io::Result<Vec<String>> {
    let flow = Flow {
        ends: [params.address("saddr")?, params.address("daddr")?],
        ports: [params.port("sport")?.unwrap_or(0), params.port("dport")?.unwrap_or(0)],
        protocol: params.protocol()?,
    };
    // Time to write the file and to say so.
    let end = (Instant::now() + TIME).min(deadline - Duration::from_millis(100));
    // Without its link-layer header: devices of all kinds give the same.
    let socket =
        socket(AddressFamily::Packet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, SockProtocol::EthAll)?;
    setsockopt(&socket, ReceiveTimeout, &TimeVal::milliseconds(100))?;
    let mut packets = Vec::new();
    let mut buffer = [0; SNAP];
    while Instant::now() < end && packets.len() < MAX_PACKETS {
        match recv(socket.as_raw_fd(), &mut buffer, MsgFlags::MSG_TRUNC) {
            Ok(length) if flow.has(&buffer[..length.min(SNAP)]) => {
                packets.push(Packet { at: now(), length, bytes: buffer[..length.min(SNAP)].to_vec() });
            }
            Ok(_) | Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
    let said = format!("{} packets of {}", packets.len(), flow.words());
    if packets.is_empty() {
        return Ok(vec![said]);
    }
    let (path, file) = new_file()?;
    write(file, &packets)?;
    Ok(vec![format!("{said}, in {} on its node", path.display())])
}

struct Packet {
    at: Duration,
    length: usize,
    bytes: Vec<u8>,
}

/// A connection, in both directions; port 0 is any.
struct Flow {
    ends: [IpAddr; 2],
    ports: [u16; 2],
    protocol: u8,
}

impl Flow {
    fn words(&self) -> String {
        let end = |at: usize| match self.ports[at] {
            0 => self.ends[at].to_string(),
            port => SocketAddr::new(self.ends[at], port).to_string(),
        };
        format!("{} between {} and {}", protocol_name(self.protocol), end(0), end(1))
    }

    fn has(&self, packet: &[u8]) -> bool {
        let Some((ends, protocol, transport)) = parse(packet) else { return false };
        let port = |at: usize| transport.get(at..at + 2).map_or(0, |b| u16::from_be_bytes([b[0], b[1]]));
        let ports = [port(0), port(2)];
        let is = |ends: [IpAddr; 2], ports: [u16; 2]| {
            ends == self.ends
                && self.ports.iter().zip(ports).all(|(wanted, port)| *wanted == 0 || *wanted == port)
        };
        protocol == self.protocol && (is(ends, ports) || is([ends[1], ends[0]], [ports[1], ports[0]]))
    }
}

/// Addresses, protocol and what follows the IP header. Extension headers of IPv6 are not looked
/// through: connections have none.
fn parse(packet: &[u8]) -> Option<([IpAddr; 2], u8, &[u8])> {
    let first = *packet.first()?;
    match first >> 4 {
        4 => {
            let end = |at: usize| <[u8; 4]>::try_from(packet.get(at..at + 4)?).ok().map(IpAddr::from);
            Some(([end(12)?, end(16)?], *packet.get(9)?, packet.get(usize::from(first & 15) * 4..)?))
        }
        6 => {
            let end = |at: usize| <[u8; 16]>::try_from(packet.get(at..at + 16)?).ok().map(IpAddr::from);
            Some(([end(8)?, end(24)?], *packet.get(6)?, packet.get(40..)?))
        }
        _ => None,
    }
}

/// A file that nobody had before and only its owner can read.
fn new_file() -> io::Result<(PathBuf, File)> {
    let name = format!("inspector-{}-{}.pcap", std::process::id(), now().as_nanos());
    let path = std::env::temp_dir().join(name);
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
    let named = |e: io::Error| io::Error::new(e.kind(), format!("cannot write {}: {e}", path.display()));
    Ok((path.clone(), file.map_err(named)?))
}

/// The classic format, with nanoseconds.
fn write(file: File, packets: &[Packet]) -> io::Result<()> {
    let mut out = BufWriter::new(file);
    let mut words = |words: &[u32]| words.iter().try_for_each(|word| out.write_all(&word.to_le_bytes()));
    // Magic number, version 2.4, two zeros, longest packet, kind of link.
    words(&[0xa1b2_3c4d, 2 | 4 << 16, 0, 0, SNAP as u32, LINKTYPE_RAW])?;
    for Packet { at, length, bytes } in packets {
        let head = [at.as_secs() as u32, at.subsec_nanos(), bytes.len() as u32, *length as u32];
        head.iter().try_for_each(|word| out.write_all(&word.to_le_bytes()))?;
        out.write_all(bytes)?;
    }
    out.flush()
}

/// Since the Unix epoch.
fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(port: u16) -> Flow {
        let ends = [IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2])];
        Flow { ends, ports: [0, port], protocol: 6 }
    }

    /// The start of an IPv4 packet.
    fn packet(from: [u8; 4], to: [u8; 4], ports: [u16; 2]) -> Vec<u8> {
        let mut bytes = vec![0; 24];
        (bytes[0], bytes[9]) = (0x45, 6);
        bytes[12..16].copy_from_slice(&from);
        bytes[16..20].copy_from_slice(&to);
        bytes[20..22].copy_from_slice(&ports[0].to_be_bytes());
        bytes[22..24].copy_from_slice(&ports[1].to_be_bytes());
        bytes
    }

    #[test]
    fn a_connection_is_seen_in_both_directions_and_nothing_else() {
        let (a, b) = ([10, 0, 0, 1], [10, 0, 0, 2]);
        assert!(flow(80).has(&packet(a, b, [4242, 80])));
        assert!(flow(80).has(&packet(b, a, [80, 4242])));
        assert!(!flow(80).has(&packet(a, b, [80, 4242])));
        assert!(!flow(80).has(&packet(a, [10, 0, 0, 3], [4242, 80])));
        for length in 0..24 {
            let _ = flow(80).has(&packet(a, b, [4242, 80])[..length]);
        }
    }

    #[test]
    fn the_file_is_a_pcap_of_its_owner() {
        use std::os::unix::fs::PermissionsExt as _;
        let (path, file) = new_file().expect("a file");
        let bytes = packet([10, 0, 0, 1], [10, 0, 0, 2], [1, 2]);
        write(file, &[Packet { at: Duration::from_secs(1), length: 1500, bytes }]).expect("written");
        let written = std::fs::read(&path).expect("readable");
        let mode = std::fs::metadata(&path).expect("there").permissions().mode();
        std::fs::remove_file(&path).expect("removed");
        assert_eq!((mode & 0o777, written.len()), (0o600, 24 + 16 + 24));
        assert_eq!(written[..8], [0x4d, 0x3c, 0xb2, 0xa1, 2, 0, 4, 0]);
    }
}
