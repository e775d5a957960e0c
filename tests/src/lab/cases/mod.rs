//! Faults with the conclusion that they call for, and healthy traffic that calls for none.
//!
//! A [`Case`] makes one real situation in a [`Scene`] and proves that it happened: the connect
//! failed, the counter rose. A case that makes nothing is an error and never a missing conclusion.
//!
//! The families of cases, each a file:
//! - [`baselines`], [`healthy`]: healthy traffic, which may look like trouble;
//! - [`listening`], [`queues`], [`resets`], [`segments`]: connections;
//! - [`firewall`], [`programs`]: what is told to drop;
//! - [`routes`], [`mtu`], [`links`], [`neighbours`]: the way;
//! - [`receive`], [`sockets`], [`delays`]: the host;
//! - [`dns`], [`peers`]: the other side;
//! - [`ongoing`]: what goes on while somebody asks;
//! - [`life`]: several of these together, as they happen;
//! - [`variations`]: what no rule was written for.

mod baselines;
mod delays;
mod dns;
mod firewall;
mod healthy;
mod life;
mod links;
mod listening;
mod mtu;
mod neighbours;
mod ongoing;
mod peers;
mod programs;
mod queues;
mod receive;
mod resets;
mod routes;
mod segments;
mod sockets;
mod variations;

use anyhow::Result;

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

/// What most cases are, for `..FAULT`.
const FAULT: Case = Case {
    name: "",
    made: "",
    topology: Topology::Direct,
    families: &Family::BOTH,
    expect: &[],
    also: &[],
    ongoing: Ongoing::Clients,
    run: |_| Ok(Box::new(())),
};

const V4: &[Family] = &[Family::V4];

/// A family of cases by its name.
pub type Group = (&'static str, &'static [Case]);

/// All of them.
pub const GROUPS: &[Group] = &[
    ("baselines", baselines::CASES),
    ("baselines", healthy::clients::CASES),
    ("baselines", healthy::services::CASES),
    ("baselines", healthy::datagrams::CASES),
    ("baselines", healthy::networks::CASES),
    ("baselines", healthy::pods::CASES),
    ("baselines", healthy::transfers::CASES),
    ("baselines", healthy::exchanges::CASES),
    ("baselines", healthy::watchers::CASES),
    ("baselines", healthy::operators::CASES),
    ("listening", listening::CASES),
    ("queues", queues::CASES),
    ("resets", resets::CASES),
    ("segments", segments::CASES),
    ("firewall", firewall::CASES),
    ("programs", programs::CASES),
    ("routes", routes::CASES),
    ("mtu", mtu::CASES),
    ("links", links::CASES),
    ("neighbours", neighbours::CASES),
    ("receive", receive::CASES),
    ("sockets", sockets::CASES),
    ("delays", delays::CASES),
    ("dns", dns::CASES),
    ("peers", peers::CASES),
    ("life", life::CASES),
    ("ongoing", ongoing::names::CASES),
    ("ongoing", ongoing::walls::CASES),
    ("ongoing", ongoing::servers::CASES),
    ("ongoing", ongoing::ways::CASES),
    ("ongoing", ongoing::healthy::CASES),
    ("ongoing", ongoing::quiet::CASES),
    ("variations", variations::walls::CASES),
    ("variations", variations::hosts::CASES),
    ("variations", variations::ways::CASES),
    ("variations", variations::unseen::services::CASES),
    ("variations", variations::unseen::filters::CASES),
    ("variations", variations::unseen::paths::CASES),
    ("variations", variations::unseen::programs::CASES),
    ("variations", variations::unseen::names::CASES),
    ("variations", variations::blind::translated::CASES),
    ("variations", variations::blind::rules::CASES),
    ("variations", variations::blind::paths::CASES),
    ("variations", variations::blind::processes::CASES),
    ("variations", variations::blind::datagrams::CASES),
    ("variations", variations::together::CASES),
    ("variations", variations::mixed::CASES),
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
/// meets then is the traffic and not the question for the way.
fn know_each_other(scene: &Scene) -> Result<()> {
    Connection::open(&scene.pair, scene.family)?.close()
}
