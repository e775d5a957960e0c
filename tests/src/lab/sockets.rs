//! What tests do with sockets again and again.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Shutdown, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd as _};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Result, ensure};
use nix::errno::Errno;
use nix::libc;

use super::{Connection, Namespace};

/// No step of a transfer takes longer, unless the fault stops it for good.
const PATIENCE: Duration = Duration::from_secs(15);

/// A listener in a namespace, at a port that the kernel chooses.
///
/// # Errors
/// If the namespace does not have the address.
pub fn listener(at: &Namespace, ip: IpAddr) -> Result<TcpListener> {
    at.run(|| Ok(TcpListener::bind((ip, 0))?))
}

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
