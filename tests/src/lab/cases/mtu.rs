//! Packets that are too big for the route.

use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::lab::bridges::machine_behind;
use crate::lab::cases::tunnels::{INSIDE, tunnel};
use crate::lab::cases::{
    BLIND, Case, KNOWN, NOISE, ONGOING, Ongoing, UNSEEN, VARIATION, client, router, server,
};
use crate::lab::counters::counted;
use crate::lab::service::{Service, answer, ask_on};
use crate::lab::sockets::{PATIENCE, allow_hops, one_packet_per_segment, send_and_read, start_upload};
use crate::lab::{Connection, Held, Namespace, Scene, faults};

/// Of the narrow link; IPv6 asks for 1280 at least.
const NARROW: &str = "1300";

pub const CASES: &[Case] = &[
    Case {
        name: "mtu_pmtud_ok",
        made: "an upload over a router whose second link is narrower, which it says",
        expect: &[router("packet-too-big").info()],
        ongoing: Ongoing::Never("a sender learns of the smaller MTU once, and then all is well"),
        run: |scene| {
            scene.router()?.ip(&format!("link set eth1 mtu {NARROW}"))?;
            let connection = Connection::open(&scene.pair, scene.family)?;
            send_and_read(&connection, 10, Duration::ZERO)?;
            counted(scene.router()?, too_big(scene), 1)?;
            Ok(Box::new(connection))
        },
        ..KNOWN.routed()
    },
    Case {
        name: "pmtu_blackhole_client",
        made: "the same, but the client's firewall drops the ICMP errors",
        expect: &[router("pmtu-blackhole"), client("pmtu-blackhole")],
        ongoing: Ongoing::Again,
        run: |scene| {
            drop_size_errors(scene, scene.client(), "input")?;
            black_hole(scene)
        },
        ..KNOWN.routed()
    },
    Case {
        name: "pmtu_blackhole_router",
        made: "the same, but the router's firewall drops the ICMP errors",
        expect: &[router("pmtu-blackhole")],
        ongoing: Ongoing::Again,
        run: |scene| {
            drop_size_errors(scene, scene.router()?, "output")?;
            black_hole(scene)
        },
        ..KNOWN.routed()
    },
    Case {
        name: "mtu_veth_mismatch",
        made: "one end of the link takes 1300 bytes, the other sends 1500",
        expect: &[client("link-mtu-mismatch"), server("link-mtu-mismatch")],
        ongoing: Ongoing::Again,
        run: mismatch,
        ..KNOWN
    },
    Case {
        name: "var_narrow_server",
        made: "the server's own link is narrow, and large datagrams that may not be cut come for it",
        expect: &[
            client("link-mtu-mismatch"),
            router("link-mtu-mismatch"),
            server("link-mtu-mismatch"),
            router("packet-too-big").info(),
        ],
        run: |scene| {
            scene.server().ip("link set eth0 mtu 1300")?;
            let sink = scene.receiver()?;
            let sender = scene.datagrams(sink.local_addr()?, 20, 1400)?;
            counted(scene.router()?, "eth1 tx drop", 10)?;
            Ok(Box::new((sender, sink)))
        },
        ..VARIATION.routed()
    },
    Case {
        name: "var_download_too_big",
        made: "the router's link to the client is narrow, and the server's iptables drops what says so",
        expect: &[router("pmtu-blackhole"), server("pmtu-blackhole")],
        ongoing: Ongoing::Again,
        run: |scene| {
            scene.iptables(scene.server(), "legacy", &format!("-A INPUT {} -j DROP", size_errors(scene)))?;
            scene.router()?.ip("link set eth0 mtu 1300")?;
            let mut connection = Connection::open(&scene.pair, scene.family)?;
            connection.exchange(300, 300)?;
            start_upload(&connection.server)?;
            counted(scene.router()?, scene.by_family("IpFragFails", "Ip6InTooBigErrors"), 3)?;
            counted(scene.server(), "TcpRetransSegs", 2)?;
            Ok(Box::new(connection))
        },
        ..BLIND.routed()
    },
    Case {
        name: "var_narrow_bridge",
        made: "datagrams for a virtual machine, whose link to the server's bridge is narrow",
        expect: &[server("link-mtu-mismatch"), server("pmtu-blackhole")],
        run: narrow_bridge,
        ..BLIND
    },
    Case {
        name: "var_overlay_too_wide",
        made: "a VXLAN wider than the way between its ends, whose router says so to nobody",
        expect: &[router("pmtu-blackhole"), client("pmtu-blackhole")],
        ongoing: Ongoing::ByItself,
        run: too_wide,
        ..UNSEEN.routed()
    },
    Case {
        name: "var_hole_amid_traceroute",
        made: "the router's iptables drops its ICMP errors about size, and somebody asks for the way",
        expect: &[router("pmtu-blackhole")],
        ongoing: Ongoing::Again,
        run: hole,
        ..NOISE.routed()
    },
    Case {
        name: "ongoing_narrow_way",
        made: "uploads again and again over a narrow link, of which the router's firewall lets nobody know",
        expect: &[router("pmtu-blackhole")],
        run: narrow,
        ..ONGOING.routed()
    },
];

/// Where the router counts them.
fn too_big(scene: &Scene) -> &'static str {
    scene.by_family("IpFragFails", "Ip6InTooBigErrors")
}

