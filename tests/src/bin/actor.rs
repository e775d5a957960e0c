//! What an application does with its sockets, in a process that a test can stop, kill, throttle and
//! put into cgroups: `actor PART ADDRESS [BACKLOG]`.
//!
//! | part | what it does |
//! |---|---|
//! | `echo` | accepts, and sends back what it receives |
//! | `work` | accepts one after the other, and answers each after 5 ms of work |
//! | `sink` | accepts, and never reads |
//! | `connect` | connects |
//!
//! It waits for one line before it opens a socket, says `ready` when it has it, and ends with the
//! end of its standard input.

use std::io::{Read as _, Write as _, stdin};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, listen, setsockopt, socket, sockopt,
};
use nix::time::{ClockId, clock_gettime};

/// What an answer of `work` costs.
const WORK: Duration = Duration::from_millis(5);

const USAGE: &str = "usage: actor echo|work|sink|connect ADDRESS [BACKLOG]";

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [part, at, rest @ ..] = args.as_slice() else { bail!(USAGE) };
    let at: SocketAddr = at.parse().context(USAGE)?;
    let backlog = rest.first().map_or(Ok(128), |text| text.parse()).context(USAGE)?;
    stdin().read_line(&mut String::new())?;
    match part.as_str() {
        "echo" => serve(at, backlog, echo, aside)?,
        "work" => serve(at, backlog, |stream| drop(work(stream)), |task| task())?,
        "sink" => serve(at, backlog, std::mem::forget, aside)?,
        "connect" => {
            thread::spawn(move || TcpStream::connect(at).map(std::mem::forget));
        }
        _ => bail!(USAGE),
    }
    println!("ready");
    stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

/// A connection's turn.
type Task = Box<dyn FnOnce() + Send>;

/// Lets each connection have a thread of its own.
fn aside(task: Task) {
    thread::spawn(task);
}

fn serve(at: SocketAddr, backlog: i32, each: fn(TcpStream), run: fn(Task)) -> Result<()> {
    let family = if at.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let listener: OwnedFd = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    setsockopt(&listener, sockopt::ReuseAddr, &true)?;
    bind(listener.as_raw_fd(), &SockaddrStorage::from(at))?;
    listen(&listener, Backlog::new(backlog)?)?;
    let listener = TcpListener::from(listener);
    thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            run(Box::new(move || each(stream)));
        }
    });
    Ok(())
}

fn work(mut stream: TcpStream) -> Result<()> {
    stream.read_exact(&mut [0])?;
    let start = cpu_time()?;
    while cpu_time()? - start < WORK {}
    Ok(stream.write_all(b"!")?)
}

/// What this thread has used: time in which it was not let run is none.
fn cpu_time() -> Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?.into())
}

fn echo(mut stream: TcpStream) {
    let mut data = [0; 65536];
    while let Ok(length @ 1..) = stream.read(&mut data) {
        if stream.write_all(&data[..length]).is_err() {
            return;
        }
    }
}
