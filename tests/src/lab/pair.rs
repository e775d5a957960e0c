//! Two namespaces that reach each other.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::Result;

use super::{Connection, Namespace, tool::run};
use crate::wait;

/// An address family to run a case in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both, for cases that hold in each.
    pub const BOTH: [Self; 2] = [Self::V4, Self::V6];

    /// `ETH_P_IP` or `ETH_P_IPV6`.
    pub fn ethertype(self) -> u16 {
        match self {
            Self::V4 => 0x0800,
            Self::V6 => 0x86dd,
        }
    }

    /// Bytes in a plain IP header.
    pub fn header_bytes(self) -> u32 {
        match self {
            Self::V4 => 20,
            Self::V6 => 40,
        }
    }
}

/// A client and a server, each with one link, called `eth0` on both sides.
#[derive(Debug)]
pub struct Pair {
    /// 10.9.0.1 and fd00:9::1.
    pub client: Namespace,
    /// 10.9.0.2 and fd00:9::2, or in the net behind a router: 10.9.1.2 and fd00:9:0:1::2.
    pub server: Namespace,
    server_net: u8,
}

impl Pair {
    /// Makes both and a veth link between them. Every pair has the same addresses, which do not
    /// meet because nothing connects two pairs.
    ///
    /// # Errors
    /// Without root, or if `ip` fails.
    pub fn new() -> Result<Self> {
        let pair = Self::apart(0)?;
        join(&pair.client, "eth0", &pair.server, "eth0")?;
        pair.give_addresses()?;
        Ok(pair)
    }

    /// Two namespaces that know each other as neighbours: a burst to one that is not known yet loses
    /// what is beyond the short queue of such a neighbour.
    ///
    /// # Errors
    /// As [`Pair::new`], or if they do not reach each other.
    pub fn introduced() -> Result<Self> {
        let pair = Self::new()?;
        for family in Family::BOTH {
            // On a machine that stands still for seconds no neighbour answers in time.
            let what = "the two to reach each other";
            wait::until(what, || Connection::open(&pair, family).ok())?.close()?;
        }
        Ok(pair)
    }

    /// Makes both without a link, with the server in net 0 or 1. Whoever adds the links calls
    /// [`Pair::give_addresses`] then.
    ///
    /// # Errors
    /// As [`Pair::new`].
    pub(super) fn apart(server_net: u8) -> Result<Self> {
        Ok(Self { client: Namespace::new("client")?, server: Namespace::new("server")?, server_net })
    }

    /// Sets up `eth0` on both sides.
    ///
    /// # Errors
    /// If one is missing.
    pub(super) fn give_addresses(&self) -> Result<()> {
        set_up(&self.client, "eth0", 0, 1)?;
        set_up(&self.server, "eth0", self.server_net, 2)
    }

    /// The client's address.
    pub fn client_ip(&self, family: Family) -> IpAddr {
        address(family, 0, 1)
    }

    /// The server's address.
    pub fn server_ip(&self, family: Family) -> IpAddr {
        address(family, self.server_net, 2)
    }

    /// An address on the client's link that nobody has unless a test gives it to somebody.
    pub fn neighbour(&self, family: Family, host: u8) -> IpAddr {
        address(family, 0, host)
    }

    /// A port at the server.
    pub fn server_at(&self, family: Family, port: u16) -> SocketAddr {
        SocketAddr::new(self.server_ip(family), port)
    }
}

/// A veth link between two namespaces, down and without addresses.
///
/// # Errors
/// If `ip` fails.
pub(super) fn join(one: &Namespace, its: &str, other: &Namespace, others: &str) -> Result<()> {
    let (one, other) = (one.name(), other.name());
    run("ip", &format!("link add {its} netns {one} type veth peer name {others} netns {other}")).map(drop)
}

/// Gives a link its addresses and brings it up.
///
/// # Errors
/// If there is no such link.
pub(super) fn set_up(at: &Namespace, link: &str, net: u8, host: u8) -> Result<()> {
    // No link-local address and no duplicate detection: the link works at once, and no neighbour
    // traffic of its own mixes with what a test counts.
    at.ip(&format!("link set {link} addrgenmode none"))?;
    at.ip(&format!("addr add {}/24 dev {link}", address(Family::V4, net, host)))?;
    at.ip(&format!("addr add {}/64 dev {link} nodad", address(Family::V6, net, host)))?;
    at.ip(&format!("link set {link} up")).map(drop)
}

/// A host in one of the lab's nets.
pub(super) fn address(family: Family, net: u8, host: u8) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(10, 9, net, host).into(),
        Family::V6 => Ipv6Addr::new(0xfd00, 9, 0, net.into(), 0, 0, 0, host.into()).into(),
    }
}
