//! Routes, neighbours and tunnels.

use std::io::Write as _;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{FromRawFd as _, OwnedFd};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use nix::errno::Errno;
use nix::libc;

use super::{gives_up_neighbour, put_on_bridge, sink};
use crate::lab::cases::routes::{beyond, net};
use crate::lab::cases::{
    Case, FAULT, Ongoing, Place, V4, at, client, know_each_other, router, server, unanswered,
};
use crate::lab::counters::{counted, counter};
use crate::lab::sockets::listener;
use crate::lab::{Held, Scene, Topology};
use crate::wait;

const ROUTED: Case = Case { topology: Topology::Routed, ..FAULT };

/// The server inside the tunnel of client and server.
const INSIDE: &str = "192.168.7.2";

pub const CASES: &[Case] = &[
    Case {
        name: "var_two_homes",
        made: "the client sends from its other address, which a strict router would reach elsewhere",
        families: V4,
        expect: &[router("reverse-path-filter")],
        run: |scene| {
            scene.router()?.sysctl("net/ipv4/conf/eth0/rp_filter", "1")?;
            let held = send_from_elsewhere(scene)?;
            counted(scene.router()?, "TcpExtIPReversePathFilter", 5)?;
            Ok(held)
        },
        ..ROUTED
    },
    Case {
        name: "var_replaced_machine",
        made: "the router has a static entry with the Ethernet address of the server's predecessor",
        expect: &[server("wrong-destination-mac"), router("wrong-destination-mac")],
        run: |scene| {
            let (of, mac) = (scene.server_ip(), "02:00:00:00:00:63");
            scene.router()?.ip(&format!("neigh replace {of} lladdr {mac} dev eth1 nud permanent"))?;
            unanswered(scene, scene.server_at(80))
        },
        ..ROUTED
    },
    Case {
        name: "var_wide_netmask",
        made: "the client takes the server's net for its own link and asks for a neighbour",
        expect: &[client("neighbour-unresolved")],
        run: |scene| {
            let (own, narrow, wide) = (scene.client_ip(), scene.by_family(24, 64), scene.by_family(16, 48));
            scene.client().ip(&format!("addr del {own}/{narrow} dev eth0"))?;
            scene.client().ip(&format!("addr add {own}/{wide} dev eth0 nodad"))?;
            let connecting = scene.connect(scene.client(), scene.server_at(80))?;
            gives_up_neighbour(scene.client())?;
            Ok(connecting)
        },
        ..ROUTED
    },
    Case {
        name: "var_gateway_is_no_router",
        made: "the client's gateway is a host that does not forward",
        topology: Topology::Bridged,
        expect: &[at(Place::Third, "forwarding-disabled")],
        run: |scene| {
            let (third, net) = (scene.third()?, net(scene.family));
            third.sysctl(scene.by_family("net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"), "0")?;
            third.ip(&format!("route add {net} via {}", scene.server_ip()))?;
            scene.client().ip(&format!("route add {net} via {}", scene.neighbour(3)))?;
            unanswered(scene, beyond(scene.family))
        },
        ..FAULT
    },
    Case {
        name: "var_dead_next_hop",
        made: "one of the client's two gateways is gone, and half of its connections with it",
        expect: &[client("neighbour-unresolved")],
        run: dead_next_hop,
        ..ROUTED
    },
    Case {
        name: "var_short_way_back",
        made: "the server's own packets may take one hop",
        expect: &[router("ttl-exceeded"), server("ttl-exceeded")],
        run: |scene| {
            let hops = scene.by_family("net/ipv4/ip_default_ttl", "net/ipv6/conf/eth0/hop_limit");
            scene.server().sysctl(hops, "1")?;
            let listener = listener(scene.server(), scene.server_ip())?;
            Ok(Box::new((unanswered(scene, listener.local_addr()?)?, listener)))
        },
        ..ROUTED
    },
    Case {
        name: "var_overlay_wrong_port",
        made: "client and server disagree about the port of their VXLAN",
        expect: &[server("overlay-misconfigured"), server("port-not-listening")],
        run: |scene| {
            tunnel(scene, 8472, 4789, 1430)?;
            let sender = scene.datagrams((INSIDE.parse::<std::net::IpAddr>()?, 4242).into(), 3, 100)?;
            counted(scene.server(), scene.by_family("UdpNoPorts", "Udp6NoPorts"), 3)?;
            Ok(sender)
        },
        ..FAULT
    },
    Case {
        name: "var_overlay_too_wide",
        made: "a VXLAN wider than the way between its ends, whose router says so to nobody",
        expect: &[router("pmtu-blackhole"), client("pmtu-blackhole")],
        ongoing: Ongoing::ByItself,
        run: too_wide,
        ..ROUTED
    },
    Case {
        name: "var_spanning_tree",
        made: "the port of the server's bridge still listens for loops and forwards nothing",
        expect: &[server("link-down"), client("neighbour-unresolved")],
        run: |scene| {
            put_on_bridge(scene.server(), "stp_state 1 forward_delay 1500")?;
            let connecting = scene.connect(scene.client(), scene.server_at(80))?;
            gives_up_neighbour(scene.client())?;
            Ok(connecting)
        },
        ..FAULT
    },
    Case {
        name: "var_bloated_router",
        made: "an upload fills a deep queue of the router, and others wait behind it",
        expect: &[router("queueing-delay")],
        ongoing: Ongoing::Again,
        run: bloated,
        ..ROUTED
    },
    Case {
        name: "var_no_sctp",
        made: "SCTP to a host that does not speak it",
        expect: &[server("malformed-packet")],
        ongoing: Ongoing::Again,
        run: no_sctp,
        ..FAULT
    },
];

