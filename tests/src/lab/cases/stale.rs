//! Segments that do not fit any connection, or not the one that they are for.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use etherparse::TcpHeader;
use nix::libc;

use crate::lab::cases::healthy::operators::chatter;
use crate::lab::cases::resets::expect_end;
use crate::lab::cases::{
    Case, KNOWN, NOISE, ONGOING, Ongoing, Place, UNSEEN, V4, VARIATION, at, know_each_other, server,
    unanswered,
};
use crate::lab::counters::counted;
use crate::lab::injector::Injector;
use crate::lab::raw_socket::RawSocket;
use crate::lab::scripted_peer::{SYN, ScriptedPeer, Segment};
use crate::lab::service::Service;
use crate::lab::sockets::{PATIENCE, expect_reset, forget, keep_alive, set_option};
use crate::lab::{Connection, Held, Scene, faults};

pub const CASES: &[Case] = &[
    Case {
        name: "tcp_ack_no_conn",
        made: "acknowledgements out of the blue to a listener, and data to a closed port",
        expect: &[server("stale-connection")],
        ongoing: Ongoing::Again,
        run: out_of_the_blue,
        ..KNOWN
    },
    Case {
        name: "duplicate_ip",
        made: "a third host takes over the server's address while a connection is open",
        families: V4,
        expect: &[at(Place::Third, "stale-connection")],
        ongoing: Ongoing::Never("an address is taken over once"),
        run: taken_over,
        ..KNOWN.bridged()
    },
    Case {
        name: "var_state_lost",
        made: "a server that lost its connections without a word, as after a power failure",
        expect: &[server("stale-connection")],
        ongoing: Ongoing::Again,
        run: state_lost,
        ..VARIATION
    },
    Case {
        name: "var_half_open",
        made: "a server lost its connections without a word, and the clients' keepalive finds out",
        expect: &[server("stale-connection")],
        ongoing: Ongoing::Again,
        run: |scene| {
            let Connection { client, server, .. } = Connection::open(&scene.pair, scene.family)?;
            keep_alive(&client, 9)?;
            forget(server)?;
            expect_reset(&client)?;
            Ok(Box::new(client))
        },
        ..UNSEEN
    },
    Case {
        name: "var_lost_state_amid_chatter",
        made: "a server lost three connections without a word, beside all that a switch says",
        expect: &[server("stale-connection")],
        ongoing: Ongoing::Again,
        run: lost_state,
        ..NOISE
    },
    Case {
        name: "ongoing_state_lost",
        made: "a server that loses each connection without a word, and clients that connect anew",
        expect: &[server("stale-connection")],
        run: state_lost_ongoing,
        ..ONGOING
    },
    Case {
        name: "tcp_out_of_window",
        made: "data far outside of the window and a SYN in an established connection",
        families: V4,
        expect: &[server("tcp-invalid-segment")],
        run: |scene| {
            let (peer, held) = acquainted(scene)?;
            let sender = scene.repeat(scene.server(), 1, move || {
                for _ in 0..3 {
                    peer.send(&Segment { off: 1_000_000_000, data: b"far", ..Segment::default() })?;
                }
                peer.send(&Segment { off: -100_000, data: b"old", ..Segment::default() })?;
                peer.send(&Segment { flags: SYN, ..Segment::default() })
            })?;
            counted(scene.server(), "TcpExtTCPChallengeACK", 1)?;
            Ok(Box::new((sender, held)))
        },
        ..KNOWN.over_userspace_link()
    },
    Case {
        name: "paws_rejected",
        made: "timestamps that go backwards in an established connection",
        families: V4,
        expect: &[server("paws-rejected")],
        run: |scene| {
            let (mut peer, held) = acquainted(scene)?;
            peer.send(&Segment { clock: 1000, data: b"now", ..Segment::default() })?;
            peer.seq = peer.seq.wrapping_add(3);
            let sender = scene.repeat(scene.server(), 5, move || {
                peer.send(&Segment { clock: -500_000, data: b"then", ..Segment::default() })
            })?;
            counted(scene.server(), "TcpExtPAWSEstab", 5)?;
            Ok(Box::new((sender, held)))
        },
        ..KNOWN.over_userspace_link()
    },
    Case {
        name: "var_unsigned_peer",
        made: "the server wants signed segments (TCP MD5, as for BGP), the client does not sign",
        // No code says it; these are the nearest.
        expect: &[server("tcp-invalid-segment"), server("malformed-packet")],
        run: |scene| {
            let listener = scene.listener()?;
            set_option(&listener, libc::IPPROTO_TCP, libc::TCP_MD5SIG, &key_of(scene.client_ip()))?;
            Ok(Box::new((unanswered(scene, listener.local_addr()?)?, listener)))
        },
        ..UNSEEN
    },
];

