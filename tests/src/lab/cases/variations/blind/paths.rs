//! Routes, bridges and tunnels.

use std::io::Write as _;
use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6, TcpListener, TcpStream, UdpSocket};

use anyhow::{Result, ensure};
use nix::libc;
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};

use super::{MACHINE, PATIENCE, behind_bridge, gives_up_neighbour, reaches, sink, takes_part_in_ipv6};
use crate::lab::cases::routes::{beyond, net};
use crate::lab::cases::{
    Case, FAULT, Ongoing, Place, at, client, know_each_other, router, server, unanswered,
};
use crate::lab::counters::counted;
use crate::lab::pair::set_up;
use crate::lab::sockets::{listener, set_option};
use crate::lab::{Connection, Family, Held, Namespace, Scene, Topology, faults, run};
use crate::wait;

const ROUTED: Case = Case { topology: Topology::Routed, ..FAULT };
const BRIDGED: Case = Case { topology: Topology::Bridged, ..FAULT };

pub const CASES: &[Case] = &[
    Case {
        name: "var_macvlan_host",
        made: "the server connects to its own container, which has a macvlan of the server's link",
        expect: &[server("neighbour-unresolved")],
        run: macvlan,
        ..FAULT
    },
    Case {
        name: "var_old_source",
        made: "the client's route prefers an address of a former net, to which the router has no way back",
        expect: &[router("route-missing")],
        run: |scene| {
            let (own, gateway) = (beyond(scene.family).ip(), scene.neighbour(254));
            let listener = listener(scene.server(), scene.server_ip())?;
            know_each_other(scene)?;
            scene.client().ip(&format!("addr add {own} dev lo nodad"))?;
            scene.ip(scene.client(), &format!("route replace default via {gateway} src {own}"))?;
            let connecting = unanswered(scene, listener.local_addr()?)?;
            let none = scene.by_family("IpExtInNoRoutes", "Ip6InNoRoutes");
            counted(scene.router()?, none, 1)?;
            Ok(Box::new((connecting, listener)))
        },
        ..ROUTED
    },
    Case {
        name: "var_rogue_router",
        made: "a third host that does not forward announces itself as everybody's router",
        families: &[Family::V6],
        expect: &[at(Place::Third, "forwarding-disabled")],
        // New connections soon take the other router; the one that has begun goes on.
        ongoing: Ongoing::ByItself,
        run: rogue_router,
        ..BRIDGED
    },
    Case {
        name: "var_download_too_big",
        made: "the router's link to the client is narrow, and the server's iptables drops what says so",
        expect: &[router("pmtu-blackhole"), server("pmtu-blackhole")],
        ongoing: Ongoing::Again,
        run: |scene| {
            let (program, error) = scene.by_family(
                ("iptables-legacy", "-p icmp --icmp-type fragmentation-needed"),
                ("ip6tables-legacy", "-p icmpv6 --icmpv6-type packet-too-big"),
            );
            scene.server().run(|| run(program, &format!("-w 5 -A INPUT {error} -j DROP")))?;
            scene.router()?.ip("link set eth0 mtu 1300")?;
            let mut connection = Connection::open(&scene.pair, scene.family)?;
            connection.exchange(300, 300)?;
            connection.server.set_nonblocking(true)?;
            // Some of it fits into the buffers; none of it arrives.
            let _ = connection.server.write(&[0; 100_000])?;
            counted(scene.router()?, scene.by_family("IpFragFails", "Ip6InTooBigErrors"), 3)?;
            counted(scene.server(), "TcpRetransSegs", 2)?;
            Ok(Box::new(connection))
        },
        ..ROUTED
    },
    Case {
        name: "var_moved_in_overlay",
        made: "the client's overlay still sends to the node that a pod has left, which is in the overlay too",
        expect: &[
            at(Place::Third, "wrong-destination-mac"),
            at(Place::Third, "overlay-misconfigured"),
            client("overlay-misconfigured"),
        ],
        run: moved_in_overlay,
        ..BRIDGED
    },
    Case {
        name: "var_vpn_ended",
        made: "the program behind the client's tunnel device has ended, and its routes are still there",
        expect: &[client("link-down")],
        run: |scene| {
            let client = scene.client();
            client.ip("tuntap add dev tun0 mode tun")?;
            client.ip("link set tun0 addrgenmode none up")?;
            client.ip(&format!("route add {} dev tun0", net(scene.family)))?;
            ensure!(client.ip("link show tun0")?.contains("NO-CARRIER"), "somebody reads from the tunnel");
            unanswered(scene, beyond(scene.family))
        },
        ..FAULT
    },
    Case {
        name: "var_narrow_bridge",
        made: "datagrams for a virtual machine, whose link to the server's bridge is narrow",
        expect: &[server("link-mtu-mismatch"), server("pmtu-blackhole")],
        run: narrow_bridge,
        ..FAULT
    },
];

