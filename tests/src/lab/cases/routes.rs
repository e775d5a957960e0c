//! Ways that are missing, closed or too long.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};

use anyhow::{Result, bail, ensure};
use nix::libc;

use super::{Case, FAULT, Ongoing, client, router, unanswered};
use crate::lab::counters::counted;
use crate::lab::sockets::set_option;
use crate::lab::{Family, Held, Scene, Topology};

const ROUTED: Case = Case { topology: Topology::Routed, ..FAULT };

pub const CASES: &[Case] = &[
    Case {
        name: "route_blackhole_local",
        made: "a blackhole route at the client",
        expect: &[client("route-blocked")],
        run: |scene| refused_here(scene, "blackhole", libc::EINVAL),
        ..FAULT
    },
    Case {
        name: "route_prohibit_local",
        made: "a prohibit route at the client",
        expect: &[client("route-blocked")],
        run: |scene| refused_here(scene, "prohibit", libc::EACCES),
        ..FAULT
    },
    Case {
        name: "route_unreachable_local",
        made: "an unreachable route at the client",
        expect: &[client("route-blocked")],
        run: |scene| refused_here(scene, "unreachable", libc::EHOSTUNREACH),
        ..FAULT
    },
    Case {
        name: "no_route_local",
        made: "the client has no route",
        expect: &[client("route-missing")],
        run: |scene| {
            let clients = fails_at_once(scene, libc::ENETUNREACH)?;
            counted(scene.client(), scene.by_family("IpOutNoRoutes", "Ip6OutNoRoutes"), 3)?;
            Ok(clients)
        },
        ..FAULT
    },
    Case {
        name: "route_blackhole_forward",
        made: "a blackhole route at the router",
        expect: &[router("route-blocked")],
        run: |scene| {
            scene.router()?.ip(&format!("route add blackhole {}", net(scene.family)))?;
            unanswered(scene, beyond(scene.family))
        },
        ..ROUTED
    },
    Case {
        name: "route_unreachable_forward",
        made: "an unreachable route at the router",
        // IPv6 answers and counts as if there were no route.
        expect: &[router("route-blocked"), router("route-missing")],
        run: |scene| refused_on_the_way(scene, "unreachable"),
        ..ROUTED
    },
    Case {
        name: "route_prohibit_forward",
        made: "a prohibit route at the router",
        expect: &[router("route-blocked")],
        run: |scene| refused_on_the_way(scene, "prohibit"),
        ..ROUTED
    },
    Case {
        name: "no_route_forward",
        made: "the router has no route",
        expect: &[router("route-missing")],
        run: |scene| {
            let connecting = scene.connect(scene.client(), beyond(scene.family))?;
            counted(scene.router()?, scene.by_family("IpExtInNoRoutes", "Ip6InNoRoutes"), 1)?;
            Ok(connecting)
        },
        ..ROUTED
    },
    Case {
        name: "ip_forward_off",
        made: "the router does not forward",
        expect: &[router("forwarding-disabled")],
        run: |scene| {
            let (v4, v6) = ("net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding");
            scene.router()?.sysctl(scene.by_family(v4, v6), "0")?;
            unanswered(scene, scene.server_at(80))
        },
        ..ROUTED
    },
    Case {
        name: "ttl_exceeded",
        made: "datagrams that may take one hop",
        expect: &[router("ttl-exceeded")],
        ongoing: Ongoing::Again,
        run: |scene| {
            let socket = scene.client().run(|| Ok(UdpSocket::bind((scene.client_ip(), 0))?))?;
            let hops: i32 = 1;
            match scene.family {
                Family::V4 => set_option(&socket, libc::IPPROTO_IP, libc::IP_TTL, &hops)?,
                Family::V6 => set_option(&socket, libc::IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS, &hops)?,
            }
            for _ in 0..3 {
                socket.send_to(b"far away", scene.server_at(4242))?;
            }
            let sent = scene.by_family("IcmpOutTimeExcds", "Icmp6OutTimeExcds");
            counted(scene.router()?, sent, 1)?;
            Ok(Box::new(socket))
        },
        ..ROUTED
    },
];

/// A net that no host of a scene is in.
pub fn net(family: Family) -> &'static str {
    match family {
        Family::V4 => "10.8.0.0/24",
        Family::V6 => "fd00:8::/64",
    }
}

/// A port in that net.
pub fn beyond(family: Family) -> SocketAddr {
    let ip: IpAddr = match family {
        Family::V4 => Ipv4Addr::new(10, 8, 0, 1).into(),
        Family::V6 => Ipv6Addr::new(0xfd00, 8, 0, 0, 0, 0, 0, 1).into(),
    };
    (ip, 80).into()
}

fn refused_here(scene: &Scene, kind: &str, errno: i32) -> Result<Held> {
    scene.client().ip(&format!("route add {kind} {}", net(scene.family)))?;
    fails_at_once(scene, errno)
}

/// Connects and sends beyond, three times each.
pub fn fails_at_once(scene: &Scene, errno: i32) -> Result<Held> {
    let to = beyond(scene.family);
    let any: IpAddr = scene.by_family(Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into());
    scene.repeat(scene.client(), 3, move || {
        expect(errno, TcpStream::connect(to).map(drop))?;
        expect(errno, UdpSocket::bind((any, 0))?.send_to(b"x", to).map(drop))
    })
}

fn expect(errno: i32, outcome: io::Result<()>) -> Result<()> {
    let Err(error) = outcome else { bail!("there was a way") };
    ensure!(error.raw_os_error() == Some(errno), "{error}");
    Ok(())
}

fn refused_on_the_way(scene: &Scene, kind: &str) -> Result<Held> {
    scene.router()?.ip(&format!("route add {kind} {}", net(scene.family)))?;
    let connecting = scene.connect(scene.client(), beyond(scene.family))?;
    let sent = scene.by_family("IcmpOutDestUnreachs", "Icmp6OutDestUnreachs");
    counted(scene.router()?, sent, 1)?;
    Ok(connecting)
}
