//! Faults among much that is well, two faults that have nothing to do with each other, faults that
//! have healed when somebody asks, and faults of one family or service beside one that works.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Result, ensure};
use nix::sys::socket::{setsockopt, sockopt};

use crate::lab::background::{Background, Repeated};
use crate::lab::cases::{
    Case, FAULT, Ongoing, Place, at, client, know_each_other, router, server, unanswered,
};
use crate::lab::counters::{counted, counter};
use crate::lab::sockets::{fill, listener};
use crate::lab::{Actor, Connection, Family, Held, Namespace, Scene, Topology, faults, run};
use crate::wait;

/// Nothing here takes longer, unless it did not happen.
const PATIENCE: Duration = Duration::from_secs(10);

const BRIDGED: Case = Case { topology: Topology::Bridged, ..FAULT };

pub const CASES: &[Case] = &[
    Case {
        name: "var_busy_beside_full",
        made: "one service does not accept, beside another that a third host keeps busy",
        expect: &[server("accept-queue-overflow")],
        ongoing: Ongoing::ByItself,
        run: |scene| {
            let load = Load::start(scene.third()?, scene)?;
            load.carries(100)?;
            let full = faults::fill_accept_queue(&scene.pair, scene.family)?;
            counted(scene.server(), "TcpExtListenOverflows", 4)?;
            load.carries(200)?;
            Ok(Box::new((full, load)))
        },
        ..BRIDGED
    },
    Case {
        name: "var_limited_beside_load",
        made: "the server's firewall lets few connects per second to one service, beside another under load",
        expect: &[server("firewall-drop")],
        run: limited,
        ..BRIDGED
    },
    Case {
        name: "var_wall_and_closed_port",
        made: "the server's firewall (iptables) drops what the client sends, and a third host finds nobody at the client",
        expect: &[server("firewall-drop"), client("port-not-listening")],
        also: &[server("firewall-drop"), client("port-not-listening")],
        run: wall_and_closed_port,
        ..BRIDGED
    },
    Case {
        name: "var_nobody_and_slow_reader",
        made: "a third host asks for a neighbour that is not there, while the client's datagrams find no room at the server",
        expect: &[at(Place::Third, "neighbour-unresolved"), server("socket-receive-buffer-full")],
        also: &[at(Place::Third, "neighbour-unresolved"), server("socket-receive-buffer-full")],
        run: nobody_and_slow_reader,
        ..BRIDGED
    },
    Case {
        name: "var_wall_for_a_second",
        made: "a firewall of the server drops what connections in use receive, and is removed again",
        expect: &[server("firewall-drop")],
        ongoing: Ongoing::Never("it has healed when somebody asks"),
        run: wall_for_a_second,
        ..FAULT
    },
    Case {
        name: "var_blackhole_for_a_second",
        made: "the router has a blackhole for the server until its route is put right",
        topology: Topology::Routed,
        expect: &[router("route-blocked")],
        ongoing: Ongoing::Never("it has healed when somebody asks"),
        run: blackhole_for_a_second,
        ..FAULT
    },
    Case {
        name: "var_reader_wakes_up",
        made: "a server that does not read for more than a second, and then reads all there is",
        expect: &[server("receiver-not-reading"), server("socket-read-slow")],
        ongoing: Ongoing::Never("it has healed when somebody asks"),
        run: reader_wakes_up,
        ..FAULT
    },
    Case {
        name: "var_no_way_back_in_one_family",
        made: "the server may not send to the client in one family (prohibit), and all is well in the other",
        expect: &[server("route-blocked")],
        run: one_family,
        ..FAULT
    },
    Case {
        name: "var_upload_refused",
        made: "one service answers uploads before it has read them and closes; another of the same server is well",
        expect: &[server("reset-by-application")],
        ongoing: Ongoing::Again,
        run: upload_refused,
        ..FAULT
    },
];

/// Requests from a host to a server process, one after the other, until it is dropped.
struct Load {
    served: Arc<AtomicU64>,
    _asking: Repeated,
    _server: Actor,
}

impl Load {
    fn start(from: &Namespace, scene: &Scene) -> Result<Self> {
        let at = listener(scene.server(), scene.server_ip())?.local_addr()?;
        let server = Actor::start(scene.server(), &[], &format!("echo {at} 128"))?;
        let served = Arc::new(AtomicU64::new(0));
        let counting = Arc::clone(&served);
        let asking = Repeated::start(from, Duration::from_millis(2), move || {
            if ask(at).is_ok() {
                counting.fetch_add(1, Ordering::Relaxed);
            }
        })?;
        Ok(Self { served, _asking: asking, _server: server })
    }

    /// Waits until so many have been served.
    fn carries(&self, requests: u64) -> Result<()> {
        let enough = || (self.served.load(Ordering::Relaxed) >= requests).then_some(());
        wait::within(PATIENCE, "healthy requests", enough)
    }
}

/// One request on a connection of its own, in the namespace of the calling thread.
fn ask(to: SocketAddr) -> Result<()> {
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(&[b'?'; 1000])?;
    Ok(stream.read_exact(&mut [0; 1000])?)
}

