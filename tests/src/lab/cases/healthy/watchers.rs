//! Who looks whether somebody is there, and what a firewall keeps out for good reasons.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use etherparse::TcpHeader;
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};

use crate::lab::background::Background;
use crate::lab::cases::{Case, NOISE, ONGOING};
use crate::lab::counters::{counter, matched, neighbour_failed};
use crate::lab::injector::Injector;
use crate::lab::sockets::PATIENCE;
use crate::lab::{Held, Namespace, Scene, faults};

/// What scanners and worms look for.
pub const POPULAR: [u16; 12] = [21, 22, 23, 25, 110, 139, 445, 1433, 3306, 3389, 5900, 6379];

/// How many strangers [`knock`].
pub const STRANGERS: u8 = 16;

pub const CASES: &[Case] = &[
    Case {
        name: "baseline_scanned",
        made: "a security tool (the third host) looks at a dozen closed ports once each, beside healthy load",
        run: scanned,
        ..NOISE.bridged()
    },
    Case {
        name: "baseline_noise_kept_out",
        made: "a firewall drops what strangers try once each, and its service is well",
        run: kept_out,
        ..NOISE
    },
    Case {
        name: "baseline_monitored",
        made: "a monitor (the third host) pings two hosts a hundred times, and once one that is switched off",
        run: monitored,
        ..NOISE.bridged()
    },
    Case {
        name: "ongoing_port_scan",
        made: "an inventory tool (the third host) looks at one port after the other, beside healthy load",
        run: |scene| {
            let load = Background::start(scene, 6000)?;
            let (ip, next) = (scene.server_ip(), AtomicU16::new(1));
            let scan = scene.go_on(scene.third()?, Duration::from_millis(150), move || {
                faults::expect_refusal((ip, next.fetch_add(1, Ordering::Relaxed)).into()).map(drop)
            })?;
            scene.seen_well(15)?;
            Ok(Box::new((scan, load)))
        },
        ..ONGOING.bridged()
    },
    Case {
        name: "ongoing_noise_kept_out",
        made: "a firewall drops what one stranger after the other tries once, and its service is well",
        run: |scene| {
            let load = Background::start(scene, 6000)?;
            keep_out_all_but(scene.server(), load.server_at())?;
            let strangers = Injector::new(&scene.pair)?;
            (0..4).try_for_each(|round| knock(scene, &strangers, 1 + round * STRANGERS))?;
            ensure!(matched(scene.server())? >= 60, "the strangers did not come");
            ensure!(load.done() > 100, "only {} connections", load.done());
            Ok(Box::new(load))
        },
        ..ONGOING
    },
];

fn scanned(scene: &Scene) -> Result<Held> {
    let load = Background::start(scene, 6000)?;
    for port in POPULAR {
        faults::connect_to_closed_port(scene.third()?, scene.server_at(port))?;
        sleep(Duration::from_millis(80));
    }
    ensure!(load.done() > 40, "only {} connections", load.done());
    Ok(Box::new(load))
}

fn kept_out(scene: &Scene) -> Result<Held> {
    let load = Background::start(scene, 6000)?;
    keep_out_all_but(scene.server(), load.server_at())?;
    knock(scene, &Injector::new(&scene.pair)?, 1)?;
    let dropped = matched(scene.server())?;
    ensure!(dropped >= 16, "{dropped} packets were dropped");
    ensure!(load.done() > 40, "only {} connections", load.done());
    Ok(Box::new(load))
}

/// What reaches every address of the internet: a SYN or a datagram each from somebody else, with
/// pauses, to where nobody listens. Strangers have numbers, from this one on.
///
/// # Errors
/// If the link refuses it.
pub fn knock(scene: &Scene, through: &Injector, first: u8) -> Result<()> {
    let (to, mut numbers) = (scene.server_ip(), first..first + STRANGERS);
    for (port, n) in POPULAR.into_iter().zip(numbers.by_ref()) {
        let mut syn = TcpHeader::new(50_000, port, 1, 65_535);
        syn.syn = true;
        through.segment(stranger(scene, n), to, syn, &[], false)?;
        sleep(Duration::from_millis(40));
    }
    for (port, n) in [137, 1900, 5060, 11_211].into_iter().zip(numbers) {
        let mut frame = Vec::new();
        through.packet(stranger(scene, n), to)?.udp(50_000, port).write(&mut frame, &[0; 40])?;
        through.raw().send(&frame)?;
        sleep(Duration::from_millis(40));
    }
    Ok(())
}

/// An address that no host here has.
pub fn stranger(scene: &Scene, n: u8) -> IpAddr {
    let v6 = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, n.into());
    scene.by_family(Ipv4Addr::new(198, 51, 100, n).into(), v6.into())
}

/// Lets one port in, and what belongs to open connections.
///
/// # Errors
/// If `nft` refuses the rules.
pub fn keep_out_all_but(at: &Namespace, service: SocketAddr) -> Result<()> {
    at.nft(&format!(
        "add table inet guard; add chain inet guard in {{ type filter hook input priority 0; }}; \
         add rule inet guard in ct state established,related accept; \
         add rule inet guard in meta l4proto {{ icmp, ipv6-icmp }} accept; \
         add rule inet guard in meta l4proto {{ tcp, udp }} th dport {} accept; \
         add rule inet guard in counter drop",
        service.port()
    ))
}

fn monitored(scene: &Scene) -> Result<Held> {
    let (monitor, off) = (scene.third()?, scene.neighbour(66));
    let (well, gone) = (pinger(scene, monitor)?, pinger(scene, monitor)?);
    ping(scene, &gone, off, 0)?;
    for number in 0..100 {
        for to in [scene.client_ip(), scene.server_ip()] {
            ping(scene, &well, to, number)?;
            well.recv(&mut [0; 64]).context("the reply")?;
        }
        sleep(Duration::from_millis(20));
    }
    let replies = scene.by_family("IcmpInEchoReps", "Icmp6InEchoReplies");
    ensure!(counter(monitor, replies)? >= 200, "not all replies came");
    neighbour_failed(monitor)?;
    Ok(Box::new((well, gone)))
}

/// A socket for pings, whose identifier the kernel chooses, as it computes the checksums.
fn pinger(scene: &Scene, at: &Namespace) -> Result<UdpSocket> {
    at.sysctl("net/ipv4/ping_group_range", "0 0")?;
    let (family, protocol) = scene
        .by_family((AddressFamily::Inet, SockProtocol::Icmp), (AddressFamily::Inet6, SockProtocol::IcmpV6));
    let pinger = at.run(|| Ok(socket(family, SockType::Datagram, SockFlag::SOCK_CLOEXEC, protocol)?))?;
    // Datagrams go in and out of it as they do with UDP.
    let pinger = UdpSocket::from(pinger);
    pinger.set_read_timeout(Some(PATIENCE))?;
    Ok(pinger)
}

/// An echo request: its type, no code, and what the kernel fills in before the number.
fn ping(scene: &Scene, pinger: &UdpSocket, to: IpAddr, number: u8) -> Result<()> {
    let mut request = [0; 64];
    (request[0], request[7]) = (scene.by_family(8, 128), number);
    pinger.send_to(&request, (to, 0)).map(drop).with_context(|| format!("a ping to {to}"))
}
