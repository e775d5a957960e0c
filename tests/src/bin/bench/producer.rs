//! Real drops at a given rate.
//!
//! UDP packets with a wrong IP checksum, put on the loopback device of a namespace: the kernel
//! frees each of them in `ip_rcv` with the reason IP_CSUM, in the sender's own soft interrupt, so
//! one packet is one drop on one CPU, and nothing answers it. That path is the shortest there is,
//! which makes the rate as high as the machine allows and what a probe adds easy to see.

use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use inspector_tests::lab::Namespace;
use nix::ifaddrs::getifaddrs;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, bind, send, socket};
use nix::unistd::Pid;

use crate::PRODUCER_CPU;

/// Packets between two looks at the clock at most.
const BURST: u64 = 64;
/// Between two bursts.
const PAUSE: Duration = Duration::from_micros(200);
const ETHERNET: usize = 14;
const FRAME: usize = ETHERNET + 20 + 8 + 16;

/// What was sent.
#[derive(Debug, Clone, Copy)]
pub struct Sent {
    /// Packets, all of them dropped.
    pub drops: u64,
    /// From the first to the last.
    pub took: Duration,
    /// The part of it that was spent in system calls.
    pub sending: Duration,
}

/// Makes `per_second` drops a second in `namespace`, or as many as this machine can.
///
/// # Errors
/// If the kernel refuses the socket or a packet.
pub fn produce(namespace: &Namespace, per_second: u32, time: Duration) -> Result<Sent> {
    namespace.run(|| {
        pin(PRODUCER_CPU)?;
        let socket = loopback()?;
        let frame = frame();
        let mut sent = Sent { drops: 0, took: Duration::ZERO, sending: Duration::ZERO };
        let start = Instant::now();
        while sent.took < time {
            let due = (sent.took.as_secs_f64() * f64::from(per_second)) as u64 - sent.drops;
            let burst = due.min(BURST);
            let before = Instant::now();
            for _ in 0..burst {
                send(socket.as_raw_fd(), &frame, MsgFlags::empty())?;
            }
            sent.sending += before.elapsed();
            sent.drops += burst;
            if due <= BURST {
                std::thread::sleep(PAUSE);
            }
            sent.took = start.elapsed();
        }
        Ok(sent)
    })
}

/// Keeps the calling thread, and threads it makes later, on one CPU.
///
/// # Errors
/// If there is no such CPU.
pub fn pin(cpu: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu)?;
    Ok(sched_setaffinity(Pid::from_raw(0), &set)?)
}

/// A socket that puts whole frames on `lo`. Protocol 0: it receives none.
fn loopback() -> Result<OwnedFd> {
    let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None)?;
    let interfaces = getifaddrs()?.filter(|interface| interface.interface_name == "lo");
    let link = interfaces.filter_map(|lo| lo.address?.as_link_addr().copied()).next();
    bind(socket.as_raw_fd(), &link.context("no interface lo")?)?;
    Ok(socket)
}

/// Ethernet, IPv4 with a checksum that is wrong, UDP 127.0.0.1:9999 to 127.0.0.1:10000.
fn frame() -> [u8; FRAME] {
    let mut frame = [0; FRAME];
    frame[12..ETHERNET].copy_from_slice(&0x0800u16.to_be_bytes());
    let ip = &mut frame[ETHERNET..];
    let (length, udp_length) = ((FRAME - ETHERNET) as u16, (FRAME - ETHERNET - 20) as u16);
    (ip[0], ip[8], ip[9]) = (0x45, 64, 17);
    ip[2..4].copy_from_slice(&length.to_be_bytes());
    ip[10..12].copy_from_slice(&0xdeadu16.to_be_bytes());
    ip[12..16].copy_from_slice(&[127, 0, 0, 1]);
    ip[16..20].copy_from_slice(&[127, 0, 0, 1]);
    ip[20..22].copy_from_slice(&9999u16.to_be_bytes());
    ip[22..24].copy_from_slice(&10_000u16.to_be_bytes());
    ip[24..26].copy_from_slice(&udp_length.to_be_bytes());
    frame
}
