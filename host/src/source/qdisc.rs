//! `qdisc`: queueing disciplines and their statistics, by rtnetlink (RTM_GETQDISC).

use std::io;

use nix::net::if_::if_indextoname;
use nix::sys::socket::SockProtocol;

use super::rows::Rows;
use crate::netns::netlink::{attributes, dump, text, u32_at, u64_at};

const RTM_GETQDISC: u16 = 38;
/// Size of `struct tcmsg`: family, interface at 4, handle at 8, parent at 12, info.
const TCMSG: usize = 20;
/// Parent of the discipline that all packets of a device leave through.
const TC_H_ROOT: u32 = u32::MAX;
// linux/rtnetlink.h, linux/gen_stats.h
const TCA_KIND: u16 = 1;
const TCA_STATS2: u16 = 7;
const TCA_STATS_BASIC: u16 = 1;
const TCA_STATS_QUEUE: u16 = 3;
const TCA_STATS_PKT64: u16 = 8;

/// One row per discipline: `interface` and `kind` (text), `root` (1 for the one whose numbers
/// include those of all below it), and its statistics.
pub(super) fn read() -> io::Result<Rows> {
    let columns = [
        "interface",
        "kind",
        "root",
        "bytes",
        "packets",
        "drops",
        "qlen",
        "backlog",
        "overlimits",
        "requeues",
    ];
    let empty = || Rows::under(&columns);
    dump(SockProtocol::NetlinkRoute, RTM_GETQDISC, &[0; TCMSG], empty, |rows, payload| {
        let qdisc = Qdisc::of(payload);
        // Resolved here, in the namespace that the number belongs to. A device that went away
        // meanwhile took its disciplines along.
        let Ok(interface) = if_indextoname(u32_at(payload, 4)) else { return };
        let interface = rows.text(interface.to_string_lossy().into_owned());
        let kind = rows.text(qdisc.kind);
        rows.numbers.extend([interface, kind, (u32_at(payload, 12) == TC_H_ROOT).into()]);
        rows.numbers.extend([qdisc.bytes, qdisc.packets, qdisc.drops, qdisc.qlen, qdisc.backlog]);
        rows.numbers.extend([qdisc.overlimits, qdisc.requeues]);
    })
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Qdisc {
    kind: String,
    bytes: u64,
    packets: u64,
    drops: u64,
    qlen: u64,
    backlog: u64,
    overlimits: u64,
    requeues: u64,
}

impl Qdisc {
    fn of(payload: &[u8]) -> Self {
        let (mut qdisc, mut long_packets) = (Self::default(), None);
        for (kind, value) in attributes(payload.get(TCMSG..).unwrap_or_default()) {
            match kind {
                TCA_KIND => qdisc.kind = text(value),
                TCA_STATS2 => {
                    for (kind, value) in attributes(value) {
                        match kind {
                            TCA_STATS_BASIC => {
                                (qdisc.bytes, qdisc.packets) = (u64_at(value, 0), u32_at(value, 8).into());
                            }
                            TCA_STATS_PKT64 => long_packets = Some(u64_at(value, 0)),
                            TCA_STATS_QUEUE => qdisc.queue(value),
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
        qdisc.packets = long_packets.unwrap_or(qdisc.packets);
        qdisc
    }

    /// `struct gnet_stats_queue`.
    fn queue(&mut self, value: &[u8]) {
        let field = |n: usize| u64::from(u32_at(value, n * 4));
        (self.qlen, self.backlog, self.drops) = (field(0), field(1), field(2));
        (self.requeues, self.overlimits) = (field(3), field(4));
    }
}
