//! `tcpsummary`: TCP sockets by state and the bytes in their queues, by SOCK_DIAG.
//!
//! The kernel answers by walking the hash table of the whole machine, once per namespace and
//! family (0.9 ms for 262 144 buckets), so a family without sockets is not asked for: sockstat
//! tells that for a few microseconds.

use std::io;

use nix::libc::{AF_INET, AF_INET6, IPPROTO_TCP};
use nix::sys::socket::SockProtocol;

use super::proc_net;
use super::rows::Rows;
use crate::netns::netlink::{dump, u32_at};

const SOCK_DIAG_BY_FAMILY: u16 = 20;
/// Size of `struct inet_diag_req_v2`: family, protocol, two zeros, states at 4, socket id.
const REQUEST: usize = 56;

// include/net/tcp_states.h
const ESTABLISHED: u8 = 1;
const SYN_SENT: u8 = 2;
const SYN_RECV: u8 = 3;
const TIME_WAIT: u8 = 6;
const CLOSE: u8 = 7;
const CLOSE_WAIT: u8 = 8;
const LISTEN: u8 = 10;
const CLOSING: u8 = 11;

/// One row: `established`, `time_wait`, `close_wait`, `syn_sent`, `syn_recv` sockets, `tx_queue`
/// and `rx_queue` in bytes over all of them. A listening socket's queue counts connections and is
/// no part of it.
pub(super) fn read() -> io::Result<Rows> {
    let columns = ["established", "time_wait", "close_wait", "syn_sent", "syn_recv", "tx_queue", "rx_queue"];
    let mut row = [0; 7];
    for family in used_families()? {
        let before = row;
        row = dump(SockProtocol::NetlinkSockDiag, SOCK_DIAG_BY_FAMILY, &request(family), || before, add)?;
    }
    Ok(Rows::one(&columns, row.to_vec()))
}

/// Families that have sockets in this namespace. Those in TIME_WAIT are not told apart by family.
fn used_families() -> io::Result<Vec<i32>> {
    let stat = proc_net::read(&["sockstat", "sockstat6"], proc_net::sockstat)?;
    let number = |name: &str| {
        // Without the number, the family might have sockets.
        stat.columns.iter().position(|column| column == name).map_or(1, |at| stat.numbers[at])
    };
    let has6 = stat.columns.iter().any(|column| column == "TCP6.inuse");
    let waiting = number("TCP.tw") > 0;
    let v4 = (waiting || number("TCP.inuse") > 0).then_some(AF_INET);
    let v6 = (has6 && (waiting || number("TCP6.inuse") > 0)).then_some(AF_INET6);
    Ok(v4.into_iter().chain(v6).collect())
}

fn request(family: i32) -> [u8; REQUEST] {
    let states = (ESTABLISHED..=CLOSING).filter(|state| ![CLOSE, LISTEN].contains(state));
    let mask: u32 = states.map(|state| 1 << state).sum();
    let mut request = [0; REQUEST];
    (request[0], request[1]) = (family as u8, IPPROTO_TCP as u8);
    request[4..8].copy_from_slice(&mask.to_ne_bytes());
    request
}

/// Adds one socket: `struct inet_diag_msg` has its state at 1, its queues at 56 and 60.
fn add(row: &mut [u64; 7], payload: &[u8]) {
    let by_state = match payload.get(1) {
        Some(&ESTABLISHED) => Some(0),
        Some(&TIME_WAIT) => Some(1),
        Some(&CLOSE_WAIT) => Some(2),
        Some(&SYN_SENT) => Some(3),
        Some(&SYN_RECV) => Some(4),
        _ => None,
    };
    if let Some(at) = by_state {
        row[at] += 1;
    }
    row[5] += u64::from(u32_at(payload, 60));
    row[6] += u64::from(u32_at(payload, 56));
}
