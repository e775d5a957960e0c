//! The hosts of one fault and how they are joined.

use std::any::Any;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result};

use etherparse::SlicedPacket;

use super::clients::{Attempts, Pace};
use super::pair::{address, join, set_up};
use super::userspace_link::{Side, UserspaceLink, Working};
use super::{Family, Namespace, Pair, run};
use crate::wait;

/// What keeps a fault standing until it was seen.
pub type Held = Box<dyn Any + Send>;

/// How the hosts of a scene are joined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Topology {
    /// Client and server on one veth link.
    Direct,
    /// Client and server in two nets, with a router between them.
    Routed,
    /// Client, server and a third host on a bridge.
    Bridged,
    /// Client and server on a [`UserspaceLink`] that the case puts to work.
    UserspaceLink,
}

/// Hosts, joined; all are deleted with this value.
#[derive(Debug)]
pub struct Scene {
    /// The family in which the case runs.
    pub family: Family,
    /// Client and server.
    pub pair: Pair,
    router: Option<Namespace>,
    third: Option<Namespace>,
    /// Where the bridge is.
    _switch: Option<Namespace>,
    link: Mutex<Option<UserspaceLink>>,
    /// The userspace link once [`Scene::carry`] has put it to work.
    working: Mutex<Option<Working>>,
    /// How its clients try.
    pub(super) pace: Pace,
    /// What became of attempts of clients that go on.
    pub attempts: Arc<Attempts>,
}

impl Scene {
    /// Builds a scene.
    ///
    /// # Errors
    /// Without root, or if `ip` fails.
    pub fn new(topology: Topology, family: Family) -> Result<Self> {
        let (mut router, mut third, mut switch, mut link) = (None, None, None, None);
        let pair = match topology {
            Topology::Direct => Pair::new()?,
            Topology::Routed => {
                let pair = Pair::apart(1)?;
                router = Some(route(&pair)?);
                pair
            }
            Topology::Bridged => {
                let pair = Pair::apart(0)?;
                let (on, host) = (Namespace::new("switch")?, Namespace::new("third")?);
                bridge(&on, [&pair.client, &pair.server, &host])?;
                pair.give_addresses()?;
                set_up(&host, "eth0", 0, 3)?;
                (switch, third) = (Some(on), Some(host));
                pair
            }
            Topology::UserspaceLink => {
                let pair = Pair::apart(0)?;
                link = Some(UserspaceLink::new(&pair.client, &pair.server)?);
                pair.give_addresses()?;
                pair
            }
        };
        let scene = Self {
            family,
            pair,
            router,
            third,
            _switch: switch,
            link: Mutex::new(link),
            working: Mutex::new(None),
            pace: Pace::Once,
            attempts: Arc::default(),
        };
        wait::until("IPv6 on every link", || scene.hosts().all(is_ready).then_some(()))?;
        Ok(scene)
    }

    /// The same with clients that try at another pace than once.
    #[must_use]
    pub fn at_pace(self, pace: Pace) -> Self {
        Self { pace, ..self }
    }

    /// 10.9.0.1 or fd00:9::1.
    pub fn client(&self) -> &Namespace {
        &self.pair.client
    }

    /// 10.9.0.2 or fd00:9::2; behind a router 10.9.1.2 or fd00:9:0:1::2.
    pub fn server(&self) -> &Namespace {
        &self.pair.server
    }

    /// `eth0`, 10.9.0.254 or fd00:9::fe, towards the client; `eth1` in net 1 towards the server.
    ///
    /// # Errors
    /// In another topology.
    pub fn router(&self) -> Result<&Namespace> {
        self.router.as_ref().context("this scene has no router")
    }

    /// 10.9.0.3 or fd00:9::3.
    ///
    /// # Errors
    /// In another topology.
    pub fn third(&self) -> Result<&Namespace> {
        self.third.as_ref().context("this scene has no third host")
    }

    /// The userspace link, which carries nothing yet; a case takes it once.
    ///
    /// # Errors
    /// In another topology, and the second time.
    pub fn userspace_link(&self) -> Result<UserspaceLink> {
        let mut link = self.link.lock().unwrap_or_else(PoisonError::into_inner);
        link.take().context("this scene has no userspace link left")
    }

    /// Puts the userspace link to work as long as the scene, as [`UserspaceLink::carry`] does. One that is at work
    /// goes on as it does, so a case that is made again needs no second one.
    ///
    /// # Errors
    /// In another topology.
    pub fn carry(
        &self,
        passes: impl Fn(Side, &SlicedPacket<'_>) -> bool + Send + Sync + 'static,
    ) -> Result<()> {
        let mut working = self.working.lock().unwrap_or_else(PoisonError::into_inner);
        if working.is_none() {
            *working = Some(self.userspace_link()?.carry(passes));
        }
        Ok(())
    }

    /// Puts the userspace link to work until the switch that is returned is set: it is cut then.
    ///
    /// # Errors
    /// In another topology.
    pub fn carry_until_cut(&self) -> Result<Arc<AtomicBool>> {
        let cut = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&cut);
        self.carry(move |_, _| !seen.load(Ordering::Relaxed))?;
        Ok(cut)
    }

    /// Every host that a diagnosis may be asked about.
    pub fn hosts(&self) -> impl Iterator<Item = &Namespace> {
        [self.client(), self.server()].into_iter().chain(&self.router).chain(&self.third)
    }

