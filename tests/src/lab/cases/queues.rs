//! Queues of links and CPUs, in which packets wait or find no room.

use std::io::Write as _;
use std::net::UdpSocket;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use nix::sys::socket::{setsockopt, sockopt};

use crate::lab::background::Repeated;
use crate::lab::cases::healthy::watchers::{keep_out_all_but, knock};
use crate::lab::cases::{
    BLIND, Case, KNOWN, NOISE, Ongoing, Place, UNSEEN, VARIATION, at, client, know_each_other, router, server,
};
use crate::lab::counters::{counted, counter, matched, queue_dropped, reaches};
use crate::lab::injector::Injector;
use crate::lab::raw_socket::RawSocket;
use crate::lab::sockets::start_upload;
use crate::lab::{Connection, Held, Scene, delays, faults};
use crate::wait;

pub const CASES: &[Case] = &[
    Case {
        name: "tc_tbf",
        made: "the client's tbf has room for 8 kB at 1 Mbit/s, and 200 datagrams come at once",
        expect: &[client("qdisc-drop")],
        ongoing: Ongoing::Again,
        run: full_qdisc,
        ..KNOWN
    },
    Case {
        name: "var_htb_full",
        made: "the client's htb class has room for two packets at 1 Mbit/s",
        expect: &[client("qdisc-drop")],
        run: full_class,
        ..VARIATION
    },
    Case {
        name: "var_small_burst",
        made: "the shaper of the router's link allows bursts that are smaller than a full packet",
        expect: &[router("qdisc-drop")],
        ongoing: Ongoing::ByItself,
        run: small_burst,
        ..BLIND.routed()
    },
    Case {
        name: "var_ingress_shaper",
        made: "what comes in at the server is shaped by way of an IFB device, and a burst comes",
        expect: &[server("qdisc-drop")],
        run: ingress_shaper,
        ..BLIND
    },
    Case {
        name: "var_narrow_amid_noise",
        made: "the router's queue has no room for datagrams, and the server's firewall keeps strangers out",
        expect: &[router("qdisc-drop")],
        run: narrow,
        ..NOISE.routed()
    },
    Case {
        name: "device_queue_full",
        made: "a device that takes no packets from its queue",
        expect: &[client("device-queue-full")],
        run: stuck_device,
        ..KNOWN.over_userspace_link()
    },
    Case {
        name: "queueing_delay",
        made: "datagrams through a queue of the client in which each waits for a second, and none is lost",
        expect: &[client("queueing-delay")],
        ongoing: Ongoing::ByItself,
        run: slow_queue,
        ..KNOWN
    },
    Case {
        name: "var_bloated_router",
        made: "an upload fills a deep queue of the router, and others wait behind it",
        expect: &[router("queueing-delay")],
        ongoing: Ongoing::Again,
        run: bloated,
        ..UNSEEN.routed()
    },
    Case {
        name: "softirq_delay",
        made: "a firewall with four million rules for a packet keeps a CPU's soft interrupts busy",
        expect: &[at(Place::Host, "softirq-delay"), server("softirq-delay"), client("softirq-delay")],
        ongoing: Ongoing::Never("it keeps a CPU of the machine busy, and one burst of that is enough"),
        run: |scene| delays::busy_soft_interrupt(&scene.pair, scene.family),
        ..KNOWN
    },
    Case {
        name: "softnet_backlog",
        made: "the CPUs may keep no packets waiting (global), and a burst comes",
        expect: &[at(Place::Host, "softnet-backlog"), server("softnet-backlog"), client("softnet-backlog")],
        ongoing: Ongoing::Again,
        run: |scene| {
            let held = delays::no_backlog(&scene.pair, scene.family)?;
            ensure!(counter(scene.client(), "TcpRetransSegs")? > 0, "nothing was lost");
            Ok(held)
        },
        ..KNOWN
    },
];

fn full_qdisc(scene: &Scene) -> Result<Held> {
    let sink = scene.receiver()?;
    let at = sink.local_addr()?;
    scene.client().tc("qdisc replace dev eth0 root tbf rate 1mbit burst 4kb limit 8kb")?;
    scene.client().run(|| {
        let socket = UdpSocket::bind((scene.client_ip(), 0))?;
        setsockopt(&socket, sockopt::SndBuf, &(1 << 20))?;
        // What is dropped is told to the sender, which is no surprise here.
        (0..200).for_each(|_| drop(socket.send_to(&[0; 1000], at)));
        Ok(())
    })?;
    let refused = scene.by_family("IpOutDiscards", "Ip6OutDiscards");
    counted(scene.client(), refused, 100)?;
    Ok(Box::new(sink))
}

fn full_class(scene: &Scene) -> Result<Held> {
    let sink = scene.receiver()?;
    let to = sink.local_addr()?;
    for command in [
        "qdisc add dev eth0 root handle 1: htb default 1",
        "class add dev eth0 parent 1: classid 1:1 htb rate 1mbit burst 2k cburst 2k",
        "qdisc add dev eth0 parent 1:1 handle 10: pfifo limit 2",
    ] {
        scene.client().tc(command)?;
    }
    let socket = scene.sender()?;
    setsockopt(&socket, sockopt::SndBuf, &(1 << 20))?;
    let sender = scene.repeat(scene.client(), 1, move || {
        // What is dropped is told to the sender, which is no surprise here.
        (0..100).for_each(|_| drop(socket.send_to(&[0; 1000], to)));
        Ok(())
    })?;
    counted(scene.client(), scene.by_family("IpOutDiscards", "Ip6OutDiscards"), 50)?;
    Ok(Box::new((sender, sink)))
}

