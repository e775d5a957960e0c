//! An established TCP connection between the two sides of a pair.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};

use super::{Family, Namespace, Pair};
use anyhow::{Context, Result};

/// Both ends; each lives in its own namespace and may be used from any thread.
#[derive(Debug)]
pub struct Connection {
    /// The end that connected.
    pub client: TcpStream,
    /// The end that was accepted.
    pub server: TcpStream,
    /// Address of the client's end.
    pub client_at: SocketAddr,
    /// Address of the server's end.
    pub server_at: SocketAddr,
}

impl Connection {
    /// Listens at the server, connects from the client, accepts.
    ///
    /// # Errors
    /// If the network refuses any of it.
    pub fn open(pair: &Pair, family: Family) -> Result<Self> {
        Self::to(&pair.client, &pair.server.listen((pair.server_ip(family), 0))?)
    }

    /// Connects from any host to a listener of any other, and accepts.
    ///
    /// # Errors
    /// If the network refuses it.
    pub fn to(from: &Namespace, listener: &TcpListener) -> Result<Self> {
        let server_at = listener.local_addr()?;
        let client = from.connect(server_at)?;
        let (server, client_at) = listener.accept()?;
        Ok(Self { client, server, client_at, server_at })
    }

    /// Sends `up` bytes to the server and `down` bytes back, read completely.
    ///
    /// # Errors
    /// If the connection breaks.
    pub fn exchange(&mut self, up: usize, down: usize) -> Result<()> {
        carry(&mut self.client, &mut self.server, up).context("client to server")?;
        carry(&mut self.server, &mut self.client, down).context("server to client")
    }

    /// Closes in order: the client first, then the server once it has seen the end.
    ///
    /// # Errors
    /// If the server's side breaks before its end of file.
    pub fn close(self) -> Result<()> {
        let Self { client, mut server, .. } = self;
        drop(client);
        server.read_to_end(&mut Vec::new()).context("waiting for the client's FIN")?;
        Ok(())
    }
}

/// Moves `bytes` through a connection that can buffer them.
fn carry(from: &mut TcpStream, to: &mut TcpStream, bytes: usize) -> Result<()> {
    from.write_all(&vec![b'x'; bytes])?;
    to.read_exact(&mut vec![0; bytes])?;
    Ok(())
}
