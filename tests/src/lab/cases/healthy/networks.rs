//! Links, bridges, tunnels and routers that do their work.

use std::net::{Shutdown, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use anyhow::{Result, ensure};
use nix::libc;

use crate::lab::cases::{Case, FAULT, know_each_other};
use crate::lab::counters::{counted, counter};
use crate::lab::pair::{address, join};
use crate::lab::sockets::{listener, send_and_read, set_option};
use crate::lab::{Connection, Family, Held, Namespace, Scene, Topology, faults, run};
use crate::wait;

/// Nothing here takes longer, unless it is broken.
const PATIENCE: Duration = Duration::from_secs(10);

pub const CASES: &[Case] = &[
    Case {
        name: "baseline_bulk",
        made: "downloads of many megabytes, with and without offloads, and over the loopback device",
        run: bulk,
        ..FAULT
    },
    Case {
        name: "baseline_traceroute",
        made: "somebody asks for the way with datagrams of few hops, to ports where nobody listens",
        topology: Topology::Routed,
        run: traceroute,
        ..FAULT
    },
    Case {
        name: "baseline_flooding",
        made: "a bridge sends datagrams for a host that never says anything to everybody",
        topology: Topology::Bridged,
        run: flooding,
        ..FAULT
    },
    Case {
        name: "baseline_container",
        made: "a container at the server starts, with IPv6's detections and solicitations, and ends",
        run: container,
        ..FAULT
    },
    Case {
        name: "baseline_tunnel",
        made: "a VXLAN between client and server, whose links leave room for its headers",
        run: tunnel,
        ..FAULT
    },
    Case {
        name: "baseline_service_address",
        made: "a router that translates a service's address and hides its clients behind its own",
        topology: Topology::Routed,
        run: service_address,
        ..FAULT
    },
    Case {
        name: "baseline_shaped",
        made: "a link limited to 20 Mbit/s that is used within that",
        run: shaped,
        ..FAULT
    },
];

fn bulk(scene: &Scene) -> Result<Held> {
    // Times 20 kB. Without offloads, so many packets at once as a window allows would not find room
    // with the receiving CPU.
    for (offloads, times, pause) in [("on", 2500, 0), ("off", 500, 1)] {
        for at in [scene.client(), scene.server()] {
            let set = format!("-K eth0 tso {offloads} gso {offloads} gro {offloads}");
            at.run(|| run("ethtool", &set))?;
        }
        let connection = Connection::open(&scene.pair, scene.family)?;
        send_and_read(&connection, times, Duration::from_millis(pause))?;
        connection.close()?;
    }
    let here = scene.by_family("127.0.0.1", "::1").parse()?;
    let accepting = listener(scene.server(), here)?;
    let server_at = accepting.local_addr()?;
    let client = scene.server().run(|| Ok(TcpStream::connect(server_at)?))?;
    let (server, client_at) = accepting.accept()?;
    send_and_read(&Connection { client, server, client_at, server_at }, 2500, Duration::ZERO)?;
    for at in [scene.client(), scene.server()] {
        // A busy machine is late with an acknowledgement now and then, and is asked for it.
        let (again, probes) = (counter(at, "TcpRetransSegs")?, counter(at, "TcpExtTCPLossProbes")?);
        ensure!(again <= probes, "{again} segments were sent again in {}", at.name());
    }
    Ok(Box::new(()))
}

/// As traceroute(8) does: three datagrams for each number of hops, each to the next port.
fn traceroute(scene: &Scene) -> Result<Held> {
    const FIRST_PORT: u16 = 33_434;
    let socket = scene.client().run(|| Ok(UdpSocket::bind((scene.client_ip(), 0))?))?;
    for probe in 0..6_u16 {
        let hops = i32::from(probe / 3 + 1);
        match scene.family {
            Family::V4 => set_option(&socket, libc::IPPROTO_IP, libc::IP_TTL, &hops)?,
            Family::V6 => set_option(&socket, libc::IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS, &hops)?,
        }
        socket.send_to(&[0; 32], scene.server_at(FIRST_PORT + probe))?;
        std::thread::sleep(Duration::from_millis(50));
    }
    let (expired, reached) = scene.by_family(
        ("IcmpOutTimeExcds", "IcmpOutDestUnreachs"),
        ("Icmp6OutTimeExcds", "Icmp6OutDestUnreachs"),
    );
    counted(scene.router()?, expired, 1)?;
    counted(scene.server(), reached, 1)?;
    Ok(Box::new(socket))
}

/// The third host has taken an Ethernet address that the bridge does not know, and only listens.
fn flooding(scene: &Scene) -> Result<Held> {
    const SILENT: &str = "02:00:00:00:00:33";
    const SENT: u64 = 100;
    let ip = scene.neighbour(3);
    let third = scene.third()?;
    let reader = third.run(|| Ok(UdpSocket::bind((ip, 0))?))?;
    third.ip("link set eth0 address 02:00:00:00:00:33")?;
    scene.client().ip(&format!("neigh replace {ip} lladdr {SILENT} dev eth0 nud permanent"))?;
    know_each_other(scene)?;
    let before = counter(scene.server(), "eth0 rx bytes")?;
    faults::send_udp_evenly(scene.client(), reader.local_addr()?, 500, 1, |sent| sent < SENT)?;
    reader.set_read_timeout(Some(PATIENCE))?;
    for _ in 0..SENT {
        reader.recv(&mut [0; 100])?;
    }
    let flooded = counter(scene.server(), "eth0 rx bytes")? - before;
    ensure!(flooded > SENT * 40, "only {flooded} bytes came to the server as well");
    Ok(Box::new(reader))
}

fn container(scene: &Scene) -> Result<Held> {
    const NET: u8 = 9;
    let container = Namespace::new("container")?;
    join(&container, "eth0", scene.server(), "veth0")?;
    for (at, link, host) in [(scene.server(), "veth0", 1), (&container, "eth0", 2)] {
        at.sysctl(&format!("net/ipv6/conf/{link}/dad_transmits"), "1")?;
        at.ip(&format!("addr add {}/24 dev {link}", address(Family::V4, NET, host)))?;
        at.ip(&format!("link set {link} up"))?;
        at.ip(&format!("addr add {}/64 dev {link}", address(Family::V6, NET, host)))?;
    }
    wait::within(PATIENCE, "duplicate detection to be over", || {
        let shown = [scene.server(), &container].map(|at| at.ip("-6 addr show").unwrap_or_default());
        let settled = |shown: &String| shown.contains("fe80::") && !shown.contains("tentative");
        shown.iter().all(settled).then_some(())
    })?;
    counted(&container, "Icmp6OutRouterSolicits", 1)?;
    let accepting = listener(&container, address(scene.family, NET, 2))?;
    for _ in 0..20 {
        let mut connection = connected(scene.server(), &accepting)?;
        connection.exchange(200, 2000)?;
        connection.close()?;
    }
    // What holds it open goes first, and its link goes with it.
    drop(accepting);
    drop(container);
    wait::within(PATIENCE, "the end of the link", || scene.server().ip("link show veth0").err())?;
    Ok(Box::new(()))
}

fn connected(from: &Namespace, accepting: &TcpListener) -> Result<Connection> {
    let server_at = accepting.local_addr()?;
    let client = from.run(|| Ok(TcpStream::connect(server_at)?))?;
    let (server, client_at) = accepting.accept()?;
    Ok(Connection { client, server, client_at, server_at })
}

fn tunnel(scene: &Scene) -> Result<Held> {
    const NET: u8 = 77;
    // The room that the headers take: Ethernet, VXLAN and UDP, and IP.
    let mtu = 1500 - 14 - 8 - 8 - scene.family.header_bytes();
    let (client, server) = (scene.client_ip(), scene.server_ip());
    for (at, local) in [(scene.client(), client), (scene.server(), server)] {
        at.ip(&format!("link add vx0 type vxlan id 77 local {local} dstport 4789"))?;
        at.ip(&format!("link set vx0 addrgenmode none mtu {mtu} up"))?;
    }
    // A link that comes up says which groups its host is in, to which the other end must be there.
    for (at, remote, host) in [(scene.client(), server, 1), (scene.server(), client, 2)] {
        run("bridge", &format!("-n {} fdb append 00:00:00:00:00:00 dev vx0 dst {remote}", at.name()))?;
        at.ip(&format!("addr add {}/24 dev vx0", address(Family::V4, NET, host)))?;
        at.ip(&format!("addr add {}/64 dev vx0 nodad", address(Family::V6, NET, host)))?;
    }
    for inside in Family::BOTH {
        let accepting = listener(scene.server(), address(inside, NET, 2))?;
        let connection = connected(scene.client(), &accepting)?;
        send_and_read(&connection, 100, Duration::ZERO)?;
        connection.close()?;
    }
    let refused = scene.by_family("IcmpOutDestUnreachs", "Icmp6OutDestUnreachs");
    for at in [scene.client(), scene.server()] {
        ensure!(counter(at, refused)? == 0, "{} refused what came for the tunnel", at.name());
    }
    let carried = counter(scene.server(), "vx0 rx bytes")?;
    ensure!(carried > 4_000_000, "the tunnel carried {carried} bytes");
    Ok(Box::new(()))
}

fn service_address(scene: &Scene) -> Result<Held> {
    let accepting = listener(scene.server(), scene.server_ip())?;
    let (service, behind) = (scene.neighbour(254), address(scene.family, 1, 254));
    let ip = scene.by_family("ip", "ip6");
    scene.router()?.nft(&format!(
        "add table {ip} lab; \
         add chain {ip} lab pre {{ type nat hook prerouting priority -100; }}; \
         add chain {ip} lab post {{ type nat hook postrouting priority 100; }}; \
         add rule {ip} lab pre {ip} daddr {service} tcp dport 80 dnat to {}; \
         add rule {ip} lab post oifname \"eth1\" masquerade",
        accepting.local_addr()?
    ))?;
    for n in 0..50 {
        let client = scene.client().run(|| Ok(TcpStream::connect((service, 80))?))?;
        let (server, from) = accepting.accept()?;
        ensure!(from.ip() == behind, "{from} is not the router");
        let server_at = server.local_addr()?;
        let mut connection = Connection { client_at: client.local_addr()?, client, server, server_at };
        connection.exchange(300, 3000)?;
        if n % 2 == 0 {
            connection.server.shutdown(Shutdown::Write)?;
        }
        connection.close()?;
    }
    Ok(Box::new(accepting))
}

fn shaped(scene: &Scene) -> Result<Held> {
    scene.client().tc("qdisc add dev eth0 root tbf rate 20mbit burst 20k latency 500ms")?;
    let reader = scene.server().run(|| Ok(UdpSocket::bind((scene.server_ip(), 0))?))?;
    reader.set_read_timeout(Some(PATIENCE))?;
    let mut connection = Connection::open(&scene.pair, scene.family)?;
    for _ in 0..20 {
        faults::send_udp_evenly(scene.client(), reader.local_addr()?, 400, 1, |sent| sent < 20)?;
        for _ in 0..20 {
            reader.recv(&mut [0; 100])?;
        }
        connection.exchange(3000, 3000)?;
    }
    let shown = run("tc", &format!("-s -n {} qdisc show dev eth0", scene.client().name()))?;
    ensure!(shown.contains("tbf") && shown.contains("dropped 0"), "{shown}");
    Ok(Box::new((connection, reader)))
}
