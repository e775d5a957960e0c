//! `netdev`: counters of each interface, by rtnetlink (RTM_GETLINK).
//!
//! A packet passes several devices of one namespace: a bridge port and the bridge, a VLAN device
//! and the card below it. [`counted`] tells which of them make up the namespace's own traffic, so
//! that a sum counts each packet once.

use std::io;

use nix::sys::socket::SockProtocol;

use super::rows::Rows;
use crate::netns::netlink::{attributes, dump, text, u32_at, u64_at};

const RTM_GETLINK: u16 = 18;
/// Size of `struct ifinfomsg`; the interface's number stands at 4.
const IFINFOMSG: usize = 16;
// linux/if_link.h
const IFLA_IFNAME: u16 = 3;
const IFLA_LINK: u16 = 5;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_STATS64: u16 = 23;
const IFLA_LINK_NETNSID: u16 = 37;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_SLAVE_KIND: u16 = 4;

/// The names of `/proc/net/dev`, and the fields of `struct rtnl_link_stats64` that make up each.
const COUNTERS: [(&str, &[usize]); 16] = [
    ("rx_bytes", &[2]),
    ("rx_packets", &[0]),
    ("rx_errs", &[4]),
    ("rx_drop", &[6, 15]),
    ("rx_fifo", &[14]),
    ("rx_frame", &[10, 11, 12, 13]),
    ("rx_compressed", &[21]),
    ("rx_multicast", &[8]),
    ("tx_bytes", &[3]),
    ("tx_packets", &[1]),
    ("tx_errs", &[5]),
    ("tx_drop", &[7]),
    ("tx_fifo", &[18]),
    ("tx_colls", &[9]),
    ("tx_carrier", &[16, 17, 19, 20]),
    ("tx_compressed", &[22]),
];

/// What is read of one device.
#[derive(Debug, Default)]
struct Link {
    index: u32,
    name: String,
    kind: String,
    /// Kind of the device it is enslaved to; empty if it is not.
    slave_kind: String,
    enslaved: bool,
    /// The device it is stacked on, 0 if there is none.
    lower: u32,
    /// The other device is in another namespace.
    elsewhere: bool,
    stats: Vec<u8>,
}

/// One row per interface: `interface` (text), `counted` (1 if it is part of the namespace's sum),
/// and the columns of `/proc/net/dev`.
pub(super) fn read() -> io::Result<Rows> {
    let empty = || {
        let mut rows = Rows::under(&["interface", "counted"]);
        rows.columns.extend(COUNTERS.iter().map(|(name, _)| (*name).to_owned()));
        rows
    };
    dump(SockProtocol::NetlinkRoute, RTM_GETLINK, &[0; IFINFOMSG], empty, |rows, payload| {
        let link = Link::of(payload);
        let name = rows.text(link.name.clone());
        rows.numbers.extend([name, counted(&link).into()]);
        rows.numbers.extend(COUNTERS.iter().map(|(_, fields)| link.sum(fields)));
    })
}

/// Whether a device's packets are counted by no other device of its namespace. Left out are:
///
/// - `lo`, whose traffic never leaves the namespace;
/// - what is enslaved (ports of bridges, bonds, teams, Open vSwitch): the master counts what the
///   namespace itself sends and receives through it, and traffic bridged past it is not its own;
/// - VRF devices, whose members count the same packets;
/// - what is stacked on a device of the same namespace (VLAN, macvlan, ipvlan): the lower device
///   counts it. Tunnels are not left out: what they send is another packet below.
fn counted(link: &Link) -> bool {
    let enslaved = link.enslaved && link.slave_kind != "vrf";
    // Two ends of a veth in one namespace name each other; both really carry the packet.
    let stacked = !link.elsewhere
        && link.lower != 0
        && link.lower != link.index
        && ["vlan", "macvlan", "macvtap", "ipvlan", "ipvtap"].contains(&link.kind.as_str());
    link.name != "lo" && link.kind != "vrf" && !enslaved && !stacked
}

impl Link {
    fn of(payload: &[u8]) -> Self {
        let mut link = Self { index: u32_at(payload, 4), ..Self::default() };
        for (kind, value) in attributes(payload.get(IFINFOMSG..).unwrap_or_default()) {
            match kind {
                IFLA_IFNAME => link.name = text(value),
                IFLA_LINK => link.lower = u32_at(value, 0),
                IFLA_MASTER => link.enslaved = true,
                IFLA_LINK_NETNSID => link.elsewhere = true,
                IFLA_STATS64 => link.stats = value.to_vec(),
                IFLA_LINKINFO => {
                    for (kind, value) in attributes(value) {
                        match kind {
                            IFLA_INFO_KIND => link.kind = text(value),
                            IFLA_INFO_SLAVE_KIND => link.slave_kind = text(value),
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
        link
    }

    fn sum(&self, fields: &[usize]) -> u64 {
        fields.iter().fold(0, |sum, field| sum.wrapping_add(u64_at(&self.stats, field * 8)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(name: &str, kind: &str) -> Link {
        Link { index: 2, name: name.into(), kind: kind.into(), ..Link::default() }
    }

    #[test]
    fn every_packet_is_counted_once() {
        let card = link("eth0", "");
        let port = Link { enslaved: true, slave_kind: "bridge".into(), ..link("veth1", "veth") };
        let vlan = Link { lower: 7, ..link("eth0.5", "vlan") };
        assert!(counted(&card) && !counted(&port) && counted(&link("br0", "bridge")) && !counted(&vlan));
        let member = Link { enslaved: true, slave_kind: "vrf".into(), ..link("eth1", "") };
        assert!(counted(&member) && !counted(&link("red", "vrf")) && !counted(&link("lo", "")));
    }

    #[test]
    fn a_pods_own_end_is_counted_whatever_it_is_made_of() {
        let other = Link { lower: 9, elsewhere: true, ..Link::default() };
        assert!(counted(&Link { kind: "veth".into(), ..other }));
        assert!(counted(&Link { lower: 9, elsewhere: true, ..link("eth0", "macvlan") }));
    }
}
