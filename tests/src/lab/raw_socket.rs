//! Frames at one link of a namespace, written and read as they are: on a link that is there
//! (`packet(7)`), or as the other end of one that we make (a TAP device).

use std::fs::OpenOptions;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use etherparse::SlicedPacket;
use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, LinkAddr, SockFlag, SockProtocol, SockType, SockaddrLike, bind, setsockopt, socket,
    sockopt,
};
use nix::unistd::{read, write};

use super::Namespace;

/// How long an expected frame is waited for.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long one look for a frame takes at most.
const LOOK_MS: u8 = 100;

/// An Ethernet address.
pub type Mac = [u8; 6];

/// A link that frames can be put on.
#[derive(Debug)]
pub struct RawSocket {
    frames: OwnedFd,
    /// Ethernet address of the link in the namespace.
    pub mac: Mac,
}

impl RawSocket {
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
            Ok(Self { frames: socket, mac })
        })
    }

    /// Makes a link in a namespace whose other end is this value: what the namespace sends is read
    /// here, and what is sent here arrives there. What nobody reads is lost without a trace but in
    /// the link's own counters.
    ///
    /// # Errors
    /// Without root, or if the kernel has no TUN driver.
    pub fn tap(at: &Namespace, link: &str) -> Result<Self> {
        at.run(|| {
            let frames = OpenOptions::new().read(true).write(true).open("/dev/net/tun");
            let frames = OwnedFd::from(frames.context("/dev/net/tun")?);
            // SAFETY: all zeros are a valid ifreq.
            let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
            for (to, from) in request.ifr_name.iter_mut().zip(link.bytes()) {
                *to = from as _;
            }
            request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI) as _;
            // SAFETY: TUNSETIFF reads and writes one ifreq, which lives here.
            let made = unsafe { libc::ioctl(frames.as_raw_fd(), libc::TUNSETIFF as _, &raw mut request) };
            Errno::result(made).with_context(|| format!("cannot make the TAP device {link}"))?;
            Ok(Self { frames, mac: find(link)?.0 })
        })
    }

    /// Puts one frame on the link.
    ///
    /// # Errors
    /// If the kernel refuses it.
    pub fn send(&self, frame: &[u8]) -> Result<()> {
        let sent = write(&self.frames, frame).context("cannot send a frame")?;
        ensure!(sent == frame.len(), "sent {sent} of {} bytes", frame.len());
        Ok(())
    }

    /// Gives a link that is there the smallest buffer for frames that nobody has read yet.
    ///
    /// # Errors
    /// If the kernel refuses it.
    pub fn hold_little(&self) -> Result<()> {
        Ok(setsockopt(&self.frames, sockopt::RcvBuf, &1)?)
    }

    /// Frames that were not held since the last call, of a link that is there.
    ///
    /// # Errors
    /// On a TAP device.
    pub fn missed(&self) -> Result<u32> {
        // struct tpacket_stats: packets, drops.
        let mut counts = [0_u32; 2];
        let mut length = size_of_val(&counts) as libc::socklen_t;
        let (fd, level) = (self.frames.as_raw_fd(), libc::SOL_PACKET);
        // SAFETY: pointers to live values; `length` is the size of the one that the kernel writes.
        let result = unsafe {
            let to = counts.as_mut_ptr().cast();
            libc::getsockopt(fd, level, libc::PACKET_STATISTICS, to, &raw mut length)
        };
        Errno::result(result)?;
        Ok(counts[1])
    }

    /// Reads one frame and returns its length; `None` if none comes within a tenth of a second.
    ///
    /// # Errors
    /// If the link is gone.
    pub fn look(&self, frame: &mut [u8]) -> Result<Option<usize>> {
        let mut ready = [PollFd::new(self.frames.as_fd(), PollFlags::POLLIN)];
        match poll(&mut ready, PollTimeout::from(LOOK_MS)) {
            Ok(0) | Err(Errno::EINTR) => Ok(None),
            Ok(_) => Ok(Some(read(&self.frames, frame).context("cannot read frames")?)),
            Err(errno) => Err(errno).context("cannot wait for frames"),
        }
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
            let Some(length) = self.look(&mut frame)? else { continue };
            let packet = SlicedPacket::from_ethernet(&frame[..length]);
            if let Some(found) = packet.ok().and_then(|packet| wanted(&packet)) {
                return Ok(found);
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
