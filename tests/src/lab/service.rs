//! A server of the lab with a thread for each connection, and what its clients ask.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd as _;
use std::thread::{self, sleep};
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::sys::socket::{Shutdown, shutdown};

use super::Scene;

/// Bytes of a request and of its answer.
pub const LENGTH: usize = 100;

/// It accepts until it is dropped.
#[derive(Debug)]
pub struct Service {
    listener: TcpListener,
    /// Where it listens.
    pub at: SocketAddr,
}

impl Service {
    /// At the server of a scene, with what it does for each connection.
    ///
    /// # Errors
    /// If the server's address is gone.
    pub fn start(scene: &Scene, each: impl Fn(TcpStream) + Clone + Send + 'static) -> Result<Self> {
        Self::serve(scene.listener()?, each)
    }

    /// On a listener.
    ///
    /// # Errors
    /// If there are no descriptors left.
    pub fn serve(listener: TcpListener, each: impl Fn(TcpStream) + Clone + Send + 'static) -> Result<Self> {
        let (accepting, at) = (listener.try_clone()?, listener.local_addr()?);
        thread::spawn(move || {
            while let Ok((stream, _)) = accepting.accept() {
                let each = each.clone();
                thread::spawn(move || each(stream));
            }
        });
        Ok(Self { listener, at })
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // Ends the thread that accepts; its listener is a copy of this one.
        let _ = shutdown(self.listener.as_raw_fd(), Shutdown::Both);
    }
}

/// Answers requests until the client's end of file.
pub fn answer(stream: TcpStream) {
    answer_after(stream, Duration::ZERO);
}

/// [`answer`], each after so long.
pub fn answer_after(mut stream: TcpStream, pause: Duration) {
    let mut request = [0; LENGTH];
    while stream.read_exact(&mut request).is_ok() {
        sleep(pause);
        if stream.write_all(&request).is_err() {
            return;
        }
    }
}

/// One request on a connection that is there.
///
/// # Errors
/// If it is not answered within `patience`.
pub fn ask_on(mut stream: &TcpStream, patience: Duration) -> Result<()> {
    stream.set_read_timeout(Some(patience))?;
    stream.write_all(&[b'?'; LENGTH])?;
    stream.read_exact(&mut [0; LENGTH]).context("the answer")
}

/// One request on a connection of its own, in the namespace of the calling thread.
///
/// # Errors
/// If it is not answered within `patience`.
pub fn ask(to: SocketAddr, patience: Duration) -> Result<()> {
    ask_on(&TcpStream::connect_timeout(&to, patience)?, patience)
}
