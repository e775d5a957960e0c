//! A fault amid healthy traffic that looks like trouble, and two faults of two hosts.

use std::io::{Read as _, Write as _};
use std::net::{TcpStream, UdpSocket};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use nix::libc;
use nix::sys::socket::{setsockopt, sockopt};

use crate::lab::background::Background;
use crate::lab::bpf::{Xdp, drop_at_link};
use crate::lab::cases::healthy::operators::chatter;
use crate::lab::cases::healthy::pods::connected;
use crate::lab::cases::healthy::transfers::dropped;
use crate::lab::cases::healthy::watchers::{keep_out_all_but, kept_out_so_far, knock};
use crate::lab::cases::routes::{beyond, net};
use crate::lab::cases::{
    Case, FAULT, Ongoing, Place, at, client, know_each_other, router, server, unanswered,
};
use crate::lab::counters::counted;
use crate::lab::dns::{A, AAAA, Resolver, Transport};
use crate::lab::injector::Injector;
use crate::lab::pair::{address, join};
use crate::lab::sockets::{fill, listener, set_option};
use crate::lab::wire::Wire;
use crate::lab::{Connection, Family, Held, Namespace, Scene, Topology, faults, run};

const BRIDGED: Case = Case { topology: Topology::Bridged, ..FAULT };
const ROUTED: Case = Case { topology: Topology::Routed, ..FAULT };

pub const CASES: &[Case] = &[
    Case {
        name: "var_wall_amid_scan",
        made: "the server's firewall (an nft map) drops one port, while a third host scans closed ones",
        expect: &[server("firewall-drop")],
        run: wall_amid_scan,
        ..BRIDGED
    },
    Case {
        name: "var_full_amid_cancels",
        made: "one service does not accept, and clients of another cancel a few of its downloads",
        expect: &[server("accept-queue-overflow")],
        ongoing: Ongoing::ByItself,
        run: full_amid_cancels,
        ..FAULT
    },
    Case {
        name: "var_prohibited_and_closed",
        made: "a rule of the router prohibits a net, and nobody listens at a port of the server",
        expect: &[router("route-blocked"), server("port-not-listening")],
        also: &[router("route-blocked"), server("port-not-listening")],
        run: |scene| {
            scene.ip(scene.router()?, &format!("rule add to {} prohibit", net(scene.family)))?;
            let connecting = (0..3).map(|_| scene.connect(scene.client(), beyond(scene.family)));
            let connecting = connecting.collect::<Result<Vec<_>>>()?;
            let sent = scene.by_family("IcmpOutDestUnreachs", "Icmp6OutDestUnreachs");
            counted(scene.router()?, sent, 1)?;
            let refused = scene.refused(scene.client(), scene.server_at(8081))?;
            Ok(Box::new((connecting, refused)))
        },
        ..ROUTED
    },
    Case {
        name: "var_deaf_client_and_refusing_server",
        made: "datagrams find no room at the client, and the server's firewall refuses a third host",
        expect: &[client("socket-receive-buffer-full"), server("firewall-reject")],
        also: &[client("socket-receive-buffer-full"), server("firewall-reject")],
        ongoing: Ongoing::Again,
        run: deaf_and_refusing,
        ..BRIDGED
    },
    Case {
        name: "var_lost_state_amid_chatter",
        made: "a server lost three connections without a word, beside all that a switch says",
        expect: &[server("stale-connection")],
        ongoing: Ongoing::Again,
        run: lost_state,
        ..FAULT
    },
    Case {
        name: "var_unread_amid_search_lists",
        made: "a server that never reads an upload, while names are looked for along a search list",
        expect: &[server("receiver-not-reading"), server("socket-read-slow")],
        ongoing: Ongoing::ByItself,
        run: unread,
        ..FAULT
    },
    Case {
        name: "var_hole_amid_traceroute",
        made: "the router's iptables drops its ICMP errors about size, and somebody asks for the way",
        expect: &[router("pmtu-blackhole")],
        ongoing: Ongoing::Again,
        run: hole,
        ..ROUTED
    },
    Case {
        name: "var_narrow_amid_noise",
        made: "the router's queue has no room for datagrams, and the server's firewall keeps strangers out",
        expect: &[router("qdisc-drop")],
        run: narrow,
        ..ROUTED
    },
    Case {
        name: "var_program_and_no_way",
        made: "an XDP program drops what a third host receives, and the server has no way to a net",
        expect: &[at(Place::Third, "xdp-drop"), server("route-missing")],
        also: &[at(Place::Third, "xdp-drop"), server("route-missing")],
        run: program_and_no_way,
        ..BRIDGED
    },
    Case {
        name: "var_failing_names_amid_pods",
        made: "a name server fails for one zone, while a pod of its host starts and ends",
        expect: &[server("dns-error"), client("dns-error")],
        ongoing: Ongoing::Never("its pod starts and ends once"),
        run: failing_names,
        ..FAULT
    },
];

