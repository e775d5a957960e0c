//! `conntrack`: statistics of connection tracking, by ctnetlink.
//!
//! The statistics are kept per CPU and namespace and are summed here. Whoever asks ctnetlink loads
//! its module, so it is asked only where connection tracking is in use already: an agent must not
//! change the node it looks at.

use std::io;
use std::path::Path;

use nix::sys::socket::SockProtocol;

use super::rows::Rows;
use crate::netns::netlink::{attributes, dump, get};
use crate::privilege::{self, Capability};

/// Subsystem (`NFNL_SUBSYS_CTNETLINK`) and message type of linux/netfilter/nfnetlink_conntrack.h.
const CT_GET_STATS_CPU: u16 = (1 << 8) | 4;
const CT_GET_STATS: u16 = (1 << 8) | 5;
/// `struct nfgenmsg`: family, version, resource.
pub(super) const NFGENMSG: [u8; 4] = [0; 4];
/// Set for each namespace with the module, which is global.
pub(super) const MAXIMUM: &str = "/proc/sys/net/netfilter/nf_conntrack_max";

/// Attributes of `enum ctattr_stats_cpu`. Kernels differ in which ones they send: `ignore` ended
/// with 5.10, `clash_resolve` came with 5.9, `chain_toolong` with 5.15.
const PER_CPU: [(u16, &str); 12] = [
    (1, "searched"),
    (2, "found"),
    (4, "invalid"),
    (5, "ignore"),
    (8, "insert"),
    (9, "insert_failed"),
    (10, "drop"),
    (11, "early_drop"),
    (12, "error"),
    (13, "search_restart"),
    (14, "clash_resolve"),
    (15, "chain_toolong"),
];
/// `enum ctattr_stats_global`; the second since 4.18.
const GLOBAL: [(u16, &str); 2] = [(1, "entries"), (2, "max_entries")];

/// One row: the counters that this kernel has, then `entries` of this namespace and `max_entries`,
/// the limit of all namespaces.
pub(super) fn read() -> io::Result<Rows> {
    if !Path::new(MAXIMUM).exists() {
        let why = "connection tracking is not loaded (module nf_conntrack)";
        return Err(io::Error::new(io::ErrorKind::NotFound, why));
    }
    ask().map_err(|e| io::Error::new(e.kind(), privilege::explained(&e, Capability::NetAdmin)))
}

fn ask() -> io::Result<Rows> {
    let protocol = SockProtocol::NetlinkNetFilter;
    let per_cpu = |rows: &mut Rows, payload: &[u8]| add(rows, &PER_CPU, payload);
    let mut rows = dump(protocol, CT_GET_STATS_CPU, &NFGENMSG, Rows::default, per_cpu)?;
    get(protocol, CT_GET_STATS, &NFGENMSG, |payload| add(&mut rows, &GLOBAL, payload))?;
    if !rows.columns.iter().any(|column| column == "max_entries") {
        let text = std::fs::read_to_string(MAXIMUM)?;
        rows.push("max_entries", text.trim().parse().map_err(io::Error::other)?);
    }
    Ok(rows)
}

/// Conversations that are tracked in this namespace.
pub(super) fn entries() -> io::Result<u64> {
    let mut rows = Rows::default();
    get(SockProtocol::NetlinkNetFilter, CT_GET_STATS, &NFGENMSG, |payload| add(&mut rows, &GLOBAL, payload))?;
    let at = rows.columns.iter().position(|column| column == "entries");
    // A kernel that does not say may track some.
    Ok(at.map_or(1, |at| rows.numbers[at]))
}

/// Adds one message's numbers, which are big-endian, to the row.
fn add(rows: &mut Rows, names: &[(u16, &str)], payload: &[u8]) {
    for (kind, value) in attributes(payload.get(NFGENMSG.len()..).unwrap_or_default()) {
        let Some((_, name)) = names.iter().find(|(known, _)| *known == kind) else { continue };
        let Ok(bytes) = value.try_into() else { continue };
        let number = u64::from(u32::from_be_bytes(bytes));
        match rows.columns.iter().position(|column| column == name) {
            Some(at) => rows.numbers[at] += number,
            None => rows.push(*name, number),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpus_add_up_and_an_unknown_counter_is_skipped() {
        let message = [0, 0, 0, 0, 8, 0, 2, 0, 0, 0, 1, 2, 8, 0, 99, 0, 0, 0, 0, 1, 8, 0, 10, 0, 0, 0, 0, 3];
        let mut rows = Rows::default();
        add(&mut rows, &PER_CPU, &message);
        add(&mut rows, &PER_CPU, &message);
        assert_eq!(rows.columns, ["found", "drop"]);
        assert_eq!(rows.numbers, [2 * 258, 6]);
    }
}
