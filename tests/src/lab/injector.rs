//! Frames that a client's link carries to a server without the client's stack having made them.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Result, bail};
use etherparse::{
    EtherType, Ethernet2Header, IpHeaders, IpNumber, Ipv4Header, PacketBuilder, PacketBuilderStep, TcpHeader,
};

use super::raw_socket::{Mac, RawSocket};
use super::{Family, Pair};

/// A way to put frames on the link between two hosts.
#[derive(Debug)]
pub struct Injector {
    raw: RawSocket,
    source: Mac,
    /// Ethernet address of the server.
    pub server: Mac,
    server_ip: Ipv4Addr,
}

impl Injector {
    /// On the client's link.
    ///
    /// # Errors
    /// Without root.
    pub fn new(pair: &Pair) -> Result<Self> {
        let (raw, server) =
            (RawSocket::open(&pair.client, "eth0")?, RawSocket::open(&pair.server, "eth0")?.mac);
        Ok(Self { source: raw.mac, server, server_ip: server_ip(pair)?, raw })
    }

    /// At the server's end of a link, as a host with this Ethernet address.
    ///
    /// # Errors
    /// If the pair has no IPv4.
    pub fn behind(link: RawSocket, pair: &Pair, source: Mac) -> Result<Self> {
        Ok(Self { source, server: link.mac, server_ip: server_ip(pair)?, raw: link })
    }

    /// Sends a frame of any type to any Ethernet address.
    ///
    /// # Errors
    /// If the link refuses it.
    pub fn frame(&self, to: Mac, ether_type: EtherType, payload: &[u8]) -> Result<()> {
        let header = Ethernet2Header { source: self.source, destination: to, ether_type };
        self.raw.send(&[&header.to_bytes()[..], payload].concat())
    }

    /// Sends an IPv4 packet to the server; `make` may spoil its header, and says what it holds. Its
    /// checksum is that of the spoilt header.
    ///
    /// # Errors
    /// If the link refuses it.
    pub fn ipv4(
        &self,
        from: Ipv4Addr,
        make: impl FnOnce(&mut Ipv4Header) -> Result<(IpNumber, Vec<u8>)>,
    ) -> Result<()> {
        let mut ip = Ipv4Header::new(0, 64, IpNumber::UDP, from.octets(), self.server_ip.octets())?;
        let (protocol, data) = make(&mut ip)?;
        ip.protocol = protocol;
        ip.total_len += data.len() as u16;
        ip.header_checksum = ip.calc_header_checksum();
        self.frame(self.server, EtherType::IPV4, &[&ip.to_bytes()[..], &data].concat())
    }

    /// The start of a packet to the server's link, in either family.
    ///
    /// # Errors
    /// If the addresses are not of one family.
    pub fn packet(&self, from: IpAddr, to: IpAddr) -> Result<PacketBuilderStep<IpHeaders>> {
        let ethernet = PacketBuilder::ethernet2(self.source, self.server);
        Ok(match (from, to) {
            (IpAddr::V4(from), IpAddr::V4(to)) => ethernet.ipv4(from.octets(), to.octets(), 64),
            (IpAddr::V6(from), IpAddr::V6(to)) => ethernet.ipv6(from.octets(), to.octets(), 64),
            _ => bail!("{from} and {to} are of two families"),
        })
    }

    /// Sends a segment, with a good checksum unless it is `damaged`.
    ///
    /// # Errors
    /// If the link refuses it.
    pub fn segment(
        &self,
        from: IpAddr,
        to: IpAddr,
        tcp: TcpHeader,
        data: &[u8],
        damaged: bool,
    ) -> Result<()> {
        let mut frame = Vec::new();
        self.packet(from, to)?.tcp_header(tcp).write(&mut frame, data)?;
        if damaged && let Some(last) = frame.last_mut() {
            *last ^= 0xff;
        }
        self.raw.send(&frame)
    }

    /// The socket itself.
    pub fn raw(&self) -> &RawSocket {
        &self.raw
    }
}

fn server_ip(pair: &Pair) -> Result<Ipv4Addr> {
    let IpAddr::V4(ip) = pair.server_ip(Family::V4) else { bail!("a pair has IPv4") };
    Ok(ip)
}
