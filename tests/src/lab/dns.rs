//! A small real DNS server at the server of a pair, and a client that asks it.
//!
//! What it does is in the name that it is asked for: below `nx.example` nothing exists, below
//! `servfail.example` it fails, below `refused.example` it refuses, below `silent.example` it does
//! not answer, below `late.example` it takes [`LATE`]; all else is found.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::{Family, Pair};

/// Record types.
pub const A: u16 = 1;
/// An IPv6 address.
pub const AAAA: u16 = 28;
/// What [`ask_once`] returns: the name is found,
pub const FOUND: Option<u8> = Some(0);
/// the server fails (SERVFAIL),
pub const FAILED: Option<u8> = Some(2);
/// the name does not exist (NXDOMAIN).
pub const UNKNOWN: Option<u8> = Some(3);
/// How long a late answer takes.
pub const LATE: Duration = Duration::from_millis(300);

const PORT: u16 = 53;
const HEADER: usize = 12;

/// Zones without answers, as labels with their lengths, and the response code of each.
const REFUSALS: [(&[u8], u8); 3] =
    [(b"\x08servfail\x07example\x00", 2), (b"\x02nx\x07example\x00", 3), (b"\x07refused\x07example\x00", 5)];

/// By which transport to ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// One datagram each way.
    Udp,
    /// A connection for one question.
    Tcp,
}

/// A server on both address families; its threads end with the process.
#[derive(Debug)]
pub struct Resolver<'a> {
    pair: &'a Pair,
}

/// One question and what is known of it.
#[derive(Debug)]
pub struct Asked {
    /// The client's address.
    pub client: SocketAddr,
    /// The server's address.
    pub server: SocketAddr,
    /// Transaction id.
    pub id: u16,
    /// Bytes in the query.
    pub query_bytes: u32,
    /// Bytes in the answer, 0 without one.
    pub answer_bytes: u32,
    /// From before the query to after the answer.
    pub took: Duration,
}

impl<'a> Resolver<'a> {
    /// Starts to serve at port 53 of the pair's server, over UDP and TCP.
    ///
    /// # Errors
    /// If the port cannot be had.
    pub fn start(pair: &'a Pair) -> Result<Self> {
        for family in Family::BOTH {
            let at = pair.server_at(family, PORT);
            match pair.server.run(|| Ok((UdpSocket::bind(at), TcpListener::bind(at))))? {
                (Ok(udp), Ok(tcp)) => {
                    thread::spawn(move || serve_udp(&udp));
                    thread::spawn(move || serve_tcp(&tcp));
                }
                // Where a case is made again, the first one goes on.
                (Err(error), Err(_)) if error.kind() == ErrorKind::AddrInUse => {}
                (udp, tcp) => drop((udp?, tcp?)),
            }
        }
        Ok(Self { pair })
    }

    /// Asks, and waits for the answer.
    ///
    /// # Errors
    /// If none comes.
    pub fn ask(&self, family: Family, transport: Transport, name: &str, qtype: u16) -> Result<Asked> {
        let (mut asked, query) = self.prepare(family, name, qtype);
        let started = Instant::now();
        let answer = match transport {
            Transport::Udp => {
                let socket = self.socket(family)?;
                socket.send_to(&query, asked.server)?;
                asked.client = socket.local_addr()?;
                let mut answer = vec![0; 512];
                let length = socket.recv(&mut answer).context("waiting for the answer")?;
                answer.truncate(length);
                answer
            }
            Transport::Tcp => {
                let mut stream = self.pair.client.connect(asked.server)?;
                asked.client = stream.local_addr()?;
                stream.write_all(&with_length(&query))?;
                read_message(&mut stream).context("waiting for the answer")?
            }
        };
        asked.took = started.elapsed();
        asked.answer_bytes = u32::try_from(answer.len())?;
        Ok(asked)
    }

    /// Asks so many times over UDP on one socket with one id, and closes it without an answer.
    ///
    /// # Errors
    /// If it cannot be sent.
    pub fn ask_without_answer(&self, family: Family, name: &str, times: u32) -> Result<Asked> {
        let (mut asked, query) = self.prepare(family, name, A);
        let socket = self.socket(family)?;
        asked.client = socket.local_addr()?;
        for _ in 0..times {
            socket.send_to(&query, asked.server)?;
        }
        Ok(asked)
    }

