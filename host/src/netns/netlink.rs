//! One netlink dump in the namespace of the calling thread: a request out, messages in.
//!
//! Framing and attributes are netlink-packet-core's. Messages are not decoded into the typed
//! structs of netlink-packet-route: a link has some sixty attributes, of which six are wanted, and
//! one that is longer on a newer kernel would fail the whole dump. ARCHITECTURE.md has the figures.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use netlink_packet_core::{
    Emitable, ErrorBuffer, NLA_HEADER_SIZE, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NLMSG_DONE,
    NLMSG_ERROR, NetlinkBuffer, NetlinkHeader, NlasIterator,
};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket,
};

/// Size of a netlink header.
const HEADER: usize = 16;
/// Maximum bytes that the kernel writes into a reader's buffer at once.
const BUFFER: usize = 32 << 10;
/// Times that a table is dumped which changes meanwhile, before it is taken as it is.
const ATTEMPTS: usize = 3;

/// Sends one request that is answered with many messages, and folds the payload of each.
///
/// # Errors
/// The kernel lacks the protocol, refuses the request, or answers with what is no netlink.
pub fn dump<T>(
    protocol: SockProtocol,
    kind: u16,
    body: &[u8],
    empty: impl Fn() -> T,
    mut fold: impl FnMut(&mut T, &[u8]),
) -> io::Result<T> {
    let mut last = empty();
    for _ in 0..ATTEMPTS {
        last = empty();
        if request(protocol, kind, NLM_F_DUMP, body, |payload| fold(&mut last, payload))? {
            break;
        }
    }
    Ok(last)
}

/// Sends a request that has one answer.
///
/// # Errors
/// Those of [`dump`].
pub fn get(protocol: SockProtocol, kind: u16, body: &[u8], message: impl FnMut(&[u8])) -> io::Result<()> {
    request(protocol, kind, 0, body, message).map(drop)
}

/// The attributes in `bytes`, by type. What is malformed ends them.
pub fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    NlasIterator::new(bytes).map_while(Result::ok).filter_map(|nla| {
        // The value outlives the attribute's view, which `NlaBuffer::value` does not say.
        let (kind, length) = (nla.kind(), usize::from(nla.length()));
        Some((kind, nla.into_inner().get(NLA_HEADER_SIZE..length)?))
    })
}

/// A C string attribute.
pub fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value.split(|byte| *byte == 0).next().unwrap_or_default()).into_owned()
}

/// A 32-bit number in the machine's byte order; 0 if it is not there.
pub fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_ne_bytes)
}

/// A 64-bit number in the machine's byte order; 0 if it is not there.
pub fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_ne_bytes)
}

/// Whether the answer is consistent: nothing changed while the kernel wrote it.
fn request(
    protocol: SockProtocol,
    kind: u16,
    flags: u16,
    body: &[u8],
    mut message: impl FnMut(&[u8]),
) -> io::Result<bool> {
    let socket = open(protocol)?;
    let mut header = NetlinkHeader::default();
    header.length = (HEADER + body.len()) as u32;
    (header.message_type, header.flags) = (kind, NLM_F_REQUEST | flags);
    let mut request = vec![0; HEADER];
    header.emit(&mut request);
    request.extend_from_slice(body);
    sendto(socket.as_raw_fd(), &request, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;

    let (mut buffer, mut complete) = (vec![0; BUFFER], true);
    loop {
        let received = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::MSG_TRUNC)?;
        let mut rest = buffer.get(..received).ok_or(Errno::EMSGSIZE)?;
        while !rest.is_empty() {
            let part = NetlinkBuffer::new_checked(rest).map_err(io::Error::other)?;
            complete &= part.flags() & NLM_F_DUMP_INTR == 0;
            match part.message_type() {
                NLMSG_DONE => return Ok(complete),
                NLMSG_ERROR => return refusal(part.payload()).map(|()| complete),
                _ => message(part.payload()),
            }
            if flags == 0 {
                return Ok(complete);
            }
            rest = rest.get((part.length() as usize).next_multiple_of(4)..).unwrap_or_default();
        }
    }
}

fn open(protocol: SockProtocol) -> io::Result<OwnedFd> {
    Ok(socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?)
}

fn refusal(payload: &[u8]) -> io::Result<()> {
    let error = ErrorBuffer::new_checked(payload).map_err(io::Error::other)?;
    match error.code() {
        Some(code) => Err(io::Error::from_raw_os_error(-code.get())),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_end_where_they_are_malformed() {
        let bytes = [8, 0, 3, 0, b'l', b'o', 0, 0, 6, 0, 0x05, 0x80, 7, 0, 0, 0, 200, 0, 1, 0, 9];
        let found: Vec<_> = attributes(&bytes).collect();
        assert_eq!(found, [(3, &b"lo\0\0"[..]), (5, &[7, 0][..])]);
        assert_eq!(text(found[0].1), "lo");
        assert_eq!(u32_at(found[1].1, 0), 0);
    }

    #[test]
    fn the_kernel_refuses_what_it_does_not_know() {
        let error =
            dump(SockProtocol::NetlinkRoute, 0x7ffe, &[0; 20], || (), |(), _| {}).expect_err("no such type");
        assert_eq!(error.raw_os_error(), Some(Errno::EOPNOTSUPP as i32));
    }
}
