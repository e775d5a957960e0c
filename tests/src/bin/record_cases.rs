//! `make record-cases`: makes each fault of the replay tests anew and records it.
//!
//! One folder of `tests/replay` per fault: `trace`, and `output.txt`, which the test writes with
//! `INSPECTOR_BLESS=1`. Arguments name the cases to record; all without any.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use inspector_tests::lab::{self, Connection, Family, Pair, faults};
use inspector_tests::plugins::workspace;

/// A fault by its name.
type Case = (&'static str, fn(&Pair) -> Result<()>);

const CASES: &[Case] = &[
    ("accept-queue-full", accept_queue_full),
    ("blackhole-route", blackhole_route),
    ("closed-port", closed_port),
    ("closed-port-ipv6", closed_port_ipv6),
    ("closed-udp-port", closed_udp_port),
    ("firewall-drop", firewall_drop),
    ("forwarding-disabled", forwarding_disabled),
    ("neighbour-unresolved", neighbour_unresolved),
    ("receive-buffer-full", receive_buffer_full),
    ("reset-by-application", reset_by_application),
    ("reset-unread-data", reset_unread_data),
    ("reverse-path-filter", reverse_path_filter),
    ("route-missing", route_missing),
    ("segments-lost", segments_lost),
    ("ttl-exceeded", ttl_exceeded),
];

/// An address behind the server (TEST-NET-2).
const BEYOND: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);

fn main() -> Result<()> {
    ensure!(nix::unistd::geteuid().is_root(), "it makes namespaces and loads eBPF programs: run it as root");
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    for (name, fault) in
        CASES.iter().filter(|(name, _)| wanted.is_empty() || wanted.iter().any(|w| w == name))
    {
        let dir = workspace().join("tests/replay").join(name);
        std::fs::create_dir_all(&dir)?;
        let trace = dir.join("trace");
        let pair = Pair::new()?;
        lab::record(&trace, &pair, |pair| {
            fault(pair)?;
            // One more reading of the counters, and late retransmissions.
            sleep(Duration::from_millis(1300));
            Ok(())
        })
        .with_context(|| (*name).to_owned())?;
        std::fs::set_permissions(&trace, PermissionsExt::from_mode(0o644))?;
        println!("{name}: {} bytes", std::fs::metadata(&trace)?.len());
    }
    println!(
        "now: INSPECTOR_BLESS=1 cargo test --release -p inspector-tests replay, and look at the difference"
    );
    Ok(())
}

fn closed_port(pair: &Pair) -> Result<()> {
    faults::connect_to_closed_port(&pair.client, pair.server_at(Family::V4, faults::CLOSED_PORT)).map(drop)
}

fn closed_port_ipv6(pair: &Pair) -> Result<()> {
    faults::connect_to_closed_port(&pair.client, pair.server_at(Family::V6, faults::CLOSED_PORT)).map(drop)
}

fn closed_udp_port(pair: &Pair) -> Result<()> {
    faults::send_udp(&pair.client, pair.server_at(Family::V4, faults::CLOSED_PORT), 3, 100).map(drop)
}

fn firewall_drop(pair: &Pair) -> Result<()> {
    faults::drop_incoming(&pair.server, "tcp", 80)?;
    let connecting = faults::start_connect(&pair.client, pair.server_at(Family::V4, 80))?;
    sleep(Duration::from_millis(2500));
    drop(connecting);
    faults::stop_dropping(&pair.server)
}

fn accept_queue_full(pair: &Pair) -> Result<()> {
    let full = faults::fill_accept_queue(pair, Family::V4)?;
    sleep(Duration::from_millis(2500));
    drop(full);
    Ok(())
}

fn reset_by_application(pair: &Pair) -> Result<()> {
    faults::reset_by_linger(pair, Family::V4).map(drop)
}

fn reset_unread_data(pair: &Pair) -> Result<()> {
    faults::reset_by_unread_data(pair, Family::V4).map(drop)
}

fn segments_lost(pair: &Pair) -> Result<()> {
    let mut connection = Connection::open(pair, Family::V4)?;
    faults::drop_every_nth_segment(&pair.server, 3)?;
    for _ in 0..20 {
        connection.exchange(2000, 1)?;
    }
    faults::stop_dropping(&pair.server)?;
    connection.close()
}

fn receive_buffer_full(pair: &Pair) -> Result<()> {
    let at = SocketAddr::new(pair.server_ip(Family::V4), 0);
    let never_read = pair.server.run(|| Ok(UdpSocket::bind(at)?))?;
    faults::send_udp(&pair.client, never_read.local_addr()?, 600, 1400).map(drop)
}

fn neighbour_unresolved(pair: &Pair) -> Result<()> {
    let nobody = SocketAddr::new(IpAddr::from([10, 9, 0, 77]), 80);
    let connecting = faults::start_connect(&pair.client, nobody)?;
    // Three ARP requests, one second apart, then the neighbour has failed.
    sleep(Duration::from_millis(3500));
    drop(connecting);
    Ok(())
}

fn reverse_path_filter(pair: &Pair) -> Result<()> {
    pair.server.sysctl("net/ipv4/conf/eth0/rp_filter", "1")?;
    let foreign = Ipv4Addr::new(192, 0, 2, 1);
    // The server must know the client already: it would not answer an ARP request from there.
    faults::send_udp(&pair.client, pair.server_at(Family::V4, faults::CLOSED_PORT), 1, 1)?;
    pair.client.ip("link set lo up")?;
    pair.client.ip(&format!("addr add {foreign}/32 dev lo"))?;
    pair.client.run(|| {
        let socket = UdpSocket::bind((foreign, 0))?;
        socket.send_to(b"from nowhere", pair.server_at(Family::V4, 4242))?;
        Ok(())
    })
}

fn blackhole_route(pair: &Pair) -> Result<()> {
    router(pair, "1")?;
    pair.server.ip("route add blackhole 198.51.100.0/24")?;
    send_beyond(pair, 64)
}

fn route_missing(pair: &Pair) -> Result<()> {
    router(pair, "1")?;
    send_beyond(pair, 64)
}

fn forwarding_disabled(pair: &Pair) -> Result<()> {
    router(pair, "0")?;
    send_beyond(pair, 64)
}

fn ttl_exceeded(pair: &Pair) -> Result<()> {
    router(pair, "1")?;
    // There is a way on, but the packet may not take it.
    pair.server.ip("route add 198.51.100.0/24 dev eth0")?;
    send_beyond(pair, 1)
}

/// Makes the server the client's way to [`BEYOND`].
fn router(pair: &Pair, forwarding: &str) -> Result<()> {
    pair.server.sysctl("net/ipv4/ip_forward", forwarding)?;
    pair.client.ip(&format!("route add 198.51.100.0/24 via {}", pair.server_ip(Family::V4))).map(drop)
}

fn send_beyond(pair: &Pair, ttl: u32) -> Result<()> {
    pair.client.run(|| {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.set_ttl(ttl)?;
        socket.send_to(b"beyond", (BEYOND, 4242))?;
        Ok(())
    })
}
