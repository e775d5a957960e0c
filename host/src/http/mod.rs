//! The adapter for everyone who looks at the agent: scrapers, event clients, the command line.
//!
//! Two servers over HTTP/1.1 (hyper), each on its own addresses: metrics and health for scrapers
//! ([`serve_metrics`]), events, state and answers to questions for people and programs
//! ([`serve_events`]). They only read the [`View`](crate::view::View) and pass questions on; no request
//! changes anything. Header sizes and times are bounded in `server`, the number of connections in
//! `connections`, streams in `api`, questions in `diagnose`, scrapes in `web`, so a hostile client costs
//! others nothing.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};

use crate::config::address::Address;

mod api;
mod body;
pub mod client;
mod connections;
mod diagnose;
mod events;
mod process;
mod query;
pub mod reach;
mod scraper;
mod server;
mod socket;
mod web;

#[cfg(test)]
mod tests;

pub use api::serve_events;
pub use web::serve_metrics;

/// Why a server cannot run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address is taken, not this machine's, or not allowed.
    #[error("cannot listen on {address}: {reason}{hint}")]
    Bind {
        /// As it was asked for.
        address: String,
        /// What the system says.
        reason: io::Error,
        /// What to do about it.
        hint: String,
    },
}

/// A listener that nobody serves yet; connections wait in its queue.
#[derive(Debug)]
pub struct Bound {
    listener: TcpListener,
    address: SocketAddr,
}

impl Bound {
    /// Where it listens, with the port that the kernel chose if 0 was asked for.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

/// Opens all listeners of a server; `flag` is what the user can change if one is taken.
///
/// # Errors
/// The first address that cannot be listened on.
pub fn bind(addresses: &[Address], flag: &str) -> Result<Vec<Bound>, Error> {
    let open = |address: &Address| {
        bind_one(address).map_err(|reason| Error::Bind {
            address: address.to_string(),
            hint: match reason.kind() {
                io::ErrorKind::AddrInUse => format!(" (another agent? choose {flag})"),
                _ => format!(" (see {flag})"),
            },
            reason,
        })
    };
    addresses.iter().map(open).collect()
}

fn bind_one(address: &Address) -> io::Result<Bound> {
    let listener = match (address.host.as_str(), address.port) {
        // An IPv6 wildcard takes IPv4 too; where IPv6 is off there is only IPv4.
        ("", port) => TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).or_else(|error| {
            let taken = error.kind() == io::ErrorKind::AddrInUse;
            if !taken { TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)) } else { Err(error) }
        })?,
        (host, port) => TcpListener::bind((host, port))?,
    };
    listener.set_nonblocking(true)?;
    Ok(Bound { address: listener.local_addr()?, listener })
}