fn limited(scene: &Scene) -> Result<Held> {
    let load = Load::start(scene.third()?, scene)?;
    let listener = listener(scene.server(), scene.server_ip())?;
    let to = listener.local_addr()?;
    scene.server().nft(&format!(
        "add table inet lab; add chain inet lab in {{ type filter hook input priority 0; }}; \
         add rule inet lab in tcp dport {} ct state new limit rate over 2/second burst 5 packets drop",
        to.port()
    ))?;
    let connecting = (0..12).map(|_| scene.connect(scene.client(), to)).collect::<Result<Vec<_>>>()?;
    scene.in_vain(scene.client(), 5)?;
    load.carries(200)?;
    Ok(Box::new((connecting, listener, load)))
}

fn wall_and_closed_port(scene: &Scene) -> Result<Held> {
    let iptables = scene.by_family("iptables-legacy", "ip6tables-legacy");
    scene.server().run(|| run(iptables, "-A INPUT -p tcp --dport 8443 -j DROP"))?;
    let refused = scene.refused(scene.third()?, (scene.client_ip(), 9100).into())?;
    Ok(Box::new((refused, unanswered(scene, scene.server_at(8443))?)))
}

fn nobody_and_slow_reader(scene: &Scene) -> Result<Held> {
    let third = scene.third()?;
    let connecting = scene.connect(third, (scene.neighbour(66), 5432).into())?;
    let reader = scene.server().run(|| Ok(UdpSocket::bind((scene.server_ip(), 0))?))?;
    setsockopt(&reader, sockopt::RcvBuf, &8192)?;
    faults::send_udp_evenly(scene.client(), reader.local_addr()?, 500, 2, |sent| sent < 500)?;
    counted(scene.server(), scene.by_family("UdpRcvbufErrors", "Udp6RcvbufErrors"), 300)?;
    wait::within(PATIENCE, "the neighbour to fail", || {
        third.ip("neigh show").ok()?.contains("FAILED").then_some(())
    })?;
    Ok(Box::new((connecting, reader)))
}

fn wall_for_a_second(scene: &Scene) -> Result<Held> {
    let mut open = (0..5).map(|_| Connection::open(&scene.pair, scene.family)).collect::<Result<Vec<_>>>()?;
    open.iter_mut().try_for_each(|connection| connection.exchange(500, 500))?;
    scene.server().nft(
        "add table inet lab; add chain inet lab in { type filter hook input priority 0; }; \
         add rule inet lab in meta l4proto tcp counter drop",
    )?;
    for connection in &mut open {
        connection.client.write_all(&[b'x'; 500])?;
    }
    counted(scene.client(), "TcpExtTCPTimeouts", 5)?;
    sleep(Duration::from_secs(1));
    faults::stop_dropping(scene.server())?;
    for connection in &mut open {
        connection.server.set_read_timeout(Some(PATIENCE))?;
        connection.server.read_exact(&mut [0; 500])?;
        connection.exchange(500, 500)?;
    }
    Ok(Box::new(open))
}

fn blackhole_for_a_second(scene: &Scene) -> Result<Held> {
    know_each_other(scene)?;
    let listener = listener(scene.server(), scene.server_ip())?;
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

fn reader_wakes_up(scene: &Scene) -> Result<Held> {
    let listener = listener(scene.server(), scene.server_ip())?;
    setsockopt(&listener, sockopt::RcvBuf, &16_384)?;
    let to = listener.local_addr()?;
    let client = scene.client().run(|| Ok(TcpStream::connect(to)?))?;
    let (mut server, _) = listener.accept()?;
    let mut sent = fill(&client)?;
    counted(scene.client(), "TcpExtTCPWinProbe", 2)?;
    sleep(Duration::from_millis(700));
    server.set_read_timeout(Some(PATIENCE))?;
    while sent > 0 {
        let read = server.read(&mut [0; 65536])?;
        ensure!(read > 0, "the connection ended with {sent} bytes unread");
        sent -= read;
    }
    Ok(Box::new((client, server)))
}

fn one_family(scene: &Scene) -> Result<Held> {
    let well = if scene.family == Family::V4 { Family::V6 } else { Family::V4 };
    let to_client = format!("{}/{}", scene.client_ip(), scene.by_family(32, 128));
    let listener = listener(scene.server(), scene.server_ip())?;
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

/// As a web server does that is configured for smaller uploads: its answer is often lost with the
/// connection.
fn upload_refused(scene: &Scene) -> Result<Held> {
    let load = Background::start(scene, 3000)?;
    let mut reset = 0;
    for _ in 0..8 {
        let Connection { mut client, mut server, .. } = Connection::open(&scene.pair, scene.family)?;
        client.write_all(&[b'u'; 60_000])?;
        server.read_exact(&mut [0; 1000])?;
        server.write_all(b"HTTP/1.1 413 Content Too Large\r\nConnection: close\r\n\r\n")?;
        drop(server);
        let outcome = client.read_to_end(&mut Vec::new());
        reset += usize::from(outcome.is_err_and(|error| error.kind() == ErrorKind::ConnectionReset));
    }
    ensure!(reset == 8, "{reset} of 8 uploads were reset");
    ensure!(counter(scene.server(), "TcpExtTCPAbortOnClose")? >= 8, "the server did not abort");
    wait::within(PATIENCE, "healthy requests", || (load.done() > 50).then_some(()))?;
    Ok(Box::new(load))
}
