//! A TCP peer whose every segment we write ourselves, for what no honest stack sends: segments
//! outside of the window, old timestamps, handshakes that stop half-way.
//!
//! It lives at an address of its own on the client's link or behind a link, which no kernel owns,
//! so nobody answers in its place.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU16, Ordering};

use anyhow::{Result, bail};
use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TcpHeader, TcpOptionElement, TransportSlice};

use super::raw_socket::{Mac, RawSocket};
use super::{Family, Namespace, Pair};

/// The peer's address.
pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 50);

/// Bits of [`Segment::flags`].
pub const FIN: u8 = 1;
/// See [`FIN`].
pub const SYN: u8 = 2;
/// See [`FIN`].
pub const RST: u8 = 4;
/// See [`FIN`].
pub const ACK: u8 = 16;

/// Its Ethernet address behind a link.
const MAC: Mac = [2, 0, 0, 0, 0, 50];

/// Its clock at the handshake, in the unit of TCP timestamps.
const CLOCK: u32 = 1_000_000;

/// One end of a connection with the server of a pair.
#[derive(Debug)]
pub struct ScriptedPeer {
    raw: RawSocket,
    mac: Mac,
    server_mac: Mac,
    server: Ipv4Addr,
    server_port: u16,
    port: u16,
    /// Its next sequence number.
    pub seq: u32,
    /// What it expects next.
    pub ack: u32,
    /// The server's clock, as last heard.
    pub echo: u32,
}

/// A segment to be sent; the default acknowledges and is what the server expects.
#[derive(Debug, Clone, Default)]
pub struct Segment<'a> {
    /// Flags; [`ACK`] if 0.
    pub flags: u8,
    /// Added to the sequence number that the server expects.
    pub off: i64,
    /// Added to the peer's clock.
    pub clock: i64,
    /// Bytes that it carries.
    pub data: &'a [u8],
    /// What it has received beyond a gap, from and to, counted from what it expects next.
    pub beyond: Option<(u32, u32)>,
}

impl ScriptedPeer {
    /// A peer on the client's link that has not said anything yet; the port at the server is for
    /// [`ScriptedPeer::shake_hands`].
    ///
    /// # Errors
    /// Without root.
    pub fn new(pair: &Pair, server_port: u16) -> Result<Self> {
        let (raw, server_wire) =
            (RawSocket::open(&pair.client, "eth0")?, RawSocket::open(&pair.server, "eth0")?);
        let (mac, server_mac) = (raw.mac, server_wire.mac);
        Self::live(raw, mac, server_mac, pair, server_port)
    }

    /// A peer behind the server's end of a link, so that no other host of this machine sees what
    /// the two say to each other.
    ///
    /// # Errors
    /// Without root.
    pub fn behind(link: RawSocket, pair: &Pair, server_port: u16) -> Result<Self> {
        let server_mac = link.mac;
        Self::live(link, MAC, server_mac, pair, server_port)
    }

    fn live(raw: RawSocket, mac: Mac, server_mac: Mac, pair: &Pair, server_port: u16) -> Result<Self> {
        introduce(&pair.server, mac)?;
        let IpAddr::V4(server) = pair.server_ip(Family::V4) else { bail!("a pair has IPv4") };
        let port = next_port();
        Ok(Self { raw, mac, server_mac, server, server_port, port, seq: 7000, ack: 0, echo: 0 })
    }

    /// A peer on the client's link that has shaken hands with a listener.
    ///
    /// # Errors
    /// If the listener does not answer.
    pub fn open(pair: &Pair, listener: SocketAddr) -> Result<Self> {
        let mut peer = Self::new(pair, listener.port())?;
        peer.shake_hands()?;
        Ok(peer)
    }

    /// [`ScriptedPeer::open`] as far as the listener's SYN-ACK, which is not confirmed.
    ///
    /// # Errors
    /// If the listener does not answer.
    pub fn half_open(pair: &Pair, listener: SocketAddr) -> Result<Self> {
        let mut peer = Self::new(pair, listener.port())?;
        peer.ask()?;
        Ok(peer)
    }

    /// Forgets its connection; the next one comes from another port.
    pub fn begin_anew(&mut self) {
        (self.port, self.seq, self.ack, self.echo) = (next_port(), 7000, 0, 0);
    }

    /// Opens a connection to the server's port.
    ///
    /// # Errors
    /// If nobody there answers.
    pub fn shake_hands(&mut self) -> Result<()> {
        self.ask()?;
        self.send(&Segment::default())
    }

