//! Segments that do not fit their connection.

use std::io::Read as _;

use anyhow::Result;

use super::{Case, FAULT, V4, server};
use crate::lab::counters::counted;
use crate::lab::puppet::{Puppet, SYN, Segment};
use crate::lab::sockets::listener;
use crate::lab::{Held, Scene, Topology};

pub const CASES: &[Case] = &[
    Case {
        name: "tcp_out_of_window",
        made: "data far outside of the window and a SYN in an established connection",
        topology: Topology::Cabled,
        families: V4,
        expect: &[server("tcp-invalid-segment")],
        run: |scene| {
            let (puppet, held) = acquainted(scene)?;
            let sender = scene.repeat(scene.server(), 1, move || {
                for _ in 0..3 {
                    puppet.send(&Segment { off: 1_000_000_000, data: b"far", ..Segment::default() })?;
                }
                puppet.send(&Segment { off: -100_000, data: b"old", ..Segment::default() })?;
                puppet.send(&Segment { flags: SYN, ..Segment::default() })
            })?;
            counted(scene.server(), "TcpExtTCPChallengeACK", 1)?;
            Ok(Box::new((sender, held)))
        },
        ..FAULT
    },
    Case {
        name: "paws_rejected",
        made: "timestamps that go backwards in an established connection",
        topology: Topology::Cabled,
        families: V4,
        expect: &[server("paws-rejected")],
        run: |scene| {
            let (mut puppet, held) = acquainted(scene)?;
            puppet.send(&Segment { clock: 1000, data: b"now", ..Segment::default() })?;
            puppet.seq = puppet.seq.wrapping_add(3);
            let sender = scene.repeat(scene.server(), 5, move || {
                puppet.send(&Segment { clock: -500_000, data: b"then", ..Segment::default() })
            })?;
            counted(scene.server(), "TcpExtPAWSEstab", 5)?;
            Ok(Box::new((sender, held)))
        },
        ..FAULT
    },
];

/// A puppet behind the cable that has a connection with the server and has said hello.
fn acquainted(scene: &Scene) -> Result<(Puppet, Held)> {
    let listener = listener(scene.server(), scene.server_ip())?;
    let mut puppet = Puppet::behind(scene.cable()?.server, &scene.pair, listener.local_addr()?.port())?;
    puppet.shake_hands()?;
    let (mut stream, _) = listener.accept()?;
    puppet.send(&Segment { data: b"hello", ..Segment::default() })?;
    puppet.seq = puppet.seq.wrapping_add(5);
    stream.read_exact(&mut [0; 5])?;
    Ok((puppet, Box::new((listener, stream))))
}