    /// The client's address.
    pub fn client_ip(&self) -> IpAddr {
        self.pair.client_ip(self.family)
    }

    /// The server's address.
    pub fn server_ip(&self) -> IpAddr {
        self.pair.server_ip(self.family)
    }

    /// A port at the server.
    pub fn server_at(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.server_ip(), port)
    }

    /// A listener of the server, at a port that the kernel chooses.
    ///
    /// # Errors
    /// If the server's address is gone.
    pub fn listener(&self) -> Result<TcpListener> {
        self.server().listen((self.server_ip(), 0))
    }

    /// A socket of the server for datagrams, at a port that the kernel chooses.
    ///
    /// # Errors
    /// If the server's address is gone.
    pub fn receiver(&self) -> Result<UdpSocket> {
        self.server().udp((self.server_ip(), 0))
    }

    /// A socket of the client for datagrams.
    ///
    /// # Errors
    /// If the client's address is gone.
    pub fn sender(&self) -> Result<UdpSocket> {
        self.client().udp((self.client_ip(), 0))
    }

    /// A port in a net that no host of the scene is in.
    pub fn beyond(&self) -> SocketAddr {
        let v6 = Ipv6Addr::new(0xfd00, 8, 0, 0, 0, 0, 0, 1);
        (self.by_family(IpAddr::from(Ipv4Addr::new(10, 8, 0, 1)), v6.into()), 80).into()
    }

    /// The net of [`Scene::beyond`].
    pub fn beyond_net(&self) -> &'static str {
        self.by_family("10.8.0.0/24", "fd00:8::/64")
    }

    /// An address on the client's link that nobody has unless the case gives it to somebody.
    pub fn neighbour(&self, host: u8) -> IpAddr {
        self.pair.neighbour(self.family, host)
    }

    /// The address by which a host speaks to itself.
    pub fn loopback(&self) -> IpAddr {
        self.by_family(Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into())
    }

    /// What differs between the families.
    pub fn by_family<T>(&self, v4: T, v6: T) -> T {
        match self.family {
            Family::V4 => v4,
            Family::V6 => v6,
        }
    }

    /// Runs `iptables` or `ip6tables` of a kind, `nft` or `legacy`, in a namespace of the scene.
    ///
    /// # Errors
    /// If it refuses the rule.
    pub fn iptables(&self, at: &Namespace, kind: &str, rule: &str) -> Result<()> {
        let program = format!("{}-{kind}", self.by_family("iptables", "ip6tables"));
        at.run(|| run(&program, &format!("-w 5 {rule}")).map(drop))
    }

    /// Makes this the one rule by which a host translates addresses at a hook: `prerouting`, `output`
    /// or `postrouting`.
    ///
    /// # Errors
    /// If `nft` refuses it.
    pub fn translate(&self, at: &Namespace, hook: &str, rule: &str) -> Result<()> {
        let family = self.by_family("ip", "ip6");
        let priority = if hook == "postrouting" { 100 } else { -100 };
        at.nft(&format!(
            "add table {family} lab; \
             add chain {family} lab {hook} {{ type nat hook {hook} priority {priority}; }}; \
             flush chain {family} lab {hook}; add rule {family} lab {hook} {rule}"
        ))
    }

    /// `ip -4` or `ip -6` in a namespace of the scene.
    ///
    /// # Errors
    /// If `ip` fails.
    pub fn ip(&self, at: &Namespace, args: &str) -> Result<()> {
        at.ip(&format!("{} {args}", self.by_family("-4", "-6"))).map(drop)
    }
}

/// A link takes part in IPv6 some time after it is up; then it has the route of its address.
fn is_ready(host: &Namespace) -> bool {
    let links = host.ip("-6 -o addr show scope global").unwrap_or_default().lines().count();
    let routes = host.ip("-6 route show proto kernel").unwrap_or_default();
    routes.lines().filter(|route| route.starts_with("fd00:")).count() == links
}

/// A router between client and server, and everybody's default route.
fn route(pair: &Pair) -> Result<Namespace> {
    const HOST: u8 = 254;
    let router = Namespace::new("router")?;
    join(&pair.client, "eth0", &router, "eth0")?;
    join(&pair.server, "eth0", &router, "eth1")?;
    pair.give_addresses()?;
    for (net, link, host) in [(0, "eth0", &pair.client), (1, "eth1", &pair.server)] {
        set_up(&router, link, net, HOST)?;
        // From this one it asks for neighbours when it forwards.
        router.ip(&format!("addr add fe80::{HOST:x}/64 dev {link} nodad"))?;
        for family in Family::BOTH {
            host.ip(&format!("route add default via {}", address(family, net, HOST)))?;
        }
    }
    router.forward()?;
    Ok(router)
}

/// A bridge with a port for each host.
fn bridge(on: &Namespace, hosts: [&Namespace; 3]) -> Result<()> {
    on.ip("link add br0 type bridge")?;
    on.ip("link set br0 addrgenmode none up")?;
    for (port, host) in hosts.into_iter().enumerate() {
        let port = format!("port{port}");
        join(host, "eth0", on, &port)?;
        on.ip(&format!("link set {port} addrgenmode none master br0 up"))?;
    }
    Ok(())
}
