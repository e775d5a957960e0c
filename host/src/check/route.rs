//! The route that the kernel would take to an address, by rtnetlink.

use std::io;
use std::net::IpAddr;

use nix::errno::Errno;
use nix::sys::socket::SockProtocol;

use super::params::{Params, address, device, family, octets};
use crate::netns::netlink::{attributes, get, u32_at};

const RTM_GETROUTE: u16 = 26;
/// Size of `struct rtmsg`: family, length of the destination, of the source, type at 7.
const RTMSG: usize = 12;
// linux/rtnetlink.h
const RTA_DST: u16 = 1;
const RTA_SRC: u16 = 2;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PREFSRC: u16 = 7;
const RTN_LOCAL: u8 = 2;
const RTN_BLACKHOLE: u8 = 6;
const RTN_UNREACHABLE: u8 = 7;
const RTN_PROHIBIT: u8 = 8;

/// One fact: the route to `to`, as it is for packets from `from` if that is an address of this
/// namespace.
pub(super) fn look(params: &Params<'_>) -> io::Result<Vec<String>> {
    let to = params.address("to")?;
    let from = params.address("from").ok().filter(|from| from.is_ipv4() == to.is_ipv4());
    let found = match from {
        // The source of a packet that is forwarded is nobody's here, and refused.
        Some(from) => ask(to, Some(from)).or_else(|_| ask(to, None)),
        None => ask(to, None),
    };
    match found {
        Ok(route) => Ok(vec![route]),
        Err(e) => match e.raw_os_error().map(Errno::from_raw) {
            Some(Errno::ENETUNREACH) => Ok(vec![format!("there is no route to {to}")]),
            Some(Errno::EHOSTUNREACH) => Ok(vec![format!("the route to {to} says unreachable")]),
            Some(Errno::EACCES) => Ok(vec![format!("the route to {to} says prohibit")]),
            Some(Errno::EINVAL) => Ok(vec![format!("the route to {to} is a blackhole")]),
            _ => Err(e),
        },
    }
}

/// The device by which the kernel would send to an address.
pub(super) fn device_to(to: IpAddr) -> Option<String> {
    let mut request = vec![0; RTMSG];
    (request[0], request[1]) = (family(to), bits(to));
    append(&mut request, RTA_DST, to);
    let mut index = None;
    get(SockProtocol::NetlinkRoute, RTM_GETROUTE, &request, |route| {
        let mut found = attributes(route.get(RTMSG..).unwrap_or_default());
        index = found.find(|(kind, _)| *kind == RTA_OIF).map(|(_, value)| u32_at(value, 0));
    })
    .ok()?;
    index.map(device)
}

/// Of a whole address.
fn bits(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { 32 } else { 128 }
}

fn ask(to: IpAddr, from: Option<IpAddr>) -> io::Result<String> {
    let mut request = vec![0; RTMSG];
    (request[0], request[1]) = (family(to), bits(to));
    append(&mut request, RTA_DST, to);
    if let Some(from) = from {
        request[2] = bits(from);
        append(&mut request, RTA_SRC, from);
    }
    let mut found = String::new();
    get(SockProtocol::NetlinkRoute, RTM_GETROUTE, &request, |route| found = words(to, route))?;
    Ok(found)
}

/// Adds an attribute; addresses need no padding.
fn append(request: &mut Vec<u8>, kind: u16, ip: IpAddr) {
    let value = octets(ip);
    request.extend_from_slice(&(4 + value.len() as u16).to_ne_bytes());
    request.extend_from_slice(&kind.to_ne_bytes());
    request.extend_from_slice(&value);
}

fn words(to: IpAddr, route: &[u8]) -> String {
    match route.get(7) {
        Some(&RTN_BLACKHOLE) => return format!("the route to {to} is a blackhole"),
        Some(&RTN_UNREACHABLE) => return format!("the route to {to} says unreachable"),
        Some(&RTN_PROHIBIT) => return format!("the route to {to} says prohibit"),
        _ => {}
    }
    let local = if route.get(7) == Some(&RTN_LOCAL) { " is local," } else { " is reached" };
    let (mut via, mut by, mut from) = (String::new(), String::new(), String::new());
    for (kind, value) in attributes(route.get(RTMSG..).unwrap_or_default()) {
        match (kind, address(value)) {
            (RTA_OIF, _) => by = format!(" by {}", device(u32_at(value, 0))),
            (RTA_GATEWAY, Some(ip)) => via = format!(" through {ip}"),
            (RTA_PREFSRC, Some(ip)) if ip != to => from = format!(" from {ip}"),
            _ => {}
        }
    }
    format!("{to}{local}{via}{by}{from}")
}
