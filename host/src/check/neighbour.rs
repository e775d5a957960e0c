//! The entry of the neighbour table for an address, by rtnetlink.

use std::io;

use nix::sys::socket::SockProtocol;

use super::params::{Params, address, device, family};
use crate::netns::netlink::{attributes, dump, u32_at};

const RTM_GETNEIGH: u16 = 30;
/// Size of `struct ndmsg`: family, device at 4, state at 8.
const NDMSG: usize = 12;
// linux/neighbour.h
const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
const STATES: [(u16, &str); 8] = [
    (0x01, "INCOMPLETE"),
    (0x02, "REACHABLE"),
    (0x04, "STALE"),
    (0x08, "DELAY"),
    (0x10, "PROBE"),
    (0x20, "FAILED"),
    (0x40, "NOARP"),
    (0x80, "PERMANENT"),
];

/// One fact per device that has an entry.
pub(super) fn look(params: &Params<'_>) -> io::Result<Vec<String>> {
    let wanted = params.address("address")?;
    let mut request = [0; NDMSG];
    request[0] = family(wanted);
    let mut found = dump(SockProtocol::NetlinkRoute, RTM_GETNEIGH, &request, Vec::new, |found, entry| {
        let (mut owner, mut link) = (None, None);
        for (kind, value) in attributes(entry.get(NDMSG..).unwrap_or_default()) {
            match kind {
                NDA_DST => owner = address(value),
                NDA_LLADDR => {
                    link = Some(value.iter().map(|b| format!("{b:02x}")).collect::<Vec<_>>().join(":"))
                }
                _ => {}
            }
        }
        if owner == Some(wanted) {
            let state = (u32_at(entry, 8) & 0xffff) as u16;
            let (device, link) =
                (device(u32_at(entry, 4)), link.map_or_else(String::new, |l| format!(" at {l}")));
            found.push(format!("{wanted} on {device} is {}{link}", state_name(state)));
        }
    })?;
    if found.is_empty() {
        found.push(format!("no entry for {wanted}"));
    }
    Ok(found)
}

fn state_name(state: u16) -> &'static str {
    STATES.iter().find(|(known, _)| *known == state).map_or("NONE", |(_, name)| name)
}
