//! What goes wrong in the tests. Each function makes one real fault and returns what it takes to
//! recognise it: the addresses and ports on the link.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect, setsockopt, socket, sockopt,
};
use std::os::fd::AsRawFd;

use super::sockets::{expect_reset, reset_on_close};
use super::{Connection, Family, Global, Namespace, Pair, stream_socket};

/// Nobody listens here in a namespace of the lab.
pub const CLOSED_PORT: u16 = 9;

/// Connects to a port where nobody listens; the kernel there drops the SYN (NO_SOCKET) and answers
/// with a reset. Returns the client's address.
///
/// # Errors
/// If the connection is not refused.
pub fn connect_to_closed_port(from: &Namespace, to: SocketAddr) -> Result<SocketAddr> {
    from.run(|| expect_refusal(to))
}

/// [`connect_to_closed_port`] from the calling thread's namespace.
///
/// # Errors
/// If the connection is not refused.
pub fn expect_refusal(to: SocketAddr) -> Result<SocketAddr> {
    let (socket, local) = bound_socket(to.ip())?;
    match connect(socket.as_raw_fd(), &SockaddrStorage::from(to)) {
        Err(Errno::ECONNREFUSED) => Ok(local),
        other => bail!("{to} did not refuse: {other:?}"),
    }
}

/// Brings `lo` up in the calling thread's namespace, without the milliseconds that `ip` takes.
///
/// # Errors
/// Without CAP_NET_ADMIN there.
pub fn loopback_up() -> Result<()> {
    let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::empty(), None)?;
    // SAFETY: all zeros are a valid ifreq.
    let mut request: nix::libc::ifreq = unsafe { std::mem::zeroed() };
    (request.ifr_name[0], request.ifr_name[1]) = (b'l' as _, b'o' as _);
    request.ifr_ifru.ifru_flags = nix::libc::IFF_UP as _;
    // SAFETY: SIOCSIFFLAGS reads one ifreq, which lives here.
    let result =
        unsafe { nix::libc::ioctl(socket.as_raw_fd(), nix::libc::SIOCSIFFLAGS as _, &raw const request) };
    Errno::result(result).map(drop).context("lo cannot be brought up")
}

/// Starts a connect and returns at once; whoever keeps the socket keeps the SYNs coming. Returns
/// the client's address with it.
///
/// # Errors
/// If the connect fails at once.
pub fn start_connect(from: &Namespace, to: SocketAddr) -> Result<(OwnedFd, SocketAddr)> {
    from.run(|| {
        let (socket, local) = bound_socket(to.ip())?;
        setsockopt(&socket, sockopt::SndBuf, &8192)?;
        nix::fcntl::fcntl(&socket, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK))?;
        match connect(socket.as_raw_fd(), &SockaddrStorage::from(to)) {
            Err(Errno::EINPROGRESS) => Ok((socket, local)),
            other => bail!("the connect to {to} did not start: {other:?}"),
        }
    })
}

/// Connects over TCP where a route refuses it. Returns the error of the call.
///
/// # Errors
/// If it is not refused at once.
pub fn connect_without_route(from: &Namespace, to: SocketAddr) -> Result<Errno> {
    from.run(|| refused_connect(&tcp_socket(to.ip())?, to))
}

/// [`connect_without_route`] on a socket that may be of another namespace.
///
/// # Errors
/// If it is not refused at once.
pub fn refused_connect(socket: &OwnedFd, to: SocketAddr) -> Result<Errno> {
    match connect(socket.as_raw_fd(), &SockaddrStorage::from(to)) {
        Ok(()) | Err(Errno::EINPROGRESS) => bail!("no route refused a connect to {to}"),
        Err(errno) => Ok(errno),
    }
}

/// Sends a datagram where a route refuses it. Returns the error of the call.
///
/// # Errors
/// If it is not refused.
pub fn send_without_route(from: &Namespace, to: SocketAddr) -> Result<Errno> {
    from.run(|| match udp_socket(to.ip())?.send_to(b"no way", to) {
        Ok(_) => bail!("no route refused a datagram to {to}"),
        Err(error) => Errno::try_from(error).map_err(|error| error.into()),
    })
}