fn wall_amid_scan(scene: &Scene) -> Result<Held> {
    let load = Background::start(scene, 6000)?;
    scene.server().nft(
        "table inet lab {\n\
           chain in {\n\
             type filter hook input priority 0;\n\
             tcp dport vmap { 5432 : drop, 5433 : drop }\n\
           }\n\
         }\n",
    )?;
    let connecting = scene.connect(scene.client(), scene.server_at(5432))?;
    for port in [21, 22, 23, 25, 110, 139, 445, 1433, 3306, 3389] {
        faults::connect_to_closed_port(scene.third()?, scene.server_at(port))?;
        sleep(Duration::from_millis(80));
    }
    scene.in_vain(scene.client(), 1)?;
    ensure!(load.done() > 40, "only {} connections", load.done());
    Ok(Box::new((connecting, load)))
}

fn full_amid_cancels(scene: &Scene) -> Result<Held> {
    let full = faults::fill_accept_queue(&scene.pair, scene.family)?;
    for n in 0..40 {
        let mut connection = Connection::open(&scene.pair, scene.family)?;
        connection.exchange(300, 5000)?;
        if n % 20 == 7 {
            // Something has come that nobody will read.
            connection.server.write_all(&[b'x'; 5000])?;
            connection.client.peek(&mut [0])?;
            let Connection { client, mut server, .. } = connection;
            drop(client);
            ensure!(server.read(&mut [0]).is_err(), "expected a reset");
        } else {
            connection.close()?;
        }
    }
    counted(scene.server(), "TcpExtListenOverflows", 4)?;
    scene.in_vain(scene.client(), 1)?;
    Ok(Box::new(full))
}

fn deaf_and_refusing(scene: &Scene) -> Result<Held> {
    let deaf = scene.client().run(|| Ok(UdpSocket::bind((scene.client_ip(), 5140))?))?;
    setsockopt(&deaf, sockopt::RcvBuf, &8192)?;
    faults::send_udp_evenly(scene.server(), deaf.local_addr()?, 1000, 2, |sent| sent < 500)?;
    counted(scene.client(), scene.by_family("UdpRcvbufErrors", "Udp6RcvbufErrors"), 300)?;
    let iptables = scene.by_family("iptables-legacy", "ip6tables-legacy");
    let rule = "-w 5 -A INPUT -p tcp --dport 6379 -j REJECT --reject-with tcp-reset";
    scene.server().run(|| run(iptables, rule))?;
    let refused = scene.refused(scene.third()?, scene.server_at(6379))?;
    Ok(Box::new((refused, deaf)))
}

/// A socket under repair is closed without a word to its peer.
fn lost_state(scene: &Scene) -> Result<Held> {
    for _ in 0..3 {
        chatter(scene, 5)?;
        let Connection { mut client, server, .. } = Connection::open(&scene.pair, scene.family)?;
        set_option(&server, libc::IPPROTO_TCP, libc::TCP_REPAIR, &1_i32)?;
        drop(server);
        client.write_all(b"where were we?")?;
        if client.read(&mut [0]).is_ok() {
            bail!("expected a reset");
        }
        chatter(scene, 5)?;
    }
    counted(scene.server(), "eth0 rx drop", 90)?;
    Ok(Box::new(()))
}

fn unread(scene: &Scene) -> Result<Held> {
    let resolver = Resolver::start(&scene.pair)?;
    let accepting = listener(scene.server(), scene.server_ip())?;
    setsockopt(&accepting, sockopt::RcvBuf, &4096)?;
    let upload = connected(scene.client(), &accepting)?;
    fill(&upload.client)?;
    for _ in 0..10 {
        for kind in [A, AAAA] {
            resolver.ask(scene.family, Transport::Udp, "db.default.svc.nx.example", kind)?;
            resolver.ask(scene.family, Transport::Udp, "db.example", kind)?;
        }
    }
    counted(scene.client(), "TcpExtTCPWinProbe", 2)?;
    Ok(Box::new(upload))
}

