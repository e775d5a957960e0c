//! Two namespaces that reach each other.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::Result;

use super::{Namespace, tool::run};

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

/// A client and a server, joined by a veth link called `eth0` on both sides.
#[derive(Debug)]
pub struct Pair {
    /// 10.9.0.1 and fd00:9::1.
    pub client: Namespace,
    /// 10.9.0.2 and fd00:9::2.
    pub server: Namespace,
}

impl Pair {
    /// Makes both and the link between them. Every pair has the same addresses, which do not meet
    /// because nothing connects two pairs.
    ///
    /// # Errors
    /// Without root, or if `ip` fails.
    pub fn new() -> Result<Self> {
        let pair = Self { client: Namespace::new("client")?, server: Namespace::new("server")? };
        let (client, server) = (pair.client.name(), pair.server.name());
        run("ip", &format!("link add eth0 netns {client} type veth peer name eth0 netns {server}"))?;
        for (namespace, host) in [(&pair.client, 1), (&pair.server, 2)] {
            // No link-local address and no duplicate detection: the link works at once, and no
            // neighbour traffic of its own mixes with what a test counts.
            namespace.ip("link set eth0 addrgenmode none")?;
            namespace.ip(&format!("addr add 10.9.0.{host}/24 dev eth0"))?;
            namespace.ip(&format!("addr add fd00:9::{host}/64 dev eth0 nodad"))?;
            namespace.ip("link set eth0 up")?;
        }
        Ok(pair)
    }

    /// The client's address.
    pub fn client_ip(&self, family: Family) -> IpAddr {
        address(family, 1)
    }

    /// The server's address.
    pub fn server_ip(&self, family: Family) -> IpAddr {
        address(family, 2)
    }

    /// A port at the server.
    pub fn server_at(&self, family: Family, port: u16) -> SocketAddr {
        SocketAddr::new(self.server_ip(family), port)
    }
}

fn address(family: Family, host: u8) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(10, 9, 0, host).into(),
        Family::V6 => Ipv6Addr::new(0xfd00, 9, 0, 0, 0, 0, 0, host.into()).into(),
    }
}
