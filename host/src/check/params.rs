//! The parameters of a check, which come from guests, and what addresses and devices are called.

use std::io;
use std::net::IpAddr;

/// What to look for.
pub(super) struct Params<'a>(pub(super) &'a [(String, String)]);

impl Params<'_> {
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// None if it is not there or 0, as of protocols without ports.
    pub(super) fn port(&self, name: &str) -> io::Result<Option<u16>> {
        let wrong = || io::Error::other(format!("parameter {name} is no port"));
        let port = self.text(name).map(|text| text.parse::<u16>().map_err(|_| wrong())).transpose()?;
        Ok(port.filter(|port| *port > 0))
    }

    pub(super) fn address(&self, name: &str) -> io::Result<IpAddr> {
        let wrong = || io::Error::other(format!("parameter {name} is no address"));
        self.text(name)
            .and_then(|text| text.parse().ok())
            .map(|ip: IpAddr| ip.to_canonical())
            .ok_or_else(wrong)
    }

    /// TCP or UDP by name or number; TCP if it is not there.
    pub(super) fn protocol(&self) -> io::Result<u8> {
        match self.text("proto").map(str::to_ascii_uppercase).as_deref() {
            None | Some("TCP" | "6") => Ok(nix::libc::IPPROTO_TCP as u8),
            Some("UDP" | "17") => Ok(nix::libc::IPPROTO_UDP as u8),
            Some(_) => Err(io::Error::other("parameter proto is neither TCP nor UDP")),
        }
    }
}

pub(super) fn protocol_name(protocol: u8) -> &'static str {
    if i32::from(protocol) == nix::libc::IPPROTO_UDP { "UDP" } else { "TCP" }
}

/// The address that an attribute of a route or a neighbour holds.
pub(super) fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
        _ => None,
    }
}

pub(super) fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// `AF_INET` or `AF_INET6`.
pub(super) fn family(ip: IpAddr) -> u8 {
    let family = if ip.is_ipv4() { nix::libc::AF_INET } else { nix::libc::AF_INET6 };
    family as u8
}

/// Name of a device of the namespace that the thread is in.
pub(super) fn device(index: u32) -> String {
    let name = nix::net::if_::if_indextoname(index);
    name.map_or_else(|_| format!("#{index}"), |name| name.to_string_lossy().into_owned())
}
