//! A small HTTP gateway that keeps connections to its upstream, and such an upstream.
//!
//! Both are in namespaces of the lab; their threads end with the process.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::Namespace;
use super::sockets::reset_on_close;

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: lab\r\n\r\n";
const FINE: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
const BAD_GATEWAY: &[u8] = b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n";

/// Answers every request, and resets a connection that was idle for so long. Returns its address.
///
/// # Errors
/// If the namespace does not have the address.
pub fn upstream(at: &Namespace, ip: IpAddr, idle: Duration) -> Result<SocketAddr> {
    serve(at.listen((ip, 0))?, move |mut stream| {
        stream.set_read_timeout(Some(idle))?;
        loop {
            match head(&mut stream) {
                Ok(true) => stream.write_all(FINE)?,
                Ok(false) => return Ok(()),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error.into()),
            }
        }
        reset_on_close(&stream)
    })
}

/// Passes the requests of each client on, through one connection per client that it trusts to be
/// still there, and answers 502 if it is not. Returns its address.
///
/// # Errors
/// If the namespace does not have the address.
pub fn gateway(at: &Namespace, ip: IpAddr, upstream: SocketAddr) -> Result<SocketAddr> {
    let listener = at.listen((ip, 0))?;
    // Threads are in the namespace of the thread that starts them.
    at.run(|| {
        serve(listener, move |mut client| {
            let mut kept = None;
            while head(&mut client)? {
                let fresh = || TcpStream::connect(upstream);
                let mut stream = kept.take().map_or_else(fresh, Ok)?;
                if ask(&mut stream).is_ok() {
                    client.write_all(FINE)?;
                    kept = Some(stream);
                } else {
                    client.write_all(BAD_GATEWAY)?;
                }
            }
            Ok(())
        })
    })
}

/// Sends one request and returns the status of its answer.
///
/// # Errors
/// If none comes.
pub fn ask(stream: &mut TcpStream) -> Result<u16> {
    stream.write_all(GET)?;
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        ensure!(stream.read(&mut byte)? == 1, "the connection ended");
        answer.extend(byte);
    }
    let text = String::from_utf8_lossy(&answer);
    text.split(' ').nth(1).and_then(|status| status.parse().ok()).context("no status")
}

fn serve(
    listener: TcpListener,
    each: impl Fn(TcpStream) -> Result<()> + Clone + Send + 'static,
) -> Result<SocketAddr> {
    let at = listener.local_addr()?;
    thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            let each = each.clone();
            // A peer that breaks off ends its own connection only.
            thread::spawn(move || drop(each(stream)));
        }
    });
    Ok(at)
}

/// Reads the head of a request; false at the end of the connection.
fn head(stream: &mut TcpStream) -> std::io::Result<bool> {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        if stream.read(&mut byte)? == 0 {
            return Ok(false);
        }
        request.extend(byte);
    }
    Ok(true)
}
