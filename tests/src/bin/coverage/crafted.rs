//! Segments that no honest stack sends, from a [`Puppet`].

use std::io::Write as _;
use std::net::TcpListener;
use std::thread::sleep;
use std::time::Duration;

use anyhow::Result;
use inspector_tests::lab::puppet::{ACK, FIN, Puppet, RST, SYN, Segment};
use inspector_tests::lab::{Family, Held, Pair, faults, sockets};
use nix::sys::socket::{setsockopt, sockopt};

use crate::Workload;

/// Far outside of any window, and without data, which would be answered without a limit.
const ELSEWHERE: Segment<'_> =
    Segment { flags: ACK, off: -100_000_000, clock: 0, data: b"", beyond: None, damaged: false };

pub const WORKLOADS: &[Workload] = &[
    Workload {
        name: "crafted: segments outside of the window",
        moves: &["tcpexttcpackskippedseq"],
        run: |pair| {
            let listener = listener(pair)?;
            let puppet = Puppet::open(pair, listener.local_addr()?)?;
            repeat(&puppet, &ELSEWHERE)?;
            Ok(Box::new((listener, puppet)))
        },
    },
    Workload {
        name: "crafted: timestamps that go backwards",
        moves: &["tcpextpawsestab", "tcpexttcpackskippedpaws"],
        run: |pair| {
            let listener = listener(pair)?;
            let puppet = Puppet::open(pair, listener.local_addr()?)?;
            puppet.send(&Segment { clock: 1000, data: b"now", ..Segment::default() })?;
            repeat(&puppet, &Segment { off: 3, clock: -500_000, ..Segment::default() })?;
            Ok(Box::new((listener, puppet)))
        },
    },
    Workload {
        name: "crafted: SYNs on an established connection",
        moves: &["tcpexttcpackskippedchallenge"],
        run: |pair| {
            let listener = listener(pair)?;
            let puppet = Puppet::open(pair, listener.local_addr()?)?;
            repeat(&puppet, &Segment { flags: SYN, ..Segment::default() })?;
            Ok(Box::new((listener, puppet)))
        },
    },
    Workload {
        name: "crafted: a handshake that stops half-way",
        moves: &["tcpexttcpackskippedsynrecv", "tcpsummarytcpsynrecvconn"],
        run: |pair| {
            let listener = listener(pair)?;
            let puppet = Puppet::half_open(pair, listener.local_addr()?)?;
            repeat(&puppet, &ELSEWHERE)?;
            Ok(Box::new((listener, puppet)))
        },
    },
    Workload {
        name: "crafted: a handshake that ends in a reset",
        moves: &["tcpextembryonicrsts"],
        run: |pair| {
            let listener = listener(pair)?;
            let puppet = Puppet::half_open(pair, listener.local_addr()?)?;
            puppet.send(&Segment { flags: RST, ..Segment::default() })?;
            Ok(Box::new((listener, puppet)))
        },
    },
    Workload {
        name: "crafted: stray segments after the close",
        moves: &["tcpexttcpackskippedfinwait2", "tcpexttcpackskippedtimewait"],
        run: after_the_close,
    },
    Workload {
        name: "crafted: a SYN-ACK from another time",
        moves: &["tcpextpawsactive"],
        run: |pair| {
            let mut puppet = Puppet::new(pair, 0)?;
            let connecting = faults::start_connect(&pair.server, puppet.at())?;
            puppet.answer_from_another_time()?;
            Ok(Box::new((connecting, puppet)))
        },
    },
    Workload {
        name: "crafted: a damaged segment",
        moves: &["tcpinerrs"],
        run: |pair| {
            let listener = listener(pair)?;
            let puppet = Puppet::open(pair, listener.local_addr()?)?;
            puppet.send(&Segment { data: b"data", damaged: true, ..Segment::default() })?;
            Ok(Box::new((listener, puppet)))
        },
    },
    Workload {
        name: "crafted: a reset for a listener",
        moves: &["packetloss_tcpstatm"],
        run: |pair| {
            let listener = listener(pair)?;
            let puppet = Puppet::new(pair, listener.local_addr()?.port())?;
            puppet.send(&Segment { flags: RST, ..Segment::default() })?;
            Ok(Box::new((listener, puppet)))
        },
    },
    Workload {
        name: "crafted: acknowledgements that cut packets of a queue far beyond its limit",
        moves: &["tcpexttcpwqueuetoobig"],
        run: cut_queue,
    },
    Workload {
        name: "crafted: more data than the receiver has room for",
        moves: &["tcpexttcprcvqdrop", "packetloss_tcphandle"],
        run: too_much,
    },
];

fn listener(pair: &Pair) -> Result<TcpListener> {
    sockets::listener(&pair.server, pair.server_ip(Family::V4))
}

/// Twice is once too often: the kernel answers one such segment in half a second.
fn repeat(puppet: &Puppet, segment: &Segment<'_>) -> Result<()> {
    (0..5).try_for_each(|_| puppet.send(segment))
}

fn after_the_close(pair: &Pair) -> Result<Held> {
    let listener = listener(pair)?;
    let mut puppet = Puppet::open(pair, listener.local_addr()?)?;
    drop(listener.accept()?);
    puppet.hear("the server's FIN", |flags| (flags & FIN != 0).then_some(()))?;
    puppet.send(&Segment::default())?;
    sleep(Duration::from_millis(50));
    repeat(&puppet, &ELSEWHERE)?;
    puppet.send(&Segment { flags: FIN | ACK, ..Segment::default() })?;
    sleep(Duration::from_millis(700));
    repeat(&puppet, &ELSEWHERE)?;
    Ok(Box::new((listener, puppet)))
}

/// The kernel cuts a packet in two where an acknowledgement says so, but not for a peer that could
/// make a queue explode by it (CVE-2019-11478).
fn cut_queue(pair: &Pair) -> Result<Held> {
    const MSS: u32 = 536; // what the puppet did not say, less its timestamps
    pair.server.ip("link set dev eth0 gso_max_segs 4")?;
    pair.server.sysctl("net/ipv4/tcp_wmem", "4096 4194304 8388608")?;
    let listener = listener(pair)?;
    let puppet = Puppet::open(pair, listener.local_addr()?)?;
    let (mut server, _) = listener.accept()?;
    server.set_nonblocking(true)?;
    while server.write(&[0; 65536]).is_ok() {}
    setsockopt(&server, sockopt::SndBuf, &2304)?;
    // Anywhere but in the first and the last packet.
    for n in 4..10 {
        let data = MSS - 12;
        puppet.send(&Segment { beyond: Some((n * data, (n + 1) * data)), ..Segment::default() })?;
        sleep(Duration::from_millis(5));
    }
    Ok(Box::new((listener, server, puppet)))
}

/// Tiny segments, each of which costs the receiver far more memory than it carries bytes, and then
/// data against a closed window.
fn too_much(pair: &Pair) -> Result<Held> {
    let listener = listener(pair)?;
    setsockopt(&listener, sockopt::RcvBuf, &2304)?;
    let mut puppet = Puppet::open(pair, listener.local_addr()?)?;
    let accepted = listener.accept()?;
    // Every second byte, so that nothing can be joined in the queue.
    for n in 0..400 {
        puppet.send(&Segment { off: 2 * n + 1, data: b"x", ..Segment::default() })?;
    }
    for _ in 0..400 {
        puppet.send(&Segment { data: &[0; 100], ..Segment::default() })?;
        puppet.seq = puppet.seq.wrapping_add(100);
    }
    Ok(Box::new((listener, accepted, puppet)))
}