/// Sends `packets` datagrams of `payload` bytes as fast as one socket can. Returns its address.
///
/// # Errors
/// If a datagram cannot be sent.
pub fn send_udp(from: &Namespace, to: SocketAddr, packets: u64, payload: usize) -> Result<SocketAddr> {
    from.run(|| send_datagrams(to, packets, payload))
}

/// [`send_udp`] from the calling thread's namespace.
///
/// # Errors
/// If a datagram cannot be sent.
pub fn send_datagrams(to: SocketAddr, packets: u64, payload: usize) -> Result<SocketAddr> {
    let socket = udp_socket(to.ip())?;
    let data = vec![0; payload];
    for _ in 0..packets {
        send_one(&socket, &data, to)?;
    }
    local_address(&socket, to.ip())
}

/// A sender that was held up makes up for so much, so that it never becomes a burst.
const CATCH_UP: Duration = Duration::from_millis(50);

/// [`send_udp`] at an even `per_second` from `sockets` sockets in turn, until `keep_going` says no.
/// Returns how many were sent.
///
/// # Errors
/// If a datagram cannot be sent.
pub fn send_udp_evenly(
    from: &Namespace,
    to: SocketAddr,
    per_second: u32,
    sockets: usize,
    keep_going: impl Fn(u64) -> bool + Sync,
) -> Result<u64> {
    from.run(|| {
        let sockets = (0..sockets).map(|_| udp_socket(to.ip())).collect::<Result<Vec<_>>>()?;
        let (mut last, mut due, mut sent) = (Instant::now(), 0.0, 0);
        while keep_going(sent) {
            let passed = std::mem::replace(&mut last, Instant::now()).elapsed().min(CATCH_UP);
            due += passed.as_secs_f64() * f64::from(per_second);
            while sent < due as u64 {
                send_one(&sockets[sent as usize % sockets.len()], b"evenly", to)?;
                sent += 1;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(sent)
    })
}

/// Lets the table of neighbours hold two (a setting of the machine, for a moment), and sends to twenty.
/// Returns how many of the datagrams the kernel refused at once.
///
/// # Errors
/// If the setting cannot be changed.
pub fn fill_neighbour_table(pair: &Pair, family: Family) -> Result<usize> {
    let _limit = Global::set(
        match family {
            Family::V4 => "/proc/sys/net/ipv4/neigh/default/gc_thresh3",
            Family::V6 => "/proc/sys/net/ipv6/neigh/default/gc_thresh3",
        },
        "2",
    )?;
    let socket = pair.client.udp((pair.client_ip(family), 0))?;
    let refused = |host: &u8| socket.send_to(b"x", (pair.neighbour(family, *host), 4242)).is_err();
    Ok((100..120).filter(refused).count())
}

/// Lets a host track its connections, by a rule that asks for their state.
///
/// # Errors
/// If `nft` refuses the rule.
pub fn track_connections(at: &Namespace) -> Result<()> {
    at.filter("input", "ct state established counter accept")
}

/// Lets nft drop what comes in for a port.
///
/// # Errors
/// If `nft` refuses the rule.
pub fn drop_incoming(at: &Namespace, protocol: &str, port: u16) -> Result<()> {
    at.filter("input", &format!("{protocol} dport {port} drop"))
}

/// Lets nft drop every `n`th incoming TCP segment that carries data.
///
/// # Errors
/// If `nft` refuses the rule.
pub fn drop_every_nth_segment(at: &Namespace, n: u32) -> Result<()> {
    at.filter("input", &format!("tcp flags & psh == psh numgen inc mod {n} 0 drop"))
}

/// Removes what the functions above made nft do.
///
/// # Errors
/// If there was nothing to remove.
pub fn stop_dropping(at: &Namespace) -> Result<()> {
    at.nft("delete table inet lab")
}

/// A listener whose accept queue is full: nobody accepts, and further SYNs are dropped without a
/// drop event (only `ListenOverflows` rises). The fault lasts as long as the value.
#[derive(Debug)]
pub struct FullAcceptQueue {
    /// Where it listens.
    pub at: SocketAddr,
    _listener: TcpListener,
    _clients: Vec<OwnedFd>,
}

/// Fills the accept queue of a listener with a backlog of 1, and four SYNs more.
///
/// # Errors
/// If the sockets cannot be made.
pub fn fill_accept_queue(pair: &Pair, family: Family) -> Result<FullAcceptQueue> {
    let listener = pair.server.listen_with((pair.server_ip(family), 0), 1)?;
    let at = listener.local_addr()?;
    let clients = (0..6).map(|_| start_connect(&pair.client, at).map(|(socket, _)| socket));
    Ok(FullAcceptQueue { at, _clients: clients.collect::<Result<_>>()?, _listener: listener })
}

/// Closes the client's end so that it sends a reset (`SO_LINGER` with time 0), and waits until the
/// server's application was told. Returns (client, server) addresses.
///
/// # Errors
/// If the server sees anything but a reset.
pub fn reset_by_linger(pair: &Pair, family: Family) -> Result<(SocketAddr, SocketAddr)> {
    let mut connection = Connection::open(pair, family)?;
    connection.exchange(1, 1)?;
    reset_on_close(&connection.client)?;
    let Connection { client, server, client_at, server_at } = connection;
    drop(client);
    expect_reset(&server)?;
    Ok((client_at, server_at))
}

/// Closes the server's end with a reset (`SO_LINGER` with time 0), and waits until the client's
/// application was told. Returns (client, server) addresses.
///
/// # Errors
/// If the client sees anything but a reset.
pub fn reset_by_server(pair: &Pair, family: Family) -> Result<(SocketAddr, SocketAddr)> {
    let mut connection = Connection::open(pair, family)?;
    connection.exchange(1, 1)?;
    reset_on_close(&connection.server)?;
    let Connection { client, server, client_at, server_at } = connection;
    drop(server);
    expect_reset(&client)?;
    Ok((client_at, server_at))
}

/// Closes the server's end while data waits there unread, which makes the kernel send a reset, and
/// waits until the client's application was told. Returns (client, server) addresses.
///
/// # Errors
/// If the client sees anything but a reset.
pub fn reset_by_unread_data(pair: &Pair, family: Family) -> Result<(SocketAddr, SocketAddr)> {
    let mut connection = Connection::open(pair, family)?;
    connection.exchange(1, 1)?;
    std::io::Write::write_all(&mut connection.client, b"never read")?;
    connection.server.peek(&mut [0]).context("waiting for the data to arrive")?;
    let Connection { client, server, client_at, server_at } = connection;
    drop(server);
    expect_reset(&client)?;
    Ok((client_at, server_at))
}

/// A TCP socket that knows its address before it connects.
fn bound_socket(peer: IpAddr) -> Result<(OwnedFd, SocketAddr)> {
    // The source address that the route to the peer gives; learnt without sending anything.
    let probe = udp_socket(peer)?;
    probe.connect((peer, CLOSED_PORT))?;
    bound_socket_at(probe.local_addr()?.ip())
}

/// A TCP socket for an address of this family, that waits for nothing.
///
/// # Errors
/// If there are no descriptors left.
pub fn tcp_socket(ip: IpAddr) -> Result<OwnedFd> {
    let family = if ip.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    Ok(socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None)?)
}

fn bound_socket_at(ip: IpAddr) -> Result<(OwnedFd, SocketAddr)> {
    let socket = stream_socket(ip)?;
    bind(socket.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(ip, 0)))?;
    let bound = TcpListener::from(socket);
    let local = bound.local_addr()?;
    ensure!(local.port() != 0, "the kernel gave no port");
    Ok((bound.into(), local))
}

fn udp_socket(peer: IpAddr) -> Result<UdpSocket> {
    let any = if peer.is_ipv4() { IpAddr::from(Ipv4Addr::UNSPECIFIED) } else { Ipv6Addr::UNSPECIFIED.into() };
    Ok(UdpSocket::bind((any, 0))?)
}

/// Sends one datagram; an answer from an earlier one (ICMP port unreachable) is no failure.
fn send_one(socket: &UdpSocket, data: &[u8], to: SocketAddr) -> Result<()> {
    loop {
        match socket.send_to(data, to) {
            Ok(_) => return Ok(()),
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {}
            Err(error) => return Err(error).with_context(|| format!("cannot send to {to}")),
        }
    }
}

/// The address that the peer sees.
fn local_address(socket: &UdpSocket, peer: IpAddr) -> Result<SocketAddr> {
    let port = socket.local_addr()?.port();
    socket.connect((peer, CLOSED_PORT))?;
    Ok(SocketAddr::new(socket.local_addr()?.ip(), port))
}
