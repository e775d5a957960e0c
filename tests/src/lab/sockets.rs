//! What tests do with sockets again and again.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd as _};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{setsockopt, sockopt};

use super::{Connection, Namespace};

/// No step of an exchange takes longer, unless a fault stops it for good: a machine may stand still
/// for a moment.
pub const PATIENCE: Duration = Duration::from_secs(15);

/// Writes until nothing more fits; the stream does not block from then on. Returns the bytes.
///
/// # Errors
/// If the stream cannot be made non-blocking.
pub fn fill(stream: &TcpStream) -> Result<usize> {
    stream.set_nonblocking(true)?;
    let (mut to, mut sum) = (stream, 0);
    while let Ok(n @ 1..) = to.write(&[0; 65536]) {
        sum += n;
    }
    Ok(sum)
}

/// Writes far more than gets through, without waiting: some of it fits into the buffers.
///
/// # Errors
/// If the stream cannot be made non-blocking, or nothing can be written.
pub fn start_upload(mut stream: &TcpStream) -> Result<()> {
    stream.set_nonblocking(true)?;
    stream.write(&[0; 100_000]).map(drop).map_err(Into::into)
}

/// Waits until the peer resets a connection on which nothing was left to be read.
///
/// # Errors
/// If anything else comes, or nothing for long.
pub fn expect_reset(mut stream: &TcpStream) -> Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    match stream.read(&mut [0]) {
        Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(()),
        other => bail!("expected a reset, got {other:?}"),
    }
}

/// Waits until a connected socket is told that nobody listens where its datagrams go.
///
/// # Errors
/// If anything else comes, or nothing for long.
pub fn expect_refusal(socket: &UdpSocket) -> Result<()> {
    socket.set_read_timeout(Some(PATIENCE))?;
    match socket.recv(&mut [0]) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => Ok(()),
        other => bail!("expected to be refused, got {other:?}"),
    }
}

/// The proof that datagrams were lost: what was sent could have arrived by now.
///
/// # Errors
/// If one arrived.
pub fn got_nothing(socket: &UdpSocket) -> Result<()> {
    socket.set_nonblocking(true)?;
    match socket.recv(&mut [0]) {
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(()),
        other => bail!("something arrived: {other:?}"),
    }
}

/// Makes `close` send a reset instead of a FIN (`SO_LINGER` with time 0).
///
/// # Errors
/// If the kernel refuses the option.
pub fn reset_on_close(stream: &impl AsFd) -> Result<()> {
    Ok(setsockopt(stream, sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 0 })?)
}

/// Closes a connection without a word to its peer, as after a power failure: what a socket under
/// repair does.
///
/// # Errors
/// If the kernel refuses the option.
pub fn forget(stream: TcpStream) -> Result<()> {
    set_option(&stream, libc::IPPROTO_TCP, libc::TCP_REPAIR, &1_i32)
}

/// Asks every second whether the peer is there, and gives up after so many answers that do not come.
///
/// # Errors
/// If the kernel refuses an option.
pub fn keep_alive(stream: &TcpStream, probes: u32) -> Result<()> {
    setsockopt(stream, sockopt::KeepAlive, &true)?;
    setsockopt(stream, sockopt::TcpKeepIdle, &1)?;
    setsockopt(stream, sockopt::TcpKeepInterval, &1)?;
    Ok(setsockopt(stream, sockopt::TcpKeepCount, &probes)?)
}

/// Attaches a filter that wants nothing to a socket: one instruction of classic BPF, return 0.
///
/// # Errors
/// If the kernel refuses it.
pub fn want_nothing(socket: &impl AsFd) -> Result<()> {
    let mut instruction = libc::sock_filter { code: 6, jt: 0, jf: 0, k: 0 };
    let program = libc::sock_fprog { len: 1, filter: &raw mut instruction };
    set_option(socket, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &program)
}

/// Lets packets of a socket take so many hops.
///
/// # Errors
/// If the kernel refuses the option.
pub fn allow_hops(socket: &UdpSocket, hops: i32) -> Result<()> {
    match socket.local_addr()? {
        SocketAddr::V4(_) => set_option(socket, libc::IPPROTO_IP, libc::IP_TTL, &hops),
        SocketAddr::V6(_) => set_option(socket, libc::IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS, &hops),
    }
}

/// Sends so many times 20 kB while the other side reads, and ends the client's side.
///
/// # Errors
/// If not all of it arrives.
pub fn send_and_read(connection: &Connection, times: u32, pause: Duration) -> Result<()> {
    let (mut from, mut to) = (connection.client.try_clone()?, connection.server.try_clone()?);
    from.set_write_timeout(Some(PATIENCE))?;
    to.set_read_timeout(Some(PATIENCE))?;
    let reader = std::thread::spawn(move || {
        let mut sum = 0;
        while let Ok(n @ 1..) = to.read(&mut [0; 65536]) {
            sum += n;
        }
        sum
    });
    for _ in 0..times {
        from.write_all(&[0; 20_000])?;
        sleep(pause);
    }
    from.shutdown(Shutdown::Write)?;
    let arrived = reader.join().expect("reading does not panic");
    ensure!(arrived == times as usize * 20_000, "{arrived} bytes arrived");
    Ok(())
}

/// Makes a link send each segment as a packet of its own: a firewall and a narrow link see
/// segments only after they were cut, if the sender does not leave that to its device.
///
/// # Errors
/// If `ip` fails.
pub fn one_packet_per_segment(at: &Namespace) -> Result<()> {
    at.ip("link set dev eth0 gso_max_segs 1").map(drop)
}

/// Sets a socket option that nix does not know, or not with this value.
///
/// # Errors
/// If the kernel refuses it.
pub fn set_option<T>(socket: &impl AsFd, level: i32, option: i32, value: &T) -> Result<()> {
    let fd = socket.as_fd().as_raw_fd();
    let length = size_of::<T>() as libc::socklen_t;
    // SAFETY: a pointer to a live value with its size, which the kernel reads.
    let result = unsafe { libc::setsockopt(fd, level, option, (&raw const *value).cast(), length) };
    Ok(Errno::result(result).map(drop)?)
}
