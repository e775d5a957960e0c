//! `nat`: conversations whose destination is translated on this node, by ctnetlink: what a client of a
//! Kubernetes Service sends to, and where that goes.
//!
//! The kernel walks the table of the whole machine for each namespace that is asked about, so one that
//! tracks nothing is not asked, and the thread takes 1 % of a CPU at most.

use std::io;
use std::path::Path;

use nix::sys::socket::SockProtocol;

use super::conntrack::{MAXIMUM, NFGENMSG, entries};
use super::rows::Rows;
use crate::netns::netlink::{attributes, dump};
use crate::privilege::{self, Capability};

/// Subsystem (`NFNL_SUBSYS_CTNETLINK`) and message type of linux/netfilter/nfnetlink_conntrack.h.
const CT_GET: u16 = (1 << 8) | 1;
// `enum ctattr_type`; the last is known to kernels since 5.15, and older ones send everything.
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_STATUS: u16 = 3;
const CTA_PROTOINFO: u16 = 4;
const CTA_STATUS_MASK: u16 = 26;
// `enum ctattr_tuple`, `enum ctattr_ip`, `enum ctattr_l4proto`.
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_IP_SRC: [u16; 2] = [1, 3];
const CTA_IP_DST: [u16; 2] = [2, 4];
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_SRC_PORT: u16 = 2;
const CTA_PROTO_DST_PORT: u16 = 3;
// `enum ctattr_protoinfo`, `enum ctattr_protoinfo_tcp`.
const CTA_PROTOINFO_TCP: u16 = 1;
const CTA_PROTOINFO_TCP_STATE: u16 = 1;
// `enum ip_conntrack_status`.
const SEEN_REPLY: u32 = 1 << 1;
const DST_NAT: u32 = 1 << 5;
/// `TCP_CONNTRACK_ESTABLISHED`.
const ESTABLISHED: u8 = 3;
/// Conversations of one namespace that are told of. Those in trouble come first.
const ROWS: usize = 2048;

/// Addresses are IPv6 or mapped IPv4, in two halves. `src` and `dst` are as its sender has them; `from` and
/// `to` as its receiver does.
const COLUMNS: [&str; 13] = [
    "proto",
    "src_hi",
    "src_lo",
    "sport",
    "dst_hi",
    "dst_lo",
    "dport",
    "from_hi",
    "from_lo",
    "from_port",
    "to_hi",
    "to_lo",
    "to_port",
];

/// One row for each conversation.
pub(super) fn read() -> io::Result<Rows> {
    let mut rows = Rows::under(&COLUMNS);
    // Who asks ctnetlink loads its module.
    if !Path::new(MAXIMUM).exists() {
        return Ok(rows);
    }
    let refused = |e: io::Error| io::Error::new(e.kind(), privilege::explained(&e, Capability::NetAdmin));
    if entries().map_err(refused)? == 0 {
        return Ok(rows);
    }
    let translated = || Translated { troubled: Vec::new(), open: Vec::new() };
    let found = dump(SockProtocol::NetlinkNetFilter, CT_GET, &request(), translated, Translated::add);
    let Translated { troubled, open } = found.map_err(refused)?;
    rows.numbers = troubled.into_iter().chain(open).take(ROWS).flatten().collect();
    Ok(rows)
}

/// Asks for the entries with a translated destination only.
fn request() -> Vec<u8> {
    let mut request = NFGENMSG.to_vec();
    for kind in [CTA_STATUS, CTA_STATUS_MASK] {
        request.extend(8u16.to_ne_bytes());
        request.extend(kind.to_ne_bytes());
        request.extend(DST_NAT.to_be_bytes());
    }
    request
}

type Row = [u64; COLUMNS.len()];

struct Translated {
    /// Without an answer, or ended.
    troubled: Vec<Row>,
    open: Vec<Row>,
}

impl Translated {
    fn add(&mut self, message: &[u8]) {
        let Some((row, is_open)) = row(message) else { return };
        let list = if is_open { &mut self.open } else { &mut self.troubled };
        if list.len() < ROWS {
            list.push(row);
        }
    }
}