/// Datagrams from an address of the client that the router would reach over the server.
pub fn send_from_elsewhere(scene: &Scene) -> Result<Held> {
    // A strict router does not even answer the question for its Ethernet address from there.
    know_each_other(scene)?;
    let received = scene.by_family("IpInReceives", "Ip6InReceives");
    let before = counter(scene.router()?, received)?;
    let own = beyond(scene.family).ip();
    scene.client().ip(&format!("addr add {own} dev lo nodad"))?;
    scene.router()?.ip(&format!("route add {} via {}", net(scene.family), scene.server_ip()))?;
    let sink = sink(scene, 4242)?;
    let socket = scene.client().run(|| Ok(UdpSocket::bind((own, 0))?))?;
    let to = scene.server_at(4242);
    let sender =
        scene.repeat(scene.client(), 5, move || Ok(socket.send_to(b"from elsewhere", to).map(drop)?))?;
    counted(scene.router()?, received, before + 5)?;
    super::got_nothing(&sink)?;
    Ok(Box::new((sender, sink)))
}

/// Which gateway a connection takes depends on its port.
fn dead_next_hop(scene: &Scene) -> Result<Held> {
    let by_port = scene.by_family("net/ipv4/fib_multipath_hash_policy", "net/ipv6/fib_multipath_hash_policy");
    scene.client().sysctl(by_port, "1")?;
    let (alive, gone) = (scene.neighbour(254), scene.neighbour(250));
    scene.ip(scene.client(), "route del default")?;
    scene.ip(scene.client(), &format!("route add default nexthop via {alive} nexthop via {gone}"))?;
    let listener = listener(scene.server(), scene.server_ip())?;
    let to = listener.local_addr()?;
    let serving = listener.try_clone()?;
    // Those that find the way are not kept waiting.
    std::thread::spawn(move || while serving.accept().is_ok() {});
    let all = (0..16).map(|_| scene.connect(scene.client(), to)).collect::<Result<Vec<_>>>()?;
    counted(scene.server(), "TcpPassiveOpens", 1)?;
    gives_up_neighbour(scene.client())?;
    Ok(Box::new((all, listener)))
}