/// Everybody on the link reaches the container, but not the host that it runs on.
fn macvlan(scene: &Scene) -> Result<Held> {
    let (server, container) = (scene.server(), Namespace::new("container")?);
    server.ip(&format!("link add mv0 link eth0 netns {} type macvlan mode bridge", container.name()))?;
    set_up(&container, "mv0", 0, MACHINE)?;
    takes_part_in_ipv6(&container)?;
    let listener = listener(&container, scene.neighbour(MACHINE))?;
    let to = listener.local_addr()?;
    let visitor = scene.client().run(|| Ok(TcpStream::connect(to)?))?;
    let connecting = scene.connect(server, to)?;
    gives_up_neighbour(server)?;
    Ok(Box::new((visitor, connecting, listener, container)))
}

/// Router advertisements win over a route that somebody gave a higher metric.
fn rogue_router(scene: &Scene) -> Result<Held> {
    let (client, server, third) = (scene.client(), scene.server(), scene.third()?);
    for (host, accepts) in [(client, "1"), (server, "0"), (third, "0")] {
        host.sysctl("net/ipv6/conf/eth0/accept_ra", accepts)?;
    }
    let to = beyond(scene.family);
    server.ip(&format!("addr add {} dev lo nodad", to.ip()))?;
    let listener = server.run(|| Ok(TcpListener::bind(to)?))?;
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

/// Each host has an end of one VXLAN; the pod's address is that of the server's.
fn moved_in_overlay(scene: &Scene) -> Result<Held> {
    const POD: &str = "192.168.7.2";
    const POD_MAC: &str = "02:00:00:00:07:02";
    let (client, left) = (scene.client(), scene.third()?);
    for (number, host, own) in [
        (1, client, scene.client_ip()),
        (2, scene.server(), scene.server_ip()),
        (3, left, scene.neighbour(3)),
    ] {
        let ends = format!("id 7 local {own} dstport 8472 nolearning");
        host.ip(&format!("link add vx0 address 02:00:00:00:07:0{number} type vxlan {ends}"))?;
        // An end that nobody has told of others could send its solicitations nowhere.
        host.sysctl("net/ipv6/conf/vx0/disable_ipv6", "1")?;
        host.ip(&format!("addr add 192.168.7.{number}/24 dev vx0"))?;
        host.ip("link set vx0 up")?;
    }
    know_each_other(scene)?;
    client.ip(&format!("neigh add {POD} lladdr {POD_MAC} dev vx0 nud permanent"))?;
    run("bridge", &format!("-n {} fdb add {POD_MAC} dev vx0 dst {}", client.name(), scene.neighbour(3)))?;
    let pod: SocketAddr = format!("{POD}:8080").parse()?;
    let listener = scene.server().run(|| Ok(TcpListener::bind(pod)?))?;
    let connecting = unanswered(scene, pod)?;
    reaches(1, "\"otherhost\":", || left.ip("-s -s -j link show vx0"))?;
    Ok(Box::new((connecting, listener)))
}

/// A bridge tells nobody of what is too big for one of its ports.
fn narrow_bridge(scene: &Scene) -> Result<Held> {
    let machine = behind_bridge(scene)?;
    // Else it is the packet filter of IP that passes them on, in pieces.
    for filter in ["bridge-nf-call-iptables", "bridge-nf-call-ip6tables"] {
        scene.server().sysctl(&format!("net/bridge/{filter}"), "0")?;
    }
    machine.ip("link set eth0 mtu 1300")?;
    scene.server().ip("link set veth0 mtu 1300")?;
    let inside = sink(&machine, (scene.neighbour(MACHINE), 5000).into())?;
    inside.set_read_timeout(Some(PATIENCE))?;
    let to = inside.local_addr()?;
    let fits = |bytes| {
        faults::send_udp(scene.client(), to, 1, bytes)?;
        let arrived = inside.recv(&mut [0; 2000])?;
        ensure!(arrived == bytes, "{arrived} bytes arrived, not {bytes}");
        Ok(())
    };
    fits(100)?;
    let sender = scene.datagrams(to, 20, 1400)?;
    fits(200)?;
    Ok(Box::new((sender, inside, machine)))
}
