//! A link between two namespaces that is a program of ours: it loses, holds back or adds what no
//! kernel here knows of, as a bad cable or a distant network does.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use anyhow::Result;
use etherparse::{SlicedPacket, TcpSlice, TransportSlice};

use super::Namespace;
use super::raw_socket::RawSocket;

/// The end at which a frame entered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Sent by the client.
    Client,
    /// Sent by the server.
    Server,
}

/// Both ends of a link that carries nothing yet.
#[derive(Debug)]
pub struct UserspaceLink {
    /// The end at the client.
    pub client: RawSocket,
    /// The end at the server.
    pub server: RawSocket,
}

/// A link at work, until it is dropped.
#[derive(Debug)]
pub struct Working {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl UserspaceLink {
    /// Makes `eth0` on both sides.
    ///
    /// # Errors
    /// As [`RawSocket::tap`].
    pub fn new(client: &Namespace, server: &Namespace) -> Result<Self> {
        Ok(Self { client: RawSocket::tap(client, "eth0")?, server: RawSocket::tap(server, "eth0")? })
    }

    /// Carries the frames that `passes` lets through, in both directions.
    pub fn carry(self, passes: impl Fn(Side, &SlicedPacket<'_>) -> bool + Send + Sync + 'static) -> Working {
        let stop = Arc::new(AtomicBool::new(false));
        let (passes, link) = (Arc::new(passes), Arc::new(self));
        let threads = [Side::Client, Side::Server].map(|side| {
            let (stop, passes, link) = (Arc::clone(&stop), Arc::clone(&passes), Arc::clone(&link));
            std::thread::spawn(move || {
                let (input, output) = match side {
                    Side::Client => (&link.client, &link.server),
                    Side::Server => (&link.server, &link.client),
                };
                carry(input, output, &stop, |packet| passes(side, packet));
            })
        });
        Working { stop, threads: threads.into() }
    }
}

impl Drop for Working {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // It does not panic, and if it did there would be nothing left to carry.
            drop(thread.join());
        }
    }
}

/// Bytes that a segment carries; 0 for anything else.
pub fn tcp_payload(packet: &SlicedPacket<'_>) -> usize {
    tcp(packet).map_or(0, |segment| segment.payload().len())
}

/// The segment in a packet.
pub fn tcp<'a>(packet: &SlicedPacket<'a>) -> Option<TcpSlice<'a>> {
    match &packet.transport {
        Some(TransportSlice::Tcp(segment)) => Some(segment.clone()),
        _ => None,
    }
}

fn carry(
    input: &RawSocket,
    output: &RawSocket,
    stop: &AtomicBool,
    passes: impl Fn(&SlicedPacket<'_>) -> bool,
) {
    let mut frame = [0; 2048];
    while !stop.load(Ordering::Relaxed) {
        let Ok(found) = input.look(&mut frame) else { return };
        let Some(length) = found else { continue };
        let whole = &frame[..length];
        // A frame that a link which is down refuses is lost, as on any cable.
        if SlicedPacket::from_ethernet(whole).is_ok_and(|packet| passes(&packet)) {
            let _ = output.send(whole);
        }
    }
}