/// Drops at a hook what says that a packet is too big.
fn drop_size_errors(scene: &Scene, at: &Namespace, hook: &str) -> Result<()> {
    let error = scene.by_family("icmp type destination-unreachable", "icmpv6 type packet-too-big");
    at.filter(hook, &format!("{error} drop"))
}

fn black_hole(scene: &Scene) -> Result<Held> {
    scene.router()?.ip(&format!("link set eth1 mtu {NARROW}"))?;
    let mut connection = Connection::open(&scene.pair, scene.family)?;
    connection.exchange(1, 1)?;
    start_upload(&connection.client)?;
    counted(scene.router()?, too_big(scene), 3)?;
    counted(scene.client(), "TcpRetransSegs", 2)?;
    Ok(Box::new(connection))
}

fn mismatch(scene: &Scene) -> Result<Held> {
    scene.server().ip(&format!("link set eth0 mtu {NARROW}"))?;
    // The server would ask for segments that fit; here it does not know.
    let route = scene.by_family("10.9.0.0/24 advmss 1460", "fd00:9::/64 metric 256 advmss 1440");
    scene.ip(scene.server(), &format!("route replace {route} dev eth0"))?;
    one_packet_per_segment(scene.client())?;
    let mut connection = Connection::open(&scene.pair, scene.family)?;
    connection.exchange(1, 1)?;
    start_upload(&connection.client)?;
    // The device refuses them at once, so they are tried again without being retransmissions.
    let large = scene.sender()?;
    for _ in 0..5 {
        let _ = large.send_to(&[0; 1400], connection.server_at);
    }
    counted(scene.client(), "eth0 tx drop", 10)?;
    Ok(Box::new((connection, large)))
}

/// The same as a match of iptables.
fn size_errors(scene: &Scene) -> &'static str {
    scene.by_family("-p icmp --icmp-type fragmentation-needed", "-p icmpv6 --icmpv6-type packet-too-big")
}

/// A bridge tells nobody of what is too big for one of its ports.
fn narrow_bridge(scene: &Scene) -> Result<Held> {
    let machine = machine_behind(scene)?;
    // Else it is the packet filter of IP that passes them on, in pieces.
    for filter in ["bridge-nf-call-iptables", "bridge-nf-call-ip6tables"] {
        scene.server().sysctl(&format!("net/bridge/{filter}"), "0")?;
    }
    machine.ip("link set eth0 mtu 1300")?;
    scene.server().ip("link set veth0 mtu 1300")?;
    let inside = machine.udp((scene.machine_ip(), 5000))?;
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

fn too_wide(scene: &Scene) -> Result<Held> {
    drop_size_errors(scene, scene.router()?, "output")?;
    scene.router()?.ip("link set eth1 mtu 1300")?;
    tunnel(scene, 4789, 4789, 1430)?;
    let inside: SocketAddr = format!("{INSIDE}:8080").parse()?;
    let listener = scene.server().listen(inside)?;
    let client = scene.client().connect(inside)?;
    start_upload(&client)?;
    counted(scene.router()?, scene.by_family("IpFragFails", "Ip6InTooBigErrors"), 3)?;
    counted(scene.client(), "TcpRetransSegs", 2)?;
    Ok(Box::new((client, listener)))
}

/// Three datagrams that may take one hop, then the upload that the router has no way to slow down.
fn hole(scene: &Scene) -> Result<Held> {
    let router = scene.router()?;
    scene.iptables(router, "nft", &format!("-A OUTPUT {} -j DROP", size_errors(scene)))?;
    router.ip("link set eth1 mtu 1300")?;
    let asking = scene.sender()?;
    allow_hops(&asking, 1)?;
    for probe in 0..3 {
        asking.send_to(&[0; 32], scene.server_at(33_434 + probe))?;
        sleep(Duration::from_millis(30));
    }
    counted(router, scene.by_family("IcmpOutTimeExcds", "Icmp6OutTimeExcds"), 1)?;
    let mut connection = Connection::open(&scene.pair, scene.family)?;
    connection.exchange(300, 300)?;
    start_upload(&connection.client)?;
    counted(router, scene.by_family("IpFragFails", "Ip6InTooBigErrors"), 3)?;
    counted(scene.client(), "TcpRetransSegs", 2)?;
    Ok(Box::new(connection))
}

/// Small requests pass; of an upload nothing arrives.
fn narrow(scene: &Scene) -> Result<Held> {
    drop_size_errors(scene, scene.router()?, "output")?;
    scene.router()?.ip("link set eth1 mtu 1300")?;
    let service = Service::start(scene, answer)?;
    let at = service.at;
    let clients = scene.go_on(scene.client(), Duration::from_millis(200), move || {
        let mut stream = TcpStream::connect_timeout(&at, PATIENCE)?;
        ask_on(&stream, PATIENCE)?;
        stream.write_all(&[b'u'; 20_000])?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        ensure!(std::io::Read::read(&mut stream, &mut [0]).is_err(), "the upload arrived");
        Ok(())
    })?;
    scene.seen(3)?;
    counted(scene.router()?, scene.by_family("IpFragFails", "Ip6InTooBigErrors"), 3)?;
    Ok(Box::new((clients, service)))
}
