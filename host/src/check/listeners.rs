//! Listening sockets, their queues and backlogs, by SOCK_DIAG.

use std::io;
use std::net::{IpAddr, SocketAddr};

use nix::libc::{AF_INET, AF_INET6, IPPROTO_TCP};
use nix::sys::socket::SockProtocol;

use super::params::{Params, address, protocol_name};
use crate::netns::netlink::{dump, u32_at};

const SOCK_DIAG_BY_FAMILY: u16 = 20;
/// Size of `struct inet_diag_req_v2`: family, protocol, two zeros, states at 4, socket id.
const REQUEST: usize = 56;
// include/net/tcp_states.h; an unconnected UDP socket is CLOSE.
const CLOSE: u32 = 7;
const LISTEN: u32 = 10;

/// One fact per socket; of one port only, if one is named.
pub(super) fn look(params: &Params<'_>) -> io::Result<Vec<String>> {
    let (port, protocol) = (params.port("port")?, params.protocol()?);
    let mut found = Vec::new();
    for family in [AF_INET, AF_INET6] {
        let request = request(family, protocol);
        let of_family =
            dump(SockProtocol::NetlinkSockDiag, SOCK_DIAG_BY_FAMILY, &request, Vec::new, |all, socket| {
                all.extend(fact(socket, protocol, port));
            });
        match of_family {
            Ok(facts) => found.extend(facts),
            // A kernel without IPv6 has none of its sockets.
            Err(_) if family == AF_INET6 => {}
            Err(e) => return Err(e),
        }
    }
    if found.is_empty() {
        let port =
            port.map_or_else(String::new, |port| format!(" on {} port {port}", protocol_name(protocol)));
        found.push(format!("nothing listens{port}"));
    }
    Ok(found)
}

fn request(family: i32, protocol: u8) -> [u8; REQUEST] {
    let state = if i32::from(protocol) == IPPROTO_TCP { LISTEN } else { CLOSE };
    let mut request = [0; REQUEST];
    (request[0], request[1]) = (family as u8, protocol);
    request[4..8].copy_from_slice(&(1_u32 << state).to_ne_bytes());
    request
}

/// `struct inet_diag_msg` has its port at 4, its address at 8, its queues at 56 and 60; of a listening
/// socket these are connections that wait and how many may.
fn fact(socket: &[u8], protocol: u8, wanted: Option<u16>) -> Option<String> {
    let port = u16::from_be_bytes(socket.get(4..6)?.try_into().ok()?);
    let length = if i32::from(*socket.first()?) == AF_INET { 4 } else { 16 };
    let ip: IpAddr = address(socket.get(8..8 + length)?)?;
    if wanted.is_some_and(|wanted| wanted != port) {
        return None;
    }
    let (waiting, room) = (u32_at(socket, 56), u32_at(socket, 60));
    let (name, at) = (protocol_name(protocol), SocketAddr::new(ip, port));
    Some(match i32::from(protocol) {
        // The queue overflows when it holds one more than the backlog.
        IPPROTO_TCP => format!("{name} {at} listens: {waiting} of {room} connections wait to be accepted"),
        _ => format!("{name} {at} is bound: {waiting} bytes wait to be read"),
    })
}
