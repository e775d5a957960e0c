//! Faults with the conclusion that they call for, and healthy traffic that calls for none.
//!
//! A [`Case`] makes one real situation in a [`Scene`] and proves that it happened: the connect
//! failed, the counter rose. A case that makes nothing is an error and never a missing conclusion.
//! This is the one catalogue of them: whoever needs a fault by its name finds it here ([`Case::named`]).
//!
//! A file is a theme: what fails. How a case came about is its [`Origin`].
//! - [`healthy`]: traffic that may look like trouble;
//! - [`firewall`], [`tracking`], [`translation`], [`programs`]: what is told to drop or to change;
//! - [`routes`], [`forwarding`], [`neighbours`], [`links`], [`tunnels`], [`mtu`], [`queues`],
//!   [`packets`], [`peers`]: the network between the hosts;
//! - [`ports`], [`listeners`], [`local_ports`], [`resets`], [`stale`]: connections;
//! - [`sockets`], [`applications`], [`dns`]: programs.

mod applications;
mod dns;
mod firewall;
mod forwarding;
mod healthy;
mod links;
mod listeners;
mod local_ports;
mod mtu;
mod neighbours;
mod packets;
mod peers;
mod ports;
mod programs;
mod queues;
mod resets;
mod routes;
mod sockets;
mod stale;
mod tracking;
mod translation;
mod tunnels;

use anyhow::{Context as _, Result};

use super::{Connection, Family, Held, Scene, Topology};

/// A host of a scene.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Who connects.
    Client,
    /// Who is connected to.
    Server,
    /// Who forwards.
    Router,
    /// The third host on a bridge.
    Third,
    /// The machine itself, for what no namespace has.
    Host,
}

impl Place {
    /// As tables show it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Server => "server",
            Self::Router => "router",
            Self::Third => "third",
            Self::Host => "host",
        }
    }
}

/// A conclusion that is right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expected {
    /// Code of the finding.
    pub code: &'static str,
    /// Where the cause sits.
    pub at: Place,
    /// It is worth knowing and no fault: nothing of a higher severity may come first.
    pub info: bool,
}

impl Expected {
    const fn info(self) -> Self {
        Self { info: true, ..self }
    }
}

/// How a case came about: an exam that was held back until the rules were written says more about
/// them than the cases that they were written for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// Written together with the rules.
    Known,
    /// Told by people: one thing leads to another.
    Life,
    /// A known cause, made in another way.
    Variation,
    /// Healthy traffic that looks like trouble, and faults amid it or beside another one.
    Noise,
    /// The first exam that was written without a look at the rules: off the beaten track.
    Unseen,
    /// The second one: what wakes up those who run the nodes of a cluster.
    Blind,
    /// The third one: what goes on while somebody asks, with clients that come back and are as
    /// impatient as health checks, pools and drivers are.
    Ongoing,
}

impl Origin {
    /// As tables show it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Known => "known",
            Self::Life => "life",
            Self::Variation => "variation",
            Self::Noise => "noise",
            Self::Unseen => "unseen",
            Self::Blind => "blind",
            Self::Ongoing => "ongoing",
        }
    }
}

/// The form of a fault in which somebody asks while it lasts and clients go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ongoing {
    /// Its clients try again and again, at the pace of the scene.
    Clients,
    /// The whole case is made again and again, with new clients each time.
    Again,
    /// What the case holds goes on by itself, as long as it is held: its programs, or the kernel for
    /// those of its clients that are patient.
    ByItself,
    /// There is none, for this reason.
    Never(&'static str),
}

/// One situation.
#[derive(Debug, Clone, Copy)]
pub struct Case {
    /// Its name in tables and on the command line.
    pub name: &'static str,
    /// How it is made, in one sentence.
    pub made: &'static str,
    /// How it came about.
    pub origin: Origin,
    /// Between whom.
    pub topology: Topology,
    /// The families that it is run in, each for itself.
    pub families: &'static [Family],
    /// Any of these is right as the first finding; none of them: no warning may come at all.
    pub expect: &'static [Expected],
    /// These must be among the findings as well.
    pub also: &'static [Expected],
    /// How it is made for who asks while it lasts.
    pub ongoing: Ongoing,
    /// Makes it, and returns once it has provably happened.
    ///
    /// # Errors
    /// If it did not happen.
    pub run: fn(&Scene) -> Result<Held>,
}

