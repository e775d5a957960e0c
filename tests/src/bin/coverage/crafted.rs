//! Segments that no honest stack sends, from a [`ScriptedPeer`].

use std::io::Write as _;
use std::net::TcpListener;
use std::thread::sleep;
use std::time::Duration;

use anyhow::Result;
use inspector_tests::lab::scripted_peer::{ACK, FIN, RST, SYN, ScriptedPeer, Segment};
use inspector_tests::lab::{Family, Held, Pair, faults};
use nix::sys::socket::{setsockopt, sockopt};

use crate::{Made, Workload};

/// Far outside of any window, and without data, which would be answered without a limit.
const ELSEWHERE: Segment<'_> = Segment { flags: ACK, off: -100_000_000, clock: 0, data: b"", beyond: None };

pub const WORKLOADS: &[Workload] = &[
    Workload {
        name: "crafted: segments outside of the window",
        moves: &["tcpexttcpackskippedseq"],
        made: Made::By(|pair| {
            let listener = listener(pair)?;
            let peer = ScriptedPeer::open(pair, listener.local_addr()?)?;
            repeat(&peer, &ELSEWHERE)?;
            Ok(Box::new((listener, peer)))
        }),
    },
    Workload {
        name: "crafted: timestamps that go backwards",
        moves: &["tcpextpawsestab", "tcpexttcpackskippedpaws"],
        made: Made::By(|pair| {
            let listener = listener(pair)?;
            let peer = ScriptedPeer::open(pair, listener.local_addr()?)?;
            peer.send(&Segment { clock: 1000, data: b"now", ..Segment::default() })?;
            repeat(&peer, &Segment { off: 3, clock: -500_000, ..Segment::default() })?;
            Ok(Box::new((listener, peer)))
        }),
    },
    Workload {
        name: "crafted: SYNs on an established connection",
        moves: &["tcpexttcpackskippedchallenge"],
        made: Made::By(|pair| {
            let listener = listener(pair)?;
            let peer = ScriptedPeer::open(pair, listener.local_addr()?)?;
            repeat(&peer, &Segment { flags: SYN, ..Segment::default() })?;
            Ok(Box::new((listener, peer)))
        }),
    },
    Workload {
        name: "crafted: a handshake that stops half-way",
        moves: &["tcpexttcpackskippedsynrecv", "tcpsummarytcpsynrecvconn"],
        made: Made::By(|pair| {
            let listener = listener(pair)?;
            let peer = ScriptedPeer::half_open(pair, listener.local_addr()?)?;
            repeat(&peer, &ELSEWHERE)?;
            Ok(Box::new((listener, peer)))
        }),
    },
    Workload {
        name: "crafted: a handshake that ends in a reset",
        moves: &["tcpextembryonicrsts"],
        made: Made::By(|pair| {
            let listener = listener(pair)?;
            let peer = ScriptedPeer::half_open(pair, listener.local_addr()?)?;
            peer.send(&Segment { flags: RST, ..Segment::default() })?;
            Ok(Box::new((listener, peer)))
        }),
    },
    Workload {
        name: "crafted: stray segments after the close",
        moves: &["tcpexttcpackskippedfinwait2", "tcpexttcpackskippedtimewait"],
        made: Made::By(after_the_close),
    },
    Workload {
        name: "crafted: a SYN-ACK from another time",
        moves: &["tcpextpawsactive"],
        made: Made::By(|pair| {
            let mut peer = ScriptedPeer::new(pair, 0)?;
            let connecting = faults::start_connect(&pair.server, peer.at())?;
            peer.answer_from_another_time()?;
            Ok(Box::new((connecting, peer)))
        }),
    },
    Workload {
        name: "crafted: a damaged segment",
        moves: &["tcpinerrs"],
        made: Made::AsCase("tcp_bad_csum"),
    },
    Workload {
        name: "crafted: a reset for a listener",
        moves: &["packetloss_tcpstatm"],
        made: Made::By(|pair| {
            let listener = listener(pair)?;
            let peer = ScriptedPeer::new(pair, listener.local_addr()?.port())?;
            peer.send(&Segment { flags: RST, ..Segment::default() })?;
            Ok(Box::new((listener, peer)))
        }),
    },
    Workload {
        name: "crafted: acknowledgements that cut packets of a queue far beyond its limit",
        moves: &["tcpexttcpwqueuetoobig"],
        made: Made::By(cut_queue),
    },
    Workload {
        name: "crafted: more data than the receiver has room for",
        moves: &["tcpexttcprcvqdrop", "packetloss_tcphandle"],
        made: Made::By(too_much),
    },
];

fn listener(pair: &Pair) -> Result<TcpListener> {
    pair.server.listen((pair.server_ip(Family::V4), 0))
}

/// Twice is once too often: the kernel answers one such segment in half a second.
fn repeat(peer: &ScriptedPeer, segment: &Segment<'_>) -> Result<()> {
    (0..5).try_for_each(|_| peer.send(segment))
}

fn after_the_close(pair: &Pair) -> Result<Held> {
    let listener = listener(pair)?;
    let mut peer = ScriptedPeer::open(pair, listener.local_addr()?)?;
    drop(listener.accept()?);
    peer.hear("the server's FIN", |flags| (flags & FIN != 0).then_some(()))?;
    peer.send(&Segment::default())?;
    sleep(Duration::from_millis(50));
    repeat(&peer, &ELSEWHERE)?;
    peer.send(&Segment { flags: FIN | ACK, ..Segment::default() })?;
    sleep(Duration::from_millis(700));
    repeat(&peer, &ELSEWHERE)?;
    Ok(Box::new((listener, peer)))
}

/// The kernel cuts a packet in two where an acknowledgement says so, but not for a peer that could
/// make a queue explode by it (CVE-2019-11478).
fn cut_queue(pair: &Pair) -> Result<Held> {
    const MSS: u32 = 536; // what the peer did not say, less its timestamps
    pair.server.ip("link set dev eth0 gso_max_segs 4")?;
    pair.server.sysctl("net/ipv4/tcp_wmem", "4096 4194304 8388608")?;
    let listener = listener(pair)?;
    let peer = ScriptedPeer::open(pair, listener.local_addr()?)?;
    let (mut server, _) = listener.accept()?;
    server.set_nonblocking(true)?;
    while server.write(&[0; 65536]).is_ok() {}
    setsockopt(&server, sockopt::SndBuf, &2304)?;
    // Anywhere but in the first and the last packet.
    for n in 4..10 {
        let data = MSS - 12;
        peer.send(&Segment { beyond: Some((n * data, (n + 1) * data)), ..Segment::default() })?;
        sleep(Duration::from_millis(5));
    }
    Ok(Box::new((listener, server, peer)))
}

/// Tiny segments, each of which costs the receiver far more memory than it carries bytes, and then
/// data against a closed window.
fn too_much(pair: &Pair) -> Result<Held> {
    let listener = listener(pair)?;
    setsockopt(&listener, sockopt::RcvBuf, &2304)?;
    let mut peer = ScriptedPeer::open(pair, listener.local_addr()?)?;
    let accepted = listener.accept()?;
    // Every second byte, so that nothing can be joined in the queue.
    for n in 0..400 {
        peer.send(&Segment { off: 2 * n + 1, data: b"x", ..Segment::default() })?;
    }
    for _ in 0..400 {
        peer.send(&Segment { data: &[0; 100], ..Segment::default() })?;
        peer.seq = peer.seq.wrapping_add(100);
    }
    Ok(Box::new((listener, accepted, peer)))
}
