//! One named network namespace.

use std::fmt::Display;
use std::fs::File;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, ensure};
use nix::errno::Errno;
use nix::libc::{self, c_int, socklen_t};
use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, listen, setsockopt, socket, sockopt,
};

use super::sockets::PATIENCE;
use super::tool::{feed, run};

/// All names begin so; the process id follows.
const PREFIX: &str = "ins";

/// Where `ip netns` keeps its namespaces.
const NETNS: &str = "/run/netns";

/// `SO_NETNS_COOKIE` of asm-generic/socket.h, which libc does not name on every target.
const SO_NETNS_COOKIE: c_int = 71;

/// A network namespace made for one test and deleted with this value, also after a panic.
#[derive(Debug)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// Makes an empty namespace with `lo` up; `label` is the readable part of its name.
    ///
    /// # Errors
    /// Without root, or if `ip` fails.
    pub fn new(label: &str) -> Result<Self> {
        static LEFTOVERS: Once = Once::new();
        static NUMBER: AtomicU32 = AtomicU32::new(0);

        ensure!(nix::unistd::geteuid().is_root(), "the kernel lab needs root: it makes network namespaces");
        LEFTOVERS.call_once(Self::remove_leftovers);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}{}-{number}-{label}", std::process::id());
        run("ip", &format!("netns add {name}"))?;
        let namespace = Self { name };
        namespace.ip("link set lo up")?;
        Ok(namespace)
    }

    /// What names of this process begin with, for a test that makes its own.
    pub fn prefix() -> String {
        format!("{PREFIX}{}-", std::process::id())
    }

    /// Its name, as `ip netns` shows it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its cookie, as the kernel tells it to a socket made inside.
    ///
    /// # Errors
    /// Before Linux 5.14.
    pub fn cookie(&self) -> Result<u64> {
        self.run(cookie_here)
    }

    /// Inode number of the namespace.
    ///
    /// # Errors
    /// If it has been deleted meanwhile.
    pub fn inode(&self) -> Result<u64> {
        Ok(std::fs::metadata(self.path())?.ino())
    }

    /// Runs `work` inside, on a thread of its own; sockets made there stay in the namespace, and
    /// processes started there run in it.
    ///
    /// # Errors
    /// Those of `work`, and if the namespace cannot be entered.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        std::thread::scope(|scope| {
            let inside = scope.spawn(|| {
                let file = File::open(self.path())?;
                setns(&file, CloneFlags::CLONE_NEWNET)?;
                work()
            });
            inside.join().unwrap_or_else(|panic| resume_unwind(panic))
        })
        .with_context(|| format!("in namespace {}", self.name))
    }

    /// Runs `ip -n <this namespace> <args>`.
    ///
    /// # Errors
    /// If `ip` fails.
    pub fn ip(&self, args: &str) -> Result<String> {
        run("ip", &format!("-n {} {args}", self.name))
    }

    /// Runs `tc -n <this namespace> <args>`; an argument with blanks stands in quotes.
    ///
    /// # Errors
    /// If `tc` fails.
    pub fn tc(&self, args: &str) -> Result<()> {
        feed("tc", &format!("-n {} -batch -", self.name), args).map(drop)
    }

    /// Sets a network setting of the namespace, such as `net/ipv4/ip_forward`.
    ///
    /// # Errors
    /// If the kernel does not have it here or refuses the value.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        // /proc/sys/net is that of the namespace of the thread that opens it.
        self.run(|| {
            std::fs::write(format!("/proc/sys/{key}"), value).with_context(|| format!("{key} = {value}"))
        })
    }

    /// Loads nft rules into the namespace.
    ///
    /// # Errors
    /// If `nft` refuses them.
    pub fn nft(&self, rules: &str) -> Result<()> {
        self.run(|| feed("nft", "-f -", rules).map(drop))
    }

    /// Connects over TCP from inside.
    ///
    /// # Errors
    /// If it is refused or not answered.
    pub fn connect(&self, to: impl Into<SocketAddr>) -> Result<TcpStream> {
        let to = to.into();
        self.run(|| Ok(TcpStream::connect(to)?))
    }

    /// A listener inside; the kernel chooses the port if it is 0.
    ///
    /// # Errors
    /// If the namespace does not have the address, or the port is taken.
    pub fn listen(&self, at: impl Into<SocketAddr>) -> Result<TcpListener> {
        let at = at.into();
        self.run(|| Ok(TcpListener::bind(at)?))
    }

    /// [`Namespace::listen`] with room for so many connections that wait to be accepted, on a port
    /// that other listeners may share.
    ///
    /// # Errors
    /// As there.
    pub fn listen_with(&self, at: impl Into<SocketAddr>, backlog: i32) -> Result<TcpListener> {
        let at = at.into();
        self.run(|| {
            let socket = stream_socket(at.ip())?;
            setsockopt(&socket, sockopt::ReusePort, &true)?;
            bind(socket.as_raw_fd(), &SockaddrStorage::from(at))?;
            listen(&socket, Backlog::new(backlog)?)?;
            Ok(TcpListener::from(socket))
        })
    }

    /// A socket for datagrams inside, which waits for none longer than [`PATIENCE`]; the kernel
    /// chooses the port if it is 0.
    ///
    /// # Errors
    /// If the namespace does not have the address, or the port is taken.
    pub fn udp(&self, at: impl Into<SocketAddr>) -> Result<UdpSocket> {
        let at = at.into();
        let socket = self.run(|| Ok(UdpSocket::bind(at)?))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        Ok(socket)
    }

    /// Adds a rule to the lab's own nft table at a hook: `input`, `output` or `forward`.
    ///
    /// # Errors
    /// If `nft` refuses it.
    pub fn filter(&self, hook: &str, rule: &str) -> Result<()> {
        self.nft(&format!(
            "add table inet lab; add chain inet lab {hook} {{ type filter hook {hook} priority 0; }}; \
             add rule inet lab {hook} {rule}"
        ))
    }

    /// Sends nobody an ICMP redirect over IPv4; that of IPv6 cannot be silenced.
    ///
    /// # Errors
    /// If the kernel refuses a setting.
    pub fn send_no_redirects(&self) -> Result<()> {
        self.sysctl("net/ipv4/conf/all/send_redirects", "0")?;
        self.sysctl("net/ipv4/conf/eth0/send_redirects", "0")
    }

    /// Forwards in both families.
    ///
    /// # Errors
    /// If the kernel refuses a setting.
    pub fn forward(&self) -> Result<()> {
        self.sysctl("net/ipv4/ip_forward", "1")?;
        self.sysctl("net/ipv6/conf/all/forwarding", "1")
    }

    /// Tells the host which Ethernet address a neighbour on `eth0` has; it never asks for it again.
    ///
    /// # Errors
    /// If `ip` fails.
    pub fn knows(&self, neighbour: impl Display, mac: &str) -> Result<()> {
        self.ip(&format!("neigh replace {neighbour} lladdr {mac} dev eth0 nud permanent")).map(drop)
    }

    /// Deletes the namespaces of runs that were killed: their process is gone.
    pub fn remove_leftovers() {
        remove(|pid| !Path::new("/proc").join(pid.to_string()).exists());
    }

    /// Deletes the namespaces of this process, for one that ends without dropping them.
    pub fn remove_own() {
        remove(|pid| pid == std::process::id());
    }

    fn path(&self) -> PathBuf {
        Path::new(NETNS).join(&self.name)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if let Err(error) = run("ip", &format!("netns del {}", self.name)) {
            eprintln!("namespace {} stays behind: {error:#}", self.name);
        }
    }
}