    fn socket(&self, family: Family) -> Result<UdpSocket> {
        let socket = self.pair.client.udp((self.pair.client_ip(family), 0))?;
        socket.set_read_timeout(Some(Duration::from_secs(30)))?;
        Ok(socket)
    }

    fn prepare(&self, family: Family, name: &str, qtype: u16) -> (Asked, Vec<u8>) {
        let server = self.pair.server_at(family, PORT);
        let id = 0x1000 | qtype;
        let query = query(id, name, qtype);
        let query_bytes = query.len() as u32;
        let (client, took) = (SocketAddr::new(IpAddr::from([0; 16]), 0), Duration::ZERO);
        (Asked { client, server, id, query_bytes, answer_bytes: 0, took }, query)
    }
}

/// Asks for an address over UDP from a socket of its own, in the namespace of the calling thread, and
/// gives up after `patience`. Returns the code of the answer, `None` for silence.
///
/// # Errors
/// If it cannot be sent.
pub fn ask_once(server: SocketAddr, name: &str, patience: Duration) -> Result<Option<u8>> {
    static ID: AtomicU16 = AtomicU16::new(1);

    let any = if server.is_ipv4() { IpAddr::from([0; 4]) } else { IpAddr::from([0; 16]) };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(server)?;
    socket.set_read_timeout(Some(patience))?;
    socket.send(&query(ID.fetch_add(1, Ordering::Relaxed), name, A))?;
    let mut answer = [0; 512];
    Ok(socket.recv(&mut answer).is_ok().then_some(answer[3] & 0x0f))
}

/// A recursive query with one question.
pub fn query(id: u16, name: &str, qtype: u16) -> Vec<u8> {
    let mut message = Vec::new();
    for word in [id, 0x0100, 1, 0, 0, 0] {
        message.extend(word.to_be_bytes());
    }
    for label in name.split('.') {
        message.push(label.len() as u8);
        message.extend(label.as_bytes());
    }
    message.push(0);
    message.extend(qtype.to_be_bytes());
    message.extend(1_u16.to_be_bytes());
    message
}

fn serve_udp(socket: &UdpSocket) {
    let mut query = [0; 512];
    while let Ok((length, from)) = socket.recv_from(&mut query) {
        if let Some(answer) = answer(&query[..length]) {
            // A client that is gone is a case, not a fault.
            let _ = socket.send_to(&answer, from);
        }
    }
}

fn serve_tcp(listener: &TcpListener) {
    for mut stream in listener.incoming().flatten() {
        if let Some(answer) = read_message(&mut stream).ok().and_then(|query| answer(&query)) {
            let _ = stream.write_all(&with_length(&answer));
        }
    }
}

/// The answer to a query, `None` for silence; late where the name says so.
fn answer(query: &[u8]) -> Option<Vec<u8>> {
    let below = |zone: &[u8]| query.windows(zone.len()).any(|part| part == zone);
    if below(b"\x06silent\x07example\x00") {
        return None;
    }
    if below(b"\x04late\x07example\x00") {
        thread::sleep(LATE);
    }
    let mut answer = query.to_vec();
    answer.get_mut(HEADER - 1)?;
    answer[2] |= 0x80;
    if let Some((_, code)) = REFUSALS.iter().find(|(zone, _)| below(zone)) {
        answer[3] = 0x80 | code;
    } else {
        answer[3] = 0x80;
        answer[7] = 1;
        // A pointer to the question's name, A IN, 60 seconds, 192.0.2.1.
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 1]);
    }
    Some(answer)
}

/// A message as it goes over TCP.
pub fn with_length(message: &[u8]) -> Vec<u8> {
    [&(message.len() as u16).to_be_bytes(), message].concat()
}

/// Reads one message from a connection.
///
/// # Errors
/// If the connection ends before.
pub fn read_message(stream: &mut TcpStream) -> Result<Vec<u8>> {
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut message = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut message)?;
    Ok(message)
}
