//! Routes that are missing or refuse.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpStream, UdpSocket};
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use nix::libc;

use crate::lab::cases::{
    BLIND, Case, KNOWN, NOISE, ONGOING, Ongoing, VARIATION, client, know_each_other, router, server,
    unanswered,
};
use crate::lab::counters::counted;
use crate::lab::service::{Service, answer};
use crate::lab::{Connection, Family, Held, Scene};

pub const CASES: &[Case] = &[
    Case {
        name: "route_blackhole_local",
        made: "a blackhole route at the client",
        expect: &[client("route-blocked")],
        run: |scene| refused_here(scene, "blackhole", libc::EINVAL),
        ..KNOWN
    },
    Case {
        name: "route_prohibit_local",
        made: "a prohibit route at the client",
        expect: &[client("route-blocked")],
        run: |scene| refused_here(scene, "prohibit", libc::EACCES),
        ..KNOWN
    },
    Case {
        name: "route_unreachable_local",
        made: "an unreachable route at the client",
        expect: &[client("route-blocked")],
        run: |scene| refused_here(scene, "unreachable", libc::EHOSTUNREACH),
        ..KNOWN
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
        ..KNOWN
    },
    Case {
        name: "route_blackhole_forward",
        made: "a blackhole route at the router",
        expect: &[router("route-blocked")],
        run: |scene| {
            scene.router()?.ip(&format!("route add blackhole {}", scene.beyond_net()))?;
            unanswered(scene, scene.beyond())
        },
        ..KNOWN.routed()
    },
    Case {
        name: "route_unreachable_forward",
        made: "an unreachable route at the router",
        // IPv6 answers and counts as if there were no route.
        expect: &[router("route-blocked"), router("route-missing")],
        run: |scene| refused_on_the_way(scene, "unreachable"),
        ..KNOWN.routed()
    },
    Case {
        name: "route_prohibit_forward",
        made: "a prohibit route at the router",
        expect: &[router("route-blocked")],
        run: |scene| refused_on_the_way(scene, "prohibit"),
        ..KNOWN.routed()
    },
    Case {
        name: "no_route_forward",
        made: "the router has no route",
        expect: &[router("route-missing")],
        run: |scene| {
            let connecting = scene.connect(scene.client(), scene.beyond())?;
            counted(scene.router()?, scene.by_family("IpExtInNoRoutes", "Ip6InNoRoutes"), 1)?;
            Ok(connecting)
        },
        ..KNOWN.routed()
    },
    Case {
        name: "var_rule_prohibits",
        made: "a routing rule of the client, not a route, prohibits a net",
        expect: &[client("route-blocked")],
        run: |scene| {
            scene.ip(scene.client(), &format!("rule add to {} prohibit", scene.beyond_net()))?;
            fails_at_once(scene, libc::EACCES)
        },
        ..VARIATION
    },
    Case {
        name: "var_default_blackhole",
        made: "the client's default route is a blackhole",
        expect: &[client("route-blocked")],
        run: |scene| {
            let default = scene.by_family("0.0.0.0/0", "::/0");
            scene.client().ip(&format!("route add blackhole {default}"))?;
            fails_at_once(scene, libc::EINVAL)
        },
        ..VARIATION
    },
    Case {
        name: "var_no_way_back",
        made: "the server has no way back to the client",
        expect: &[server("route-missing")],
        run: |scene| {
            let listener = scene.listener()?;
            know_each_other(scene)?;
            scene.ip(scene.server(), "route del default")?;
            Ok(Box::new((unanswered(scene, listener.local_addr()?)?, listener)))
        },
        ..VARIATION.routed()
    },
    Case {
        name: "var_old_source",
        made: "the client's route prefers an address of a former net, to which the router has no way back",
        expect: &[router("route-missing")],
        run: |scene| {
            let (own, gateway) = (scene.beyond().ip(), scene.neighbour(254));
            let listener = scene.listener()?;
            know_each_other(scene)?;
            scene.client().ip(&format!("addr add {own} dev lo nodad"))?;
            scene.ip(scene.client(), &format!("route replace default via {gateway} src {own}"))?;
            let connecting = unanswered(scene, listener.local_addr()?)?;
            let none = scene.by_family("IpExtInNoRoutes", "Ip6InNoRoutes");
            counted(scene.router()?, none, 1)?;
            Ok(Box::new((connecting, listener)))
        },
        ..BLIND.routed()
    },
    Case {
        name: "var_blackhole_for_a_second",
        made: "the router has a blackhole for the server until its route is put right",
        expect: &[router("route-blocked")],
        ongoing: Ongoing::Never("it has healed when somebody asks"),
        run: blackhole_for_a_second,
        ..NOISE.routed()
    },
    Case {
        name: "var_no_way_back_in_one_family",
        made: "the server may not send to the client in one family (prohibit), and all is well in the other",
        expect: &[server("route-blocked")],
        run: one_family,
        ..NOISE
    },
    Case {
        name: "var_prohibited_and_closed",
        made: "a rule of the router prohibits a net, and nobody listens at a port of the server",
        expect: &[router("route-blocked"), server("port-not-listening")],
        also: &[router("route-blocked"), server("port-not-listening")],
        run: |scene| {
            scene.ip(scene.router()?, &format!("rule add to {} prohibit", scene.beyond_net()))?;
            let connecting = (0..3).map(|_| scene.connect(scene.client(), scene.beyond()));
            let connecting = connecting.collect::<Result<Vec<_>>>()?;
            let sent = scene.by_family("IcmpOutDestUnreachs", "Icmp6OutDestUnreachs");
            counted(scene.router()?, sent, 1)?;
            let refused = scene.refused(scene.client(), scene.server_at(8081))?;
            Ok(Box::new((connecting, refused)))
        },
        ..NOISE.routed()
    },
    Case {
        name: "ongoing_blackhole",
        made: "a blackhole route of the router, and clients that wait for 0.4 s",
        expect: &[router("route-blocked")],
        run: |scene| {
            scene.router()?.ip(&format!("route add blackhole {}", scene.beyond_net()))?;
            let (patience, pause) = (Duration::from_millis(400), Duration::from_millis(300));
            let clients = scene.connect_in_vain(scene.client(), scene.beyond(), patience, pause)?;
            scene.seen(5)?;
            Ok(clients)
        },
        ..ONGOING.routed()
    },
    Case {
        name: "ongoing_no_way_back",
        made: "the server has no way back to the client, whose checks wait for 0.3 s",
        expect: &[server("route-missing")],
        run: |scene| {
            let service = Service::start(scene, answer)?;
            know_each_other(scene)?;
            scene.ip(scene.server(), "route del default")?;
            let (patience, pause) = (Duration::from_millis(300), Duration::from_millis(700));
            let clients = scene.connect_in_vain(scene.client(), service.at, patience, pause)?;
            scene.seen(3)?;
            Ok(Box::new((clients, service)))
        },
        ..ONGOING.routed()
    },
];