/// One entry, and whether it goes well; `None` for what is not translated or has no ports.
fn row(message: &[u8]) -> Option<(Row, bool)> {
    let (mut orig, mut reply, mut status, mut state) = (None, None, 0, None);
    for (kind, value) in attributes(message.get(NFGENMSG.len()..)?) {
        match kind {
            CTA_TUPLE_ORIG => orig = Tuple::of(value),
            CTA_TUPLE_REPLY => reply = Tuple::of(value),
            CTA_STATUS => status = u32::from_be_bytes(value.try_into().ok()?),
            CTA_PROTOINFO => {
                state = attribute(value, CTA_PROTOINFO_TCP)
                    .and_then(|tcp| attribute(tcp, CTA_PROTOINFO_TCP_STATE)?.first().copied());
            }
            _ => {}
        }
    }
    let (orig, reply) = (orig?, reply?);
    let is_open = state.map_or(status & SEEN_REPLY != 0, |state| state == ESTABLISHED);
    let [src_hi, src_lo, dst_hi, dst_lo] = orig.ips;
    let [to_hi, to_lo, from_hi, from_lo] = reply.ips;
    let row = [
        u64::from(orig.proto),
        src_hi,
        src_lo,
        orig.ports[0],
        dst_hi,
        dst_lo,
        orig.ports[1],
        from_hi,
        from_lo,
        reply.ports[1],
        to_hi,
        to_lo,
        reply.ports[0],
    ];
    (status & DST_NAT != 0).then_some((row, is_open))
}

/// One direction of a conversation.
#[derive(Debug, PartialEq, Eq)]
struct Tuple {
    proto: u8,
    /// Source and destination, each in two halves.
    ips: [u64; 4],
    /// Source and destination.
    ports: [u64; 2],
}

impl Tuple {
    fn of(value: &[u8]) -> Option<Self> {
        let (ip, proto) = (attribute(value, CTA_TUPLE_IP)?, attribute(value, CTA_TUPLE_PROTO)?);
        let address = |kinds: [u16; 2]| kinds.iter().find_map(|kind| halves(attribute(ip, *kind)?));
        let port = |kind| Some(u64::from(u16::from_be_bytes(attribute(proto, kind)?.try_into().ok()?)));
        let ([src_hi, src_lo], [dst_hi, dst_lo]) = (address(CTA_IP_SRC)?, address(CTA_IP_DST)?);
        Some(Self {
            proto: *attribute(proto, CTA_PROTO_NUM)?.first()?,
            ips: [src_hi, src_lo, dst_hi, dst_lo],
            ports: [port(CTA_PROTO_SRC_PORT)?, port(CTA_PROTO_DST_PORT)?],
        })
    }
}

fn attribute(bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    attributes(bytes).find(|(kind, _)| *kind == wanted).map(|(_, value)| value)
}

/// An address as the two halves of an IPv6 one.
fn halves(bytes: &[u8]) -> Option<[u64; 2]> {
    let bits = match bytes.len() {
        4 => u128::from(std::net::Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?).to_ipv6_mapped()),
        _ => u128::from_be_bytes(bytes.try_into().ok()?),
    };
    Some([(bits >> 64) as u64, bits as u64])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nla(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut bytes = (4 + value.len() as u16).to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn tuple(kind: u16, src: [u8; 4], dst: [u8; 4], ports: [u16; 2]) -> Vec<u8> {
        let ip = nla(CTA_TUPLE_IP, &[nla(1, &src), nla(2, &dst)].concat());
        let ports = [nla(1, &[6]), nla(2, &ports[0].to_be_bytes()), nla(3, &ports[1].to_be_bytes())];
        nla(kind, &[ip, nla(CTA_TUPLE_PROTO, &ports.concat())].concat())
    }

    fn message(status: u32, state: u8) -> Vec<u8> {
        let orig = tuple(CTA_TUPLE_ORIG, [10, 0, 0, 1], [10, 96, 0, 10], [4242, 80]);
        let reply = tuple(CTA_TUPLE_REPLY, [10, 0, 0, 9], [10, 0, 0, 1], [8080, 4242]);
        let state = nla(CTA_PROTOINFO, &nla(CTA_PROTOINFO_TCP, &nla(CTA_PROTOINFO_TCP_STATE, &[state])));
        [NFGENMSG.to_vec(), orig, reply, nla(CTA_STATUS, &status.to_be_bytes()), state].concat()
    }

    #[test]
    fn what_is_sent_to_a_service_and_where_it_goes_is_one_row() {
        let v4 = |last: u64| 0xffff_0000_0000 | last;
        let (found, is_open) = row(&message(DST_NAT, 2)).expect("an entry");
        assert!(!is_open);
        assert_eq!(
            found,
            [
                6,
                0,
                v4(0x0a00_0001),
                4242,
                0,
                v4(0x0a60_000a),
                80,
                0,
                v4(0x0a00_0001),
                4242,
                0,
                v4(0x0a00_0009),
                8080
            ]
        );
        assert_eq!(row(&message(DST_NAT, ESTABLISHED)).map(|(_, is_open)| is_open), Some(true));
    }

    #[test]
    fn what_is_not_translated_or_cut_off_is_none() {
        assert_eq!(row(&message(SEEN_REPLY, 3)), None);
        let whole = message(DST_NAT, 2);
        (0..whole.len() - 20).for_each(|length| assert_eq!(row(&whole[..length]), None, "{length}"));
    }
}