/// A TCP socket for addresses of this family, in the namespace of the calling thread.
///
/// # Errors
/// If there are no descriptors left.
pub fn stream_socket(ip: IpAddr) -> Result<OwnedFd> {
    let family = if ip.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    Ok(socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?)
}

/// Cookie of the calling thread's namespace.
///
/// # Errors
/// Before Linux 5.14.
pub fn cookie_here() -> Result<u64> {
    let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::empty(), None)?;
    netns_cookie(&socket).context("cannot read SO_NETNS_COOKIE")
}

fn netns_cookie(socket: &OwnedFd) -> nix::Result<u64> {
    let mut cookie = 0u64;
    let mut length = size_of::<u64>() as socklen_t;
    // SAFETY: nix has no name for this option. Both pointers are to live locals, and `length` is
    // the size of the one that the kernel writes.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    Errno::result(result).map(|_| cookie)
}

/// Deletes the lab's namespaces whose process is `doomed`.
fn remove(doomed: impl Fn(u32) -> bool) {
    let Ok(entries) = std::fs::read_dir(NETNS) else { return };
    for name in entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()) {
        if owner(&name).is_some_and(&doomed) {
            // Another run may delete it at this moment; then it is gone as well.
            drop(run("ip", &format!("netns del {name}")));
        }
    }
}

/// The process that made a namespace, if the lab made it.
fn owner(name: &str) -> Option<u32> {
    name.strip_prefix(PREFIX)?.split_once('-')?.0.parse().ok()
}
