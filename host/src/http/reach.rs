//! An event server as its client knows it: what people call it, and how a connection to it is made.
//!
//! Either it has an address, or somebody else makes the connection: whoever asks in a cluster passes a
//! closure that goes through the API server. So this adapter does not know who that is.

use std::error::Error;
use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use crate::config::address::Address;

/// A connection, whatever carries it.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// A connection that is being made.
pub type Opening = Pin<Box<dyn Future<Output = Result<Box<dyn Stream>, Unopened>> + Send>>;

/// Makes a new connection each time.
pub type Opener = Arc<dyn Fn() -> Opening + Send + Sync>;

/// Why an [`Opener`] makes no connection.
#[derive(Debug)]
pub struct Unopened {
    /// What it says; it names what is in the way.
    pub why: Box<dyn Error + Send + Sync>,
    /// Trying again would end the same.
    pub is_final: bool,
}

/// Why there is no connection.
#[derive(Debug)]
pub(super) enum NoStream {
    /// What the system says of an address.
    Refused(io::Error),
    /// What an [`Opener`] says.
    Unopened(Unopened),
}

/// An event server.
#[derive(Clone)]
pub struct Server {
    name: Arc<str>,
    opener: Option<Opener>,
}

impl Server {
    /// One with an address, by which it is called.
    pub fn at(address: &Address) -> Self {
        Self { name: address.to_string().into(), opener: None }
    }

    /// The one of a node, which somebody else connects to.
    pub fn of_node(node: &str, opener: Opener) -> Self {
        Self { name: node.into(), opener: Some(opener) }
    }

    /// What people call it: its address, or its node.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// The name of its node, if it is called by that.
    pub fn node(&self) -> Option<&str> {
        self.opener.is_some().then_some(&self.name)
    }

    /// What goes into the header of that name, where a node's may be no host.
    pub(super) fn host(&self) -> &str {
        if self.opener.is_some() { "localhost" } else { &self.name }
    }

    pub(super) async fn connect(&self) -> Result<Box<dyn Stream>, NoStream> {
        let stream = match (&self.opener, self.name.strip_prefix(':')) {
            (Some(open), _) => return open().await.map_err(NoStream::Unopened),
            (None, Some(port)) => TcpStream::connect(format!("localhost:{port}")).await,
            (None, None) => TcpStream::connect(&*self.name).await,
        };
        Ok(Box::new(stream.map_err(NoStream::Refused)?))
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}
