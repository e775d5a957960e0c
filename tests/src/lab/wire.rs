//! Frames at one link of a namespace, written and read as they are (`packet(7)`).

use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use etherparse::SlicedPacket;
use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrLike, bind, recv, send,
    setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;

use super::Namespace;

/// How long an expected frame is waited for.
const PATIENCE: Duration = Duration::from_secs(5);

/// An Ethernet address.
pub type Mac = [u8; 6];

/// A link that frames can be put on.
#[derive(Debug)]
pub struct Wire {
    socket: OwnedFd,
    /// Ethernet address of the link.
    pub mac: Mac,
}

impl Wire {
    /// Opens a link of a namespace by its name.
    ///
    /// # Errors
    /// Without root, or if there is no such link.
    pub fn open(at: &Namespace, link: &str) -> Result<Self> {
        at.run(|| {
            let (mac, index) = find(link)?;
            let flags = SockFlag::SOCK_CLOEXEC;
            let socket = socket(AddressFamily::Packet, SockType::Raw, flags, SockProtocol::EthAll)?;
            bind(socket.as_raw_fd(), &address(index))?;
            setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::new(0, 100_000))?;
            Ok(Self { socket, mac })
        })
    }

    /// Puts one frame on the link.
    ///
    /// # Errors
    /// If the kernel refuses it.
    pub fn send(&self, frame: &[u8]) -> Result<()> {
        let sent = send(self.socket.as_raw_fd(), frame, MsgFlags::empty()).context("cannot send a frame")?;
        ensure!(sent == frame.len(), "sent {sent} of {} bytes", frame.len());
        Ok(())
    }

    /// Reads frames until `wanted` finds something in one.
    ///
    /// # Errors
    /// If that takes more than five seconds; the error says `what` was waited for.
    pub fn receive<T>(
        &self,
        what: &str,
        mut wanted: impl FnMut(&SlicedPacket<'_>) -> Option<T>,
    ) -> Result<T> {
        let (start, mut frame) = (Instant::now(), [0; 2048]);
        while start.elapsed() < PATIENCE {
            match recv(self.socket.as_raw_fd(), &mut frame, MsgFlags::empty()) {
                Ok(length) => {
                    let packet = SlicedPacket::from_ethernet(&frame[..length]);
                    if let Some(found) = packet.ok().and_then(|packet| wanted(&packet)) {
                        return Ok(found);
                    }
                }
                Err(Errno::EAGAIN | Errno::EINTR) => {}
                Err(errno) => return Err(errno).context("cannot read frames"),
            }
        }
        bail!("waited {PATIENCE:?} in vain for {what}")
    }
}

/// Ethernet address and index of a link in the namespace of the calling thread.
fn find(link: &str) -> Result<(Mac, usize)> {
    let found = nix::ifaddrs::getifaddrs()?.find_map(|interface| {
        let address = interface.address.filter(|_| interface.interface_name == link)?;
        let address = address.as_link_addr()?;
        Some((address.addr()?, address.ifindex()))
    });
    found.with_context(|| format!("no link {link}"))
}

/// Every frame of the link with this index.
fn address(index: usize) -> LinkAddr {
    // SAFETY: a C struct of integers, for which zero is a value.
    let mut raw: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    raw.sll_family = libc::AF_PACKET as u16;
    raw.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
    raw.sll_ifindex = index as i32;
    let length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: a pointer to a live value of the family that it names, with its true length.
    let address = unsafe { LinkAddr::from_raw((&raw const raw).cast(), Some(length)) };
    address.expect("its family is AF_PACKET")
}
