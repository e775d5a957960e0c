//! What an application does with its sockets, in a process that a test can stop, kill, throttle and
//! put into cgroups: `actor PART ADDRESS [BACKLOG]`.
//!
//! | part | what it does |
//! |---|---|
//! | `echo` | accepts, and sends back what it receives |
//! | `sink` | accepts, and never reads |
//! | `connect` | connects |
//!
//! It waits for one line before it opens a socket, says `ready` when it has it, and ends with the
//! end of its standard input.

use std::io::{Read as _, Write as _, stdin};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::thread;

use anyhow::{Context as _, Result, bail};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, listen, setsockopt, socket, sockopt,
};

const USAGE: &str = "usage: actor echo|sink|connect ADDRESS [BACKLOG]";

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [part, at, rest @ ..] = args.as_slice() else { bail!(USAGE) };
    let at: SocketAddr = at.parse().context(USAGE)?;
    let backlog = rest.first().map_or(Ok(128), |text| text.parse()).context(USAGE)?;
    stdin().read_line(&mut String::new())?;
    match part.as_str() {
        "echo" => serve(at, backlog, echo)?,
        "sink" => serve(at, backlog, |stream| std::mem::forget(stream))?,
        "connect" => {
            thread::spawn(move || TcpStream::connect(at).map(std::mem::forget));
        }
        _ => bail!(USAGE),
    }
    println!("ready");
    stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

fn serve(at: SocketAddr, backlog: i32, each: fn(TcpStream)) -> Result<()> {
    let family = if at.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let listener: OwnedFd = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    setsockopt(&listener, sockopt::ReuseAddr, &true)?;
    bind(listener.as_raw_fd(), &SockaddrStorage::from(at))?;
    listen(&listener, Backlog::new(backlog)?)?;
    let listener = TcpListener::from(listener);
    thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            thread::spawn(move || each(stream));
        }
    });
    Ok(())
}

fn echo(mut stream: TcpStream) {
    let mut data = [0; 65536];
    while let Ok(length @ 1..) = stream.read(&mut data) {
        if stream.write_all(&data[..length]).is_err() {
            return;
        }
    }
}
