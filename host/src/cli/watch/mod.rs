//! `inspector watch`: events of any number of nodes, as they happen.
//!
//! Events go to standard output, one line each, written at once; everything else that a person
//! should know (a connection that broke, events that were lost) goes to standard error. A server
//! is not trusted: what it sends is bounded, checked and escaped before it is printed.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, IsTerminal as _};
use std::process::ExitCode;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{interval, sleep};

use super::cluster::ClusterArgs;
use super::moment::TimeForm;
use super::shared::{Output, WRONG_USAGE, or_this_node, server_address};
use super::terminal;
use crate::config::address::Address;
use crate::events::fold;
use crew::Crew;
use filter::Filter;
use follow::{Follower, Message};
use screen::{Form, Screen};

mod crew;
mod doubt;
mod filter;
mod follow;
mod line;
mod screen;

pub use line::text;

/// As shells report a program that SIGINT ended.
const INTERRUPTED: u8 = 130;
/// Lines that wait between the connections and the terminal. Beyond them the servers wait, and
/// what a server cannot keep for so long it reports as lost.
const WAITING_LINES: usize = 1024;

/// Show events of this node or of others, as they happen
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  inspector watch                                  events of this node
  inspector watch -e node-1 -e node-2:19102        events of two nodes, told apart by Node=
  inspector watch --all-nodes                      events of the whole cluster, also of nodes that join
  inspector watch --min-severity warning --since 5m
  inspector watch --address 10.2.0.0/16 --port 443 --type '!TCPRETRANS'
  inspector watch -n 20 --no-follow                the last 20 events, and no more
  inspector watch --namespace shop --pod cart-7d9f -o json | jq .attrs

A flag that chooses events may be repeated or hold several values with commas between them, one of
which must be true of an event; all flags must be. A value behind a ! must not be true; quote it,
because shells have a meaning of their own for it.

Text leaves out what is the normal course of things and what the agent's own connections cause,
unless it is asked for by its reason, and tells one fault in one line, with what other events say of
it (also=). --all shows every event on its own; -o json always does, and marks what is left out here
by class=noise and own_traffic=true.

It goes on until it is interrupted, and reconnects when a server goes away. Of a cluster, agents are
asked through its API server, with the kubeconfig that kubectl uses.

Exit status: 0 if everything that was asked for was shown; 1 if a server could not be asked; 2 for
wrong usage, such as a type of events that nobody sends.")]
pub struct Args {
    /// Event server, port 19102 if none is given; may be repeated [default: 127.0.0.1:19102]
    #[arg(short = 'e', long = "events", visible_short_alias = 's', visible_alias = "server")]
    #[arg(value_name = "ADDR", value_parser = server_address)]
    servers: Vec<Address>,
    /// Tell on standard error about every connection
    #[arg(short, long)]
    debug: bool,
    /// The whole event as a JSON line; the same as -o json
    #[arg(short, long)]
    verbose: bool,
    /// How to print an event
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Output,
    /// How to print the time of an event, in text
    #[arg(long, value_enum, default_value_t, value_name = "FORM")]
    time: TimeForm,
    /// End after so many lines
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// End after this time, e.g. 30s
    #[arg(long = "for", value_name = "TIME", value_parser = humantime::parse_duration)]
    duration: Option<Duration>,
    #[command(flatten)]
    filter: Filter,
    #[command(flatten)]
    cluster: ClusterArgs,
}

impl Args {
    /// Called through kubectl, the cluster is meant unless servers are named.
    pub fn through_kubectl(&mut self) {
        if self.servers.is_empty() {
            self.cluster.mean_all_nodes();
        }
    }
}

/// Prints events until it is interrupted or all that was asked for has come.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(watch(args))
}

async fn watch(args: Args) -> anyhow::Result<ExitCode> {
    let is_json = args.verbose || args.output == Output::Json;
    doubt::tell(&args.filter);
    if !is_json && !args.filter.all && io::stderr().is_terminal() {
        terminal::complain(
            "the normal course of things and the agent's own connections are left out (--all)",
        );
    }
    let (sender, mut messages) = mpsc::channel(WAITING_LINES);
    let mut watch = Watch::new(&args, is_json);
    if args.cluster.is_given() {
        let agents = args.cluster.agents().await?;
        let (crew, found) = Crew::find(agents, args.filter.clone(), is_json, sender).await?;
        if found.servers.is_empty() {
            watch.status = ExitCode::FAILURE;
        }
        tokio::spawn(crew.run(found));
    } else {
        for server in or_this_node(args.servers.clone())? {
            watch.silent.insert(server.name().to_string());
            watch.unnamed.insert(server.name().to_string());
            tokio::spawn(Follower::new(server, args.filter.clone(), is_json, sender.clone()).run());
        }
        // The channel ends when the last follower has ended.
        drop(sender);
    }
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut look = interval(Duration::from_secs(1));
    let end = sleep(args.duration.unwrap_or(Duration::MAX));
    tokio::pin!(end);
    while !watch.screen.is_full() {
        tokio::select! {
            message = messages.recv() => match message {
                Some((server, message)) => watch.take(&server, message)?,
                None => break,
            },
            () = sleep(fold::PATIENCE), if watch.screen.is_waiting() => watch.screen.show_due()?,
            () = &mut end => break,
            _ = interrupt.recv() => {
                watch.screen.finish()?;
                return Ok(ExitCode::from(INTERRUPTED));
            }
            _ = look.tick() => if terminal::is_output_closed() {
                return Ok(ExitCode::SUCCESS);
            },
        }
    }
    watch.screen.finish()?;
    watch.tell_of_refusals();
    Ok(watch.status())
}

