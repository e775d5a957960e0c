//! Accepts connections and hands their requests to a handler, within limits.
//!
//! A client has [`HEADER_TIMEOUT`] to say what it wants and [`STALL_TIMEOUT`] to take what it is
//! sent. Where there are too many, [`Connections`] decides who has to go; only if all of them are being
//! answered, one more is told so and closed. Shutdown is a future that is passed in; what is being
//! answered then has [`GRACE`] to finish.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::{Body as _, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use nix::sys::socket::{
    setsockopt,
    sockopt::{SndBuf, TcpUserTimeout},
};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::Bound;
use super::body::{Body, Told};
use super::connections::{Connection, Connections};
use super::socket::Socket;

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
    connections: Arc<Connections>,
    handler: H,
    shutdown: impl Future<Output = ()>,
) where
    H: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let (close, closed) = watch::channel(false);
    let mut servers = JoinSet::new();
    for bound in listeners {
        servers.spawn(accept(bound, Arc::clone(&connections), handler.clone(), closed.clone()));
    }
    shutdown.await;
    close.send_replace(true);
    while servers.join_next().await.is_some() {}
}

async fn accept<H, F>(
    bound: Bound,
    connections: Arc<Connections>,
    handler: H,
    mut closed: watch::Receiver<bool>,
) where
    H: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let address = bound.address;
    let listener = match TcpListener::from_std(bound.listener) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(%address, %error, "cannot serve"),
    };
    let mut clients = JoinSet::new();
    let closing = closed.clone();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => match connections.open(peer.ip()) {
                    Some(connection) => {
                        clients.spawn(attend(stream, connection, handler.clone(), closing.clone()));
                    }
                    None => refuse(&stream),
                },
                Err(error) => {
                    tracing::warn!(%address, %error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
            Some(_) = clients.join_next() => {}
            _ = closed.changed() => break,
        }
    }
    drop(listener);
    let finish = async { while clients.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(2 * GRACE, finish).await;
}

async fn attend<H, F>(
    stream: TcpStream,
    connection: Arc<Connection>,
    handler: H,
    mut closed: watch::Receiver<bool>,
) where
    H: Fn(Request<Incoming>) -> F,
    F: Future<Output = Response<Body>>,
{
    // Lines are sent as they come. No option is needed for a right answer.
    let _ = stream.set_nodelay(true);
    let _ = setsockopt(&stream, SndBuf, &SEND_BUFFER);
    let _ = setsockopt(&stream, TcpUserTimeout, &(STALL_TIMEOUT.as_millis() as u32));
    let service = service_fn(|mut request: Request<Incoming>| {
        // A request with a body is there when that is: whoever reads it says so.
        if request.body().is_end_stream() {
            connection.answers();
        }
        request.extensions_mut().insert(Arc::clone(&connection));
        let response = handler(request);
        async { Ok::<_, Infallible>(response.await.map(|body| Told::new(body, Arc::clone(&connection)))) }
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
    builder.max_headers(MAX_HEADERS).max_buf_size(MAX_HEADER_BYTES);
    let socket = Socket { stream, connection: Arc::clone(&connection) };
    let exchange = builder.serve_connection(TokioIo::new(socket), service);
    tokio::pin!(exchange);
    tokio::select! {
        // Its errors are the client's: it went away, was too slow, or speaks no HTTP.
        _ = exchange.as_mut() => return,
        () = connection.has_to_go() => return,
        _ = closed.changed() => exchange.as_mut().graceful_shutdown(),
    }
    let _ = tokio::time::timeout(GRACE, exchange).await;
}

/// Says why before closing, if that does not take any waiting.
fn refuse(stream: &TcpStream) {
    let answer = b"HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
    let _ = stream.try_write(answer);
}