/// Three datagrams that may take one hop, then the upload that the router has no way to slow down.
fn hole(scene: &Scene) -> Result<Held> {
    let router = scene.router()?;
    let (iptables, error) = scene.by_family(
        ("iptables-nft", "-p icmp --icmp-type fragmentation-needed"),
        ("ip6tables-nft", "-p ipv6-icmp --icmpv6-type packet-too-big"),
    );
    router.run(|| run(iptables, &format!("-A OUTPUT {error} -j DROP")))?;
    router.ip("link set eth1 mtu 1300")?;
    let asking = scene.client().run(|| Ok(UdpSocket::bind((scene.client_ip(), 0))?))?;
    match scene.family {
        Family::V4 => set_option(&asking, libc::IPPROTO_IP, libc::IP_TTL, &1_i32)?,
        Family::V6 => set_option(&asking, libc::IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS, &1_i32)?,
    }
    for probe in 0..3 {
        asking.send_to(&[0; 32], scene.server_at(33_434 + probe))?;
        sleep(Duration::from_millis(30));
    }
    counted(router, scene.by_family("IcmpOutTimeExcds", "Icmp6OutTimeExcds"), 1)?;
    let mut connection = Connection::open(&scene.pair, scene.family)?;
    connection.exchange(300, 300)?;
    connection.client.set_nonblocking(true)?;
    // Some of it fits into the buffers; none of it arrives.
    let _ = connection.client.write(&[0; 100_000])?;
    counted(router, scene.by_family("IpFragFails", "Ip6InTooBigErrors"), 3)?;
    counted(scene.client(), "TcpRetransSegs", 2)?;
    Ok(Box::new(connection))
}

fn narrow(scene: &Scene) -> Result<Held> {
    let router = scene.router()?;
    router.tc("qdisc add dev eth1 root tbf rate 500kbit burst 2k limit 4k")?;
    let reader = scene.server().run(|| Ok(UdpSocket::bind((scene.server_ip(), 0))?))?;
    // Room for all that gets through, so that nothing but the queue is wrong.
    setsockopt(&reader, sockopt::RcvBufForce, &(4 << 20))?;
    let to = reader.local_addr()?;
    know_each_other(scene)?;
    keep_out_all_but(scene.server(), to)?;
    let sender = scene.datagrams(to, 4000, 100)?;
    let lost = dropped(router, "eth1")?;
    ensure!(lost > 500, "only {lost} packets were dropped");
    // What comes from strangers comes by way of the router.
    let mut strangers = Injector::new(&scene.pair)?;
    strangers.server = Wire::open(router, "eth0")?.mac;
    knock(scene, &strangers, 1)?;
    ensure!(kept_out_so_far(scene.server())? >= 12, "the strangers did not come");
    Ok(Box::new((sender, reader)))
}

fn program_and_no_way(scene: &Scene) -> Result<Held> {
    let third = scene.third()?;
    let accepting = listener(third, scene.neighbour(3))?;
    let to = accepting.local_addr()?;
    // Who knows the way does not ask for it, which the program would drop.
    connected(scene.client(), &accepting)?.close()?;
    let program = drop_at_link(third, "eth0", Xdp::Generic)?;
    let connecting = unanswered(scene, to)?;
    for _ in 0..3 {
        let refused = scene.server().run(|| Ok(TcpStream::connect(beyond(scene.family)).map(drop)))?;
        let Err(error) = refused else { bail!("there was a way") };
        ensure!(error.raw_os_error() == Some(libc::ENETUNREACH), "{error}");
    }
    counted(scene.server(), scene.by_family("IpOutNoRoutes", "Ip6OutNoRoutes"), 3)?;
    Ok(Box::new((connecting, program, accepting)))
}

fn failing_names(scene: &Scene) -> Result<Held> {
    const NET: u8 = 9;
    let resolver = Resolver::start(&scene.pair)?;
    let pod = Namespace::new("pod")?;
    join(&pod, "eth0", scene.server(), "veth0")?;
    for (at, link, host) in [(scene.server(), "veth0", 1), (&pod, "eth0", 2)] {
        at.sysctl(&format!("net/ipv6/conf/{link}/dad_transmits"), "1")?;
        at.ip(&format!("addr add {}/24 dev {link}", address(Family::V4, NET, host)))?;
        at.ip(&format!("link set {link} up"))?;
    }
    for n in 0..20 {
        let zone = if n % 2 == 0 { "servfail.example" } else { "example" };
        resolver.ask(scene.family, Transport::Udp, &format!("host{n}.{zone}"), A)?;
        sleep(Duration::from_millis(50));
    }
    drop(pod);
    Ok(Box::new(()))
}
