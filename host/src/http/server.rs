//! Accepts connections and hands their requests to a handler, within limits.
//!
//! A client has [`HEADER_TIMEOUT`] to say what it wants and [`STALL_TIMEOUT`] to take what it is
//! sent; one connection more than the limit is told so and closed. Shutdown is a future that is
//! passed in; what is being answered then has [`GRACE`] to finish.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use nix::sys::socket::{
    setsockopt,
    sockopt::{SndBuf, TcpUserTimeout},
};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;

use super::Bound;
use super::body::Body;

/// Time to send the header of a request, also for the next one on the same connection.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// Time a client may leave unread what it was sent, before the kernel closes the connection.
const STALL_TIMEOUT: Duration = Duration::from_secs(20);
/// Bytes that the kernel may hold for a client that does not read; it doubles them (`socket(7)`).
const SEND_BUFFER: usize = 128 << 10;
/// Bytes and number of a request's headers.
const MAX_HEADER_BYTES: usize = 16 << 10;
const MAX_HEADERS: usize = 64;
/// Time that answers have to finish at shutdown.
const GRACE: Duration = Duration::from_millis(500);
/// Pause after a failed accept: without file descriptors left it would fail again at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves all listeners until `shutdown` is ready.
pub(super) async fn serve<H, F>(
    listeners: Vec<Bound>,
    max_connections: usize,
    handler: H,
    shutdown: impl Future<Output = ()>,
) where
    H: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let slots = Arc::new(Semaphore::new(max_connections));
    let (close, closed) = watch::channel(false);
    let mut servers = JoinSet::new();
    for bound in listeners {
        servers.spawn(accept(bound, Arc::clone(&slots), handler.clone(), closed.clone()));
    }
    shutdown.await;
    close.send_replace(true);
    while servers.join_next().await.is_some() {}
}

async fn accept<H, F>(bound: Bound, slots: Arc<Semaphore>, handler: H, mut closed: watch::Receiver<bool>)
where
    H: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let address = bound.address;
    let listener = match TcpListener::from_std(bound.listener) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(%address, %error, "cannot serve"),
    };
    let mut connections = JoinSet::new();
    let closing = closed.clone();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => match Arc::clone(&slots).try_acquire_owned() {
                    Ok(slot) => {
                        connections.spawn(connection(stream, slot, handler.clone(), closing.clone()));
                    }
                    Err(_) => refuse(&stream),
                },
                Err(error) => {
                    tracing::warn!(%address, %error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
            Some(_) = connections.join_next() => {}
            _ = closed.changed() => break,
        }
    }
    drop(listener);
    let finish = async { while connections.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(2 * GRACE, finish).await;
}

async fn connection<H, F>(
    stream: TcpStream,
    slot: OwnedSemaphorePermit,
    handler: H,
    mut closed: watch::Receiver<bool>,
) where
    H: Fn(Request<Incoming>) -> F,
    F: Future<Output = Response<Body>>,
{
    let _slot = slot;
    // Lines are sent as they come. No option is needed for a right answer.
    let _ = stream.set_nodelay(true);
    let _ = setsockopt(&stream, SndBuf, &SEND_BUFFER);
    let _ = setsockopt(&stream, TcpUserTimeout, &(STALL_TIMEOUT.as_millis() as u32));
    let service = service_fn(|request| {
        let response = handler(request);
        async { Ok::<_, Infallible>(response.await) }
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
    builder.max_headers(MAX_HEADERS).max_buf_size(MAX_HEADER_BYTES);
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    tokio::select! {
        // Its errors are the client's: it went away, was too slow, or speaks no HTTP.
        _ = connection.as_mut() => return,
        _ = closed.changed() => connection.as_mut().graceful_shutdown(),
    }
    let _ = tokio::time::timeout(GRACE, connection).await;
}

/// Says why before closing, if that does not take any waiting.
fn refuse(stream: &TcpStream) {
    let answer = b"HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
    let _ = stream.try_write(answer);
}