fn out_of_the_blue(scene: &Scene) -> Result<Held> {
    let listener = scene.listener()?;
    let through = Injector::new(&scene.pair)?;
    // The server knows the way back; it would ask for it else.
    know_each_other(scene)?;
    let stray = |to: u16, data: &[u8]| {
        let mut tcp = TcpHeader::new(30_000, to, 1_000_000, 500);
        (tcp.ack, tcp.acknowledgment_number) = (true, 2_000_000);
        through.segment(scene.client_ip(), scene.server_ip(), tcp, data, false)
    };
    let at = listener.local_addr()?.port();
    stray(at, b"")?;
    stray(at, b"")?;
    for _ in 0..3 {
        stray(faults::CLOSED_PORT, b"hello again")?;
    }
    counted(scene.server(), "TcpOutRsts", 5)?;
    Ok(Box::new(listener))
}

/// A gratuitous ARP reply, as a host sends it that got an address.
fn taken_over(scene: &Scene) -> Result<Held> {
    let third = scene.third()?;
    // An entry that is younger than this would not be overwritten.
    scene.client().sysctl("net/ipv4/neigh/eth0/locktime", "0")?;
    let mut connection = Connection::open(&scene.pair, scene.family)?;
    connection.exchange(1, 1)?;
    let IpAddr::V4(ip) = scene.server_ip() else { anyhow::bail!("ARP is IPv4's") };
    third.ip(&format!("addr add {ip}/24 dev eth0"))?;
    let raw = RawSocket::open(third, "eth0")?;
    let mut frame = Vec::from([0xff; 6]);
    frame.extend(raw.mac);
    // Ethernet, IPv4, address lengths, reply.
    frame.extend([0x08, 0x06, 0, 1, 0x08, 0x00, 6, 4, 0, 2]);
    for _ in 0..2 {
        frame.extend(raw.mac);
        frame.extend(ip.octets());
    }
    let mac = raw.mac.map(|byte| format!("{byte:02x}")).join(":");
    crate::wait::until("the client to believe it", || {
        raw.send(&frame).ok()?;
        scene.client().ip("neigh show").ok()?.contains(&mac).then_some(())
    })?;
    connection.client.write_all(b"hello?")?;
    expect_end(&connection.client)?;
    Ok(Box::new(connection.server))
}

/// A socket under repair is closed without a word to its peer.
fn state_lost(scene: &Scene) -> Result<Held> {
    let Connection { client, server, server_at, .. } = Connection::open(&scene.pair, scene.family)?;
    forget(server)?;
    (&client).write_all(b"where were we?")?;
    expect_reset(&client)?;
    Ok(Box::new((client, server_at)))
}

/// A socket under repair is closed without a word to its peer.
fn lost_state(scene: &Scene) -> Result<Held> {
    for _ in 0..3 {
        chatter(scene, 5)?;
        let Connection { mut client, server, .. } = Connection::open(&scene.pair, scene.family)?;
        forget(server)?;
        client.write_all(b"where were we?")?;
        if client.read(&mut [0]).is_ok() {
            bail!("expected a reset");
        }
        chatter(scene, 5)?;
    }
    counted(scene.server(), "eth0 rx drop", 90)?;
    Ok(Box::new(()))
}

/// A socket under repair is closed without a word to its peer.
fn state_lost_ongoing(scene: &Scene) -> Result<Held> {
    let service = Service::start(scene, |mut stream| {
        if stream.read(&mut [0]).is_ok() && stream.write_all(b"!").is_ok() {
            // One that is not closed so answers with its end, and the client says so.
            drop(forget(stream));
        }
    })?;
    let at = service.at;
    let clients = scene.go_on(scene.client(), Duration::from_millis(150), move || {
        let mut stream = TcpStream::connect_timeout(&at, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(b"?")?;
        stream.read_exact(&mut [0]).context("the first answer")?;
        // Until the server has forgotten; a request before that is lost with its connection.
        std::thread::sleep(Duration::from_millis(50));
        stream.write_all(b"?")?;
        expect_reset(&stream)
    })?;
    scene.seen(8)?;
    Ok(Box::new((clients, service)))
}

/// A peer behind the link that has a connection with the server and has said hello.
fn acquainted(scene: &Scene) -> Result<(ScriptedPeer, Held)> {
    let listener = scene.listener()?;
    let mut peer =
        ScriptedPeer::behind(scene.userspace_link()?.server, &scene.pair, listener.local_addr()?.port())?;
    peer.shake_hands()?;
    let (mut stream, _) = listener.accept()?;
    peer.send(&Segment { data: b"hello", ..Segment::default() })?;
    peer.seq = peer.seq.wrapping_add(5);
    stream.read_exact(&mut [0; 5])?;
    Ok((peer, Box::new((listener, stream))))
}

/// `struct tcp_md5sig` of `uapi/linux/tcp.h`: the peer, the key's length at 130, the key at 136.
fn key_of(peer: IpAddr) -> [u8; 216] {
    let mut key = [0; 216];
    let family = if peer.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    key[..2].copy_from_slice(&(family as u16).to_ne_bytes());
    match peer {
        IpAddr::V4(ip) => key[4..8].copy_from_slice(&ip.octets()),
        IpAddr::V6(ip) => key[8..24].copy_from_slice(&ip.octets()),
    }
    key[130..132].copy_from_slice(&6_u16.to_ne_bytes());
    key[136..142].copy_from_slice(b"secret");
    key
}
