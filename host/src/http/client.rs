//! A client of the event server, for the command line.
//!
//! The server may be broken or hostile: what it sends is bounded in size and time, and nothing
//! here trusts it. Text is returned as it came; who shows it escapes it.

use std::io;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::reach::{NoStream, Server};
use crate::text::cause;

/// Maximum bytes of a line of a stream.
pub const MAX_LINE: usize = 64 << 10;
/// Maximum bytes of an answer that is not a stream: what 30 000 namespaces take. Dozens of servers may
/// be asked at once, and all of them may lie.
const MAX_ANSWER: usize = 16 << 20;
/// Maximum bytes of one text in an answer; the rest is cut.
const MAX_TEXT: usize = 16 << 10;
/// Maximum bytes of an error message; the rest is cut.
const MAX_MESSAGE: usize = 4 << 10;
/// Time until a server must have accepted, and until it must have begun to answer.
const BEGIN: Duration = Duration::from_secs(5);
/// Time until an answer that is not a stream must be there.
const ANSWER: Duration = Duration::from_secs(30);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody listens there, or nobody can be reached.
    #[error("cannot connect to {server}")]
    Connect {
        /// As it was asked for.
        server: String,
        /// What the system says.
        source: io::Error,
    },
    /// Whoever makes the connections to this server makes none.
    #[error("{why}")]
    Unopened {
        /// What they say, with its causes.
        why: String,
        /// Trying again would end the same.
        is_final: bool,
    },
    /// The server said nothing for too long.
    #[error("{0} does not answer")]
    Timeout(String),
    /// The path is no part of an address.
    #[error("not a path")]
    Path(#[source] http::Error),
    /// The connection broke, or the server speaks no HTTP.
    #[error("connection broken")]
    Broken(#[source] hyper::Error),
    /// The server refused.
    #[error("the server answered {status}: {message}")]
    Status {
        /// HTTP status.
        status: u16,
        /// What the server says about it.
        message: String,
    },
    /// The answer, or a line of it, is longer than anything an agent sends.
    #[error("the server sends more than is sensible")]
    TooLong,
    /// The answer is not what was asked for.
    #[error("the server sends no valid JSON")]
    Json(#[source] serde_json::Error),
}

impl Error {
    /// Whether asking again would give the same answer.
    pub fn is_refusal(&self) -> bool {
        matches!(
            self,
            Self::Path(_) | Self::Status { status: 400..500, .. } | Self::Unopened { is_final: true, .. }
        )
    }
}

/// A stream of lines.
#[derive(Debug)]
pub struct Lines {
    body: Incoming,
    /// What came and is not a whole line yet.
    pending: BytesMut,
    _connection: Connection,
}

/// Drives a connection, which ends when this is dropped.
#[derive(Debug)]
struct Connection(JoinHandle<()>);

/// Asks for one value.
///
/// # Errors
/// See [`Error`].
pub async fn get_json<T: DeserializeOwned>(server: &Server, path: &str) -> Result<T, Error> {
    let answer = async {
        let (response, _connection) = get(server, path).await?;
        let bytes = collect(response.into_body(), MAX_ANSWER).await?;
        read(&bytes)
    };
    timeout(ANSWER, answer).await.map_err(|_| timed_out(server))?
}

/// Asks a question and waits for its answer, at most `patience`.
///
/// # Errors
/// See [`Error`].
pub async fn post_json<Q: Serialize, A: DeserializeOwned>(
    server: &Server,
    path: &str,
    question: &Q,
    patience: Duration,
) -> Result<A, Error> {
    let question = serde_json::to_vec(question).map_err(Error::Json)?;
    let answer = async {
        let request =
            Request::post(path).header(HOST, server.host()).header(CONTENT_TYPE, "application/json");
        let request = request.body(Full::new(Bytes::from(question))).map_err(Error::Path)?;
        let (response, _connection) = begin(server, request, patience).await?;
        let bytes = collect(response.into_body(), MAX_ANSWER).await?;
        read(&bytes)
    };
    timeout(patience, answer).await.map_err(|_| timed_out(server))?
}

/// Opens a stream of lines.
///
/// # Errors
/// See [`Error`].
pub async fn lines(server: &Server, path: &str) -> Result<Lines, Error> {
    let (response, connection) = get(server, path).await?;
    Ok(Lines { body: response.into_body(), pending: BytesMut::new(), _connection: connection })
}

impl Lines {
    /// The next line, without its line feed; `None` when the server ends the stream. Waits as long
    /// as it takes; the future may be dropped without loss.
    ///
    /// # Errors
    /// A line longer than [`MAX_LINE`], or a broken connection.
    pub async fn next(&mut self) -> Result<Option<String>, Error> {
        let mut searched = 0;
        loop {
            if let Some(found) = self.pending[searched..].iter().position(|byte| *byte == b'\n') {
                let line = self.pending.split_to(searched + found + 1);
                return Ok(Some(String::from_utf8_lossy(&line[..line.len() - 1]).into_owned()));
            }
            searched = self.pending.len();
            if searched > MAX_LINE {
                return Err(Error::TooLong);
            }
            match self.body.frame().await {
                // What is pending is a line that was cut off.
                None => return Ok(None),
                Some(frame) => {
                    if let Ok(data) = frame.map_err(Error::Broken)?.into_data() {
                        self.pending.extend_from_slice(&data);
                    }
                }
            }
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Reads an answer, every text of it cut: whoever shows it need not expect a name of a megabyte.
fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Error> {
    let mut answer: Value = serde_json::from_slice(bytes).map_err(Error::Json)?;
    cut_texts(&mut answer);
    T::deserialize(answer).map_err(Error::Json)
}

/// The depth is bounded by serde_json.
fn cut_texts(value: &mut Value) {
    match value {
        Value::String(text) => text.truncate(text.floor_char_boundary(MAX_TEXT)),
        Value::Array(values) => values.iter_mut().for_each(cut_texts),
        Value::Object(members) => {
            // No agent has such a name, so nobody asks for it.
            members.retain(|name, _| name.len() <= MAX_TEXT);
            members.values_mut().for_each(cut_texts);
        }
        _ => {}
    }
}

async fn get(server: &Server, path: &str) -> Result<(Response<Incoming>, Connection), Error> {
    let request = Request::get(path).header(HOST, server.host()).body(Full::default());
    begin(server, request.map_err(Error::Path)?, BEGIN).await
}

/// Connects and waits until the server begins to answer.
async fn begin(
    server: &Server,
    request: Request<Full<Bytes>>,
    patience: Duration,
) -> Result<(Response<Incoming>, Connection), Error> {
    let begin = async {
        // A node's server is reached through others, which are waited for as long as for the answer.
        let within = if server.node().is_some() { patience } else { BEGIN };
        let stream = timeout(within, server.connect()).await.map_err(|_| timed_out(server))?;
        let io = TokioIo::new(stream.map_err(|why| no_stream(server, why))?);
        let (mut sender, connection) = http1::handshake(io).await.map_err(Error::Broken)?;
        // Its error comes to whoever waits for the answer as well.
        let connection = Connection(tokio::spawn(async { drop(connection.await) }));
        let response = sender.send_request(request).await.map_err(Error::Broken)?;
        Ok((response, connection))
    };
    let begun = timeout(patience, begin).await.map_err(|_| timed_out(server))?;
    let (response, connection) = begun?;
    if response.status().is_success() {
        return Ok((response, connection));
    }
    let status = response.status().as_u16();
    let message = timeout(BEGIN, collect(response.into_body(), MAX_MESSAGE)).await;
    Err(Error::Status { status, message: message.ok().and_then(Result::ok).map_or_else(String::new, said) })
}

fn timed_out(server: &Server) -> Error {
    Error::Timeout(server.name().to_string())
}

fn no_stream(server: &Server, why: NoStream) -> Error {
    match why {
        NoStream::Refused(source) => Error::Connect { server: server.name().to_string(), source },
        NoStream::Unopened(unopened) => {
            Error::Unopened { why: cause::chain(&*unopened.why), is_final: unopened.is_final }
        }
    }
}

async fn collect(body: Incoming, max: usize) -> Result<Bytes, Error> {
    match Limited::new(body, max).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) => Err(error.downcast().map_or(Error::TooLong, |broken| Error::Broken(*broken))),
    }
}

/// An error with its causes, on one line.
pub fn chain(error: &Error) -> String {
    cause::chain(error)
}

/// What an error answer says: the text behind `error`, or all of it.
fn said(bytes: Bytes) -> String {
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let value: Option<Value> = serde_json::from_str(&text).ok();
    let error = value.as_ref().and_then(|value| value.get("error")?.as_str());
    error.map_or(text.clone(), str::to_owned)
}
