//! Routers that do not forward, or not so far.

use std::net::{Ipv6Addr, SocketAddrV6, TcpStream, UdpSocket};

use anyhow::{Error, Result};
use nix::libc;
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};

use crate::lab::cases::{
    BLIND, Case, KNOWN, Ongoing, Place, UNSEEN, VARIATION, at, router, server, unanswered,
};
use crate::lab::counters::{counted, counter};
use crate::lab::sockets::{PATIENCE, allow_hops, set_option};
use crate::lab::{Family, Held, Namespace, Scene};
use crate::wait;

pub const CASES: &[Case] = &[
    Case {
        name: "ip_forward_off",
        made: "the router does not forward",
        expect: &[router("forwarding-disabled")],
        run: |scene| {
            let (v4, v6) = ("net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding");
            scene.router()?.sysctl(scene.by_family(v4, v6), "0")?;
            unanswered(scene, scene.server_at(80))
        },
        ..KNOWN.routed()
    },
    Case {
        name: "ttl_exceeded",
        made: "datagrams that may take one hop",
        expect: &[router("ttl-exceeded")],
        ongoing: Ongoing::Again,
        run: |scene| {
            let socket = scene.sender()?;
            let hops: i32 = 1;
            allow_hops(&socket, hops)?;
            for _ in 0..3 {
                socket.send_to(b"far away", scene.server_at(4242))?;
            }
            let sent = scene.by_family("IcmpOutTimeExcds", "Icmp6OutTimeExcds");
            counted(scene.router()?, sent, 1)?;
            Ok(Box::new(socket))
        },
        ..KNOWN.routed()
    },
    Case {
        name: "var_routing_loop",
        made: "router and server each send packets for a net to the other",
        expect: &[router("ttl-exceeded"), server("ttl-exceeded")],
        run: |scene| {
            scene.router()?.ip(&format!("route add {} via {}", scene.beyond_net(), scene.server_ip()))?;
            let forwards = scene.by_family("net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding");
            scene.server().sysctl(forwards, "1")?;
            // A router that forwards asks for its neighbours from this address.
            scene.server().ip("addr add fe80::2/64 dev eth0 nodad")?;
            let sender = scene.datagrams(scene.beyond(), 5, 100)?;
            let said = scene.by_family("IcmpOutTimeExcds", "Icmp6OutTimeExcds");
            let either = || Ok::<_, Error>(counter(scene.router()?, said)? + counter(scene.server(), said)?);
            wait::until("the last hop", || (either().ok()? > 0).then_some(()))?;
            Ok(sender)
        },
        ..VARIATION.routed()
    },
    Case {
        name: "var_gateway_is_no_router",
        made: "the client's gateway is a host that does not forward",
        expect: &[at(Place::Third, "forwarding-disabled")],
        run: |scene| {
            let (third, net) = (scene.third()?, scene.beyond_net());
            third.sysctl(scene.by_family("net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"), "0")?;
            third.ip(&format!("route add {net} via {}", scene.server_ip()))?;
            scene.client().ip(&format!("route add {net} via {}", scene.neighbour(3)))?;
            unanswered(scene, scene.beyond())
        },
        ..UNSEEN.bridged()
    },
    Case {
        name: "var_short_way_back",
        made: "the server's own packets may take one hop",
        expect: &[router("ttl-exceeded"), server("ttl-exceeded")],
        run: |scene| {
            let hops = scene.by_family("net/ipv4/ip_default_ttl", "net/ipv6/conf/eth0/hop_limit");
            scene.server().sysctl(hops, "1")?;
            let listener = scene.listener()?;
            Ok(Box::new((unanswered(scene, listener.local_addr()?)?, listener)))
        },
        ..UNSEEN.routed()
    },
    Case {
        name: "var_rogue_router",
        made: "a third host that does not forward announces itself as everybody's router",
        families: &[Family::V6],
        expect: &[at(Place::Third, "forwarding-disabled")],
        // New connections soon take the other router; the one that has begun goes on.
        ongoing: Ongoing::ByItself,
        run: rogue_router,
        ..BLIND.bridged()
    },
];

/// Router advertisements win over a route that somebody gave a higher metric.
fn rogue_router(scene: &Scene) -> Result<Held> {
    let (client, server, third) = (scene.client(), scene.server(), scene.third()?);
    for (host, accepts) in [(client, "1"), (server, "0"), (third, "0")] {
        host.sysctl("net/ipv6/conf/eth0/accept_ra", accepts)?;
    }
    let to = scene.beyond();
    server.ip(&format!("addr add {} dev lo nodad", to.ip()))?;
    let listener = server.listen(to)?;
    for (host, metric) in [(client, 4096), (third, 1024)] {
        host.ip(&format!("route add default via {} metric {metric}", scene.server_ip()))?;
    }
    third.ip("addr add fe80::3/64 dev eth0 nodad")?;
    client.run(|| Ok(TcpStream::connect_timeout(&to, PATIENCE)?))?;
    announce(third)?;
    wait::within(PATIENCE, "a route from an announcement", || {
        client.ip("-6 route show default").ok()?.contains("proto ra").then_some(())
    })?;
    Ok(Box::new((unanswered(scene, to)?, listener)))
}

/// Says to all that this host is a router for half an hour.
fn announce(host: &Namespace) -> Result<()> {
    const HOPS: i32 = 255;
    host.run(|| {
        let family = AddressFamily::Inet6;
        let raw = socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::IcmpV6)?;
        set_option(&raw, libc::IPPROTO_IPV6, libc::IPV6_MULTICAST_HOPS, &HOPS)?;
        let all = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
        let all = SocketAddrV6::new(all, 0, 0, if_nametoindex("eth0")?);
        // Type 134, 64 hops, no flags, 1800 seconds, no times; the kernel adds the checksum.
        let announcement = [134, 0, 0, 0, 64, 0, 0x07, 0x08, 0, 0, 0, 0, 0, 0, 0, 0];
        UdpSocket::from(raw).send_to(&announcement, all)?;
        Ok(())
    })
}
