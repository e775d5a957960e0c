//! A connection to a port of a pod, through the API server and the kubelet of its node.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use kube::api::Portforwarder;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};

use crate::text::escape::{MAX_REASON, admit};

/// The node's error, once it says one.
type Refusal = Pin<Box<dyn Future<Output = Option<String>> + Send>>;

/// What is said of a port that was closed without a word.
const CLOSED: &str = "the node closed it at once: does the agent's event server run?";

/// A forwarded port as a stream. What the node says went wrong is the error of the next reading:
/// otherwise a port on which nobody listens would look like a server that closes every connection.
pub struct Forward {
    stream: DuplexStream,
    /// Something has come.
    has_answered: bool,
    /// None once it has come to nothing.
    refusal: Option<Refusal>,
    /// Carries the bytes.
    forwarder: Portforwarder,
}

impl Forward {
    /// The stream of this port; none if it was not forwarded.
    pub(super) fn of(mut forwarder: Portforwarder, port: u16) -> Option<Self> {
        let stream = forwarder.take_stream(port)?;
        let refusal = forwarder.take_error(port);
        Some(Self {
            stream,
            has_answered: false,
            refusal: refusal.map(|refusal| Box::pin(refusal) as Refusal),
            forwarder,
        })
    }

    /// What the node says went wrong, if it has said so.
    fn refused(&mut self, context: &mut Context<'_>) -> Option<io::Error> {
        let Poll::Ready(said) = self.refusal.as_mut()?.as_mut().poll(context) else { return None };
        self.refusal = None;
        Some(io::Error::other(admit(said?.trim().to_owned(), MAX_REASON)))
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        // Otherwise it would wait until the API server ends the connection, which may be never.
        self.forwarder.abort();
    }
}

impl AsyncRead for Forward {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        if let Poll::Ready(read) = Pin::new(&mut self.stream).poll_read(context, into) {
            // What came before the error is an answer, too.
            if read.is_ok() && into.filled().len() > before {
                self.has_answered = true;
                return Poll::Ready(read);
            }
            let refusal = self.refused(context).map(Err);
            // The node's word is lost where it closes the connection while the request is on its way.
            let silent = (!self.has_answered).then(|| Err(io::Error::other(CLOSED)));
            return Poll::Ready(refusal.or(silent).unwrap_or(read));
        }
        match self.refused(context) {
            Some(refusal) => Poll::Ready(Err(refusal)),
            None => Poll::Pending,
        }
    }
}

impl AsyncWrite for Forward {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