/// Small packets pass, so that a connection opens and an upload stands still.
fn small_burst(scene: &Scene) -> Result<Held> {
    scene.router()?.tc("qdisc add dev eth1 root tbf rate 10mbit burst 1200 limit 200k")?;
    let mut connection = Connection::open(&scene.pair, scene.family)?;
    connection.exchange(200, 200)?;
    start_upload(&connection.client)?;
    counted(scene.client(), "TcpExtTCPTimeouts", 2)?;
    reaches(3, || queue_dropped(scene.router()?, "eth1"))?;
    Ok(Box::new(connection))
}

fn ingress_shaper(scene: &Scene) -> Result<Held> {
    let server = scene.server();
    server.ip("link add ifb0 type ifb")?;
    server.ip("link set ifb0 addrgenmode none up")?;
    for command in [
        "qdisc add dev ifb0 root tbf rate 1mbit burst 4kb limit 8kb",
        "qdisc add dev eth0 ingress",
        "filter add dev eth0 parent ffff: protocol all u32 match u32 0 0 \
         action mirred egress redirect dev ifb0",
    ] {
        server.tc(command)?;
    }
    know_each_other(scene)?;
    let sink = server.udp(scene.server_at(514))?;
    let sender = scene.datagrams(sink.local_addr()?, 200, 1000)?;
    reaches(100, || queue_dropped(server, "ifb0"))?;
    Ok(Box::new((sender, sink)))
}

fn narrow(scene: &Scene) -> Result<Held> {
    let router = scene.router()?;
    router.tc("qdisc add dev eth1 root tbf rate 500kbit burst 2k limit 4k")?;
    let reader = scene.receiver()?;
    // Room for all that gets through, so that nothing but the queue is wrong.
    setsockopt(&reader, sockopt::RcvBufForce, &(4 << 20))?;
    let to = reader.local_addr()?;
    know_each_other(scene)?;
    keep_out_all_but(scene.server(), to)?;
    let sender = scene.datagrams(to, 4000, 100)?;
    let lost = queue_dropped(router, "eth1")?;
    ensure!(lost > 500, "only {lost} packets were dropped");
    // What comes from strangers comes by way of the router.
    let mut strangers = Injector::new(&scene.pair)?;
    strangers.server = RawSocket::open(router, "eth0")?.mac;
    knock(scene, &strangers, 1)?;
    ensure!(matched(scene.server())? >= 12, "the strangers did not come");
    Ok(Box::new((sender, reader)))
}

/// Nobody reads the other end of this device, so its ring of two packets is soon full.
fn stuck_device(scene: &Scene) -> Result<Held> {
    let stuck = RawSocket::tap(scene.client(), "stuck0")?;
    scene.client().ip("link set stuck0 txqueuelen 2 addrgenmode none up")?;
    scene.client().ip("route add 10.8.0.0/24 dev stuck0")?;
    scene.client().ip("route add fd00:8::/64 dev stuck0")?;
    let to = scene.by_family("10.8.0.1", "fd00:8::1");
    scene.client().ip(&format!("neigh add {to} lladdr 02:00:00:00:00:01 dev stuck0 nud permanent"))?;
    let socket = scene.sender()?;
    let sender = scene.repeat(scene.client(), 1, move || {
        // A full queue may be told to the sender.
        (0..100).for_each(|_| drop(socket.send_to(&[0; 100], (to, 4242))));
        Ok(())
    })?;
    counted(scene.client(), "stuck0 tx drop", 50)?;
    Ok(Box::new((sender, stuck)))
}

/// As much comes as the queue lets through, behind eight packets that are in it already.
fn slow_queue(scene: &Scene) -> Result<Held> {
    let sink = scene.receiver()?;
    sink.set_read_timeout(Some(Duration::from_secs(10)))?;
    let to = sink.local_addr()?;
    delays::throttle(scene.client())?;
    let start = Instant::now();
    faults::send_udp(scene.client(), to, 8, 1000)?;
    let socket = scene.sender()?;
    // One that cannot be sent is one less.
    let sender = Repeated::start(scene.client(), Duration::from_millis(135), move || {
        drop(socket.send_to(&[0; 1000], to));
    })?;
    (0..16).try_for_each(|_| sink.recv(&mut [0; 1000]).map(drop))?;
    ensure!(start.elapsed() > Duration::from_millis(1500), "the queue was fast: {:?}", start.elapsed());
    ensure!(counter(scene.client(), "eth0 tx drop")? == 0, "the queue dropped");
    Ok(Box::new((sender, sink)))
}

/// The queue holds all that is sent, so nothing is lost, at 250 kB/s.
fn bloated(scene: &Scene) -> Result<Held> {
    scene.router()?.tc("qdisc replace dev eth1 root tbf rate 2mbit burst 3k limit 2m")?;
    // BBR, the default here, would see to it that the queue stays short.
    scene.client().sysctl("net/ipv4/tcp_congestion_control", "reno")?;
    let listener = scene.listener()?;
    let to = listener.local_addr()?;
    let mut client = scene.client().connect(to)?;
    let (mut server, _) = listener.accept()?;
    let reader = std::thread::spawn(move || std::io::copy(&mut server, &mut std::io::sink()));
    client.set_nonblocking(true)?;
    let mut waited = Duration::ZERO;
    for _ in 0..4 {
        drop(client.write(&[0; 150_000]));
        sleep(Duration::from_millis(200));
        let asked = Instant::now();
        let other = scene.client().connect(to)?;
        waited = waited.max(asked.elapsed());
        drop((other, listener.accept()?));
    }
    ensure!(waited > Duration::from_millis(300), "nobody waited longer than {waited:?}");
    drop(client);
    wait::until("the end of the upload", || reader.is_finished().then_some(()))?;
    Ok(Box::new(listener))
}
