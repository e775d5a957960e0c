//! What a client of the agent's servers receives: plain HTTP/1.1 over a blocking socket.
//!
//! Written by hand, so that the tests do not see the product through its own HTTP library.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// No answer takes longer than this; streams have no such limit.
const TIMEOUT: Duration = Duration::from_secs(20);

/// A complete answer.
#[derive(Debug)]
pub struct Response {
    /// Status code.
    pub status: u16,
    /// `Content-Type`, empty if there is none.
    pub content_type: String,
    /// The body.
    pub body: String,
}

/// Asks for one page; `accept` is the value of that header.
///
/// # Errors
/// If the server cannot be reached or does not speak HTTP.
pub fn get(at: SocketAddr, path: &str, accept: &str) -> Result<Response> {
    let stream = TcpStream::connect(at)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    let mut answer = Answer::to(stream, path, accept)?;
    let mut body = String::new();
    answer.body.read_to_string(&mut body).with_context(|| format!("GET http://{at}{path}"))?;
    Ok(Response { status: answer.status, content_type: answer.content_type, body })
}

/// Posts one JSON document.
///
/// # Errors
/// If the server cannot be reached or does not speak HTTP.
pub fn post(at: SocketAddr, path: &str, document: &Value) -> Result<Response> {
    let stream = TcpStream::connect(at)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    let mut answer = Answer::of(stream, "POST", path, "application/json", &document.to_string())?;
    let mut body = String::new();
    answer.body.read_to_string(&mut body).with_context(|| format!("POST http://{at}{path}"))?;
    Ok(Response { status: answer.status, content_type: answer.content_type, body })
}

/// Asks for one JSON document.
///
/// # Errors
/// If the status is not 200 or the body is no JSON.
pub fn get_json(at: SocketAddr, path: &str) -> Result<Value> {
    let response = get(at, path, "application/json")?;
    ensure!(response.status == 200, "GET {path}: {} {}", response.status, response.body);
    serde_json::from_str(&response.body).with_context(|| format!("GET {path}: {}", response.body))
}

/// A stream of events, read as fast as they come until the value is dropped.
#[derive(Debug)]
pub struct EventStream {
    socket: TcpStream,
    lines: Arc<Mutex<Vec<Value>>>,
    reader: Option<JoinHandle<()>>,
}

impl EventStream {
    /// Follows `/api/v1/events` with a query such as `type=PACKETLOSS`.
    ///
    /// # Errors
    /// If the server does not answer with status 200.
    pub fn open(at: SocketAddr, query: &str) -> Result<Self> {
        let socket = TcpStream::connect(at)?;
        let answer = Answer::to(socket.try_clone()?, &format!("/api/v1/events?{query}"), "*/*")?;
        ensure!(answer.status == 200, "the event stream answers {}", answer.status);
        let lines = Arc::default();
        let reader = std::thread::spawn({
            let lines = Arc::clone(&lines);
            move || collect(answer.body, &lines)
        });
        Ok(Self { socket, lines, reader: Some(reader) })
    }

    /// Everything received so far, in order; in-band losses are objects with the member `lost`.
    pub fn received(&self) -> Vec<Value> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for EventStream {
    fn drop(&mut self) {
        // Ends the reader's blocking read; a connection that is gone already needs no shutdown.
        drop(self.socket.shutdown(Shutdown::Both));
        drop(self.reader.take().map(JoinHandle::join));
    }
}

fn collect(body: impl Read, lines: &Mutex<Vec<Value>>) {
    for line in BufReader::new(body).lines().map_while(Result::ok).filter(|line| !line.is_empty()) {
        let value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error} in {line:?}"));
        lines.lock().unwrap_or_else(PoisonError::into_inner).push(value);
    }
}

/// Head of an answer, and the rest of it unread.
struct Answer {
    status: u16,
    content_type: String,
    body: Box<dyn Read + Send>,
}

impl Answer {
    fn to(stream: TcpStream, path: &str, accept: &str) -> Result<Self> {
        Self::of(stream, "GET", path, accept, "")
    }

    fn of(mut stream: TcpStream, method: &str, path: &str, accept: &str, body: &str) -> Result<Self> {
        let head = format!("{method} {path} HTTP/1.1\r\nHost: test\r\nAccept: {accept}\r\nConnection: close");
        let length =
            if body.is_empty() { String::new() } else { format!("\r\nContent-Length: {}", body.len()) };
        write!(stream, "{head}{length}\r\n\r\n{body}")?;
        let mut input = BufReader::new(stream);
        let first = header_line(&mut input)?;
        let status = first.split(' ').nth(1).and_then(|code| code.parse().ok());
        let status = status.with_context(|| format!("no status in {first:?}"))?;
        let (mut content_type, mut chunked) = (String::new(), false);
        loop {
            let line = header_line(&mut input)?;
            let Some((name, value)) = line.split_once(':') else { break };
            match name.to_ascii_lowercase().as_str() {
                "content-type" => content_type = value.trim().to_owned(),
                "transfer-encoding" => chunked = value.trim().eq_ignore_ascii_case("chunked"),
                _ => {}
            }
        }
        // `Connection: close` was asked for, so that what is not chunked ends with the connection.
        let body: Box<dyn Read + Send> =
            if chunked { Box::new(Chunks { input, left: 0, first: true }) } else { Box::new(input) };
        Ok(Self { status, content_type, body })
    }
}

fn header_line(input: &mut impl BufRead) -> Result<String> {
    let mut line = String::new();
    ensure!(input.read_line(&mut line)? > 0, "the server closed the connection within the header");
    Ok(line.trim_end().to_owned())
}

/// Decodes `Transfer-Encoding: chunked`.
struct Chunks<R> {
    input: R,
    left: usize,
    first: bool,
}

impl<R: BufRead> Read for Chunks<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.left == 0 {
            self.left = self.next_size()?;
            self.first = false;
        }
        let wanted = buffer.len().min(self.left);
        let read = self.input.read(&mut buffer[..wanted])?;
        self.left -= read;
        Ok(read)
    }
}

impl<R: BufRead> Chunks<R> {
    /// Size of the next chunk; 0 at the end, for ever.
    fn next_size(&mut self) -> std::io::Result<usize> {
        let mut line = String::new();
        if !self.first {
            self.input.read_line(&mut line)?;
            line.clear();
        }
        self.input.read_line(&mut line)?;
        let size = line.trim().split(';').next().unwrap_or_default();
        Ok(usize::from_str_radix(size, 16).unwrap_or(0))
    }
}