impl Case {
    /// The case of this name.
    ///
    /// # Errors
    /// If there is none.
    pub fn named(name: &str) -> Result<&'static Self> {
        let mut cases = THEMES.iter().flat_map(|(_, cases)| cases.iter());
        cases.find(|case| case.name == name).with_context(|| format!("no case is called {name}"))
    }

    /// Makes it where somebody else watches.
    ///
    /// # Errors
    /// If it did not happen.
    pub fn make(&self, scene: &Scene) -> Result<Held> {
        (self.run)(scene).with_context(|| format!("{} did not happen", self.name))
    }

    const fn routed(self) -> Self {
        Self { topology: Topology::Routed, ..self }
    }

    const fn bridged(self) -> Self {
        Self { topology: Topology::Bridged, ..self }
    }

    const fn over_userspace_link(self) -> Self {
        Self { topology: Topology::UserspaceLink, ..self }
    }
}

/// What most cases are; the others differ in how they came about.
const KNOWN: Case = Case {
    name: "",
    made: "",
    origin: Origin::Known,
    topology: Topology::Direct,
    families: &Family::BOTH,
    expect: &[],
    also: &[],
    ongoing: Ongoing::Clients,
    run: |_| Ok(Box::new(())),
};
const LIFE: Case = Case { origin: Origin::Life, ..KNOWN };
const VARIATION: Case = Case { origin: Origin::Variation, ..KNOWN };
const NOISE: Case = Case { origin: Origin::Noise, ..KNOWN };
const UNSEEN: Case = Case { origin: Origin::Unseen, ..KNOWN };
const BLIND: Case = Case { origin: Origin::Blind, ..KNOWN };
/// What goes on needs nobody to make it again.
const ONGOING: Case = Case { origin: Origin::Ongoing, ongoing: Ongoing::ByItself, ..KNOWN };

const V4: &[Family] = &[Family::V4];

/// What fails, and the cases of that.
pub type Theme = (&'static str, &'static [Case]);

/// All of them; a theme of several files is there once for each.
pub const THEMES: &[Theme] = &[
    ("healthy", healthy::connections::CASES),
    ("healthy", healthy::clients::CASES),
    ("healthy", healthy::services::CASES),
    ("healthy", healthy::names::CASES),
    ("healthy", healthy::datagrams::CASES),
    ("healthy", healthy::networks::CASES),
    ("healthy", healthy::transfers::CASES),
    ("healthy", healthy::operators::CASES),
    ("healthy", healthy::pods::CASES),
    ("healthy", healthy::watchers::CASES),
    ("firewall", firewall::drops::CASES),
    ("firewall", firewall::hooks::CASES),
    ("firewall", firewall::partly::CASES),
    ("firewall", firewall::rejects::CASES),
    ("translation", translation::CASES),
    ("tracking", tracking::CASES),
    ("programs", programs::CASES),
    ("queues", queues::CASES),
    ("ports", ports::CASES),
    ("listeners", listeners::CASES),
    ("local_ports", local_ports::CASES),
    ("resets", resets::CASES),
    ("stale", stale::CASES),
    ("routes", routes::CASES),
    ("forwarding", forwarding::CASES),
    ("neighbours", neighbours::CASES),
    ("links", links::CASES),
    ("tunnels", tunnels::CASES),
    ("mtu", mtu::CASES),
    ("packets", packets::CASES),
    ("sockets", sockets::CASES),
    ("applications", applications::CASES),
    ("peers", peers::CASES),
    ("dns", dns::silence::CASES),
    ("dns", dns::answers::CASES),
];

const fn at(at: Place, code: &'static str) -> Expected {
    Expected { code, at, info: false }
}

const fn client(code: &'static str) -> Expected {
    at(Place::Client, code)
}

const fn server(code: &'static str) -> Expected {
    at(Place::Server, code)
}

const fn router(code: &'static str) -> Expected {
    at(Place::Router, code)
}

/// A connect that nobody answers: it goes on as long as what is returned.
fn unanswered(scene: &Scene, to: std::net::SocketAddr) -> Result<Held> {
    let connecting = scene.connect(scene.client(), to)?;
    scene.in_vain(scene.client(), 1)?;
    Ok(connecting)
}

/// A connection in order, after which both sides know each other's Ethernet address: what a fault
/// meets then is the traffic and not the question for the route.
fn know_each_other(scene: &Scene) -> Result<()> {
    Connection::open(&scene.pair, scene.family)?.close()
}
