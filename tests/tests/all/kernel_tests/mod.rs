//! Promise: what the kernel did arrives, and every field of it is true. Each test makes the real
//! thing happen between two namespaces, over IPv4 and IPv6.

mod dns;
mod drops;
mod icmp;
mod neighbours;
mod qdiscs;
mod resets;
mod retransmissions;
mod routes;
mod rx_latencies;
mod socket_errors;
mod socket_latencies;
mod softirqs;
mod states;
mod tx_latencies;

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use inspector_ebpf::Head;
use inspector_ebpf::sum::BOUNDS_NS;
use inspector_tests::lab::Namespace;

const TCP: u8 = 6;
const UDP: u8 = 17;

const SYN: u8 = 2;
const ACK: u8 = 16;

const ESTABLISHED: u8 = 1;
const SYN_SENT: u8 = 2;
const SYN_RECV: u8 = 3;
const CLOSE: u8 = 7;

/// The part of the head that says where something happened.
fn flow(head: &Head) -> (u64, u8, SocketAddr, SocketAddr) {
    let (source, destination) = ((head.source(), head.sport), (head.destination(), head.dport));
    (head.netns, head.proto, source.into(), destination.into())
}

/// Waits conditions are given as this flow, which nothing else on the machine has.
fn is(head: &Head, at: u64, proto: u8, from: SocketAddr, to: SocketAddr) -> bool {
    flow(head) == (at, proto, from, to)
}

/// The rest of the head, alike in all records.
fn check_head(head: &Head, kind: u16, tcp_state: u8) -> Result<()> {
    ensure!(head.kind == kind, "kind {}", head.kind);
    ensure!(head.tcp_state == tcp_state, "tcp_state {}", head.tcp_state);
    ensure!(head.flags & inspector_ebpf::record::FLAG_PORTS != 0, "flags {:#x}", head.flags);
    let cpus = std::thread::available_parallelism()?.get();
    ensure!(usize::from(head.cpu) < cpus, "cpu {} of {cpus}", head.cpu);
    Ok(())
}

/// Index of `eth0` inside a namespace.
fn eth0(namespace: &Namespace) -> Result<u32> {
    let link = namespace.ip("-o link show eth0")?;
    let number = link.split(':').next().unwrap_or_default();
    Ok(number.parse()?)
}

/// A sum's mean lies in its bucket, which the program chose and the mirror's bounds describe.
fn check_bucket(bucket: u16, count: u64, total_ns: u64) -> Result<()> {
    let bucket = usize::from(bucket);
    ensure!(count > 0 && bucket <= BOUNDS_NS.len(), "bucket {bucket} of {count}");
    let above = bucket.checked_sub(1).map_or(0, |below| count * BOUNDS_NS[below] + count);
    let most = BOUNDS_NS.get(bucket).map_or(u64::MAX, |bound| count * bound);
    ensure!((above..=most).contains(&total_ns), "{total_ns} ns of {count} are not in bucket {bucket}");
    Ok(())
}

/// Text that is padded with zeros.
fn text_of(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim_end_matches('\0').to_owned()
}