/// A VXLAN between client and server, each with its idea of the port.
fn tunnel(scene: &Scene, client_port: u16, server_port: u16, mtu: u16) -> Result<()> {
    let (client, server) = (scene.client_ip(), scene.server_ip());
    let whole = scene.by_family("df set", "");
    for (host, own, other, port, inside) in [
        (scene.client(), client, server, client_port, "192.168.7.1"),
        (scene.server(), server, client, server_port, INSIDE),
    ] {
        let ends = format!("local {own} remote {other} dstport {port} {whole}");
        host.ip(&format!("link add vx0 mtu {mtu} type vxlan id 7 {ends}"))?;
        host.ip(&format!("addr add {inside}/24 dev vx0"))?;
        host.ip("link set vx0 addrgenmode none")?;
    }
    // Not before both are there: an end that is up says so to the other.
    scene.server().ip("link set vx0 up")?;
    scene.client().ip("link set vx0 up").map(drop)
}

fn too_wide(scene: &Scene) -> Result<Held> {
    let error = scene.by_family("icmp type destination-unreachable", "icmpv6 type packet-too-big");
    scene.router()?.nft(&format!(
        "add table inet lab; add chain inet lab out {{ type filter hook output priority 0; }}; \
         add rule inet lab out {error} drop"
    ))?;
    scene.router()?.ip("link set eth1 mtu 1300")?;
    tunnel(scene, 4789, 4789, 1430)?;
    let inside: SocketAddr = format!("{INSIDE}:8080").parse()?;
    let listener = scene.server().run(|| Ok(TcpListener::bind(inside)?))?;
    let mut client = scene.client().run(|| Ok(TcpStream::connect(inside)?))?;
    client.set_nonblocking(true)?;
    // Some of it fits into the buffers; none of it arrives.
    let _ = client.write(&[0; 100_000])?;
    counted(scene.router()?, scene.by_family("IpFragFails", "Ip6InTooBigErrors"), 3)?;
    counted(scene.client(), "TcpRetransSegs", 2)?;
    Ok(Box::new((client, listener)))
}

/// The queue holds all that is sent, so nothing is lost, at 250 kB/s.
fn bloated(scene: &Scene) -> Result<Held> {
    scene.router()?.tc("qdisc replace dev eth1 root tbf rate 2mbit burst 3k limit 2m")?;
    // BBR, the default here, would see to it that the queue stays short.
    scene.client().sysctl("net/ipv4/tcp_congestion_control", "reno")?;
    let listener = listener(scene.server(), scene.server_ip())?;
    let to = listener.local_addr()?;
    let mut client = scene.client().run(|| Ok(TcpStream::connect(to)?))?;
    let (mut server, _) = listener.accept()?;
    let reader = std::thread::spawn(move || std::io::copy(&mut server, &mut std::io::sink()));
    client.set_nonblocking(true)?;
    let mut waited = Duration::ZERO;
    for _ in 0..4 {
        drop(client.write(&[0; 150_000]));
        sleep(Duration::from_millis(200));
        let asked = Instant::now();
        let other = scene.client().run(|| Ok(TcpStream::connect(to)?))?;
        waited = waited.max(asked.elapsed());
        drop((other, listener.accept()?));
    }
    ensure!(waited > Duration::from_millis(300), "nobody waited longer than {waited:?}");
    drop(client);
    wait::until("the end of the upload", || reader.is_finished().then_some(()))?;
    Ok(Box::new(listener))
}

fn no_sctp(scene: &Scene) -> Result<Held> {
    let family = scene.by_family(libc::AF_INET, libc::AF_INET6);
    let raw = scene.client().run(|| {
        // SAFETY: no pointers; nix knows no raw socket of this protocol.
        let fd = unsafe { libc::socket(family, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::IPPROTO_SCTP) };
        // SAFETY: the kernel has just made this descriptor for us.
        Ok(UdpSocket::from(unsafe { OwnedFd::from_raw_fd(Errno::result(fd)?) }))
    })?;
    know_each_other(scene)?;
    // An INIT from port 2905 to 2905.
    let mut init = vec![0x0b, 0x59, 0x0b, 0x59, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 20];
    init.extend([0, 0, 0, 1, 0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1]);
    (0..3).try_for_each(|_| raw.send_to(&init, (scene.server_ip(), 0)).map(drop))?;
    counted(scene.server(), scene.by_family("IpInUnknownProtos", "Ip6InUnknownProtos"), 3)?;
    Ok(Box::new(raw))
}