    /// A SYN, and its answer.
    fn ask(&mut self) -> Result<()> {
        self.send(&Segment { flags: SYN, ..Segment::default() })?;
        self.seq = self.seq.wrapping_add(1);
        self.hear("a SYN-ACK", |flags| (flags == SYN | ACK).then_some(()))
    }

    /// Waits for a SYN from the server's side, and answers it with a clock that never was.
    ///
    /// # Errors
    /// If none comes.
    pub fn answer_from_another_time(&mut self) -> Result<()> {
        let (port, ack) = self.raw.receive("a SYN", |packet| {
            let tcp = from_server(packet, self.server)?;
            (tcp.syn() && !tcp.ack()).then(|| (tcp.source_port(), tcp.sequence_number().wrapping_add(1)))
        })?;
        (self.server_port, self.ack) = (port, ack);
        self.echo = 1;
        self.send(&Segment { flags: SYN | ACK, ..Segment::default() })
    }

    /// The port that the server's side is to connect to.
    pub fn at(&self) -> SocketAddr {
        (ADDRESS, self.port).into()
    }

    /// Sends one segment; nothing is remembered of it.
    ///
    /// # Errors
    /// If the link refuses it.
    pub fn send(&self, segment: &Segment<'_>) -> Result<()> {
        let flags = if segment.flags == 0 { ACK } else { segment.flags };
        let seq = i64::from(self.seq).wrapping_add(segment.off) as u32;
        let mut tcp = TcpHeader::new(self.port, self.server_port, seq, 65535);
        tcp.fin = flags & FIN != 0;
        tcp.syn = flags & SYN != 0;
        tcp.rst = flags & RST != 0;
        tcp.ack = flags & ACK != 0;
        tcp.acknowledgment_number = if tcp.ack { self.ack } else { 0 };
        let clock = i64::from(CLOCK).wrapping_add(segment.clock) as u32;
        let mut options = vec![TcpOptionElement::Timestamp(clock, self.echo)];
        if tcp.syn {
            options.push(TcpOptionElement::SelectiveAcknowledgementPermitted);
        }
        if let Some((from, to)) = segment.beyond {
            let block = (self.ack.wrapping_add(from), self.ack.wrapping_add(to));
            options.push(TcpOptionElement::SelectiveAcknowledgement(block, [None; 3]));
        }
        tcp.set_options(&options)?;
        let packet = PacketBuilder::ethernet2(self.mac, self.server_mac).ipv4(
            ADDRESS.octets(),
            self.server.octets(),
            64,
        );
        let mut frame = Vec::new();
        packet.tcp_header(tcp).write(&mut frame, segment.data)?;
        self.raw.send(&frame)
    }

    /// Takes over the server's numbers from a segment whose flags `wanted` accepts.
    ///
    /// # Errors
    /// If none comes.
    pub fn hear(&mut self, what: &str, wanted: impl Fn(u8) -> Option<()>) -> Result<()> {
        let (ack, echo) = self.raw.receive(what, |packet| {
            let tcp = from_server(packet, self.server).filter(|tcp| tcp.destination_port() == self.port)?;
            let flags = u8::from(tcp.fin()) | u8::from(tcp.syn()) << 1 | u8::from(tcp.rst()) << 2;
            wanted(flags | u8::from(tcp.ack()) << 4)?;
            let length = tcp.payload().len() as u32 + u32::from(tcp.syn()) + u32::from(tcp.fin());
            let clock = tcp.options_iterator().find_map(|option| match option {
                Ok(TcpOptionElement::Timestamp(clock, _)) => Some(clock),
                _ => None,
            });
            Some((tcp.sequence_number().wrapping_add(length), clock.unwrap_or(0)))
        })?;
        (self.ack, self.echo) = (ack, echo);
        Ok(())
    }
}

fn next_port() -> u16 {
    static PORT: AtomicU16 = AtomicU16::new(40000);
    PORT.fetch_add(1, Ordering::Relaxed)
}

/// Tells the server where the peer is, since it does not answer ARP.
fn introduce(server: &Namespace, mac: Mac) -> Result<()> {
    let mac = mac.map(|byte| format!("{byte:02x}")).join(":");
    server.knows(ADDRESS, &mac)
}

fn from_server<'a>(packet: &SlicedPacket<'a>, server: Ipv4Addr) -> Option<etherparse::TcpSlice<'a>> {
    let Some(NetSlice::Ipv4(ip)) = &packet.net else { return None };
    match &packet.transport {
        Some(TransportSlice::Tcp(tcp)) if ip.header().source_addr() == server => Some(tcp.clone()),
        _ => None,
    }
}