/// What is shown, and how it went so far.
struct Watch {
    screen: Screen,
    is_verbose: bool,
    /// Servers that have not answered yet.
    silent: BTreeSet<String>,
    /// Of a cluster: why the connection to a node broke last, which is said once and not every five
    /// seconds of each of a thousand nodes.
    broken: BTreeMap<String, String>,
    /// Of a cluster: how many nodes refuse for the same reason, of which the first is named.
    refusals: BTreeMap<String, usize>,
    is_cluster: bool,
    /// For the names of nodes in it, which no follower can judge by its own server.
    filter: Filter,
    /// Servers whose node is not known; they are asked only if the filter names a node.
    unnamed: BTreeSet<String>,
    /// Nodes of the other servers.
    nodes: BTreeSet<String>,
    /// The exit status, if no server stays silent.
    status: ExitCode,
}

impl Watch {
    fn new(args: &Args, is_json: bool) -> Self {
        let form = match (is_json, args.filter.all) {
            (true, _) => Form::Json,
            (false, true) => Form::Events,
            (false, false) => Form::Faults,
        };
        Self {
            screen: Screen::new(form, args.time, args.count),
            is_verbose: args.debug,
            silent: BTreeSet::new(),
            broken: BTreeMap::new(),
            refusals: BTreeMap::new(),
            is_cluster: args.cluster.is_given(),
            filter: args.filter.clone(),
            unnamed: BTreeSet::new(),
            nodes: BTreeSet::new(),
            status: ExitCode::SUCCESS,
        }
    }

    fn take(&mut self, server: &str, message: Message) -> io::Result<()> {
        match message {
            Message::Event(event) => return self.screen.take(*event),
            Message::Joined => {
                self.silent.insert(server.to_owned());
            }
            Message::Left => {
                self.silent.remove(server);
                self.broken.remove(server);
                complain(server, &message.to_string());
            }
            Message::Connected => {
                self.silent.remove(server);
                self.broken.remove(server);
                if self.is_verbose {
                    complain(server, "connected");
                }
            }
            Message::Node(node) => self.name_node(server, node),
            Message::Refused(why, is_wrong) => {
                self.silent.remove(server);
                self.status = if is_wrong { ExitCode::from(WRONG_USAGE) } else { ExitCode::FAILURE };
                self.refused(server, why);
            }
            Message::Broken(why, _) if self.is_cluster => {
                if self.broken.get(server) != Some(&why) {
                    complain(server, &format!("{why}; trying again"));
                    self.broken.insert(server.to_owned(), why);
                }
            }
            state => complain(server, &state.to_string()),
        }
        Ok(())
    }

    fn refused(&mut self, server: &str, why: String) {
        if !self.is_cluster || !self.refusals.contains_key(&why) {
            complain(server, &why);
        }
        *self.refusals.entry(why).or_default() += 1;
    }

    /// Tells of the nodes that refused and were not named.
    fn tell_of_refusals(&self) {
        for (why, count) in self.refusals.iter().filter(|(_, count)| self.is_cluster && **count > 1) {
            terminal::complain(&format!("{count} nodes in all: {why}"));
        }
    }

    /// Once the node of every server is known, tells of those that were named and are not among them.
    fn name_node(&mut self, server: &str, node: String) {
        self.nodes.insert(node);
        if self.unnamed.remove(server) && self.unnamed.is_empty() {
            let nodes: Vec<_> = self.nodes.iter().cloned().collect();
            for nobody in self.filter.no_node(&nodes) {
                terminal::complain(&Message::Nobody(nobody).to_string());
            }
        }
    }

    fn status(&self) -> ExitCode {
        if self.silent.is_empty() { self.status } else { ExitCode::FAILURE }
    }
}

/// Says something about a server, which most errors of a connection name themselves.
fn complain(server: &str, text: &str) {
    // An address; a node may have a name that is part of any word.
    if server.contains(':') && text.contains(server) {
        terminal::complain(text);
    } else {
        terminal::complain(&format!("{server}: {text}"));
    }
}
