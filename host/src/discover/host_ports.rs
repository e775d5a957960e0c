//! Which ports of the host's network belong to pods that use it, by the sockets that their processes hold.
//!
//! It costs a read for each process of the node.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;
use std::thread;

use nix::libc::{AF_INET, AF_INET6, IPPROTO_TCP, IPPROTO_UDP};
use nix::sys::socket::SockProtocol;

use super::cgroup::{self, Container};
use crate::netns;
use crate::netns::netlink::{dump, u32_at};

const SOCK_DIAG_BY_FAMILY: u16 = 20;
/// Size of `struct inet_diag_req_v2`: family, protocol, two zeros, states at 4, socket id.
const REQUEST: usize = 56;

/// Uids of pods by protocol and port. One that others hold too, pods or not, is nobody's and not there.
pub type HostPorts = BTreeMap<(u8, u16), String>;

/// Ports of a network, by its file, that are held by processes of the pods with these uids.
///
/// # Errors
/// The processes or the sockets cannot be listed.
pub fn host_ports(proc: &Path, network: &Path, is_wanted: impl Fn(&str) -> bool) -> io::Result<HostPorts> {
    let holders = holders(proc, is_wanted)?;
    if holders.is_empty() {
        return Ok(HostPorts::new());
    }
    // Entering a network changes a thread for good.
    let listing = || {
        netns::enter(network)?;
        ports(&holders)
    };
    thread::scope(|scope| scope.spawn(listing).join())
        .map_err(|_| io::Error::other("listing sockets failed"))?
}

/// Uids by the inode number of a socket; nobody's if two pods have it open.
type Holders = BTreeMap<u32, Option<String>>;

fn holders(proc: &Path, is_wanted: impl Fn(&str) -> bool) -> io::Result<Holders> {
    let mut holders = Holders::new();
    for process in fs::read_dir(proc)?.flatten().map(|entry| entry.path()) {
        // What ends meanwhile, and what is no process, has none.
        let Ok(text) = fs::read_to_string(process.join("cgroup")) else { continue };
        let Some(Container::Pod { uid }) = cgroup::container(&text) else { continue };
        if !is_wanted(&uid) {
            continue;
        }
        let files = fs::read_dir(process.join("fd")).into_iter().flatten().flatten();
        let sockets = files.filter_map(|file| socket(&fs::read_link(file.path()).ok()?));
        for inode in sockets {
            let holder = holders.entry(inode).or_insert_with(|| Some(uid.clone()));
            if holder.as_ref() != Some(&uid) {
                *holder = None;
            }
        }
    }
    Ok(holders)
}

/// `socket:[4242]`.
fn socket(target: &Path) -> Option<u32> {
    target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

fn ports(holders: &Holders) -> io::Result<HostPorts> {
    let mut ports: BTreeMap<(u8, u16), Option<String>> = BTreeMap::new();
    for (family, protocol) in
        [AF_INET, AF_INET6].into_iter().flat_map(|f| [(f, IPPROTO_TCP), (f, IPPROTO_UDP)])
    {
        let mut request = [0; REQUEST];
        (request[0], request[1]) = (family as u8, protocol as u8);
        request[4..8].copy_from_slice(&u32::MAX.to_ne_bytes());
        let found =
            dump(SockProtocol::NetlinkSockDiag, SOCK_DIAG_BY_FAMILY, &request, Vec::new, |all, message| {
                // Those that nobody has open any more have no number.
                all.extend(port(message).filter(|(_, inode)| *inode != 0));
            });
        let found = match found {
            // A kernel without IPv6 has none of its sockets.
            Err(_) if family == AF_INET6 => continue,
            found => found?,
        };
        for (port, inode) in found {
            let uid = holders.get(&inode).and_then(Option::as_ref);
            let owner = ports.entry((protocol as u8, port)).or_insert_with(|| uid.cloned());
            if owner.as_ref() != uid {
                *owner = None;
            }
        }
    }
    Ok(ports.into_iter().filter_map(|(port, owner)| Some((port, owner?))).collect())
}

/// `struct inet_diag_msg` has its own port at 4 and its inode number at 68.
fn port(message: &[u8]) -> Option<(u16, u32)> {
    let port = u16::from_be_bytes(message.get(4..6)?.try_into().ok()?);
    (message.len() >= 72).then(|| (port, u32_at(message, 68)))
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};
    use std::os::fd::AsRawFd;

    use super::*;

    const UID: &str = "7c5e8a3b-1f0d-4f6e-9c55-0a1b2c3d4e5f";
    const OTHER: &str = "8c5e8a3b-1f0d-4f6e-9c55-0a1b2c3d4e5f";

    /// A procfs of processes that hold the sockets of this one.
    fn proc(processes: &[(&str, &[i32])]) -> tempfile::TempDir {
        let proc = tempfile::tempdir().expect("a folder");
        for (pid, (uid, sockets)) in processes.iter().enumerate() {
            let process = proc.path().join(pid.to_string());
            fs::create_dir_all(process.join("fd")).expect("a folder");
            let cgroup = format!("0::/kubepods/burstable/pod{uid}/1\n");
            fs::write(process.join("cgroup"), cgroup).expect("written");
            for socket in *sockets {
                let target = fs::read_link(format!("/proc/self/fd/{socket}")).expect("a socket");
                std::os::unix::fs::symlink(target, process.join("fd").join(socket.to_string()))
                    .expect("a link");
            }
        }
        proc
    }

    #[test]
    fn a_port_belongs_to_the_pod_whose_process_holds_its_socket_and_to_nobody_if_others_do_too() {
        let (tcp, udp) =
            (TcpListener::bind("127.0.0.1:0").expect("free"), UdpSocket::bind("[::1]:0").expect("free"));
        let (shared, other) = (UdpSocket::bind("127.0.0.1:0").expect("free"), UdpSocket::bind("127.0.0.2:0"));
        let at = |socket: &UdpSocket| socket.local_addr().expect("bound").port();
        drop(other);
        let second = UdpSocket::bind(("127.0.0.2", at(&shared))).expect("free at another address");
        let fd = |socket: &UdpSocket| socket.as_raw_fd();
        let proc = proc(&[(UID, &[tcp.as_raw_fd(), fd(&udp), fd(&shared)]), (OTHER, &[fd(&second)])]);
        let look = |wanted: &dyn Fn(&str) -> bool| {
            host_ports(proc.path(), Path::new("/proc/thread-self/ns/net"), wanted).expect("sockets")
        };
        let port = tcp.local_addr().expect("bound").port();
        let expected = [((6, port), UID.to_owned()), ((17, at(&udp)), UID.to_owned())];
        assert_eq!(look(&|_| true), expected.into());
        assert_eq!(look(&|uid| uid == OTHER), HostPorts::new(), "a stranger has it at another address");
        assert_eq!(look(&|_| false), HostPorts::new());
    }
}