fn refused_here(scene: &Scene, kind: &str, errno: i32) -> Result<Held> {
    scene.client().ip(&format!("route add {kind} {}", scene.beyond_net()))?;
    fails_at_once(scene, errno)
}

/// Connects and sends beyond, three times each.
fn fails_at_once(scene: &Scene, errno: i32) -> Result<Held> {
    let to = scene.beyond();
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
    scene.router()?.ip(&format!("route add {kind} {}", scene.beyond_net()))?;
    let connecting = scene.connect(scene.client(), scene.beyond())?;
    let sent = scene.by_family("IcmpOutDestUnreachs", "Icmp6OutDestUnreachs");
    counted(scene.router()?, sent, 1)?;
    Ok(connecting)
}

fn blackhole_for_a_second(scene: &Scene) -> Result<Held> {
    know_each_other(scene)?;
    let listener = scene.listener()?;
    let only = format!("{}/{}", scene.server_ip(), scene.by_family(32, 128));
    scene.router()?.ip(&format!("route add blackhole {only}"))?;
    let connecting = unanswered(scene, listener.local_addr()?)?;
    scene.router()?.ip(&format!("route del blackhole {only}"))?;
    // The next SYN gets through.
    let (server, _) = listener.accept()?;
    for _ in 0..20 {
        know_each_other(scene)?;
    }
    Ok(Box::new((connecting, server)))
}

fn one_family(scene: &Scene) -> Result<Held> {
    let well = if scene.family == Family::V4 { Family::V6 } else { Family::V4 };
    let to_client = format!("{}/{}", scene.client_ip(), scene.by_family(32, 128));
    let listener = scene.listener()?;
    know_each_other(scene)?;
    scene.server().ip(&format!("route add prohibit {to_client}"))?;
    let connecting = unanswered(scene, listener.local_addr()?)?;
    for _ in 0..50 {
        let mut connection = Connection::open(&scene.pair, well)?;
        connection.exchange(500, 500)?;
        connection.close()?;
    }
    Ok(Box::new((connecting, listener)))
}
